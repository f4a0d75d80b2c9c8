// adder init: a randomly initialised model directory.
#include <CLI/CLI.hpp>

#include "engine/io/file.h"
#include "tools/commands/commands.h"
#include "tools/commands/common.h"
#include "tools/console.h"
#include "tools/exit_codes.h"

namespace adder::tools {
namespace {

struct Options {
  std::string config;
  std::string tokenizer;
  std::string out;
  std::uint64_t seed = 42;
  bool json = false;
};

std::unique_ptr<Model> random_model(const Options& options, const std::string& text,
                                    std::optional<Tokenizer>& tokenizer) {
  if (names_sequence_model(text)) {
    if (!options.tokenizer.empty()) {
      throw ConfigError(str("init: --tokenizer is for language models; ", options.config,
                            " describes a model that reads numbers"));
    }
    return init_sequence_model(text, options.config, options.seed);
  }
  const MambaConfig config = MambaConfig::from_json(text, options.config);
  if (!options.tokenizer.empty()) {
    tokenizer = load_tokenizer(options.tokenizer);
    if (tokenizer->vocab_size() > config.vocab_size) {
      throw ConfigError(str(options.config, ": vocab_size is ", config.vocab_size,
                            ", the tokenizer has ", tokenizer->vocab_size(), " ids"));
    }
  }
  return Mamba::init(config, options.seed);
}

int run(const Options& options) {
  require_absent(options.out);
  std::optional<Tokenizer> tokenizer;
  const auto model = random_model(options, read_file(options.config), tokenizer);
  AtomicDirectory directory(options.out);
  model->save(directory.path());
  if (tokenizer) {
    write_file_atomic(join_path(directory.path(), "tokenizer.json"), tokenizer->json());
  }
  directory.commit();
  if (options.json) {
    OrderedJson json;
    json["model"] = options.out;
    json["parameters"] = model->parameter_count();
    json["seed"] = options.seed;
    print_json(json);
  } else {
    print(str(options.out, ": ", grouped(model->parameter_count(), "parameter"), "\n"));
  }
  return kExitOk;
}

}  // namespace

Command add_init(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("init", "Make a randomly initialised model directory");
  app->add_option("--config", options->config,
                  "a config.json: Mamba's, in either published layout, or a deep S4's")
      ->required();
  app->add_option("--tokenizer", options->tokenizer,
                  "tokenizer.json to copy, or \"byte\" for the built-in byte-level one");
  app->add_option("--seed", options->seed, "of the random weights")->capture_default_str();
  app->add_option("--out", options->out, "the new model directory")->required();
  app->add_flag("--json", options->json, "print one JSON object");
  app->footer("Example:\n  adder init --config config.json --tokenizer byte --out model");
  return {app, [options] { return run(*options); }};
}

}  // namespace adder::tools
