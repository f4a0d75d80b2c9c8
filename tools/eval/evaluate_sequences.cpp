#include "tools/eval/evaluate_sequences.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/tape.h"
#include "engine/io/safetensors.h"
#include "tools/console.h"

namespace adder::tools {
namespace {

constexpr std::int64_t kLargestDump = std::int64_t{4} << 30;
// Far above any example that a training run reaches.
constexpr std::int64_t kFirstFresh = std::int64_t{1} << 48;

std::int64_t example_count(const SequenceData& data, const SequenceEvalOptions& options) {
  return data.examples() > 0 ? data.examples() : options.fresh_examples;
}

// The numbers of the examples [begin, end) of an evaluation.
std::vector<std::int64_t> numbers(const SequenceData& data, std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> chosen(static_cast<std::size_t>(end - begin));
  std::iota(chosen.begin(), chosen.end(), data.examples() > 0 ? begin : kFirstFresh + begin);
  return chosen;
}

// Calls run(batch, begin, end) for all examples; false when interrupted.
template <typename Run>
bool for_batches(const SequenceModel& model, const SequenceData& data,
                 const SequenceEvalOptions& options, const Run& run) {
  const Tape::Pause pause;
  const std::int64_t total = example_count(data, options);
  const std::int64_t size = std::max<std::int64_t>(options.batch_size, 1);
  for (std::int64_t begin = 0; begin < total; begin += size) {
    if (options.interrupted != nullptr && options.interrupted->load()) return false;
    const std::int64_t end = std::min(begin + size, total);
    SequenceBatch batch = data.batch(numbers(data, begin, end));
    batch.x = batch.x.to(model.device());
    run(batch, begin, end);
    if (options.progress) options.progress(end, total);
  }
  return true;
}

}  // namespace

EvalResult evaluate_sequences(const SequenceModel& model, const SequenceData& data,
                              const SequenceEvalOptions& options) {
  EvalResult result;
  result.examples = example_count(data, options);
  double sum = 0;
  double right = 0;
  result.interrupted =
      !for_batches(model, data, options, [&](const SequenceBatch& batch, auto, auto) {
        const SequenceLoss loss = sequence_loss(model, batch, {});
        const std::vector<double> sums = loss.sums.to_vector();
        sum += sums[0];
        right += sums[1];
        result.supervised_tokens += loss.count;
      });
  if (result.interrupted) return result;
  const auto count = static_cast<double>(result.supervised_tokens);
  const double mean = sum / count;
  if (!std::isfinite(mean)) {
    throw NumericError(str(data.name(), ": the evaluation loss is not finite (", mean, ")"));
  }
  result.metrics.emplace_back("loss", mean);
  if (data.classes()) {
    result.metrics.emplace_back("accuracy", right / count);
  } else {
    result.metrics.emplace_back("mse", mean);
  }
  return result;
}

void dump_sequence_logits(const SequenceModel& model, const SequenceData& data,
                          const SequenceEvalOptions& options, const std::string& path) {
  const std::int64_t total = example_count(data, options);
  const std::int64_t outputs = data.output_size();
  Shape answers{total};
  if (!data.pooled()) answers.push_back(data.length());
  Shape values = answers;
  values.push_back(outputs);
  if (answers.numel() > kLargestDump / 4 / outputs) {
    throw ConfigError(str("--dump-logits: ", answers.numel(), " answers of ", outputs,
                          " numbers make more than ", byte_size(kLargestDump),
                          "; evaluate fewer with --max-examples"));
  }
  const Tensor logits = Tensor::empty(values);
  const Tensor right = data.classes() ? Tensor::empty(answers, Dtype::i32) : Tensor::empty(values);
  const bool whole = for_batches(
      model, data, options, [&](const SequenceBatch& batch, std::int64_t begin, std::int64_t end) {
        logits.slice(0, begin, end).copy_from(model.forward(batch.x, {}).value());
        right.slice(0, begin, end).copy_from(data.classes() ? batch.labels : batch.target);
      });
  if (!whole) return;
  write_safetensors(path, {{"logits", logits}, {data.classes() ? "labels" : "target", right}});
}

}  // namespace adder::tools
