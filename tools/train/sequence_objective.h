// The objective of sequence models: cross entropy of classes or mean square error.
#pragma once

#include "models/sequence_model.h"
#include "tools/data/batching.h"
#include "tools/data/sequence_data.h"
#include "tools/train/objective.h"
#include "tools/train/train_config.h"

namespace adder::tools {

// The model must outlive it.
class SequenceObjective final : public Objective {
 public:
  // Opens the data. Throws ConfigError for data or settings that are not for sequence models,
  // IoError for the files. Makes the model take sequences of the data's length.
  SequenceObjective(const TrainConfig& config, SequenceModel& model);

  std::int64_t train_examples() const override { return train_->examples(); }
  std::int64_t validation_examples() const override;
  std::int64_t batches_per_epoch() const override;
  const char* unit() const override { return "positions"; }
  bool counts_right_answers() const override { return train_->classes(); }

  void begin_phase(Optimizer& optimizer, PhaseOptions options) override;
  void end_phase() override { optimizer_ = nullptr; }
  AskedStep ask(std::int64_t first, std::int64_t count, double lr) override;
  double probe(std::int64_t number) override;
  void settle_precision(bool keep_selectable) override;

  std::optional<EvalResult> evaluate(const std::atomic<bool>* interrupted) override;
  Choice choice() const override;
  void save_beside(const std::string& directory) const override;
  std::vector<std::pair<std::string, std::int64_t>> memory_estimate() const override;

 private:
  std::vector<std::int64_t> examples_of(std::int64_t number) const;
  SequenceBatch batch(const std::vector<std::int64_t>& examples) const;

  TrainConfig config_;
  const SequenceModel& model_;
  std::unique_ptr<SequenceData> train_;
  std::unique_ptr<SequenceData> validation_;  // may be null
  std::optional<BatchPlan> plan_;             // of data that end
  Optimizer* optimizer_ = nullptr;
  PhaseOptions phase_;
};

}  // namespace adder::tools
