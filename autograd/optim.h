// Optimisers, gradient clipping and learning-rate schedules over trainable tensors.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "autograd/parameter.h"
#include "engine/kernels/optim.h"

namespace adder {

// The Euclidean norm of all gradients together and the factor that clips it to max_norm, (2)
// float64 on their device, where an optimiser can read them without the host's waiting. Absent
// gradients count as zero; the factor is NaN when the norm is not finite.
Tensor clip_gradients(const std::vector<Trainable>& trainables, double max_norm);

// The norm alone, as a number of the host: waits for the device.
double gradient_norm(const std::vector<Trainable>& trainables);

// The factor that brings a gradient of this norm down to max_norm, as torch's clip_grad_norm_:
// min(1, max_norm / (norm + 1e-6)); 1 when max_norm is 0.
double clip_factor(double norm, double max_norm);

class Optimizer {
 public:
  explicit Optimizer(std::vector<Trainable> trainables);
  virtual ~Optimizer() = default;

  // One update at learning rate `lr` with gradients times grad_scale, then the working weights are
  // brought up to date and gradients cleared. A tensor without a gradient stays as it is.
  void step(double lr, double grad_scale = 1);
  // The same with the factor of clip_gradients. When that is NaN the step counts, but nothing is
  // changed by it.
  void step(double lr, const Tensor& clip);

  // For a step that is recorded on a device (see Recording) and replayed: the numbers that the next
  // update at learning rate `lr` takes from memory, (3) float32; the update that reads them there,
  // which counts no step; and the counting of one that was replayed.
  virtual std::vector<float> schedule(double lr) const = 0;
  void record_step(const Tensor& schedule, const Tensor& clip);
  void count_step() { ++steps_; }
  void clear_gradients() const;
  std::int64_t steps() const { return steps_; }
  const std::vector<Trainable>& trainables() const { return trainables_; }

  // Everything needed to go on: moments by trainable name, and the step count.
  virtual std::vector<std::pair<std::string, Tensor>> state() const = 0;
  // Throws ConfigError for a missing or misshapen tensor.
  void load_state(const std::vector<std::pair<std::string, Tensor>>& tensors, std::int64_t steps);

 protected:
  struct Update {
    std::vector<OptimItem> items;  // of the trainables that have a gradient
    double lr = 0, grad_scale = 1;
    std::int64_t step = 1;
    Tensor schedule, clip;
  };
  // One kernel for all of them; moments of trainable i are filled in by add_moments.
  virtual void update(Device device, const Update& update) = 0;
  virtual void add_moments(std::size_t index, OptimItem& item) const = 0;
  std::int64_t steps_ = 0;
  std::vector<Trainable> trainables_;

 private:
  void step(Update update);
};

struct AdamwOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
};
std::unique_ptr<Optimizer> make_adamw(std::vector<Trainable> trainables,
                                      const AdamwOptions& options = {});

struct SgdOptions {
  double momentum = 0;
  double weight_decay = 0;
};
std::unique_ptr<Optimizer> make_sgd(std::vector<Trainable> trainables,
                                    const SgdOptions& options = {});

enum class Schedule : std::uint8_t { linear, cosine, constant };
Schedule parse_schedule(const std::string& name);  // throws ConfigError
// The factor on the base learning rate for update `step` (0-based) of `total`: a linear rise over
// `warmup` updates, then a linear or cosine fall that reaches 0 at `total`, or none.
double schedule_factor(Schedule schedule, std::int64_t step, std::int64_t total,
                       std::int64_t warmup);

}  // namespace adder
