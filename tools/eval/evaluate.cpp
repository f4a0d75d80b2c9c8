#include "tools/eval/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/tape.h"
#include "engine/kernels/gather.h"
#include "engine/kernels/matmul.h"
#include "engine/text/tokenizer.h"
#include "tools/data/batching.h"
#include "tools/metrics/metrics.h"

namespace adder::tools {
namespace {

struct Totals {
  double loss = 0;
  std::int64_t supervised = 0;
  std::int64_t correct = 0;
  bool interrupted = false;
};

bool stop_asked(const EvalOptions& options) {
  return options.interrupted != nullptr && options.interrupted->load();
}

// Indices of the examples in batches of like length, longest first so that memory peaks at once.
std::vector<std::vector<std::int64_t>> length_batches(const Dataset& data,
                                                      const EvalOptions& options) {
  std::vector<std::int64_t> order(data.examples.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  const auto length = [&](std::int64_t i) {
    return static_cast<std::int64_t>(data.examples[static_cast<std::size_t>(i)].input_ids.size());
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return length(a) > length(b); });
  std::vector<std::vector<std::int64_t>> batches;
  for (std::size_t begin = 0; begin < order.size();) {
    const std::int64_t longest = std::max<std::int64_t>(length(order[begin]), 1);
    const std::int64_t size = std::clamp<std::int64_t>(
        options.max_batch_tokens / longest, 1, std::max<std::int64_t>(options.batch_size, 1));
    const std::size_t end = std::min(begin + static_cast<std::size_t>(size), order.size());
    batches.emplace_back(order.begin() + static_cast<std::ptrdiff_t>(begin),
                         order.begin() + static_cast<std::ptrdiff_t>(end));
    begin = end;
  }
  return batches;
}

// Loss and argmax at every supervised position: `answers` receives (example, answer) pairs.
void classify(const LanguageModel& model, const Batch& batch, const Tensor& ids, Totals& totals,
              std::vector<std::pair<std::int64_t, std::int32_t>>& answers) {
  const Tensor hidden = model.hidden(ids, {}).value().flatten_rows();
  std::vector<std::int64_t> positions;
  for (std::size_t i = 0; i < batch.labels.size(); ++i) {
    if (batch.labels[i] != kIgnoredLabel) positions.push_back(static_cast<std::int64_t>(i));
  }
  if (positions.empty()) return;
  const auto count = static_cast<std::int64_t>(positions.size());
  const Device device = hidden.device();
  const Tensor rows = Tensor::empty({count, hidden.dim(1)}, hidden.dtype(), device);
  kernel::gather_rows(device, {hidden, Tensor::from({count}, positions).to(device), rows});
  const std::int64_t vocabulary = model.vocab_size();
  const Tensor logits = model.head_logits(rows).to(Device{}).to(Dtype::f32);
  for (std::int64_t i = 0; i < count; ++i) {
    const float* row = logits.data<float>() + i * vocabulary;
    const auto position = positions[static_cast<std::size_t>(i)];
    const std::int32_t label = batch.labels[static_cast<std::size_t>(position)];
    const float* best = std::max_element(row, row + vocabulary);
    double sum = 0;
    for (std::int64_t v = 0; v < vocabulary; ++v) sum += std::exp(double{row[v]} - double{*best});
    totals.loss += std::log(sum) + double{*best} - double{row[label]};
    totals.supervised += 1;
    totals.correct += best - row == label ? 1 : 0;
    answers.emplace_back(batch.example_indices[static_cast<std::size_t>(position / batch.length)],
                         static_cast<std::int32_t>(best - row));
  }
}

// Class of each example by the token answered there; -1 outside the classes.
void class_metrics(const Dataset& data,
                   const std::vector<std::pair<std::int64_t, std::int32_t>>& answers,
                   EvalResult& result, bool keep) {
  std::vector<std::int32_t> predicted(data.examples.size(), -1);
  std::vector<std::int32_t> right(data.examples.size(), -1);
  std::vector<std::int32_t> tokens(data.examples.size(), -1);
  for (const auto& [example, token] : answers) {
    const auto found = std::find(data.class_tokens.begin(), data.class_tokens.end(), token);
    const auto i = static_cast<std::size_t>(example);
    tokens[i] = token;
    if (found != data.class_tokens.end()) {
      predicted[i] = static_cast<std::int32_t>(found - data.class_tokens.begin());
    }
  }
  std::int64_t outside = 0;
  for (std::size_t i = 0; i < right.size(); ++i) {
    right[i] = data.examples[i].label_class;
    outside += predicted[i] < 0 ? 1 : 0;
  }
  for (const std::string& metric : data.metrics) {
    if (metric == "accuracy") result.metrics.emplace_back(metric, accuracy(predicted, right));
    if (metric == "matthews") {
      result.metrics.emplace_back(metric, matthews_correlation(predicted, right));
    }
  }
  result.metrics.emplace_back("out_of_class",
                              static_cast<double>(outside) / static_cast<double>(right.size()));
  if (!keep) return;
  for (std::size_t i = 0; i < right.size(); ++i) {
    const std::string name = predicted[i] < 0
                                 ? str("token ", tokens[i])
                                 : data.class_names[static_cast<std::size_t>(predicted[i])];
    result.predictions.push_back(
        {data.examples[i].input, name, {data.class_names[static_cast<std::size_t>(right[i])]}});
  }
}

Totals teacher_forced(LanguageModel& model, const Dataset& data, const EvalOptions& options,
                      EvalResult& result) {
  Totals totals;
  std::vector<std::pair<std::int64_t, std::int32_t>> answers;
  const Tape::Pause pause;
  const auto total = static_cast<std::int64_t>(data.examples.size());
  std::int64_t done = 0;
  for (const std::vector<std::int64_t>& indices : length_batches(data, options)) {
    if (stop_asked(options)) {
      totals.interrupted = true;
      return totals;
    }
    const Batch batch = make_batch(data, indices);
    const Tensor ids = Tensor::from({batch.batch, batch.length}, batch.input_ids);
    if (data.kind == TaskKind::classification) {
      classify(model, batch, ids, totals, answers);
    } else {
      const Tensor labels = Tensor::from({batch.batch, batch.length}, batch.labels);
      const HeadLossResult head = model.loss(ids, labels, {});
      const std::vector<double> sums = head.sums.to_vector();
      totals.loss += sums[0];
      totals.supervised += head.supervised;
      totals.correct += static_cast<std::int64_t>(sums[1]);
    }
    done += static_cast<std::int64_t>(indices.size());
    if (options.progress) options.progress(done, total);
  }
  if (totals.supervised == 0) {
    throw IoError(str(data.name, ": no position of the data has a label, so there is no loss"));
  }
  const double mean = totals.loss / static_cast<double>(totals.supervised);
  if (!std::isfinite(mean)) {
    throw NumericError(str(data.name, ": the evaluation loss is not finite (", mean, ")"));
  }
  result.supervised_tokens = totals.supervised;
  result.metrics.emplace_back("loss", mean);
  result.metrics.emplace_back("perplexity", perplexity(mean));
  if (data.kind == TaskKind::classification) {
    class_metrics(data, answers, result, options.keep_predictions);
  } else {
    result.metrics.emplace_back("token_accuracy", static_cast<double>(totals.correct) /
                                                      static_cast<double>(totals.supervised));
  }
  return totals;
}

void generated(LanguageModel& model, const Dataset& data, const Tokenizer* tokenizer,
               const EvalOptions& options, EvalResult& result) {
  if (tokenizer == nullptr) {
    throw ConfigError(str(data.name, ": generation needs a tokenizer to turn ids into text"));
  }
  GenerationOptions generation = *options.generation;
  generation.end_id = tokenizer->eos_id().value_or(-1);
  generation.vocab_size = tokenizer->vocab_size();
  std::vector<std::vector<std::int32_t>> prompts;
  for (const Example& example : data.examples) prompts.push_back(example.prompt_ids);
  const auto total = static_cast<std::int64_t>(prompts.size());
  const std::vector<Generation> outputs =
      generate_many(model, prompts, generation, std::max<std::int64_t>(options.batch_size, 16),
                    [&](std::int64_t done) {
                      if (options.progress) options.progress(done, total);
                      return !stop_asked(options);
                    });
  if (stop_asked(options)) {
    result.interrupted = true;
    return;
  }
  std::vector<std::string> texts;
  std::vector<std::vector<std::string>> references;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Example& example = data.examples[i];
    texts.push_back(decode_known(*tokenizer, outputs[i].ids));
    references.push_back(example.references.empty() ? std::vector{example.target}
                                                    : example.references);
    if (options.keep_predictions) {
      result.predictions.push_back({example.input, texts.back(), references.back()});
    }
  }
  result.metrics.emplace_back("bleu", corpus_bleu(texts, references).score);
  result.metrics.emplace_back("exact_match", exact_match(texts, references));
}

}  // namespace

const double* EvalResult::find(const std::string& name) const {
  for (const auto& [key, value] : metrics) {
    if (key == name) return &value;
  }
  return nullptr;
}

std::string decode_known(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  try {
    return tokenizer.decode(ids);
  } catch (const ConfigError&) {
    std::string text;
    for (const std::int32_t id : ids) {
      try {
        text += tokenizer.decode(std::span(&id, 1));
      } catch (const ConfigError&) {
        continue;  // an id without a token has no text
      }
    }
    return text;
  }
}

EvalResult evaluate(LanguageModel& model, const Dataset& data, const Tokenizer* tokenizer,
                    const EvalOptions& options) {
  if (data.examples.empty()) throw IoError(str(data.name, ": no examples to evaluate"));
  EvalResult result;
  result.examples = static_cast<std::int64_t>(data.examples.size());
  if (options.loss) result.interrupted = teacher_forced(model, data, options, result).interrupted;
  if (!result.interrupted && options.generation && data.kind == TaskKind::generation) {
    generated(model, data, tokenizer, options, result);
  }
  return result;
}

}  // namespace adder::tools
