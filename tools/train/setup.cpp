#include "tools/train/setup.h"

#include <algorithm>
#include <cmath>

#include "engine/cpu/parallel.h"
#include "engine/io/file.h"
#include "peft/config.h"
#include "tools/data/batching.h"

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

void check_vocabulary(const RunSetup& setup) {
  if (setup.tokenizer && setup.tokenizer->vocab_size() > setup.model->vocab_size()) {
    throw ConfigError(str("the tokenizer has ", setup.tokenizer->vocab_size(),
                          " ids, the model's vocabulary only ", setup.model->vocab_size()));
  }
}

}  // namespace

void apply_precision(const TrainConfig& config, Mamba& model, bool keep_selectable) {
  if (config.precision != "bf16") return;
  if (!model.device().is_cpu()) model.set_activations(Dtype::bf16);
  for (const ParameterPtr& parameter : model.parameters()) {
    const Role role = parameter->role();
    const bool table = role == Role::embedding || role == Role::head;
    const bool matrix = table || role == Role::in_proj || role == Role::out_proj ||
                        role == Role::x_proj || role == Role::dt_proj;
    if (!matrix || parameter->trainable() || (keep_selectable && !table)) continue;
    parameter->set_value(parameter->value().to(Dtype::bf16));
  }
}

RunSetup set_up_run(const TrainConfig& config) {
  const Device device = parse_device(config.device);
  cpu::set_num_threads(config.threads);
  RunSetup setup;
  setup.tokenizer = load_tokenizer(config);
  setup.model = Mamba::load(config.model);
  setup.model->to(device);
  check_vocabulary(setup);
  const Tokenizer* tokenizer = setup.tokenizer ? &*setup.tokenizer : nullptr;

  DataOptions options{.split = "train",
                      .max_length = config.max_length,
                      .max_examples = config.max_train_examples,
                      .overrides = config.data_options,
                      .seed = config.seed,
                      .generation = false,
                      .vocab_size = setup.model->vocab_size()};
  setup.train = load_dataset(config.data, tokenizer, options);
  const bool own_validation = config.val_data.empty() && !is_plain_file(config.data);
  if (!config.skip_eval && (own_validation || !config.val_data.empty())) {
    options.split = config.val_split;
    options.max_examples = config.max_val_examples;
    options.generation = config.eval_gen.has_value();
    setup.validation =
        load_dataset(own_validation ? config.data : config.val_data, tokenizer, options);
  }

  const BatchPlan plan(example_lengths(setup.train), config.batch_size, config.seed, config.shuffle,
                       false, config.bucket_batches);
  setup.batches_per_epoch = plan.batches_per_epoch();
  setup.total_steps = config.steps;
  if (setup.total_steps == 0) {
    const double batches = config.epochs * static_cast<double>(setup.batches_per_epoch);
    setup.total_steps = static_cast<std::int64_t>(
        std::floor(batches / static_cast<double>(config.grad_accum) + 1e-9));
    setup.total_steps = std::max<std::int64_t>(setup.total_steps, 1);
  }

  if (!config.adapter.empty()) {
    setup.adapter = Adapter::load(*setup.model, config.adapter);
  } else if (!config.peft_json.empty()) {
    const std::string name = config.peft_path.empty() ? "peft" : config.peft_path;
    setup.adapter =
        Adapter::attach(*setup.model, PeftConfig::parse(config.peft_json, name), config.seed);
  } else {
    for (const ParameterPtr& parameter : setup.model->parameters()) parameter->train_dense();
  }
  apply_precision(config, *setup.model, setup.adapter && setup.adapter->needs_warmup());
  return setup;
}

}  // namespace adder::tools
