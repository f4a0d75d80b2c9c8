// SDT_S4 in adapter_config.json.
#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "engine/text/suggest.h"
#include "peft/config_json.h"

namespace adder {
namespace {

const std::vector<std::string> kRules = {"displacement", "compat", "loss", "gradient", "random"};
const std::vector<std::string> kDimensionKeys = {"channels", "states", "select_channels",
                                                 "select_states"};
constexpr const char* kCounts[] = {"select_channels", "update_channels", "select_states",
                                   "update_states"};

std::vector<std::int32_t> indices(const MethodReader& reader, const std::string& name,
                                  const ConfigJson& json) {
  if (!json.is_array()) reader.fail(name, str("is ", json.dump(), ", expected a list of indices"));
  std::vector<std::int32_t> list;
  for (const ConfigJson& item : json) {
    if (!item.is_number_unsigned() || item.get<std::uint64_t>() > 0x7fffffffU) {
      reader.fail(name, str("holds ", item.dump(), ", expected indices from 0"));
    }
    list.push_back(item.get<std::int32_t>());
  }
  return list;
}

std::vector<std::vector<std::int32_t>> index_lists(const MethodReader& reader,
                                                   const std::string& name,
                                                   const ConfigJson& json) {
  if (!json.is_array()) reader.fail(name, "must hold a list of indices for each channel");
  std::vector<std::vector<std::int32_t>> lists;
  for (const ConfigJson& item : json) lists.push_back(indices(reader, name, item));
  return lists;
}

void read_dimensions(MethodReader& reader, SdtS4Config& config) {
  const ConfigJson* layers = reader.find("dimensions");
  if (layers == nullptr) return;
  if (!layers->is_array() || layers->empty()) {
    reader.fail("dimensions", "must be a list with an object for each layer");
  }
  for (std::size_t i = 0; i < layers->size(); ++i) {
    const ConfigJson& json = (*layers)[i];
    const std::string place = str("dimensions[", i, "]");
    if (!json.is_object()) reader.fail(place, "must be an object of channels and states");
    S4Dimensions layer;
    for (const auto& [key, value] : json.items()) {
      const std::string name = place + "." + key;
      if (key == "channels") {
        layer.channels = indices(reader, name, value);
      } else if (key == "states") {
        layer.states = index_lists(reader, name, value);
      } else if (key == "select_channels") {
        layer.select_channels = indices(reader, name, value);
      } else if (key == "select_states") {
        layer.select_states = index_lists(reader, name, value);
      } else {
        reader.fail(name, str("is not a key", did_you_mean(key, kDimensionKeys)));
      }
    }
    if (layer.channels.empty() || layer.states.empty()) {
      reader.fail(place, "needs channels and states");
    }
    if (!layer.select_states.empty() && layer.select_channels.empty()) {
      reader.fail(place, "has select_states without select_channels");
    }
    config.dimensions.push_back(std::move(layer));
  }
}

void read_warmup(MethodReader& reader, SdtS4Config& config) {
  config.warmup_steps = reader.integer("warmup_steps");
  config.warmup_ratio = reader.number("warmup_ratio");
  if (config.warmup_steps && config.warmup_ratio) {
    reader.fail("warmup_steps", "and warmup_ratio exclude each other");
  }
  const std::int64_t fewest = config.has_steps() ? 1 : 0;
  if (config.warmup_steps && *config.warmup_steps < fewest) {
    reader.fail("warmup_steps",
                str("is ", *config.warmup_steps, ", expected ", fewest, " or more"));
  }
  if (config.warmup_ratio && !(*config.warmup_ratio > 0 && *config.warmup_ratio < 1)) {
    reader.fail("warmup_ratio", str("is ", *config.warmup_ratio, ", expected between 0 and 1"));
  }
  config.warmup_lr = reader.not_negative("warmup_lr", config.warmup_lr);
  if (config.warmup_lr == 0) reader.fail("warmup_lr", "is 0, expected a learning rate");
  config.warmup_weight_decay =
      reader.not_negative("warmup_weight_decay", config.warmup_weight_decay);
  config.warmup_ssm_only = reader.choice("warmup_parameters", {"all", "ssm"}) == 1;
}

void read_soft(MethodReader& reader, SdtS4Config& config) {
  config.soft = reader.choice("mode", {"hard", "soft"}) == 1;
  config.select_penalty = reader.not_negative("select_penalty", 0);
  config.update_penalty = reader.not_negative("update_penalty", 0);
  if (reader.find("soft_threshold") != nullptr) {
    config.soft_threshold = reader.not_negative("soft_threshold", 0);
  }
  if (config.soft && (config.rule != SdtS4Rule::displacement || !config.dimensions.empty())) {
    reader.fail("mode", "is 'soft', which goes with the rule 'displacement' only");
  }
  const bool penalised =
      config.select_penalty > 0 || config.update_penalty > 0 || config.soft_threshold;
  if (!config.soft && penalised) {
    reader.fail("select_penalty", "(and update_penalty, soft_threshold) needs \"mode\": \"soft\"");
  }
}

}  // namespace

SdtS4Config read_sdt_s4(MethodReader& reader) {
  SdtS4Config config;
  std::optional<AxisCount>* counts[] = {&config.select_channels, &config.update_channels,
                                        &config.select_states, &config.update_states};
  for (std::size_t i = 0; i < std::size(kCounts); ++i) {
    *counts[i] = reader.count(kCounts[i]);
    if (*counts[i] && (*counts[i])->value == 0) {
      reader.fail(kCounts[i], "is 0: nothing would be left to train");
    }
  }
  config.zero_unselected = reader.boolean("zero_unselected").value_or(true);
  config.rule = static_cast<SdtS4Rule>(reader.choice("rule", kRules));
  config.power = reader.integer("power").value_or(1);
  if (config.power < 0) reader.fail("power", str("is ", config.power, ", expected 0 or more"));
  read_dimensions(reader, config);
  read_soft(reader, config);
  read_warmup(reader, config);
  config.columns = reader.strings("columns");
  config.finetune_parameters = reader.strings("finetune_parameters");
  reader.finish();  // a misspelt key explains a missing one
  if (config.has_steps() && !config.warmup_steps && !config.warmup_ratio) {
    reader.fail("warmup_steps", str("(or warmup_ratio) is required by the rule '",
                                    kRules[static_cast<std::size_t>(config.rule)], "'"));
  }
  return config;
}

ConfigJson write_method(const SdtS4Config& config) {
  ConfigJson json = {{"peft_type", "SDT_S4"}};
  const std::optional<AxisCount> counts[] = {config.select_channels, config.update_channels,
                                             config.select_states, config.update_states};
  for (std::size_t i = 0; i < std::size(kCounts); ++i) {
    if (counts[i]) json[kCounts[i]] = amount_json(*counts[i]);
  }
  json["zero_unselected"] = config.zero_unselected;
  json["rule"] = kRules[static_cast<std::size_t>(config.rule)];
  json["power"] = config.power;
  json["mode"] = config.soft ? "soft" : "hard";
  if (config.soft) {
    json["select_penalty"] = config.select_penalty;
    json["update_penalty"] = config.update_penalty;
    if (config.soft_threshold) json["soft_threshold"] = *config.soft_threshold;
  }
  if (config.warmup_steps) json["warmup_steps"] = *config.warmup_steps;
  if (config.warmup_ratio) json["warmup_ratio"] = *config.warmup_ratio;
  json["warmup_lr"] = config.warmup_lr;
  json["warmup_weight_decay"] = config.warmup_weight_decay;
  json["warmup_parameters"] = config.warmup_ssm_only ? "ssm" : "all";
  if (!config.columns.empty()) json["columns"] = config.columns;
  if (!config.finetune_parameters.empty()) {
    json["finetune_parameters"] = config.finetune_parameters;
  }
  for (const S4Dimensions& layer : config.dimensions) {
    ConfigJson item = {{"channels", layer.channels}, {"states", layer.states}};
    if (!layer.select_channels.empty()) item["select_channels"] = layer.select_channels;
    if (!layer.select_states.empty()) item["select_states"] = layer.select_states;
    json["dimensions"].push_back(std::move(item));
  }
  return json;
}

}  // namespace adder
