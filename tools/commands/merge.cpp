// adder merge: folds an adapter into a plain model.
#include <CLI/CLI.hpp>

#include "engine/io/file.h"
#include "tools/commands/commands.h"
#include "tools/commands/common.h"
#include "tools/console.h"
#include "tools/exit_codes.h"

namespace adder::tools {
namespace {

struct Options {
  std::string model, adapter, out;
  std::string precision = "fp32";
  bool json = false;
};

int run(const Options& options) {
  require_absent(options.out);
  ModelOptions source;
  source.model = options.model;
  source.adapter = options.adapter;
  const LoadedModel loaded = load_model(source);
  const std::string reason = loaded.adapter->why_not_mergeable();
  if (!reason.empty()) throw ConfigError(str(options.adapter, ": cannot be merged: ", reason));
  const std::string method = loaded.adapter->description();
  loaded.adapter->merge_into_weights();
  AtomicDirectory directory(options.out);
  loaded.model().save(directory.path(), options.precision == "bf16" ? Dtype::bf16 : Dtype::f32);
  if (loaded.tokenizer) {
    write_file_atomic(join_path(directory.path(), "tokenizer.json"), loaded.tokenizer->json());
  }
  directory.commit();
  if (options.json) {
    OrderedJson json;
    json["model"] = options.out;
    json["method"] = method;
    json["parameters"] = loaded.model().parameter_count();
    print_json(json);
  } else {
    print(str(options.out, ": ", method, " folded in, ",
              grouped(loaded.model().parameter_count(), "parameter"), "\n"));
  }
  return kExitOk;
}

}  // namespace

Command add_merge(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app =
      parent.add_subcommand("merge", "Fold an adapter into a plain model that other tools load");
  app->add_option("--model", options->model, "model directory")->required();
  app->add_option("--adapter", options->adapter, "adapter directory")->required();
  app->add_option("--out", options->out, "the new model directory")->required();
  app->add_option("--precision", options->precision, "of the written matrices: fp32 or bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  app->add_flag("--json", options->json, "print one JSON object");
  app->footer("Example:\n  adder merge --model model --adapter run/adapter --out merged");
  return {app, [options] { return run(*options); }};
}

}  // namespace adder::tools
