#include "peft/config.h"

#include <algorithm>

#include "engine/error.h"
#include "engine/text/suggest.h"
#include "peft/config_json.h"

namespace adder {
namespace {

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

const std::vector<std::string> kTypes = {"LORA",    "LAYER_FREEZE", "BITFIT",
                                         "SD_LORA", "SDT_S4",       "MULTI_PEFT"};

std::string quoted_list(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

PeftMethod read_method(const ConfigJson& object, const std::string& place) {
  if (!object.is_object()) throw ConfigError(str(place, ": expected an object with peft_type"));
  const auto it = object.find("peft_type");
  if (it == object.end() || !it->is_string()) {
    throw ConfigError(str(place, ": peft_type is missing; one of ", quoted_list(kTypes)));
  }
  const auto type = it->get<std::string>();
  MethodReader reader(object, str(place, ": ", type));
  const auto finished = [&](PeftMethod method) {
    reader.finish();
    return method;
  };
  if (type == "LORA") return finished(read_lora(reader));
  if (type == "LAYER_FREEZE") return finished(read_layer_freeze(reader));
  if (type == "BITFIT") return finished(read_bitfit(reader));
  if (type == "SD_LORA") return finished(read_sdt(reader));
  if (type == "SDT_S4") return finished(read_sdt_s4(reader));
  for (const char* missing : kMissingTypes) {
    if (type == missing) {
      throw ConfigError(
          str(place, ": the method ", type, " is not available; one of ", quoted_list(kTypes)));
    }
  }
  throw ConfigError(str(place, ": unknown peft_type '", type, "'", did_you_mean(type, kTypes)));
}

}  // namespace

PeftConfig PeftConfig::parse(const std::string& text, const std::string& name) {
  ConfigJson json;
  try {
    json = ConfigJson::parse(text);
  } catch (const ConfigJson::parse_error& error) {
    throw ConfigError(str(name, ":", error.byte, ": not a JSON text"));
  }
  PeftConfig config;
  if (json.is_object()) {
    const auto base = json.find("base_model_name_or_path");
    if (base != json.end() && base->is_string()) config.base_model = base->get<std::string>();
    if (json.value("peft_type", ConfigJson()) == "MULTI_PEFT") {
      MethodReader reader(json, name);
      const ConfigJson* configs = reader.find("configs");
      if (configs == nullptr || !configs->is_array()) reader.fail("configs", "must be a list");
      reader.finish();
      json = ConfigJson(*configs);
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
  std::vector<ConfigJson> written;
  for (const PeftMethod& method : methods) {
    written.push_back(std::visit([](const auto& config) { return write_method(config); }, method));
  }
  ConfigJson json;
  if (written.size() == 1) {
    json = std::move(written[0]);
  } else {
    json = {{"peft_type", "MULTI_PEFT"}, {"configs", written}};
  }
  json["base_model_name_or_path"] = base_model.empty() ? ConfigJson() : ConfigJson(base_model);
  return json.dump(2, ' ', false, ConfigJson::error_handler_t::replace) + "\n";
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
          } else if constexpr (std::is_same_v<T, SdtS4Config>) {
            return "SDT";
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

const SdtS4Config* PeftConfig::sdt_s4() const {
  for (const PeftMethod& method : methods) {
    if (const auto* config = std::get_if<SdtS4Config>(&method)) return config;
  }
  return nullptr;
}

}  // namespace adder
