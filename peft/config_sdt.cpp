// SD_LORA in adapter_config.json.
#include <algorithm>

#include "engine/error.h"
#include "engine/text/suggest.h"
#include "peft/config_json.h"

namespace adder {
namespace {

constexpr NeutralKey kSdtKeys[] = {{"reg_scale", "a regularised SD_LORA"}};

const std::vector<std::string> kSdtTargets = {"A_log",     "x_proj_B",  "x_proj_C",
                                              "in_proj_x", "in_proj_z", "out_proj"};

void read_warmup(MethodReader& reader, SdtConfig& config) {
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

double SdtConfig::scale(const std::string& target) const {
  double factor = 1;
  for (const auto& [key, value] : alpha) {
    if (key == target || key == "global") factor *= value;
  }
  return factor;
}

SdtConfig read_sdt(MethodReader& reader) {
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
  config.rule = static_cast<SdtRule>(
      reader.choice("selection", {"displacement", "gradient", "random", "weight"}));
  read_warmup(reader, config);
  config.proj_lora_r = reader.integer("proj_lora_r").value_or(0);
  if (config.proj_lora_r < 0 || config.proj_lora_r > 65536) {
    reader.fail("proj_lora_r", str("is ", config.proj_lora_r, ", expected 1 or more, or null"));
  }
  config.proj_lora_dropout = reader.probability("proj_lora_dropout", 0.1);
  if (const ConfigJson* alpha = reader.find("sdlora_alpha")) {
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
    const ConfigJson* mode = reader.find(key);
    if (mode != nullptr && *mode != only) {
      reader.fail(key, str("is ", mode->dump(), "; only ", only, " is available"));
    }
  }
  reader.neutral(kSdtKeys);
  return config;
}

ConfigJson write_method(const SdtConfig& config) {
  const auto counts = [](const DimensionCounts& c) {
    return ConfigJson{{"state", amount_json(c.state)}, {"channel", amount_json(c.channel)}};
  };
  ConfigJson json = {{"peft_type", "SD_LORA"},
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

}  // namespace adder
