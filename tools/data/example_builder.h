// Shared by the readers of this folder: options checked once, sequences built and checked.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tools/data/dataset.h"

namespace adder::tools {

// Turns texts into examples under one set of options. Every check that depends on an option is
// here, so that all forms of data obey the same rules and word them alike.
class ExampleBuilder {
 public:
  // Throws ConfigError for options that make no sense. `source` starts the messages.
  ExampleBuilder(std::string source, const Tokenizer* tokenizer, const DataOptions& options);

  const DataOptions& options() const { return options_; }

  // The override's value, or `fallback`.
  std::string option(const std::string& key, const std::string& fallback) const;

  // Token ids of `text`, each below the vocabulary size. Throws ConfigError without a tokenizer.
  std::vector<int32_t> encode(std::string_view text, const std::string& place) const;

  // The end mark. Throws ConfigError if the tokenizer has none.
  int32_t end_mark() const;

  // Loss on `target_ids` only: input_ids are prompt + target without its last token. Throws IoError
  // naming `place` when the target or the whole does not fit max_length, or the prompt is empty.
  Example supervised(std::vector<int32_t> prompt_ids, std::span<const int32_t> target_ids,
                     const std::string& place) const;

  // Already tokenised data: checks lengths, ids and labels.
  Example tokenised(std::vector<int32_t> input_ids, std::vector<int32_t> labels,
                    const std::string& place) const;

  // Language modelling: n ids become n - 1 labelled positions in pieces of at most `piece`
  // (0: one piece), appended to `examples`.
  void append_pieces(const std::vector<int32_t>& ids, int64_t piece, const std::string& place,
                     std::vector<Example>& examples) const;

  // Which of n items to keep under max_examples, ascending.
  std::vector<int64_t> subset(int64_t n) const;

  // As subset(), applied to finished examples.
  void keep_subset(std::vector<Example>& examples) const;

 private:
  std::string source_;
  const Tokenizer* tokenizer_;
  const DataOptions& options_;
  int64_t vocab_size_;  // 0: unknown
};

// The published collections: `task` is sst2, cola or dart.
Dataset load_task(const std::string& task, const std::string& folder, const Tokenizer* tokenizer,
                  const DataOptions& options);

}  // namespace adder::tools
