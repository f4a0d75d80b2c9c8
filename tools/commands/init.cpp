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

int run(const Options& options) {
  require_absent(options.out);
  const MambaConfig config = MambaConfig::from_json(read_file(options.config), options.config);
  std::optional<Tokenizer> tokenizer;
  if (!options.tokenizer.empty()) {
    tokenizer = load_tokenizer(options.tokenizer);
    if (tokenizer->vocab_size() > config.vocab_size) {
      throw ConfigError(str(options.config, ": vocab_size is ", config.vocab_size,
                            ", the tokenizer has ", tokenizer->vocab_size(), " ids"));
    }
  }
  const auto model = Mamba::init(config, options.seed);
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
    print(str(options.out, ": ", grouped(model->parameter_count()), " parameters\n"));
  }
  return kExitOk;
}

}  // namespace

Command add_init(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("init", "Make a randomly initialised model directory");
  app->add_option("--config", options->config, "a Mamba config.json, in either published layout")
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
