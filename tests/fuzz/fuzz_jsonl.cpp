// libFuzzer target: the JSONL reader must answer any bytes with a data set or an adder::Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "engine/error.h"
#include "engine/text/tokenizer.h"
#include "tools/data/batching.h"
#include "tools/data/dataset.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using adder::tools::Dataset;
  using adder::tools::Example;
  static const adder::Tokenizer tokenizer = adder::Tokenizer::byte_level();
  if (size == 0) return 0;
  const uint8_t mode = data[0];  // the first byte chooses the options
  adder::tools::DataOptions options;
  if ((mode & 1) != 0) options.max_length = 16;
  if ((mode & 2) != 0) options.vocab_size = 100;
  if ((mode & 4) != 0) options.max_examples = 2;
  options.generation = (mode & 8) != 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const Dataset set =
        adder::tools::parse_jsonl(text, "fuzz", (mode & 16) != 0 ? nullptr : &tokenizer, options);
    // What is accepted must be fit for training.
    if (set.examples.empty()) std::abort();
    for (size_t i = 0; i < set.examples.size(); ++i) {
      const Example& example = set.examples[i];
      if (example.input_ids.empty() || example.input_ids.size() != example.labels.size()) {
        std::abort();
      }
      if (options.max_length > 0 && example.input_ids.size() > 16) std::abort();
      const int64_t index = static_cast<int64_t>(i);
      if (adder::tools::make_batch(set, std::span(&index, 1)).supervised == 0) std::abort();
    }
  } catch (const adder::Error&) {
    // The documented answer to bad data.
  }
  return 0;
}
