// adder demo: the whole of it on a language of its own.
#include "tools/demo/demo.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "tools/commands/commands.h"

namespace adder::tools {

Command add_demo(CLI::App& parent) {
  auto options = std::make_shared<DemoOptions>();
  CLI::App* app = parent.add_subcommand(
      "demo", "Pretrain a small Mamba on a made-up language and adapt it to a new dialect");
  app->add_option("--out", options->out, "directory for data, runs and report.html")
      ->capture_default_str();
  app->add_flag("--quick", options->quick, "a fraction of the work, to see that everything runs");
  app->add_option("--seed", options->seed, "of language, weights and order")->capture_default_str();
  app->add_option("--threads", options->threads, "0: all cores")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->footer("Example:\n  adder demo --out demo-run");
  return {app, [options] { return run_demo(*options); }};
}

}  // namespace adder::tools
