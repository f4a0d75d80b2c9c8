// The demo: a small Mamba learns a language, then one more dialect of it in four ways.
#pragma once

#include <cstdint>
#include <string>

namespace adder::tools {

struct DemoOptions {
  std::string out = "demo-run";
  bool quick = false;  // a fraction of the work, to see that everything runs
  std::uint64_t seed = 42;
  int threads = 0;  // 0: all cores
};

// Generates the language, pretrains on dialect A and adapts to dialect B by nothing, LoRA, SDT +
// LoRA and full fine-tuning, each through train(). Prints the table on stdout, progress on stderr,
// and leaves under `out`: data/*.jsonl, model/, pretrained/, runs/<method>/, predictions/*.jsonl,
// results.json and report.html. What an earlier demo left there is replaced. Returns the exit
// status. Throws IoError when `out` exists and is something else, and what training throws.
int run_demo(const DemoOptions& options);

}  // namespace adder::tools
