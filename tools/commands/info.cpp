// adder info: what a model or an adapter directory holds, or this machine.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>

#include "engine/io/file.h"
#include "engine/io/safetensors.h"
#include "tools/commands/commands.h"
#include "tools/commands/common.h"
#include "tools/console.h"
#include "tools/exit_codes.h"
#include "tools/machine.h"

namespace adder::tools {
namespace {

using Rows = std::vector<std::pair<std::string, std::string>>;

struct Options {
  std::string path;
  std::string model;
  bool json = false;
};

struct Usage {
  std::int64_t parameters = 0;
  std::int64_t bytes = 0;
};

// What is particular to a family, as JSON members and as rows.
void describe_mamba(const MambaConfig& config, OrderedJson& json, Rows& rows) {
  json["architecture"] = "mamba";
  json["hidden_size"] = config.hidden_size;
  json["num_layers"] = config.num_layers;
  json["inner_size"] = config.inner_size;
  json["state_size"] = config.state_size;
  json["conv_kernel"] = config.conv_kernel;
  json["time_step_rank"] = config.time_step_rank;
  json["vocab_size"] = config.vocab_size;
  json["tied_embeddings"] = config.tie_embeddings;
  rows = {
      {"architecture", str("Mamba-1, ", config.num_layers, " layers")},
      {"width",
       str(config.hidden_size, " (inner ", config.inner_size, ", states ", config.state_size,
           ", dt rank ", config.time_step_rank, ", convolution ", config.conv_kernel, ")")},
      {"vocabulary", str(grouped(config.vocab_size), config.tie_embeddings ? ", tied head" : "")}};
}

void describe_sequence(const SequenceModel& model, OrderedJson& json, Rows& rows) {
  json["architecture"] = model.description();
  json["input_size"] = model.input_size();
  json["output_size"] = model.output_size();
  json["pooled"] = model.pooled();
  rows = {{"architecture", model.description()},
          {"input", str(model.input_size(), " values at each position")},
          {"output",
           str(model.output_size(), model.pooled() ? " for a sequence" : " at each position")}};
}

void describe_model(const Options& options) {
  const AnyModel any = load_any_model(options.path);
  const Model* model = any.model.get();
  const WeightFiles files = WeightFiles::open(options.path);
  std::map<std::string, Usage> dtypes;
  std::int64_t bytes = 0;
  for (const std::string& name : files.names()) {
    const Tensor tensor = files.load(name);
    Usage& usage = dtypes[dtype_name(tensor.dtype())];
    usage.parameters += tensor.numel();
    usage.bytes += static_cast<std::int64_t>(tensor.nbytes());
    bytes += static_cast<std::int64_t>(tensor.nbytes());
  }
  std::vector<std::pair<std::string, std::int64_t>> roles;  // in order of appearance
  for (const ParameterPtr& parameter : model->parameters()) {
    const std::string role = role_name(parameter->role());
    auto found = std::find_if(roles.begin(), roles.end(),
                              [&](const auto& item) { return item.first == role; });
    if (found == roles.end()) found = roles.insert(roles.end(), {role, 0});
    found->second += parameter->value().numel();
  }
  const bool has_tokenizer = exists(join_path(options.path, "tokenizer.json"));
  OrderedJson json;
  json["kind"] = "model";
  Rows rows;
  if (any.mamba != nullptr) {
    describe_mamba(any.mamba->config(), json, rows);
  } else {
    describe_sequence(*any.sequence, json, rows);
  }
  if (options.json) {
    json["parameters"] = model->parameter_count();
    json["bytes"] = bytes;
    json["roles"] = OrderedJson::object();
    for (const auto& [role, count] : roles) json["roles"][role] = count;
    json["dtypes"] = OrderedJson::object();
    for (const auto& [name, usage] : dtypes) {
      json["dtypes"][name] = {{"parameters", usage.parameters}, {"bytes", usage.bytes}};
    }
    if (any.mamba != nullptr) json["tokenizer"] = has_tokenizer;
    print_json(json);
    return;
  }
  if (any.mamba != nullptr) {
    rows.emplace_back("tokenizer", has_tokenizer ? "tokenizer.json" : "none");
  }
  rows.emplace_back("parameters", grouped(model->parameter_count()));
  for (const auto& [role, count] : roles) rows.emplace_back("  " + role, grouped(count));
  for (const auto& [name, usage] : dtypes) {
    rows.emplace_back(name, str(grouped(usage.parameters), " values, ", byte_size(usage.bytes)));
  }
  print_pairs(rows);
}

// The base model's directory: as given, or as the adapter remembers it if that is one here.
std::string base_of(const Options& options, const PeftConfig& config) {
  if (!options.model.empty()) return options.model;
  return is_directory(config.base_model) ? config.base_model : "";
}

std::string joined(const std::vector<std::int32_t>& numbers) {
  std::string text;
  for (const std::int32_t number : numbers) text += str(text.empty() ? "" : " ", number);
  return text.empty() ? "none" : text;
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

void describe_adapter(const Options& options) {
  const SavedAdapter saved = SavedAdapter::read(options.path);
  const std::vector<LayerSelection> selections = saved.selections();
  std::int64_t trainable = saved.trainable_count();
  std::int64_t total = 0;
  const std::string base = base_of(options, saved.config);
  if (!base.empty()) {
    const auto model = load_any_model(base).model;
    const auto adapter = Adapter::load(*model, options.path);
    trainable = adapter->trainable_count();
    total = model->parameter_count();
  }
  const double percent =
      total > 0 ? 100 * static_cast<double>(trainable) / static_cast<double>(total) : 0;
  std::int64_t bytes = 0;
  for (const auto& [name, tensor] : saved.tensors) {
    bytes += static_cast<std::int64_t>(tensor.nbytes());
  }
  if (options.json) {
    OrderedJson json;
    json["kind"] = "adapter";
    json["method"] = saved.config.description();
    json["base_model"] = base.empty() ? saved.config.base_model : base;
    json["trainable"] = trainable;
    json["total"] = total > 0 ? OrderedJson(total) : OrderedJson();
    json["percent"] = total > 0 ? OrderedJson(percent) : OrderedJson();
    json["bytes"] = bytes;
    json["config"] = OrderedJson::parse(saved.config.to_json());
    json["layers"] = OrderedJson::array();
    for (std::size_t i = 0; i < selections.size(); ++i) {
      const LayerSelection& layer = selections[i];
      OrderedJson item;
      item["layer"] = layer.layer;
      item["channels"] = layer.channels;
      item["states"] = layer.states;
      item["zero_channels"] = layer.zero_channels;
      if (!layer.select_channels.empty()) {
        item["select_channels"] = layer.select_channels;
        item["select_states"] = layer.select_states;
      }
      json["layers"].push_back(item);
    }
    print_json(json);
    return;
  }
  Rows rows = {{"method", saved.config.description()},
               {"trainable", grouped(trainable) + (total > 0 ? str(" of ", grouped(total), " (",
                                                                   number_text(percent), " %)")
                                                             : " (of what: give --model DIR)")},
               {"bytes", byte_size(bytes)}};
  for (std::size_t i = 0; i < selections.size(); ++i) {
    rows.emplace_back(str("layer ", i), describe_selection(selections[i]));
  }
  if (!selections.empty()) {
    rows.insert(rows.begin() + 3, {"selected", "channel: states that train, best first"});
  }
  print_pairs(rows);
}

void describe_machine(const Options& options) {
  const Rows rows = machine_rows();
  if (!options.json) {
    print_pairs(rows);
    return;
  }
  OrderedJson json;
  json["kind"] = "machine";
  for (const auto& [name, value] : rows) json[name] = value;
  print_json(json);
}

int run(const Options& options) {
  if (options.path.empty()) {
    describe_machine(options);
    return kExitOk;
  }
  if (!is_directory(options.path)) throw IoError(str(options.path, ": no such directory"));
  if (is_adapter_directory(options.path)) {
    describe_adapter(options);
  } else {
    describe_model(options);
  }
  return kExitOk;
}

}  // namespace

Command add_info(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app =
      parent.add_subcommand("info", "What a model or an adapter directory holds, or this machine");
  app->add_option("dir", options->path, "the directory; absent: this machine and its devices");
  app->add_option("--model", options->model, "an adapter's base model, for the percentage");
  app->add_flag("--json", options->json, "print one JSON object");
  app->footer("Example:\n  adder info run/adapter --model model");
  return {app, [options] { return run(*options); }};
}

}  // namespace adder::tools
