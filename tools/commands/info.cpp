// adder info: what the directory of a model, an adapter or a run holds, or this machine.
#include "tools/commands/info.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>

#include "engine/io/file.h"
#include "engine/io/safetensors.h"
#include "engine/text/counted.h"
#include "tools/commands/commands.h"
#include "tools/commands/common.h"
#include "tools/console.h"
#include "tools/exit_codes.h"
#include "tools/machine.h"

namespace adder::tools {
namespace {

using Rows = InfoRows;
using Options = InfoOptions;

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
      {"architecture", str("Mamba-1, ", counted(config.num_layers, "layer"))},
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
          {"input", counted(model.input_size(), "value") + " at each position"},
          {"output", counted(model.output_size(), "value") +
                         (model.pooled() ? " for a sequence" : " at each position")}};
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
    rows.emplace_back(name, str(grouped(usage.parameters, "value"), ", ", byte_size(usage.bytes)));
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
    show_adapter(options);
  } else if (is_run_directory(options.path)) {
    show_run(options);
  } else {
    describe_model(options);
  }
  return kExitOk;
}

}  // namespace

Command add_info(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app =
      parent.add_subcommand("info", "What a model, an adapter or a run holds, or this machine");
  app->add_option("dir", options->path, "the directory; absent: this machine and its devices");
  app->add_option("--model", options->model, "an adapter's base model (default: the one it names)");
  app->add_flag("--json", options->json, "print one JSON object");
  app->footer("Example:\n  adder info run/adapter --model model");
  return {app, [options] { return run(*options); }};
}

}  // namespace adder::tools
