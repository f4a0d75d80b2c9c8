// Objective: what a run trains on and how, apart from the loop itself. There is one for language
// models and one for models that read sequences of numbers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/train_step.h"
#include "tools/eval/evaluate.h"

namespace adder::tools {

// One batch of a step that was asked for.
struct AskedBatch {
  std::int64_t units = 0;  // tokens or positions, without padding
  std::vector<std::int64_t> examples;

  std::string describe() const;  // "examples 3, 17", "examples 4000 to 7999"
};

// A step that was asked of the device, and its numbers on their way to the host.
struct AskedStep {
  StepResult result;
  std::vector<AskedBatch> batches;
};

// What the steps of one phase share.
struct PhaseOptions {
  std::function<void()> before_update;  // sees the complete gradients; may be empty
  std::function<Var()> penalty;         // added to the mean loss; may be empty or give undefined
};

class Objective {
 public:
  virtual ~Objective() = default;

  // --- The data ---
  virtual std::int64_t train_examples() const = 0;       // 0: endless
  virtual std::int64_t validation_examples() const = 0;  // 0: no validation
  virtual std::int64_t batches_per_epoch() const = 0;
  virtual const char* unit() const = 0;  // "tokens", "positions"
  // Endless fresh data have no validation set: the best of the training steps themselves counts.
  bool endless() const { return train_examples() == 0; }
  // Whether right answers are counted, so that a step has an accuracy.
  virtual bool counts_right_answers() const = 0;

  // --- Steps ---
  // Parameters and optimiser are set up for a phase; `optimizer` must outlive it.
  virtual void begin_phase(Optimizer& optimizer, PhaseOptions options) = 0;
  // Drops everything that holds on to the optimiser of the phase.
  virtual void end_phase() = 0;
  // Gradients of the mean loss of `count` batches, the first of them batch number `first` of the
  // run, and one update at `lr`, which changes nothing when their norm is not finite. Nothing here
  // waits for a device.
  virtual AskedStep ask(std::int64_t first, std::int64_t count, double lr) = 0;
  // The mean loss of batch number `number`, without a gradient.
  virtual double probe(std::int64_t number) = 0;
  // Brings stored weights to the precision of the run, as far as nothing trains them or may be
  // chosen to (`keep_selectable`).
  virtual void settle_precision(bool keep_selectable) = 0;

  // --- Evaluation and results ---
  // Nothing where there is no validation data.
  virtual std::optional<EvalResult> evaluate(const std::atomic<bool>* interrupted) = 0;
  struct Choice {
    std::string metric;
    bool higher_is_better = false;
  };
  virtual Choice choice() const = 0;  // by which the best result is chosen
  // Files that belong to a model directory beside its weights.
  virtual void save_beside(const std::string& directory) const = 0;
  // Bytes by purpose, beside weights, gradients and moments: estimated, for --dry-run. The
  // parameters must be set up for training.
  virtual std::vector<std::pair<std::string, std::int64_t>> memory_estimate() const = 0;
};

}  // namespace adder::tools
