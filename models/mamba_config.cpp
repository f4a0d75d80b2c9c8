#include "models/mamba_config.h"

#include <nlohmann/json.hpp>

#include "engine/error.h"

namespace adder {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void reject(const std::string& name, const std::string& what) {
  throw ConfigError(name + ": " + what);
}

// Reads a key of the right type; absent and null leave the default.
template <typename T>
void read(const Json& json, const char* key, T& value, const std::string& name) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return;
  bool fits = found->is_number();
  if constexpr (std::is_same_v<T, bool>) fits = found->is_boolean();
  if constexpr (std::is_same_v<T, std::int64_t>) fits = found->is_number_integer();
  if constexpr (std::is_same_v<T, std::string>) fits = found->is_string();
  if (!fits) reject(name, str("'", key, "' is ", found->dump(), ", which has the wrong type"));
  value = found->get<T>();
}

void require(const Json& json, const char* key, const std::string& name) {
  if (!json.contains(key)) reject(name, str("'", key, "' is missing"));
}

// "auto" or a number, as both layouts allow.
void read_rank(const Json& json, const char* key, MambaConfig& config, const std::string& name) {
  config.time_step_rank = (config.hidden_size + 15) / 16;
  const auto found = json.find(key);
  if (found != json.end() && found->is_string() && *found == "auto") return;
  read(json, key, config.time_step_rank, name);
}

void read_init_scheme(const Json& json, const char* key, MambaConfig& config,
                      const std::string& name) {
  std::string scheme = "random";
  read(json, key, scheme, name);
  if (scheme != "random" && scheme != "constant") {
    reject(name, str("'", key, "' is '", scheme, "', expected 'random' or 'constant'"));
  }
  config.time_step_init_constant = scheme == "constant";
}

MambaConfig from_transformers(const Json& json, const std::string& name) {
  MambaConfig c;
  std::string type = "mamba";
  read(json, "model_type", type, name);
  if (type != "mamba") reject(name, str("model_type '", type, "' is not available; 'mamba' is"));
  std::string activation = "silu";
  read(json, "hidden_act", activation, name);
  if (activation != "silu" && activation != "swish") {
    reject(name, str("hidden_act '", activation, "' is not available; 'silu' is"));
  }
  for (const char* key : {"hidden_size", "num_hidden_layers", "vocab_size"})
    require(json, key, name);
  read(json, "hidden_size", c.hidden_size, name);
  read(json, "num_hidden_layers", c.num_layers, name);
  read(json, "vocab_size", c.vocab_size, name);
  read(json, "state_size", c.state_size, name);
  read(json, "conv_kernel", c.conv_kernel, name);
  double expand = 2;
  read(json, "expand", expand, name);
  c.inner_size = static_cast<std::int64_t>(expand * static_cast<double>(c.hidden_size));
  read(json, "intermediate_size", c.inner_size, name);
  read_rank(json, "time_step_rank", c, name);
  read(json, "use_bias", c.use_bias, name);
  read(json, "use_conv_bias", c.use_conv_bias, name);
  read(json, "residual_in_fp32", c.residual_in_fp32, name);
  read(json, "tie_word_embeddings", c.tie_embeddings, name);
  read(json, "rescale_prenorm_residual", c.rescale_prenorm_residual, name);
  read(json, "layer_norm_epsilon", c.norm_epsilon, name);
  read(json, "initializer_range", c.initializer_range, name);
  read(json, "time_step_min", c.time_step_min, name);
  read(json, "time_step_max", c.time_step_max, name);
  read(json, "time_step_scale", c.time_step_scale, name);
  read(json, "time_step_floor", c.time_step_floor, name);
  read_init_scheme(json, "time_step_init_scheme", c, name);
  read(json, "eos_token_id", c.eos_token_id, name);
  return c;
}

MambaConfig from_state_spaces(const Json& json, const std::string& name) {
  MambaConfig c;
  for (const char* key : {"d_model", "n_layer", "vocab_size"}) require(json, key, name);
  read(json, "d_model", c.hidden_size, name);
  read(json, "n_layer", c.num_layers, name);
  read(json, "vocab_size", c.vocab_size, name);
  std::int64_t multiple = 8;
  read(json, "pad_vocab_size_multiple", multiple, name);
  if (multiple > 1) c.vocab_size = (c.vocab_size + multiple - 1) / multiple * multiple;
  bool rms_norm = true;
  read(json, "rms_norm", rms_norm, name);
  if (!rms_norm) reject(name, "'rms_norm' is false; models with LayerNorm are not available");
  read(json, "residual_in_fp32", c.residual_in_fp32, name);
  read(json, "tie_embeddings", c.tie_embeddings, name);
  const Json ssm = json.value("ssm_cfg", Json::object());
  std::string layer = "Mamba1";
  read(ssm, "layer", layer, name);
  if (layer != "Mamba1")
    reject(name, str("ssm_cfg layer '", layer, "' is not available; 'Mamba1' is"));
  read(ssm, "d_state", c.state_size, name);
  read(ssm, "d_conv", c.conv_kernel, name);
  double expand = 2;
  read(ssm, "expand", expand, name);
  c.inner_size = static_cast<std::int64_t>(expand * static_cast<double>(c.hidden_size));
  read_rank(ssm, "dt_rank", c, name);
  read(ssm, "dt_min", c.time_step_min, name);
  read(ssm, "dt_max", c.time_step_max, name);
  read(ssm, "dt_scale", c.time_step_scale, name);
  read(ssm, "dt_init_floor", c.time_step_floor, name);
  read_init_scheme(ssm, "dt_init", c, name);
  read(ssm, "conv_bias", c.use_conv_bias, name);
  read(ssm, "bias", c.use_bias, name);
  return c;
}

}  // namespace

MambaConfig MambaConfig::from_json(const std::string& text, const std::string& name) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw ConfigError(str(name, ":", error.byte, ": not valid JSON"));
  }
  if (!json.is_object()) reject(name, "not a JSON object");
  MambaConfig c;
  if (json.contains("d_model")) {
    c = from_state_spaces(json, name);
  } else {
    c = from_transformers(json, name);
  }
  const std::pair<const char*, std::int64_t> sizes[] = {
      {"hidden size", c.hidden_size},       {"number of layers", c.num_layers},
      {"vocabulary size", c.vocab_size},    {"state size", c.state_size},
      {"convolution width", c.conv_kernel}, {"inner size", c.inner_size},
      {"time step rank", c.time_step_rank}};
  for (const auto& [what, size] : sizes) {
    if (size < 1 || size > (std::int64_t{1} << 31)) {
      reject(name, str("the ", what, " is ", size, ", expected 1 to 2^31"));
    }
  }
  return c;
}

std::string MambaConfig::to_json() const {
  Json json;
  json["architectures"] = {"MambaForCausalLM"};
  json["model_type"] = "mamba";
  json["vocab_size"] = vocab_size;
  json["hidden_size"] = hidden_size;
  json["num_hidden_layers"] = num_layers;
  json["state_size"] = state_size;
  json["conv_kernel"] = conv_kernel;
  if (inner_size % hidden_size == 0) json["expand"] = inner_size / hidden_size;
  json["intermediate_size"] = inner_size;
  json["time_step_rank"] = time_step_rank;
  json["use_bias"] = use_bias;
  json["use_conv_bias"] = use_conv_bias;
  json["hidden_act"] = "silu";
  json["layer_norm_epsilon"] = norm_epsilon;
  json["residual_in_fp32"] = residual_in_fp32;
  json["tie_word_embeddings"] = tie_embeddings;
  json["rescale_prenorm_residual"] = rescale_prenorm_residual;
  json["initializer_range"] = initializer_range;
  json["time_step_min"] = time_step_min;
  json["time_step_max"] = time_step_max;
  json["time_step_scale"] = time_step_scale;
  json["time_step_floor"] = time_step_floor;
  json["time_step_init_scheme"] = time_step_init_constant ? "constant" : "random";
  json["bos_token_id"] = eos_token_id;
  json["eos_token_id"] = eos_token_id;
  json["pad_token_id"] = eos_token_id;
  json["use_cache"] = true;
  json["torch_dtype"] = "float32";
  return json.dump(2) + "\n";
}

}  // namespace adder
