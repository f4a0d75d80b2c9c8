// The objective of language models: tokens of a Dataset, cross entropy of the next one.
#pragma once

#include "engine/text/tokenizer.h"
#include "models/mamba.h"
#include "tools/data/batching.h"
#include "tools/train/objective.h"
#include "tools/train/train_config.h"

namespace adder::tools {

// The model must outlive it.
class LanguageObjective final : public Objective {
 public:
  // Loads tokenizer and data. Throws ConfigError and IoError.
  LanguageObjective(const TrainConfig& config, Mamba& model);

  std::int64_t train_examples() const override;
  std::int64_t validation_examples() const override;
  std::int64_t batches_per_epoch() const override { return plan_->batches_per_epoch(); }
  const char* unit() const override { return "tokens"; }
  bool counts_right_answers() const override { return true; }

  void begin_phase(Optimizer& optimizer, PhaseOptions options) override;
  void end_phase() override { step_.reset(); }
  AskedStep ask(std::int64_t first, std::int64_t count, double lr) override;
  double probe(std::int64_t number) override;
  void settle_precision(bool keep_selectable) override;

  std::optional<EvalResult> evaluate(const std::atomic<bool>* interrupted) override;
  Choice choice() const override;
  void save_beside(const std::string& directory) const override;
  std::vector<std::pair<std::string, std::int64_t>> memory_estimate() const override;

 private:
  Batch batch(std::int64_t number) const;

  TrainConfig config_;
  Mamba& model_;
  std::optional<Tokenizer> tokenizer_;
  Dataset train_;
  std::optional<Dataset> validation_;
  std::optional<BatchPlan> plan_;
  std::optional<TrainStep> step_;
};

}  // namespace adder::tools
