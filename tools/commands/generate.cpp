// adder generate: text in the recurrent form.
#include "models/generate.h"

#include <CLI/CLI.hpp>
#include <chrono>

#include "engine/io/file.h"
#include "engine/text/counted.h"
#include "tools/commands/commands.h"
#include "tools/commands/common.h"
#include "tools/console.h"
#include "tools/eval/evaluate.h"
#include "tools/exit_codes.h"

namespace adder::tools {
namespace {

struct Options {
  ModelOptions model;
  std::string prompt;
  std::string prompt_file;
  GenerationOptions generation;
  bool json = false;
};

std::string decode_id(const Tokenizer& tokenizer, std::int32_t id) {
  return decode_known(tokenizer, {id});
}

int run(Options options, bool has_prompt) {
  const std::string prompt = has_prompt ? options.prompt : read_file(options.prompt_file);
  GenerationOptions& generation = options.generation;
  const LoadedModel loaded = load_model(options.model);
  if (loaded.any.mamba == nullptr) {
    throw ConfigError(str("generate: ", options.model.model, " (",
                          loaded.any.sequence->description(),
                          ") is no language model; adder eval shows what it answers"));
  }
  if (!loaded.tokenizer) {
    throw ConfigError(
        str("generate: ", options.model.model, " has no tokenizer.json; pass --tokenizer FILE"));
  }
  const Tokenizer& tokenizer = *loaded.tokenizer;
  generation.end_id = tokenizer.eos_id().value_or(-1);
  if (generation.end_id >= loaded.any.mamba->vocab_size()) generation.end_id = -1;
  generation.vocab_size = tokenizer.vocab_size();
  std::vector<std::int32_t> ids = tokenizer.encode(prompt);
  if (ids.empty()) {
    // Documents follow the end mark of the one before.
    if (generation.end_id < 0) throw ConfigError("generate: the prompt is empty");
    ids = {generation.end_id};
  }

  const InterruptScope interrupt;
  Status status;
  const bool stream = !options.json && generation.num_beams == 1;
  const auto start = std::chrono::steady_clock::now();
  std::int64_t steps = 0;
  const Generation result = generate(*loaded.any.mamba, ids, generation, [&](std::int32_t id) {
    ++steps;
    if (stream) {
      print(decode_id(tokenizer, id));
      flush_output();
    } else {
      status.update(str("token ", steps, " of at most ", generation.max_new_tokens));
    }
    return !interrupt.flag();
  });
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  status.clear();
  const double rate = seconds > 0 ? static_cast<double>(result.ids.size()) / seconds : 0.0;
  if (options.json) {
    OrderedJson json;
    json["prompt"] = prompt;
    json["text"] = decode_known(tokenizer, result.ids);
    json["ids"] = result.ids;
    json["prompt_tokens"] = ids.size();
    json["new_tokens"] = result.ids.size();
    json["ended"] = result.ended;
    if (generation.num_beams > 1) json["score"] = result.score;
    json["seconds"] = seconds;
    json["tokens_per_s"] = rate;
    print_json(json);
  } else {
    if (!stream) print(decode_known(tokenizer, result.ids));
    print("\n");
    status.message(str(counted(static_cast<std::int64_t>(result.ids.size()), "token"), ", ",
                       number_text(rate), " tokens/s"));
  }
  return interrupt.flag() ? kExitInterrupted : kExitOk;
}

}  // namespace

Command add_generate(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("generate", "Continue a prompt");
  add_model_options(*app, options->model);
  GenerationOptions& g = options->generation;
  CLI::Option* prompt = app->add_option("--prompt", options->prompt, "the text to continue");
  CLI::Option* file = app->add_option("--prompt-file", options->prompt_file, "a file with it");
  prompt->excludes(file);
  app->add_option("--max-new-tokens", g.max_new_tokens, "stop after this many")
      ->capture_default_str();
  app->add_option("--min-new-tokens", g.min_new_tokens, "no end mark before this many")
      ->capture_default_str();
  app->add_option("--num-beams", g.num_beams, "above 1: beam search")->capture_default_str();
  app->add_option("--length-penalty", g.length_penalty, "of beam search")->capture_default_str();
  app->add_option("--temperature", g.temperature, "0: the likeliest token")->capture_default_str();
  app->add_option("--top-k", g.top_k, "sample among the k likeliest; 0: all")
      ->capture_default_str();
  app->add_option("--top-p", g.top_p, "sample among the likeliest that make up this probability")
      ->capture_default_str();
  app->add_option("--seed", g.seed, "of sampling")->capture_default_str();
  app->add_flag("--json", options->json, "print one JSON object");
  app->footer(
      "With --top-k or --top-p alone, the temperature is 1.\n"
      "Example:\n  adder generate --model model --prompt 'Once upon a time' --max-new-tokens 100");
  return {app, [options, prompt, file, app] {
            if (prompt->count() + file->count() == 0) {
              throw ConfigError("generate: --prompt TEXT or --prompt-file FILE is needed");
            }
            const bool filtered = app->count("--top-k") + app->count("--top-p") > 0;
            if (filtered && app->count("--temperature") == 0) {
              options->generation.temperature = 1;
            }
            return run(*options, prompt->count() > 0);
          }};
}

}  // namespace adder::tools
