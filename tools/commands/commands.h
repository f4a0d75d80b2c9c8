// The subcommands of the executable.
#pragma once

#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace adder::tools {

// A subcommand: its options live in `run`, which is called when it was chosen and returns the exit
// status. Failures are exceptions.
struct Command {
  CLI::App* app;
  std::function<int()> run;
};

Command add_init(CLI::App& parent);
Command add_train(CLI::App& parent);
Command add_eval(CLI::App& parent);
Command add_generate(CLI::App& parent);
Command add_merge(CLI::App& parent);
Command add_info(CLI::App& parent);
Command add_tokenize(CLI::App& parent);
Command add_selftest(CLI::App& parent);
Command add_demo(CLI::App& parent);

// What --version prints: version, compiler, matrix products, vector width, threads, CUDA.
std::string version_text();

// The whole program. Errors become one paragraph on stderr and the documented exit status.
int run_adder(int argc, const char* const* argv);

}  // namespace adder::tools
