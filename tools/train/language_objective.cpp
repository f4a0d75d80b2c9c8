#include "tools/train/language_objective.h"

#include <algorithm>

#include "autograd/tape.h"
#include "engine/io/file.h"
#include "tools/train/setup.h"

namespace adder::tools {
namespace {

bool is_plain_file(const std::string& spec) {
  for (const char* ending : {".jsonl", ".txt", ".jsonl.xz", ".txt.xz"}) {
    const std::string text = ending;
    if (spec.size() > text.size() &&
        spec.compare(spec.size() - text.size(), text.size(), text) == 0) {
      return true;
    }
  }
  return false;
}

std::optional<Tokenizer> load_tokenizer(const TrainConfig& config) {
  if (!config.tokenizer.empty()) return Tokenizer::from_file(config.tokenizer);
  const std::string path = join_path(config.model, "tokenizer.json");
  if (exists(path)) return Tokenizer::from_file(path);
  return std::nullopt;
}

StepBatch step_batch(const Batch& batch) {
  const Shape shape{batch.batch, batch.length};
  return {Tensor::from(shape, batch.input_ids), Tensor::from(shape, batch.labels)};
}

// Bytes that the tape keeps of one layer for one token: the residual sum, x and z, the
// convolution's output, dt, y, the projections, and one scan state in every 32. Sums and states are
// float32, the others take `element` bytes.
std::int64_t activation_bytes(const MambaConfig& c, std::int64_t element) {
  return 4 * (c.hidden_size + c.inner_size * c.state_size / 32) +
         element * (c.hidden_size + 5 * c.inner_size + c.time_step_rank + 2 * c.state_size);
}

}  // namespace

LanguageObjective::LanguageObjective(const TrainConfig& config, Mamba& model)
    : config_(config), model_(model), tokenizer_(load_tokenizer(config)) {
  if (tokenizer_ && tokenizer_->vocab_size() > model.vocab_size()) {
    throw ConfigError(str("the tokenizer has ", tokenizer_->vocab_size(),
                          " ids, the model's vocabulary only ", model.vocab_size()));
  }
  const Tokenizer* tokenizer = tokenizer_ ? &*tokenizer_ : nullptr;
  DataOptions options{.split = "train",
                      .max_length = config.max_length,
                      .max_examples = config.max_train_examples,
                      .overrides = config.data_options,
                      .seed = config.seed,
                      .generation = false,
                      .vocab_size = model.vocab_size()};
  train_ = load_dataset(config.data, tokenizer, options);
  const bool own_validation = config.val_data.empty() && !is_plain_file(config.data);
  if (!config.skip_eval && (own_validation || !config.val_data.empty())) {
    options.split = config.val_split;
    options.max_examples = config.max_val_examples;
    options.generation = config.eval_gen.has_value();
    validation_ = load_dataset(own_validation ? config.data : config.val_data, tokenizer, options);
  }
  plan_.emplace(example_lengths(train_), config.batch_size, config.seed, config.shuffle, false,
                config.bucket_batches);
}

std::int64_t LanguageObjective::train_examples() const {
  return static_cast<std::int64_t>(train_.examples.size());
}

std::int64_t LanguageObjective::validation_examples() const {
  return validation_ ? static_cast<std::int64_t>(validation_->examples.size()) : 0;
}

void LanguageObjective::begin_phase(Optimizer& optimizer, PhaseOptions options) {
  if (options.penalty) throw ConfigError("a penalty in the warm-up is for S4 models");
  TrainStepOptions step;
  step.seed = config_.seed;
  step.recompute = config_.recompute;
  step.max_norm = config_.clip;
  step.before_update = std::move(options.before_update);
  step_.emplace(model_, optimizer, std::move(step));
}

Batch LanguageObjective::batch(std::int64_t number) const {
  const std::int64_t per_epoch = plan_->batches_per_epoch();
  return make_batch(train_, plan_->batch(number / per_epoch, number % per_epoch));
}

AskedStep LanguageObjective::ask(std::int64_t first, std::int64_t count, double lr) {
  AskedStep asked;
  std::vector<StepBatch> batches;
  for (std::int64_t i = first; i < first + count; ++i) {
    Batch made = batch(i);
    batches.push_back(step_batch(made));
    asked.batches.push_back({made.tokens, std::move(made.example_indices)});
  }
  asked.result = step_->run(batches, static_cast<std::uint64_t>(first), lr);
  return asked;
}

double LanguageObjective::probe(std::int64_t number) {
  const Tape::Pause pause;
  const StepBatch made = step_batch(batch(number));
  const HeadLossResult loss = model_.loss(made.ids, made.labels, {});
  return loss.sums.to_vector()[0] / static_cast<double>(std::max<std::int64_t>(loss.supervised, 1));
}

void LanguageObjective::settle_precision(bool keep_selectable) {
  apply_precision(config_, model_, keep_selectable);
}

std::optional<EvalResult> LanguageObjective::evaluate(const std::atomic<bool>* interrupted) {
  if (!validation_) return std::nullopt;
  EvalOptions options;
  options.interrupted = interrupted;
  if (config_.eval_gen) {
    GenerationOptions generation;
    generation.num_beams = config_.eval_gen->num_beams;
    generation.min_new_tokens = config_.eval_gen->min_length;
    generation.max_new_tokens = config_.eval_gen->max_length;
    options.generation = generation;
  }
  return tools::evaluate(model_, *validation_, tokenizer_ ? &*tokenizer_ : nullptr, options);
}

Objective::Choice LanguageObjective::choice() const {
  if (!validation_ || validation_->metrics.empty()) return {"loss", false};
  return {validation_->metrics.front(), validation_->higher_is_better};
}

void LanguageObjective::save_beside(const std::string& directory) const {
  if (tokenizer_) write_file_atomic(join_path(directory, "tokenizer.json"), tokenizer_->json());
}

std::vector<std::pair<std::string, std::int64_t>> LanguageObjective::memory_estimate() const {
  const MambaConfig& c = model_.config();
  const std::vector<std::int64_t> lengths = example_lengths(train_);
  const std::int64_t tokens =
      *std::max_element(lengths.begin(), lengths.end()) * config_.batch_size;
  const std::int64_t layers = config_.recompute ? 1 : c.num_layers;
  const auto element = static_cast<std::int64_t>(dtype_size(model_.activations()));
  const std::int64_t kept =
      config_.recompute ? (4 + element) * c.hidden_size * tokens * c.num_layers : 0;
  const std::int64_t per_logit = element < 4 ? 4 + element : 4;  // a narrower gradient stands apart
  return {{"activations", tokens * activation_bytes(c, element) * layers + kept},
          {"head", per_logit * c.vocab_size * std::min<std::int64_t>(256, tokens)}};
}

}  // namespace adder::tools
