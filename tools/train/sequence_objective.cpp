#include "tools/train/sequence_objective.h"

#include <algorithm>
#include <numeric>

#include "autograd/tape.h"
#include "engine/memory.h"
#include "tools/eval/evaluate_sequences.h"

namespace adder::tools {
namespace {

void refuse_text_settings(const TrainConfig& config) {
  const auto refuse = [&](bool given, const char* flag, const char* why) {
    if (given) throw ConfigError(str("train: ", flag, " is for language models: ", why));
  };
  refuse(config.precision != "fp32", "--precision bf16", "S4 models are float32");
  refuse(config.max_length > 0, "--max-length", "the sequences of this data have one length");
  refuse(!config.tokenizer.empty(), "--tokenizer", "S4 models read numbers");
  refuse(config.eval_gen.has_value(), "--eval-num-beams", "S4 models generate no text");
}

}  // namespace

SequenceObjective::SequenceObjective(const TrainConfig& config, SequenceModel& model)
    : config_(config), model_(model) {
  refuse_text_settings(config);
  SequenceOptions options;
  options.seed = config.seed;
  options.max_examples = config.max_train_examples;
  const auto source = open_sequence_data(config.data, model, config.data_options);
  train_ = source->split(options);
  check_fits(*train_, model);
  model.reserve_length(train_->length());
  if (endless() && !config.val_data.empty()) {
    throw ConfigError(str("train: --val ", config.val_data, ": ", train_->name(),
                          " has no validation set; the best training step counts"));
  }
  if (!endless()) {
    const std::vector<std::int64_t> lengths(static_cast<std::size_t>(train_->examples()),
                                            train_->length());
    plan_.emplace(lengths, config.batch_size, config.seed, config.shuffle, false, 0);
  }
  if (endless() || config.skip_eval) return;
  options.split = config.val_split;
  options.max_examples = config.max_val_examples;
  if (config.val_data.empty()) {
    validation_ = source->split(options);
  } else {
    validation_ = open_sequence_data(config.val_data, model, config.data_options)->split(options);
    if (validation_->examples() == 0) {
      throw ConfigError(str("train: --val ", config.val_data, " has no end to evaluate"));
    }
    check_fits(*validation_, model);
  }
}

std::int64_t SequenceObjective::validation_examples() const {
  return validation_ ? validation_->examples() : 0;
}

std::int64_t SequenceObjective::batches_per_epoch() const {
  return plan_ ? plan_->batches_per_epoch() : 1;
}

void SequenceObjective::begin_phase(Optimizer& optimizer, PhaseOptions options) {
  optimizer_ = &optimizer;
  phase_ = std::move(options);
}

std::vector<std::int64_t> SequenceObjective::examples_of(std::int64_t number) const {
  if (plan_) {
    const std::int64_t per_epoch = plan_->batches_per_epoch();
    return plan_->batch(number / per_epoch, number % per_epoch);
  }
  std::vector<std::int64_t> examples(static_cast<std::size_t>(config_.batch_size));
  std::iota(examples.begin(), examples.end(), number * config_.batch_size);
  return examples;
}

SequenceBatch SequenceObjective::batch(const std::vector<std::int64_t>& examples) const {
  SequenceBatch made = train_->batch(examples);
  made.x = made.x.to(model_.device());
  return made;
}

AskedStep SequenceObjective::ask(std::int64_t first, std::int64_t count, double lr) {
  AskedStep asked;
  for (std::int64_t i = first; i < first + count; ++i) {
    AskedBatch& one = asked.batches.emplace_back();
    one.examples = examples_of(i);
    const auto size = static_cast<std::int64_t>(one.examples.size());
    one.units = size * train_->length();
    asked.result.supervised += size * train_->counted();
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const SequenceBatch made = batch(asked.batches[static_cast<std::size_t>(i)].examples);
    const ForwardContext context{.training = true,
                                 .seed = config_.seed,
                                 .micro_batch = static_cast<std::uint64_t>(first + i),
                                 .recompute = config_.recompute};
    Tape tape;
    const SequenceLoss loss = sequence_loss(model_, made, context, asked.result.supervised);
    asked.result.losses.emplace_back(loss.sums);
    Var total = loss.loss;
    const Var penalty = phase_.penalty ? phase_.penalty() : Var();
    if (penalty.defined()) total = add(total, scale(penalty, 1.0 / static_cast<double>(count)));
    tape.backward(total);
  }
  if (phase_.before_update) phase_.before_update();
  const Tensor clip = clip_gradients(optimizer_->trainables(), config_.clip);
  asked.result.clip = Readback(clip);
  optimizer_->step(lr, clip);
  return asked;
}

double SequenceObjective::probe(std::int64_t number) {
  const Tape::Pause pause;
  const SequenceLoss loss = sequence_loss(model_, batch(examples_of(number)), {});
  return loss.sums.to_vector()[0] / static_cast<double>(loss.count);
}

void SequenceObjective::settle_precision(bool /*keep_selectable*/) {}

std::optional<EvalResult> SequenceObjective::evaluate(const std::atomic<bool>* interrupted) {
  if (!validation_) return std::nullopt;
  SequenceEvalOptions options;
  options.batch_size = config_.batch_size;
  options.interrupted = interrupted;
  return evaluate_sequences(model_, *validation_, options);
}

Objective::Choice SequenceObjective::choice() const {
  if (train_->classes()) return {"accuracy", true};
  return {"loss", false};
}

void SequenceObjective::save_beside(const std::string& /*directory*/) const {}

// Measured rather than derived: forward and backward of few examples, continued in proportion.
std::vector<std::pair<std::string, std::int64_t>> SequenceObjective::memory_estimate() const {
  const std::vector<std::int64_t> whole = examples_of(0);
  const auto size = static_cast<std::int64_t>(whole.size());
  const std::int64_t few = std::min<std::int64_t>(size, 4);
  const std::int64_t more = std::min<std::int64_t>(size, 2 * few);
  const auto measured = [&](std::int64_t count) {
    reset_peak_memory(model_.device());
    const std::int64_t before = memory_stats(model_.device()).current_bytes;
    {
      const SequenceBatch made = batch({whole.begin(), whole.begin() + count});
      const ForwardContext context{
          .training = true, .seed = config_.seed, .recompute = config_.recompute};
      Tape tape;
      tape.backward(sequence_loss(model_, made, context).loss);
    }
    for (const Trainable& trainable : collect_trainables(model_.parameters())) {
      trainable.clear_grad();
    }
    return memory_stats(model_.device()).peak_bytes - before;
  };
  const std::int64_t small = measured(few);
  if (more == few) return {{"batch", small}};
  return {{"batch", small + (measured(more) - small) * (size - few) / (more - few)}};
}

}  // namespace adder::tools
