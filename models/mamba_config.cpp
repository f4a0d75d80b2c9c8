#include "models/mamba_config.h"

#include "models/json_reader.h"

namespace adder {
namespace {

constexpr double kLargest = 1e9;  // of numbers that have no natural bound

// "auto" or a number, as both layouts allow.
void read_rank(JsonReader& json, const char* key, MambaConfig& config) {
  config.time_step_rank = (config.hidden_size + 15) / 16;
  if (!json.says(key, "auto")) json.read(key, config.time_step_rank, 1);
}

void read_init_scheme(JsonReader& json, const char* key, MambaConfig& config) {
  std::string scheme = "random";
  json.read(key, scheme, {"random", "constant"});
  config.time_step_init_constant = scheme == "constant";
}

void read_expansion(JsonReader& json, MambaConfig& config) {
  double expand = 2;
  json.read("expand", expand, 0, kLargest);
  config.inner_size = static_cast<std::int64_t>(expand * static_cast<double>(config.hidden_size));
}

MambaConfig from_transformers(JsonReader& json) {
  MambaConfig c;
  std::string type = "mamba";
  json.read_text("model_type", type);
  if (type != "mamba") json.refuse("model_type", "'mamba' is");
  std::string activation = "silu";
  json.read_text("hidden_act", activation);
  if (activation != "silu" && activation != "swish") json.refuse("hidden_act", "'silu' is");
  json.require({"hidden_size", "num_hidden_layers", "vocab_size"});
  json.read("hidden_size", c.hidden_size, 1);
  json.read("num_hidden_layers", c.num_layers, 1);
  json.read("vocab_size", c.vocab_size, 1);
  json.read("state_size", c.state_size, 1);
  json.read("conv_kernel", c.conv_kernel, 1);
  read_expansion(json, c);
  json.read("intermediate_size", c.inner_size, 1);
  read_rank(json, "time_step_rank", c);
  json.read("use_bias", c.use_bias);
  json.read("use_conv_bias", c.use_conv_bias);
  json.read("residual_in_fp32", c.residual_in_fp32);
  json.read("tie_word_embeddings", c.tie_embeddings);
  json.read("rescale_prenorm_residual", c.rescale_prenorm_residual);
  json.read("layer_norm_epsilon", c.norm_epsilon, 0, kLargest);
  json.read("initializer_range", c.initializer_range, 0, kLargest);
  json.read("time_step_min", c.time_step_min, 0, kLargest);
  json.read("time_step_max", c.time_step_max, 0, kLargest);
  json.read("time_step_scale", c.time_step_scale, 0, kLargest);
  json.read("time_step_floor", c.time_step_floor, 0, kLargest);
  read_init_scheme(json, "time_step_init_scheme", c);
  json.read("eos_token_id", c.eos_token_id, -1);
  return c;
}

MambaConfig from_state_spaces(JsonReader& json) {
  MambaConfig c;
  json.require({"d_model", "n_layer", "vocab_size"});
  json.read("d_model", c.hidden_size, 1);
  json.read("n_layer", c.num_layers, 1);
  json.read("vocab_size", c.vocab_size, 1);
  std::int64_t multiple = 8;
  json.read("pad_vocab_size_multiple", multiple, 0);
  if (multiple > 1) c.vocab_size = (c.vocab_size + multiple - 1) / multiple * multiple;
  bool rms_norm = true;
  json.read("rms_norm", rms_norm);
  if (!rms_norm) json.refuse("rms_norm", "models with RMSNorm are, those with LayerNorm are not");
  json.read("residual_in_fp32", c.residual_in_fp32);
  json.read("tie_embeddings", c.tie_embeddings);
  JsonReader ssm = json.object("ssm_cfg");
  std::string layer = "Mamba1";
  ssm.read_text("layer", layer);
  if (layer != "Mamba1") ssm.refuse("layer", "'Mamba1' is");
  ssm.read("d_state", c.state_size, 1);
  ssm.read("d_conv", c.conv_kernel, 1);
  read_expansion(ssm, c);
  read_rank(ssm, "dt_rank", c);
  ssm.read("dt_min", c.time_step_min, 0, kLargest);
  ssm.read("dt_max", c.time_step_max, 0, kLargest);
  ssm.read("dt_scale", c.time_step_scale, 0, kLargest);
  ssm.read("dt_init_floor", c.time_step_floor, 0, kLargest);
  read_init_scheme(ssm, "dt_init", c);
  ssm.read("conv_bias", c.use_conv_bias);
  ssm.read("bias", c.use_bias);
  return c;
}

}  // namespace

MambaConfig MambaConfig::from_json(const std::string& text, const std::string& name) {
  JsonReader json(text, name);
  const MambaConfig c = json.has("d_model") ? from_state_spaces(json) : from_transformers(json);
  // These may come from two keys.
  const std::pair<const char*, std::int64_t> sizes[] = {{"vocabulary size", c.vocab_size},
                                                        {"inner size", c.inner_size}};
  for (const auto& [what, size] : sizes) {
    if (size < 1 || size > (std::int64_t{1} << 31)) {
      json.fail(str("the ", what, " is ", size, ", expected from 1 to ", std::int64_t{1} << 31));
    }
  }
  return c;
}

std::string MambaConfig::to_json() const {
  nlohmann::ordered_json json;
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
