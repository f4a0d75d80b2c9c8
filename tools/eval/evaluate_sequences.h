// Evaluation of a sequence model; `adder eval` and the trainer share it.
#pragma once

#include <string>

#include "tools/data/sequence_data.h"
#include "tools/eval/evaluate.h"

namespace adder::tools {

struct SequenceEvalOptions {
  std::int64_t batch_size = 64;
  std::int64_t fresh_examples = 1024;  // how many of endless data
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(std::int64_t done, std::int64_t total)> progress;
};

// Metrics: "loss", then "accuracy" (0 to 1) of classes or "mse" of real targets. Endless data are
// evaluated on examples that no training step sees. EvalResult::supervised_tokens counts answers
// (values, for real targets). Throws NumericError for a loss that is not finite.
EvalResult evaluate_sequences(const SequenceModel& model, const SequenceData& data,
                              const SequenceEvalOptions& options);

// Writes "logits" (N, [L,] outputs) and "labels" (N[, L]) int32 or "target" (as the logits) of the
// same examples to a .safetensors file. Throws ConfigError when that makes more than 4 GiB.
void dump_sequence_logits(const SequenceModel& model, const SequenceData& data,
                          const SequenceEvalOptions& options, const std::string& path);

}  // namespace adder::tools
