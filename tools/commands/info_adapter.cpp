// adder info on an adapter directory.
#include <algorithm>

#include "engine/io/file.h"
#include "engine/text/counted.h"
#include "tools/commands/common.h"
#include "tools/commands/info.h"
#include "tools/console.h"

namespace adder::tools {
namespace {

// The base model: as given, or as the adapter remembers it.
struct Base {
  std::string name;     // empty: nobody says
  std::string why_not;  // it could not be looked into; empty when it was
  std::int64_t trainable = 0;
  std::int64_t total = 0;
};

void look_into(Base& base, const std::string& adapter) {
  const auto model = load_any_model(base.name).model;
  base.trainable = Adapter::load(*model, adapter)->trainable_count();
  base.total = model->parameter_count();
}

Base find_base(const InfoOptions& options, const PeftConfig& config) {
  Base base;
  base.name = options.model.empty() ? config.base_model : options.model;
  if (!options.model.empty()) {
    look_into(base, options.path);
    return base;
  }
  if (base.name.empty()) return base;
  if (!is_directory(base.name)) {
    base.why_not = "no such directory here; give --model DIR";
    return base;
  }
  try {
    look_into(base, options.path);
  } catch (const Error& error) {  // it may have changed since, which is not the adapter's fault
    base.why_not = error.what();
  }
  return base;
}

std::string joined(const std::vector<std::int32_t>& numbers) {
  std::string text;
  for (const std::int32_t number : numbers) text += str(text.empty() ? "" : " ", number);
  return text.empty() ? "none" : text;
}

std::string value_text(const OrderedJson& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return dump_json(value, -1);
  std::string text;
  for (const OrderedJson& item : value) text += (text.empty() ? "" : " ") + value_text(item);
  return text;
}

// "r 8, lora_alpha 16, target_modules in_proj out_proj": what a method's configuration says, but
// for what it leaves off and what only other tools ask about.
std::string settings(const OrderedJson& method) {
  const std::vector<std::string> kept_out{"peft_type",      "task_type",
                                          "inference_mode", "init_lora_weights",
                                          "dimensions",     "base_model_name_or_path"};
  std::string text;
  for (const auto& [key, value] : method.items()) {
    const bool off = value.is_null() || value == false || value == "none" ||
                     (value.is_structured() && value.empty());
    if (off || std::find(kept_out.begin(), kept_out.end(), key) != kept_out.end()) continue;
    text += str(text.empty() ? "" : ", ", key, " ", value_text(value));
  }
  return text;
}

void add_settings(const OrderedJson& config, InfoRows& rows) {
  const bool several = config.contains("configs");
  for (const OrderedJson& method : several ? config["configs"] : OrderedJson::array({config})) {
    rows.emplace_back("  " + method.value("peft_type", ""), settings(method));
  }
}

// "2: 0 3; 5: 1", the best first; of S4 also which channels are in use, with their states where
// these are not all.
std::string describe_selection(const LayerSelection& layer) {
  std::string text;
  for (std::size_t c = 0; c < layer.channels.size(); ++c) {
    text += str(text.empty() ? "" : "; ", layer.channels[c], ":");
    if (c < layer.states.size()) text += " " + joined(layer.states[c]);
  }
  const auto all = static_cast<std::int64_t>(layer.select_channels.size()) == layer.num_channels;
  std::string used;
  bool every_state = true;
  for (const std::int32_t channel : layer.select_channels) {
    used += str(used.empty() ? " " : "; ", channel);
    const auto& trained = layer.channels;
    if (std::find(trained.begin(), trained.end(), channel) == trained.end()) continue;
    const std::vector<std::int32_t> states = layer.states_in_use(channel);
    if (static_cast<std::int64_t>(states.size()) == layer.num_states) continue;
    used += ": " + joined(states);
    every_state = false;
  }
  if (!used.empty()) text += " | in use" + (all && every_state ? " all" : used);
  if (!layer.zero_channels.empty()) text += " | zeroed " + joined(layer.zero_channels);
  return text;
}

OrderedJson layers_json(const std::vector<LayerSelection>& selections) {
  OrderedJson layers = OrderedJson::array();
  for (const LayerSelection& layer : selections) {
    OrderedJson item = {{"layer", layer.layer},
                        {"channels", layer.channels},
                        {"states", layer.states},
                        {"zero_channels", layer.zero_channels}};
    if (!layer.select_channels.empty()) {
      item["select_channels"] = layer.select_channels;
      item["select_states"] = layer.select_states;
    }
    layers.push_back(item);
  }
  return layers;
}

void add_layers(const std::vector<LayerSelection>& selections, InfoRows& rows) {
  if (!selections.empty()) rows.emplace_back("selected", "channel: states that train, best first");
  for (std::size_t i = 0; i < selections.size(); ++i) {
    rows.emplace_back(str("layer ", i), describe_selection(selections[i]));
  }
}

}  // namespace

void show_adapter(const InfoOptions& options) {
  const SavedAdapter saved = SavedAdapter::read(options.path);
  const std::vector<LayerSelection> selections = saved.selections();
  const Base base = find_base(options, saved.config);
  const bool known = base.total > 0;
  const std::int64_t trainable = known ? base.trainable : saved.trainable_count();
  const double percent =
      known ? 100 * static_cast<double>(trainable) / static_cast<double>(base.total) : 0;
  std::int64_t bytes = 0;
  for (const auto& [name, tensor] : saved.tensors) {
    bytes += static_cast<std::int64_t>(tensor.nbytes());
  }
  const auto config = OrderedJson::parse(saved.config.to_json());
  if (options.json) {
    OrderedJson json;
    json["kind"] = "adapter";
    json["method"] = saved.config.description();
    json["base_model"] = base.name;
    json["trainable"] = trainable;
    json["total"] = known ? OrderedJson(base.total) : OrderedJson();
    json["percent"] = known ? OrderedJson(percent) : OrderedJson();
    json["bytes"] = bytes;
    json["tensors"] = saved.tensors.size();
    json["config"] = config;
    json["layers"] = layers_json(selections);
    print_json(json);
    return;
  }
  InfoRows rows = {{"adapter", saved.config.description()}};
  add_settings(config, rows);
  std::string model = base.name.empty() ? "not named; give --model DIR" : base.name;
  if (!base.why_not.empty()) model += " (" + base.why_not + ")";
  rows.emplace_back("base model", model);
  rows.emplace_back("trainable", known ? str(grouped(trainable), " of ", grouped(base.total), " (",
                                             number_text(percent), " %)")
                                       : grouped(trainable));
  rows.emplace_back("files",
                    str(byte_size(bytes), " in ",
                        counted(static_cast<std::int64_t>(saved.tensors.size()), "tensor")));
  add_layers(selections, rows);
  print_pairs(rows);
}

}  // namespace adder::tools
