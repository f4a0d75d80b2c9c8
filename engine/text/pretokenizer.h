// Cuts normalized text into the words that BPE then encodes one by one.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace adder::text {

// What becomes of the parts of the text that a pattern matches.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitStep {
  std::string pattern;
  bool literal = false;  // the pattern is a plain string
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // the pattern describes the parts between
};

// A byte-level pre-tokenizer with the Split steps before it.
struct PreTokenizerSpec {
  std::vector<SplitStep> splits;
  bool add_prefix_space = false;  // to each piece that does not start with one
  bool use_regex = true;          // GPT-2's pattern
};

// Patterns are run by PCRE2 in UTF mode with Unicode classes, compiled where the machine allows.
// Const calls are thread-safe.
class PreTokenizer {
 public:
  // Throws ConfigError for a pattern that PCRE2 does not take; `name` says where it stands.
  PreTokenizer(const PreTokenizerSpec& spec, const std::string& name);
  ~PreTokenizer();

  // Calls `word` for each word of the valid UTF-8 text, in order; the views live for the call.
  // Throws ConfigError where a pattern exceeds the limits of matching.
  void split(std::string_view text, const std::function<void(std::string_view)>& word) const;

 private:
  class Pattern;
  std::vector<std::unique_ptr<Pattern>> patterns_;  // the splits, then GPT-2's if used
  bool add_prefix_space_;
  size_t split_count_;
};

}  // namespace adder::text
