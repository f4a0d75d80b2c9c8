// Tape: the record of operations whose gradients will be asked for.
#pragma once

#include <functional>
#include <initializer_list>
#include <vector>

#include "autograd/variable.h"

namespace adder {

// While a Tape lives it is the current one of its thread (tapes nest) and operations with an input
// that requires a gradient append their backward step to it. Operations on frozen inputs append
// nothing, so nothing below the lowest trainable tensor is kept or computed.
class Tape {
 public:
  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // Runs the recorded steps in reverse, each freed as soon as it has run. `loss` must have one
  // element; its gradient starts at `seed`. Throws ShapeError for another shape.
  void backward(const Var& loss, double seed = 1);
  // The same from given gradients of several outputs (absent tensors are skipped).
  void backward(const std::vector<Var>& outputs, const std::vector<Tensor>& gradients);

  // For operations: whether a result that depends on these inputs must be recorded.
  static bool needs_grad(std::initializer_list<const Var*> inputs);
  static bool recording();
  static void record(const char* name, std::function<void()> backward);

  // While one lives, nothing is recorded.
  class Pause {
   public:
    Pause();
    ~Pause();
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    Tape* previous_;
  };

 private:
  struct Step {
    const char* name;
    std::function<void()> backward;
  };
  void run();
  std::vector<Step> steps_;
  Tape* previous_;
};

// Runs `function` without keeping what its gradient needs, and runs it again in the backward pass:
// memory for time. `function` must be repeatable (the same values each time) and may use trainable
// parameters besides `inputs`.
std::vector<Var> recompute(const std::function<std::vector<Var>(const std::vector<Var>&)>& function,
                           const std::vector<Var>& inputs);

}  // namespace adder
