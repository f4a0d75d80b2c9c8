// Evaluation of a language model on a data set; `adder eval` and the trainer share it.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/generate.h"
#include "models/language_model.h"
#include "tools/data/dataset.h"

namespace adder::tools {

struct EvalOptions {
  std::int64_t batch_size = 8;
  std::int64_t max_batch_tokens = 8192;  // fewer sequences go together when they are long
  bool loss = true;                      // false: only what generation gives
  // Generation data sets: decode every prompt and compute the metrics on the texts. end_id and
  // vocab_size are filled in from the tokenizer.
  std::optional<GenerationOptions> generation;
  bool keep_predictions = false;
  const std::atomic<bool>* interrupted = nullptr;  // stops early; EvalResult says so
  std::function<void(std::int64_t done, std::int64_t total)> progress;
};

struct Prediction {
  std::string input;
  std::string prediction;
  std::vector<std::string> references;
};

struct EvalResult {
  // In order: "loss", "perplexity", then the task's own ("accuracy", "matthews", "out_of_class",
  // "bleu", "exact_match", "token_accuracy"). BLEU is 0 to 100, the others 0 to 1.
  std::vector<std::pair<std::string, double>> metrics;
  std::vector<Prediction> predictions;  // in the data's order, if asked for
  std::int64_t examples = 0;
  std::int64_t supervised_tokens = 0;
  bool interrupted = false;

  // Null when there is no such metric.
  const double* find(const std::string& name) const;
};

// Runs the model without gradients over all examples, batched by length. The loss is the mean over
// all supervised tokens. A class is the argmax over the full vocabulary at the label position; an
// answer outside the classes counts as wrong. Throws ConfigError when generation is asked for
// without a tokenizer, and IoError for a data set without supervised tokens.
EvalResult evaluate(LanguageModel& model, const Dataset& data, const Tokenizer* tokenizer,
                    const EvalOptions& options);

// Decodes ids to text, passing over ids that name no token (padding rows of a model's vocabulary).
std::string decode_known(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids);

}  // namespace adder::tools
