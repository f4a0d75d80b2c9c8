// A training step that the host asks for without waiting: forward, backward, norm and update.
#pragma once

#include <array>
#include <map>
#include <memory>

#include "autograd/optim.h"
#include "engine/readback.h"
#include "models/language_model.h"

namespace adder {

struct StepBatch {
  Tensor ids, labels;  // (B, L) int32 on the host
};

// What a step says, on its way to the host.
struct StepResult {
  std::int64_t supervised = 0;   // positions of all batches
  std::vector<Readback> losses;  // per batch: {sum of its positions' losses, right answers}
  Readback clip;                 // {norm of the gradients, clip factor}
};

struct TrainStepOptions {
  std::uint64_t seed = 0;  // of dropout
  bool recompute = false;
  double max_norm = 0;  // of the gradients; 0: no clipping
  bool record = true;   // on a device: steps of small batches are recorded and replayed
  std::function<void()> before_update{};  // sees the gradients; such steps are not recorded
};

// A step of one small batch whose shape was seen before is recorded and from then on replayed: one
// launch instead of hundreds. What changes between steps (ids, rows, targets, learning rate, number
// of the step and of the dropout masks) goes to the device in one copy. Results are the same bits
// either way. Parameters must stay where they are in memory while a TrainStep lives.
class TrainStep {
 public:
  TrainStep(const LanguageModel& model, Optimizer& optimizer, TrainStepOptions options);
  ~TrainStep();

  // Gradients of the mean loss over all supervised positions of `batches`, then one update at `lr`,
  // which changes nothing when their norm is not finite. Batch i is forward pass number `first + i`
  // of the run. Throws ShapeError for ids or labels outside the vocabulary.
  StepResult run(const std::vector<StepBatch>& batches, std::uint64_t first, double lr);

  std::int64_t replays() const { return replays_; }
  std::int64_t recorded_launches() const;  // of the last recording, 0 without one

 private:
  struct Recorded;
  using Shapes = std::array<std::int64_t, 3>;  // batch, length, supervised positions

  StepResult run_plainly(const std::vector<StepBatch>& batches,
                         const std::vector<SupervisedRows>& rows, std::int64_t supervised,
                         std::uint64_t first, double lr);
  bool may_record(const std::vector<StepBatch>& batches) const;
  void record(Recorded& step, std::int64_t supervised);
  void stop_recording();  // for good: there is too little memory

  const LanguageModel& model_;
  Optimizer& optimizer_;
  TrainStepOptions options_;
  std::map<Shapes, std::unique_ptr<Recorded>> recorded_;  // null: seen once
  const Recorded* last_ = nullptr;
  std::int64_t replays_ = 0;
};

}  // namespace adder
