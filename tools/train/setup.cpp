#include "tools/train/setup.h"

#include <algorithm>
#include <cmath>

#include "engine/cpu/parallel.h"
#include "peft/config.h"
#include "tools/model_directory.h"
#include "tools/train/language_objective.h"
#include "tools/train/sequence_objective.h"

namespace adder::tools {

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
  AnyModel any = load_any_model(config.model);
  any.model->to(device);
  setup.model = std::move(any.model);
  if (any.sequence != nullptr) {
    setup.objective = std::make_unique<SequenceObjective>(config, *any.sequence);
  } else {
    refuse_sequence_data(config.data, config.model);
    setup.objective = std::make_unique<LanguageObjective>(config, *any.mamba);
  }

  setup.total_steps = config.steps;
  if (setup.total_steps == 0) {
    const double batches =
        config.epochs * static_cast<double>(setup.objective->batches_per_epoch());
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
  if (setup.adapter) setup.adapter->set_base_model(config.model);
  setup.objective->settle_precision(setup.adapter && setup.adapter->needs_warmup());
  return setup;
}

}  // namespace adder::tools
