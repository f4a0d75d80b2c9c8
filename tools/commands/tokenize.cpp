// adder tokenize: JSON strings to arrays of ids, line by line, or back.
#include <CLI/CLI.hpp>
#include <iostream>
#include <limits>

#include "tools/commands/commands.h"
#include "tools/commands/common.h"
#include "tools/console.h"
#include "tools/exit_codes.h"

namespace adder::tools {
namespace {

struct Options {
  std::string tokenizer;
  bool decode = false;
};

std::string encode_line(const Tokenizer& tokenizer, const nlohmann::json& value) {
  if (!value.is_string()) throw IoError("a JSON string is needed");
  std::string out = "[";
  for (const std::int32_t id : tokenizer.encode(value.get_ref<const std::string&>())) {
    if (out.size() > 1) out += ",";
    out += std::to_string(id);
  }
  return out + "]";
}

std::string decode_line(const Tokenizer& tokenizer, const nlohmann::json& value) {
  if (!value.is_array()) throw IoError("a JSON array of ids is needed");
  std::vector<std::int32_t> ids;
  for (const nlohmann::json& item : value) {
    // The comparison also holds for numbers beyond 64 signed bits.
    if (!item.is_number_integer() || item < 0 || item >= tokenizer.vocab_size()) {
      throw IoError(str(item.dump(), " is no id; they go from 0 to ", tokenizer.vocab_size() - 1));
    }
    ids.push_back(item.get<std::int32_t>());
  }
  return dump_json(tokenizer.decode(ids), -1);
}

int run(const Options& options) {
  const Tokenizer tokenizer = load_tokenizer(options.tokenizer);
  std::ios::sync_with_stdio(false);
  std::string line;
  for (std::int64_t number = 1; std::getline(std::cin, line); ++number) {
    try {
      const nlohmann::json value = nlohmann::json::parse(line);
      print((options.decode ? decode_line(tokenizer, value) : encode_line(tokenizer, value)) +
            "\n");
    } catch (const nlohmann::json::exception&) {
      flush_output();
      throw IoError(str("stdin:", number, ": not JSON"));
    } catch (const Error& error) {
      flush_output();
      throw IoError(str("stdin:", number, ": ", error.what()));
    }
    // Whoever talks to this process line by line gets each answer at once.
    if (std::cin.rdbuf()->in_avail() <= 0) flush_output();
  }
  if (std::cin.bad()) throw IoError("stdin: cannot be read");
  return kExitOk;
}

}  // namespace

Command add_tokenize(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand(
      "tokenize", "One JSON string per line on stdin to one JSON array of ids, or back");
  app->add_option("--tokenizer", options->tokenizer,
                  "a tokenizer.json, a directory with one, or \"byte\"")
      ->required();
  app->add_flag("--decode", options->decode, "ids to strings");
  app->footer("Example:\n  echo '\"Hello world\"' | adder tokenize --tokenizer tokenizer.json");
  return {app, [options] { return run(*options); }};
}

}  // namespace adder::tools
