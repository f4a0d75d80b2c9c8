#include <CLI/CLI.hpp>
#include <sstream>
#include <vector>

#include "engine/text/suggest.h"
#include "tools/commands/commands.h"
#include "tools/console.h"
#include "tools/exit_codes.h"
#include "tools/machine.h"

namespace adder::tools {
namespace {

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

// A usage error in our words where CLI11's would not help: unknown commands and options.
std::string usage_message(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<std::string> extra = app.remaining(true);
  const auto chosen = app.get_subcommands();
  if (chosen.empty() && !extra.empty() && extra.front().substr(0, 1) != "-") {
    std::vector<std::string> names;
    for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
    return str("unknown command \"", extra.front(), "\"", did_you_mean(extra.front(), names));
  }
  const CLI::App& command = chosen.empty() ? app : *chosen.front();
  const std::string place = chosen.empty() ? "" : command.get_name() + ": ";
  const std::string help =
      str("; see adder ", chosen.empty() ? "" : command.get_name() + " ", "--help");
  // An option nobody knows explains more than a required one that it left unset.
  for (const std::string& word : extra) {
    const std::string name = word.substr(0, word.find('='));
    if (name.substr(0, 1) == "-") {
      return str(place, "unknown option ", name, did_you_mean(name, option_names(command)));
    }
  }
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr && !extra.empty()) {
    return str(place, "unexpected argument \"", extra.front(), "\"", help);
  }
  if (chosen.empty()) return str("a command is needed", help);
  return str(place, error.what(), help);
}

int run(int argc, const char* const* argv) {
  CLI::App app{"Fine-tunes state space models with a small fraction of their parameters.", "adder"};
  app.set_version_flag("--version", version_text);
  app.require_subcommand(1);
  app.footer(
      "Every command has --help with an example. Exit status: 0 ok, 1 failure, 2 usage or\n"
      "configuration, 3 file or data, 4 device or memory, 5 a check failed, 130 interrupted.");
  const std::vector<Command> commands = {add_init(app),     add_train(app),    add_eval(app),
                                         add_generate(app), add_merge(app),    add_info(app),
                                         add_tokenize(app), add_selftest(app), add_demo(app)};
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) throw ConfigError(usage_message(app, error));
    std::ostringstream out;
    app.exit(error, out, out);
    print(out.str());
    return kExitOk;
  }
  for (const Command& command : commands) {
    if (command.app->parsed()) return command.run();
  }
  return kExitUsage;
}

}  // namespace

std::string version_text() {
  std::string text;
  for (const auto& [name, value] : machine_rows()) {
    text += text.empty() ? str(name, " ", value) : str("\n", name, ": ", value);
  }
  return text;
}

int run_adder(int argc, const char* const* argv) {
  set_up_process();
  int code = kExitFailure;
  try {
    code = run(argc, argv);
    flush_output();
  } catch (const std::bad_alloc&) {
    print_error("out of memory");
    return kExitDevice;
  } catch (const std::exception& error) {
    print_error(error.what());
    // What was printed before the failure still counts, but cannot change the status.
    std::fflush(stdout);
    return exit_code_of(error);
  }
  return code;
}

}  // namespace adder::tools
