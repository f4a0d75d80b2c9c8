#include "peft/freeze.h"

#include <algorithm>

#include "engine/error.h"
#include "engine/text/suggest.h"

namespace adder {

void attach_layer_freeze(Model& model, const LayerFreezeConfig& config) {
  std::vector<bool> used(config.trainable_layers.size(), false);
  train_by_name(model, "LAYER_FREEZE", [&](const std::string& name) {
    bool wanted = false;
    for (std::size_t i = 0; i < used.size(); ++i) {
      if (name.find(config.trainable_layers[i]) == std::string::npos) continue;
      used[i] = true;
      wanted = true;
    }
    return wanted;
  });
  for (std::size_t i = 0; i < used.size(); ++i) {
    const std::string& text = config.trainable_layers[i];
    if (used[i]) continue;
    throw ConfigError(str("LAYER_FREEZE: no parameter's name contains '", text, "'",
                          did_you_mean(text, name_endings(model))));
  }
}

bool attach_bitfit(Model& model, const BitfitConfig& config) {
  const std::vector<std::string> modules = model.biasable_modules();
  std::vector<std::string> chosen;
  if (config.target_modules.empty()) chosen = modules;
  for (const std::string& target : config.target_modules) {
    bool found = false;
    for (const std::string& module : modules) {
      if (!module_matches(module, target)) continue;
      found = true;
      if (std::find(chosen.begin(), chosen.end(), module) == chosen.end()) chosen.push_back(module);
    }
    if (found) continue;
    std::vector<std::string> valid;
    for (const std::string& module : modules) valid.push_back(plain_name(module));
    throw ConfigError(str("BITFIT: target_modules holds '", target,
                          "', which is no module that can have a bias",
                          did_you_mean(target, valid)));
  }
  bool made = false;
  for (const std::string& module : chosen) {
    made = made || model.find_parameter(module + ".bias") == nullptr;
    train_whole(*model.ensure_bias(module), "BITFIT");
  }
  return made;
}

}  // namespace adder
