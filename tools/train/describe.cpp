// What --dry-run shows: the effective configuration, what trains, and what memory it will take.
#include <nlohmann/json.hpp>

#include "tools/train/config_file.h"
#include "tools/train/setup.h"
#include "tools/train/trainer.h"

namespace adder::tools {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

std::string describe_run(const TrainConfig& config) {
  const RunSetup setup = set_up_run(config);
  std::int64_t weights = 0;
  std::int64_t training = 0;
  Json trainables = Json::array();
  for (const ParameterPtr& parameter : setup.model->parameters()) {
    weights += static_cast<std::int64_t>(parameter->value().nbytes());
    if (!parameter->trainable()) continue;
    training += 3 * 4 * parameter->trainable_count();  // gradient and two moments
    trainables.push_back({{"name", parameter->name()},
                          {"role", role_name(parameter->role())},
                          {"shape", parameter->value().shape().to_string()},
                          {"trainable", parameter->trainable_count()}});
  }
  Json memory = {{"weights", weights}, {"gradients_and_moments", training}};
  std::int64_t bytes = weights + training;
  for (const auto& [purpose, amount] : setup.objective->memory_estimate()) {
    memory[purpose] = amount;
    bytes += amount;
  }
  memory["total"] = bytes;
  const std::int64_t trainable = setup.model->trainable_count();
  const std::int64_t total = setup.model->parameter_count();
  const Json description = {
      {"config", Json::parse(to_json(config))},
      {"train_examples",
       setup.objective->endless() ? Json() : Json(setup.objective->train_examples())},
      {"validation_examples", setup.objective->validation_examples()},
      {"total_steps", setup.total_steps},
      {"warm_up_forward_passes",
       setup.adapter ? setup.adapter->warmup_forwards(setup.total_steps * config.grad_accum) : 0},
      {"trainable_parameters", trainable},
      {"total_parameters", total},
      {"trainable_percent", 100.0 * static_cast<double>(trainable) / static_cast<double>(total)},
      {"memory_estimate_bytes", memory},
      {"trainables", trainables}};
  return description.dump(2) + "\n";
}

}  // namespace adder::tools
