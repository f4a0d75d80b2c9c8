#include "peft/config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "engine/text/suggest.h"

namespace adder {
namespace {

using Json = nlohmann::ordered_json;

// A key that others write into these files and that is accepted while it asks for nothing.
struct NeutralKey {
  const char* key;
  const char* missing;  // what another value would ask for; null: the value does not matter
};

constexpr NeutralKey kCommonKeys[] = {
    {"task_type", nullptr}, {"inference_mode", nullptr}, {"auto_mapping", nullptr},
    {"revision", nullptr},  {"peft_version", nullptr},   {"base_model_name_or_path", nullptr}};

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

constexpr NeutralKey kSdtKeys[] = {{"reg_scale", "a regularised SD_LORA"}};

constexpr const char* kMissingTypes[] = {"SSMPEFT",
                                         "STATE_OFFSET_TUNING",
                                         "PARAM_TRANSFORM",
                                         "SEQ_PREFIX",
                                         "TENSOR_LORA",
                                         "DORA",
                                         "PROMPT_TUNING",
                                         "PREFIX_TUNING",
                                         "P_TUNING",
                                         "MULTITASK_PROMPT_TUNING",
                                         "ADAPTION_PROMPT",
                                         "ADALORA",
                                         "IA3",
                                         "LOHA",
                                         "LOKR",
                                         "OFT",
                                         "BOFT",
                                         "POLY",
                                         "LN_TUNING",
                                         "VERA",
                                         "FOURIERFT",
                                         "XLORA",
                                         "HRA",
                                         "VBLORA",
                                         "BONE"};

const std::vector<std::string> kTypes = {"LORA", "LAYER_FREEZE", "BITFIT", "SD_LORA", "MULTI_PEFT"};

const std::vector<std::string> kSdtTargets = {"A_log",     "x_proj_B",  "x_proj_C",
                                              "in_proj_x", "in_proj_z", "out_proj"};

bool is_neutral(const std::string& key, const Json& value) {
  if (value.is_null() || (value.is_boolean() && !value.get<bool>()))
    return key != "init_lora_weights";
  if ((value.is_object() || value.is_array()) && value.empty()) return true;
  if (key == "init_lora_weights") return value.is_boolean();
  if (key == "bias") return value == "none";
  return value.is_number() && value.get<double>() == 0;
}

std::string quoted_list(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

// Reads the keys of one method and refuses what is left over.
class Reader {
 public:
  Reader(const Json& object, std::string place) : object_(object), place_(std::move(place)) {}

  const Json* find(const char* key) {
    known_.emplace_back(key);
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  [[noreturn]] void fail(const std::string& key, const std::string& what) const {
    throw ConfigError(str(place_, ": ", key, " ", what));
  }
  std::optional<std::int64_t> integer(const char* key) {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number_integer())
      fail(key, str("is ", value->dump(), ", expected a whole number"));
    return value->get<std::int64_t>();
  }
  std::optional<double> number(const char* key) {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number()) fail(key, str("is ", value->dump(), ", expected a number"));
    return value->get<double>();
  }
  std::vector<std::string> strings(const char* key) {
    const Json* value = find(key);
    if (value == nullptr) return {};
    if (value->is_string()) return {value->get<std::string>()};
    if (!value->is_array()) fail(key, str("is ", value->dump(), ", expected a list of names"));
    std::vector<std::string> list;
    for (const Json& item : *value) {
      if (!item.is_string() || item.get<std::string>().empty()) {
        fail(key, str("holds ", item.dump(), ", expected names"));
      }
      list.push_back(item.get<std::string>());
    }
    return list;
  }
  double probability(const char* key, double otherwise) {
    const double p = number(key).value_or(otherwise);
    if (!(p >= 0 && p < 1)) fail(key, str("is ", p, ", expected at least 0 and below 1"));
    return p;
  }
  DimensionCounts counts(const char* key) {
    const Json* value = find(key);
    if (value == nullptr || !value->is_object()) {
      fail(key, R"(is required: {"state": count or fraction, "channel": count or fraction})");
    }
    DimensionCounts counts;
    for (const auto& [axis, amount] : value->items()) {
      const std::string name = str(key, ".", axis);
      if (axis != "state" && axis != "channel") {
        fail(name, "is not a key; expected state and channel");
      }
      if (!amount.is_number()) fail(name, str("is ", amount.dump(), ", expected a number"));
      const AxisCount count{amount.get<double>(), amount.is_number_float()};
      if (!(count.value >= 0) || (count.fraction && count.value > 1)) {
        fail(name, str("is ", amount.dump(), ", expected a count or a fraction from 0.0 to 1.0"));
      }
      (axis == "state" ? counts.state : counts.channel) = count;
    }
    if (value->size() != 2) fail(key, "needs both state and channel");
    return counts;
  }
  template <std::size_t Count>
  void neutral(const NeutralKey (&keys)[Count]) {
    for (const auto& [key, missing] : keys) {
      const auto it = object_.find(key);
      known_.emplace_back(key);
      if (it != object_.end() && missing != nullptr && !is_neutral(key, *it)) {
        fail(key, str("is ", it->dump(), ": ", missing, " is not available"));
      }
    }
  }
  void finish() {
    neutral(kCommonKeys);
    known_.emplace_back("peft_type");
    for (const auto& [key, value] : object_.items()) {
      if (std::find(known_.begin(), known_.end(), key) == known_.end()) {
        throw ConfigError(str(place_, ": unknown key '", key, "'", did_you_mean(key, known_)));
      }
    }
  }

 private:
  const Json& object_;
  std::string place_;
  std::vector<std::string> known_;
};

LoraConfig read_lora(Reader& reader) {
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
  const Json* rslora = reader.find("use_rslora");
  if (rslora != nullptr && !rslora->is_boolean())
    reader.fail("use_rslora", "must be true or false");
  config.rslora = rslora != nullptr && rslora->get<bool>();
  reader.neutral(kLoraKeys);
  return config;
}

LayerFreezeConfig read_layer_freeze(Reader& reader) {
  LayerFreezeConfig config{reader.strings("trainable_layers")};
  if (config.trainable_layers.empty()) {
    reader.fail("trainable_layers", "is required and must not be empty");
  }
  return config;
}

void read_warmup(Reader& reader, SdtConfig& config) {
  config.num_warmup_it = reader.integer("num_warmup_it");
  config.warmup_ratio = reader.number("warmup_ratio");
  if (config.num_warmup_it && config.warmup_ratio) {
    reader.fail("num_warmup_it", "and warmup_ratio exclude each other");
  }
  if (config.warmup_ratio && !(*config.warmup_ratio > 0 && *config.warmup_ratio < 1)) {
    reader.fail("warmup_ratio", str("is ", *config.warmup_ratio, ", expected between 0 and 1"));
  }
  if (!config.needs_warmup()) return;
  if (!config.num_warmup_it && !config.warmup_ratio) {
    reader.fail("num_warmup_it", str("(or warmup_ratio) is required by the selection '",
                                     sdt_rule_name(config.rule), "'"));
  }
  if (config.num_warmup_it && *config.num_warmup_it < 0) {
    reader.fail("num_warmup_it", str("is ", *config.num_warmup_it, ": the selection '",
                                     sdt_rule_name(config.rule), "' needs a warm-up"));
  }
}

SdtConfig read_sdt(Reader& reader) {
  SdtConfig config;
  config.target_modules = reader.strings("target_modules");
  bool has_a_log = false;
  for (const std::string& target : config.target_modules) {
    has_a_log = has_a_log || target == "A_log";
    if (std::find(kSdtTargets.begin(), kSdtTargets.end(), target) == kSdtTargets.end()) {
      reader.fail("target_modules",
                  str("of SD_LORA cannot hold '", target, "'", did_you_mean(target, kSdtTargets)));
    }
    if (std::count(config.target_modules.begin(), config.target_modules.end(), target) > 1) {
      reader.fail("target_modules", str("holds '", target, "' twice"));
    }
  }
  if (!has_a_log) {
    reader.fail("target_modules", "of SD_LORA must hold A_log, which all selections come from");
  }
  config.num_zero = reader.counts("num_zero");
  config.num_freeze = reader.counts("num_freeze");
  if (const Json* rule = reader.find("selection")) {
    const std::vector<std::string> names = {"displacement", "gradient", "random", "weight"};
    const std::string name = rule->is_string() ? rule->get<std::string>() : rule->dump();
    const auto it = std::find(names.begin(), names.end(), name);
    if (it == names.end())
      reader.fail("selection", str("is '", name, "'", did_you_mean(name, names)));
    config.rule = static_cast<SdtRule>(it - names.begin());
  }
  read_warmup(reader, config);
  config.proj_lora_r = reader.integer("proj_lora_r").value_or(0);
  if (config.proj_lora_r < 0 || config.proj_lora_r > 65536) {
    reader.fail("proj_lora_r", str("is ", config.proj_lora_r, ", expected 1 or more, or null"));
  }
  config.proj_lora_dropout = reader.probability("proj_lora_dropout", 0.1);
  if (const Json* alpha = reader.find("sdlora_alpha")) {
    if (!alpha->is_object()) reader.fail("sdlora_alpha", "must be an object of factors");
    std::vector<std::string> keys = config.target_modules;
    keys.emplace_back("global");
    for (const auto& [written, factor] : alpha->items()) {
      const std::string key = written == "A_log_adapter" ? "A_log" : written;
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
        reader.fail("sdlora_alpha",
                    str("has the unknown key '", key, "'", did_you_mean(key, keys)));
      }
      if (!factor.is_number() || factor.get<double>() == 0) {
        reader.fail("sdlora_alpha", str("of ", key, " is ", factor.dump(), ", expected a factor"));
      }
      config.alpha[key] = factor.get<double>();
    }
  }
  config.finetune_parameters = reader.strings("finetune_parameters");
  for (const auto& [key, only] : {std::pair{"select_mode", "CHANNELS_PER_STATE_CHANNELS"},
                                  std::pair{"proj_select_mode", "CHANNELS_ALL_STATES"}}) {
    const Json* mode = reader.find(key);
    if (mode != nullptr && *mode != only) {
      reader.fail(key, str("is ", mode->dump(), "; only ", only, " is available"));
    }
  }
  reader.neutral(kSdtKeys);
  return config;
}

PeftMethod read_method(const Json& object, const std::string& place) {
  if (!object.is_object()) throw ConfigError(str(place, ": expected an object with peft_type"));
  const auto it = object.find("peft_type");
  if (it == object.end() || !it->is_string()) {
    throw ConfigError(str(place, ": peft_type is missing; one of ", quoted_list(kTypes)));
  }
  const auto type = it->get<std::string>();
  Reader reader(object, str(place, ": ", type));
  const auto finished = [&](PeftMethod method) {
    reader.finish();
    return method;
  };
  if (type == "LORA") return finished(read_lora(reader));
  if (type == "LAYER_FREEZE") return finished(read_layer_freeze(reader));
  if (type == "BITFIT") return finished(BitfitConfig{reader.strings("target_modules")});
  if (type == "SD_LORA") return finished(read_sdt(reader));
  for (const char* missing : kMissingTypes) {
    if (type == missing) {
      throw ConfigError(
          str(place, ": the method ", type, " is not available; one of ", quoted_list(kTypes)));
    }
  }
  throw ConfigError(str(place, ": unknown peft_type '", type, "'", did_you_mean(type, kTypes)));
}

Json amount(const AxisCount& count) {
  return count.fraction ? Json(count.value) : Json(static_cast<std::int64_t>(count.value));
}

Json number(double value) {
  const bool whole = value == std::nearbyint(value) && std::abs(value) < 1e15;
  return whole ? Json(static_cast<std::int64_t>(value)) : Json(value);
}

Json write(const LoraConfig& config) {
  const Json targets = config.all_linear ? Json("all-linear") : Json(config.target_modules);
  const Json empty = Json::object();
  return {{"peft_type", "LORA"},
          {"task_type", "CAUSAL_LM"},
          {"target_modules", targets},
          {"r", config.r},
          {"lora_alpha", number(config.alpha)},
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

Json write(const LayerFreezeConfig& config) {
  return {{"peft_type", "LAYER_FREEZE"}, {"trainable_layers", config.trainable_layers}};
}

Json write(const BitfitConfig& config) {
  Json json = {{"peft_type", "BITFIT"}};
  if (!config.target_modules.empty()) json["target_modules"] = config.target_modules;
  return json;
}

Json write(const SdtConfig& config) {
  const auto counts = [](const DimensionCounts& c) {
    return Json{{"state", amount(c.state)}, {"channel", amount(c.channel)}};
  };
  Json json = {{"peft_type", "SD_LORA"},
               {"target_modules", config.target_modules},
               {"num_zero", counts(config.num_zero)},
               {"num_freeze", counts(config.num_freeze)},
               {"selection", sdt_rule_name(config.rule)}};
  if (config.num_warmup_it) json["num_warmup_it"] = *config.num_warmup_it;
  if (config.warmup_ratio) json["warmup_ratio"] = *config.warmup_ratio;
  if (config.proj_lora_r > 0) {
    json["proj_lora_r"] = config.proj_lora_r;
    json["proj_lora_dropout"] = config.proj_lora_dropout;
  }
  if (!config.alpha.empty()) json["sdlora_alpha"] = config.alpha;
  if (!config.finetune_parameters.empty()) {
    json["finetune_parameters"] = config.finetune_parameters;
  }
  return json;
}

}  // namespace

const char* sdt_rule_name(SdtRule rule) {
  switch (rule) {
    case SdtRule::displacement:
      return "displacement";
    case SdtRule::gradient:
      return "gradient";
    case SdtRule::random:
      return "random";
    case SdtRule::weight:
      return "weight";
  }
  return "unknown";
}

double LoraConfig::scale() const {
  const auto rank = static_cast<double>(r);
  return alpha / (rslora ? std::sqrt(rank) : rank);
}

double SdtConfig::scale(const std::string& target) const {
  double factor = 1;
  for (const auto& [key, value] : alpha) {
    if (key == target || key == "global") factor *= value;
  }
  return factor;
}

PeftConfig PeftConfig::parse(const std::string& text, const std::string& name) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw ConfigError(str(name, ":", error.byte, ": not a JSON text"));
  }
  PeftConfig config;
  if (json.is_object()) {
    const auto base = json.find("base_model_name_or_path");
    if (base != json.end() && base->is_string()) config.base_model = base->get<std::string>();
    if (json.value("peft_type", Json()) == "MULTI_PEFT") {
      Reader reader(json, name);
      const Json* configs = reader.find("configs");
      if (configs == nullptr || !configs->is_array()) reader.fail("configs", "must be a list");
      reader.finish();
      json = Json(*configs);
    } else {
      config.methods.push_back(read_method(json, name));
      return config;
    }
  }
  if (!json.is_array()) throw ConfigError(str(name, ": expected a JSON object or a list of them"));
  if (json.empty()) throw ConfigError(str(name, ": the list of methods is empty"));
  for (std::size_t i = 0; i < json.size(); ++i) {
    config.methods.push_back(read_method(json[i], str(name, "[", i, "]")));
  }
  return config;
}

std::string PeftConfig::to_json() const {
  std::vector<Json> written;
  for (const PeftMethod& method : methods) {
    written.push_back(std::visit([](const auto& config) { return write(config); }, method));
  }
  Json json;
  if (written.size() == 1) {
    json = std::move(written[0]);
  } else {
    json = {{"peft_type", "MULTI_PEFT"}, {"configs", written}};
  }
  json["base_model_name_or_path"] = base_model.empty() ? Json() : Json(base_model);
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string PeftConfig::description() const {
  std::string text;
  for (const PeftMethod& method : methods) {
    const char* label = std::visit(
        [](const auto& config) {
          using T = std::decay_t<decltype(config)>;
          if constexpr (std::is_same_v<T, LoraConfig>) {
            return "LoRA";
          } else if constexpr (std::is_same_v<T, LayerFreezeConfig>) {
            return "layer freezing";
          } else if constexpr (std::is_same_v<T, BitfitConfig>) {
            return "BitFit";
          } else {
            return config.proj_lora_r > 0 ? "SDT + LoRA" : "SDT";
          }
        },
        method);
    text += (text.empty() ? "" : " + ") + std::string(label);
  }
  return text;
}

const SdtConfig* PeftConfig::sdt() const {
  for (const PeftMethod& method : methods) {
    if (const auto* config = std::get_if<SdtConfig>(&method)) return config;
  }
  return nullptr;
}

}  // namespace adder
