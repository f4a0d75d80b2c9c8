// What --dry-run shows: the effective configuration, what trains, and what memory it will take.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "tools/train/config_file.h"
#include "tools/train/setup.h"
#include "tools/train/trainer.h"

namespace adder::tools {
namespace {

using Json = nlohmann::ordered_json;

// Bytes that the tape keeps of one layer for one token: the residual sum, x and z, the
// convolution's output, dt, y, the projections, and one scan state in every 32. Sums and states are
// float32, the others take `element` bytes.
std::int64_t activation_bytes(const MambaConfig& c, std::int64_t element) {
  return 4 * (c.hidden_size + c.inner_size * c.state_size / 32) +
         element * (c.hidden_size + 5 * c.inner_size + c.time_step_rank + 2 * c.state_size);
}

}  // namespace

std::string describe_run(const TrainConfig& config) {
  const RunSetup setup = set_up_run(config);
  const MambaConfig& c = setup.model->config();
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
  std::int64_t longest = 0;
  for (const Example& example : setup.train.examples) {
    longest = std::max(longest, static_cast<std::int64_t>(example.input_ids.size()));
  }
  const std::int64_t tokens = longest * config.batch_size;
  const std::int64_t layers = config.recompute ? 1 : c.num_layers;
  const auto element = static_cast<std::int64_t>(dtype_size(setup.model->activations()));
  const std::int64_t kept =
      config.recompute ? (4 + element) * c.hidden_size * tokens * c.num_layers : 0;
  const std::int64_t activations = tokens * activation_bytes(c, element) * layers + kept;
  const std::int64_t per_logit = element < 4 ? 4 + element : 4;  // a narrower gradient stands apart
  const std::int64_t head = per_logit * c.vocab_size * std::min<std::int64_t>(256, tokens);
  const std::int64_t trainable = setup.model->trainable_count();
  const std::int64_t total = setup.model->parameter_count();
  const Json description = {
      {"config", Json::parse(to_json(config))},
      {"train_examples", setup.train.examples.size()},
      {"validation_examples", setup.validation ? setup.validation->examples.size() : 0},
      {"total_steps", setup.total_steps},
      {"warm_up_forward_passes",
       setup.adapter ? setup.adapter->warmup_forwards(setup.total_steps * config.grad_accum) : 0},
      {"trainable_parameters", trainable},
      {"total_parameters", total},
      {"trainable_percent", 100.0 * static_cast<double>(trainable) / static_cast<double>(total)},
      {"memory_estimate_bytes",
       {{"weights", weights},
        {"gradients_and_moments", training},
        {"activations", activations},
        {"head", head},
        {"total", weights + training + activations + head}}},
      {"trainables", trainables}};
  return description.dump(2) + "\n";
}

}  // namespace adder::tools
