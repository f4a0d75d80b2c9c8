// Data sets: files and published collections turned into token sequences with labels.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace adder {
class Tokenizer;
}

namespace adder::tools {

// One sequence, already tokenised.
struct Example {
  std::vector<int32_t> input_ids;       // what the model reads
  std::vector<int32_t> labels;          // same length: labels[t] is the token after t, -100 ignored
  std::vector<int32_t> prompt_ids;      // prefix + input, what generation starts from
  std::string input, target;            // the texts, where there are any
  std::vector<std::string> references;  // every acceptable output
  int label_class = -1;                 // classification: index of the right class
};

enum class TaskKind { language_model, generation, classification };

struct Dataset {
  std::string name;
  TaskKind kind = TaskKind::language_model;
  std::vector<Example> examples;
  std::vector<int32_t> class_tokens;  // classification: the token that answers each class
  std::vector<std::string> class_names;
  std::vector<std::string> metrics;  // the first one chooses the best checkpoint
  bool higher_is_better = false;     // … and this is its direction
};

struct DataOptions {
  std::string split;         // "train" (default), "val" or "test"; ignored for single files
  int64_t max_length = 0;    // longest input_ids allowed; 0: no limit (256 for .txt)
  int64_t max_examples = 0;  // a subset fixed by `seed`, in file order; 0: all
  std::map<std::string, std::string> overrides;  // see data_override_keys()
  uint64_t seed = 42;
  bool generation = false;  // one item per input with all its references, instead of one per text
  int64_t vocab_size = 0;   // ids must be below this; 0: the tokenizer's size, or unknown
};

// The label that carries no loss.
inline constexpr int32_t kIgnoredLabel = -100;

// Loads what `spec` names:
//   FILE.jsonl     one object per line, one form throughout the file: {"input", "target"} (loss on
//                  the target and its end mark), {"text"} (language modelling, end mark appended,
//                  lines longer than max_length cut into pieces) or {"input_ids", "labels"};
//   FILE.txt       language modelling: the text tokenised as a whole and cut into pieces of
//                  max_length; labels run across piece borders, so only the first token is
//                  unlabelled;
//   TASK:FOLDER    sst2 | glue-tvt_sst2, cola | glue-tvt_cola, dart, in their published files.
// Every file may be xz-compressed. A bare task name is looked up under the override "data_root".
//
// GLUE splits: the official training file is shuffled with the fixed seed 123 (permutation() of
// shuffle.h); the first ceil(n/5) rows are "val", the others "train"; "test" is the official dev
// file. DART has its official splits. Where its training file is missing, the override
// train_from=dev makes "train" and "val" an 80/20 split of the dev file's triple sets, by the same
// rule, so that no triple set has texts in both; "test" stays the official test.
//
// `tokenizer` may be null for already tokenised data. Throws ConfigError (unknown task, option or
// split, no tokenizer) and IoError (missing or malformed data, named by path:line).
Dataset load_dataset(const std::string& spec, const Tokenizer* tokenizer,
                     const DataOptions& options);

// The JSONL reader on text in memory; `name` stands for the path in messages.
Dataset parse_jsonl(std::string_view text, const std::string& name, const Tokenizer* tokenizer,
                    const DataOptions& options);

// The .txt reader on text in memory.
Dataset parse_text(std::string_view text, const std::string& name, const Tokenizer* tokenizer,
                   const DataOptions& options);

// Keys that DataOptions::overrides takes: "instruction" (the prefix text), "separator" (default
// "###" for tasks, none for JSONL), "train_from" (dart), "data_root" (where bare task names live).
const std::vector<std::string>& data_override_keys();

}  // namespace adder::tools
