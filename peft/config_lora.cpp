// LORA, LAYER_FREEZE and BITFIT in adapter_config.json.
#include <cmath>

#include "engine/error.h"
#include "peft/config_json.h"

namespace adder {
namespace {

constexpr NeutralKey kLoraKeys[] = {
    {"megatron_core", nullptr},
    {"qalora_group_size", nullptr},
    {"runtime_config", nullptr},
    {"init_lora_weights", "another initialisation of LoRA than the default"},
    {"bias", "training biases with LoRA (combine it with BITFIT in a list)"},
    {"use_dora", "DoRA"},
    {"fan_in_fan_out", "transposed weights"},
    {"alpha_pattern", "a lora_alpha per module"},
    {"rank_pattern", "a rank per module"},
    {"layers_to_transform", "LoRA on some of the layers only"},
    {"layers_pattern", "LoRA on some of the layers only"},
    {"exclude_modules", "excluding modules"},
    {"modules_to_save",
     "training whole modules with LoRA (combine it with LAYER_FREEZE in a list)"},
    {"layer_replication", "layer replication"},
    {"loftq_config", "LoftQ"},
    {"eva_config", "EVA initialisation"},
    {"corda_config", "CorDA initialisation"},
    {"lora_ga_config", "LoRA-GA initialisation"},
    {"arrow_config", "Arrow routing"},
    {"megatron_config", "Megatron's parallel layers"},
    {"lora_bias", "a bias in lora_B"},
    {"use_qalora", "QALoRA"},
    {"use_bdlora", "BD-LoRA"},
    {"target_parameters", "LoRA on parameters that are not modules"},
    {"trainable_token_indices", "training single tokens of the embedding"},
    {"alora_invocation_tokens", "activated LoRA"},
    {"ensure_weight_tying", "tying adapters"}};

}  // namespace

double LoraConfig::scale() const {
  const auto rank = static_cast<double>(r);
  return alpha / (rslora ? std::sqrt(rank) : rank);
}

LoraConfig read_lora(MethodReader& reader) {
  LoraConfig config;
  config.target_modules = reader.strings("target_modules");
  if (config.target_modules.empty())
    reader.fail("target_modules", "is required and must not be empty");
  if (config.target_modules == std::vector<std::string>{"all-linear"}) {
    config.target_modules.clear();
    config.all_linear = true;
  }
  config.r = reader.integer("r").value_or(8);
  if (config.r < 1 || config.r > 65536)
    reader.fail("r", str("is ", config.r, ", expected 1 or more"));
  config.alpha = reader.number("lora_alpha").value_or(8);
  config.dropout = reader.probability("lora_dropout", 0);
  config.rslora = reader.boolean("use_rslora").value_or(false);
  reader.neutral(kLoraKeys);
  return config;
}

LayerFreezeConfig read_layer_freeze(MethodReader& reader) {
  LayerFreezeConfig config{reader.strings("trainable_layers")};
  if (config.trainable_layers.empty()) {
    reader.fail("trainable_layers", "is required and must not be empty");
  }
  return config;
}

BitfitConfig read_bitfit(MethodReader& reader) {
  return BitfitConfig{reader.strings("target_modules")};
}

ConfigJson write_method(const LoraConfig& config) {
  const ConfigJson targets =
      config.all_linear ? ConfigJson("all-linear") : ConfigJson(config.target_modules);
  const ConfigJson empty = ConfigJson::object();
  return {{"peft_type", "LORA"},
          {"task_type", "CAUSAL_LM"},
          {"target_modules", targets},
          {"r", config.r},
          {"lora_alpha", number_json(config.alpha)},
          {"lora_dropout", config.dropout},
          {"use_rslora", config.rslora},
          {"bias", "none"},
          {"fan_in_fan_out", false},
          {"init_lora_weights", true},
          {"modules_to_save", nullptr},
          {"layers_to_transform", nullptr},
          {"layers_pattern", nullptr},
          {"rank_pattern", empty},
          {"alpha_pattern", empty},
          {"use_dora", false},
          {"inference_mode", true}};
}

ConfigJson write_method(const LayerFreezeConfig& config) {
  return {{"peft_type", "LAYER_FREEZE"}, {"trainable_layers", config.trainable_layers}};
}

ConfigJson write_method(const BitfitConfig& config) {
  ConfigJson json = {{"peft_type", "BITFIT"}};
  if (!config.target_modules.empty()) json["target_modules"] = config.target_modules;
  return json;
}

}  // namespace adder
