// The published collections: GLUE's SST-2 and CoLA as tab-separated tables, DART as JSON.
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "engine/text/counted.h"
#include "tools/data/dataset.h"
#include "tools/data/example_builder.h"
#include "tools/data/file_reader.h"
#include "tools/data/shuffle.h"

namespace adder::tools {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kSeparator = "###";
constexpr uint64_t kSplitSeed = 123;  // fixed, so that every run sees the same validation rows

enum class Split { train, val, test };

Split split_of(const std::string& source, const DataOptions& options) {
  if (options.split.empty() || options.split == "train") return Split::train;
  if (options.split == "val") return Split::val;
  if (options.split == "test") return Split::test;
  throw ConfigError(
      str(source, ": unknown split \"", options.split, "\"; there are train, val, test"));
}

// The first of `names` that exists in `folder`, plain or with .xz; "" if none does.
std::string find_file(const std::string& folder, const std::vector<std::string>& names) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) throw IoError(str(folder, ": no such folder"));
  for (const std::string& name : names) {
    for (const char* suffix : {"", ".xz"}) {
      const fs::path path = fs::path(folder) / (name + suffix);
      if (fs::exists(path, ignored)) return path.string();
    }
  }
  return "";
}

std::string require_file(const std::string& folder, const std::vector<std::string>& names,
                         const std::string& advice = "") {
  const std::string path = find_file(folder, names);
  if (path.empty()) {
    throw IoError(str((fs::path(folder) / names.front()).string(),
                      ": no such file, nor with .xz added", advice));
  }
  return path;
}

// One side of the 80/20 split of n items: the first ceil(n/5) of a fixed permutation are for
// validation, the rest for training (the sizes that a shuffle split with test share 0.2 gives).
std::vector<int64_t> split_part(int64_t n, bool validation) {
  const std::vector<int64_t> order = permutation(n, kSplitSeed);
  const auto middle = order.begin() + static_cast<std::ptrdiff_t>((n + 4) / 5);
  return validation ? std::vector<int64_t>(order.begin(), middle)
                    : std::vector<int64_t>(middle, order.end());
}

std::vector<int64_t> all_of(int64_t n) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  return order;
}

std::vector<int32_t> concatenate(const std::vector<int32_t>& first,
                                 const std::vector<int32_t>& second) {
  std::vector<int32_t> all = first;
  all.insert(all.end(), second.begin(), second.end());
  return all;
}

// ---------------------------------------------------------------- GLUE

struct GlueTask {
  const char* name;
  const char* header;  // the first line, or null where rows start at once
  size_t columns, label_column, text_column;
  const char* instruction;
  std::vector<std::string> class_names;
  std::vector<std::string> metrics;
};

GlueTask glue_task(const std::string& name) {
  if (name == "sst2") {
    return {"sst2",
            "sentence\tlabel",
            2,
            1,
            0,
            "Judge the feeling that the following sentence conveys. Answer '1' when it is "
            "positive or '0' when it is negative: ",
            {"negative", "positive"},
            {"accuracy"}};
  }
  return {"cola",
          nullptr,
          4,
          1,
          3,
          "Judge whether the following sentence is well-formed English. Answer '1' when a native "
          "speaker would accept it or '0' when not: ",
          {"unacceptable", "acceptable"},
          {"matthews", "accuracy"}};
}

struct GlueRow {
  std::string_view text;
  int label;
  int64_t line;
};

// The rows of a tab-separated table without quoting; views into `table`.
std::vector<GlueRow> glue_rows(std::string_view table, const std::string& path,
                               const GlueTask& task) {
  std::vector<GlueRow> rows;
  std::vector<std::string_view> cells;
  for (int64_t number = 1; !table.empty(); ++number) {
    const size_t end = table.find('\n');
    std::string_view line = table.substr(0, end);
    table.remove_prefix(end == std::string_view::npos ? table.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (number == 1 && task.header != nullptr) {
      if (line != task.header) {
        throw IoError(str(path, ":1: the header must be sentence<TAB>label"));
      }
      continue;
    }
    if (line.empty()) continue;
    cells.clear();
    for (size_t start = 0; start <= line.size();) {
      const size_t stop = std::min(line.find('\t', start), line.size());
      cells.push_back(line.substr(start, stop - start));
      start = stop + 1;
    }
    if (cells.size() != task.columns) {
      throw IoError(str(path, ":", number, ": ",
                        counted(static_cast<int64_t>(cells.size()), "column"), ", ", task.name,
                        " has ", task.columns));
    }
    const std::string_view label = cells[task.label_column];
    if (label != "0" && label != "1") {
      throw IoError(str(path, ":", number, ": the label is \"", label, "\", must be 0 or 1"));
    }
    rows.push_back({cells[task.text_column], label == "1" ? 1 : 0, number});
  }
  if (rows.empty()) throw IoError(str(path, ": the data file is empty"));
  return rows;
}

Dataset load_glue(const GlueTask& task, const std::string& folder, const Tokenizer* tokenizer,
                  const DataOptions& options) {
  const ExampleBuilder builder(str(task.name, ":", folder), tokenizer, options);
  if (options.overrides.contains("train_from")) {
    throw ConfigError(str(task.name, ":", folder, ": train_from is an option of dart only"));
  }
  const Split split = split_of(task.name, options);
  const std::string path = require_file(folder, {split == Split::test ? "dev.tsv" : "train.tsv"});
  const std::string table = read_text_file(path);
  const std::vector<GlueRow> rows = glue_rows(table, path, task);
  const int64_t n = static_cast<int64_t>(rows.size());
  const std::vector<int64_t> part =
      split == Split::test ? all_of(n) : split_part(n, split == Split::val);

  Dataset data;
  data.name = task.name;
  data.kind = TaskKind::classification;
  data.class_names = task.class_names;
  data.metrics = task.metrics;
  data.higher_is_better = true;
  for (const char* digit : {"0", "1"}) {
    const std::vector<int32_t> ids = builder.encode(digit, path);
    if (ids.size() != 1) {
      throw ConfigError(str(task.name, ": the answer \"", digit, "\" must be one token, this ",
                            "tokenizer makes ", ids.size()));
    }
    data.class_tokens.push_back(ids.front());
  }
  const std::string separator = builder.option("separator", kSeparator);
  const std::string instruction = builder.option("instruction", task.instruction);
  std::vector<int32_t> prefix;
  if (!instruction.empty()) prefix = builder.encode(instruction + separator, path);
  for (const int64_t i : builder.subset(static_cast<int64_t>(part.size()))) {
    const GlueRow& row = rows[static_cast<size_t>(part[static_cast<size_t>(i)])];
    const std::string place = str(path, ":", row.line);
    const size_t answer = static_cast<size_t>(row.label);
    Example& example = data.examples.emplace_back(builder.supervised(
        concatenate(prefix, builder.encode(std::string(row.text) + separator, place)),
        std::span(data.class_tokens).subspan(answer, 1), place));
    example.input = row.text;
    example.target = row.label == 1 ? "1" : "0";
    example.references = {example.target};
    example.label_class = row.label;
  }
  return data;
}

// ---------------------------------------------------------------- DART

const char* const kDartInstruction = "Generate text for the following RDF triples:\n";

std::vector<std::string> dart_files(const std::string& split) {
  const std::string stem = "dart-v1.1.1-full-" + split;
  return {stem + ".json", stem + ".from_xml.json"};
}

// "subject : predicate : object", triples joined by " | ".
std::string triples_text(const Json& set, const std::string& place) {
  const auto triples = set.find("tripleset");
  if (triples == set.end() || !triples->is_array() || triples->empty()) {
    throw IoError(str(place, ": \"tripleset\" must be an array of triples"));
  }
  std::string text;
  for (const Json& triple : *triples) {
    if (!triple.is_array() || triple.size() != 3) {
      throw IoError(str(place, ": a triple must be an array of 3 strings"));
    }
    if (!text.empty()) text += " | ";
    for (size_t i = 0; i < 3; ++i) {
      if (!triple[i].is_string()) {
        throw IoError(str(place, ": a triple must be an array of 3 strings"));
      }
      text += (i > 0 ? " : " : "") + triple[i].get_ref<const std::string&>();
    }
  }
  return text;
}

// The texts of a set. The published test file has an annotation without text: those are passed
// over, but a set must have at least one.
std::vector<std::string> set_texts(const Json& set, const std::string& place) {
  const auto annotations = set.find("annotations");
  if (annotations == set.end() || !annotations->is_array()) {
    throw IoError(str(place, ": \"annotations\" must be an array"));
  }
  std::vector<std::string> texts;
  for (const Json& annotation : *annotations) {
    const auto text = annotation.is_object() ? annotation.find("text") : annotation.end();
    if (!annotation.is_object() || text == annotation.end() ||
        (!text->is_string() && !text->is_null())) {
      throw IoError(str(place, ": an annotation must be an object with a string \"text\""));
    }
    if (text->is_string()) texts.push_back(text->get<std::string>());
  }
  if (texts.empty()) throw IoError(str(place, ": the set has no text"));
  return texts;
}

Json read_dart(const std::string& path) {
  const std::string text = read_text_file(path);
  Json sets;
  try {
    sets = Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw IoError(str(path, ":", error.byte, ": not JSON"));
  } catch (const Json::exception&) {
    throw IoError(str(path, ": not JSON (a number is out of range)"));
  }
  if (!sets.is_array()) throw IoError(str(path, ":0: an array of triple sets is needed"));
  if (sets.empty()) throw IoError(str(path, ": the data file is empty"));
  return sets;
}

Dataset load_dart(const std::string& folder, const Tokenizer* tokenizer,
                  const DataOptions& options) {
  const ExampleBuilder builder(str("dart:", folder), tokenizer, options);
  const Split split = split_of("dart", options);
  const std::string train_from = builder.option("train_from", "train");
  if (train_from != "train" && train_from != "dev") {
    throw ConfigError(str("dart:", folder, ": train_from is \"", train_from,
                          "\", must be \"train\" (the official splits) or \"dev\""));
  }
  const bool divided = train_from == "dev" && split != Split::test;
  const std::string file = split == Split::test             ? "test"
                           : split == Split::val || divided ? "dev"
                                                            : "train";
  const std::string path =
      require_file(folder, dart_files(file),
                   split == Split::train && !divided
                       ? "; without it, the data option train_from=dev trains on 80 % of the dev "
                         "file and validates on the rest"
                       : "");
  const Json sets = read_dart(path);
  const int64_t n = static_cast<int64_t>(sets.size());
  const std::vector<int64_t> part = divided ? split_part(n, split == Split::val) : all_of(n);

  Dataset data;
  data.name = "dart";
  data.kind = TaskKind::generation;
  data.higher_is_better = options.generation;
  data.metrics = {options.generation ? "bleu" : "loss"};
  const std::string separator = builder.option("separator", kSeparator);
  const std::string instruction = builder.option("instruction", kDartInstruction);
  const std::vector<int32_t> prefix = builder.encode(instruction, path);
  const int32_t end_mark = builder.end_mark();

  // (set, text) pairs first, so that a subset costs no more than itself.
  std::vector<std::pair<size_t, size_t>> items;
  for (const int64_t i : part) {
    const size_t s = static_cast<size_t>(i);
    const size_t texts =
        options.generation ? 1 : set_texts(sets[s], str(path, ": set ", s + 1)).size();
    for (size_t t = 0; t < texts; ++t) items.emplace_back(s, t);
  }
  for (const int64_t i : builder.subset(static_cast<int64_t>(items.size()))) {
    const auto [s, t] = items[static_cast<size_t>(i)];
    const std::string place = str(path, ": set ", s + 1);
    std::vector<std::string> texts = set_texts(sets[s], place);
    const std::string input = triples_text(sets[s], place);
    std::vector<int32_t> target = builder.encode(texts[t], place);
    target.push_back(end_mark);
    Example& example = data.examples.emplace_back(builder.supervised(
        concatenate(prefix, builder.encode(input + separator, place)), target, place));
    example.input = input;
    example.target = texts[t];
    example.references = options.generation ? std::move(texts) : std::vector{example.target};
  }
  return data;
}

}  // namespace

Dataset load_task(const std::string& task, const std::string& folder, const Tokenizer* tokenizer,
                  const DataOptions& options) {
  return task == "dart" ? load_dart(folder, tokenizer, options)
                        : load_glue(glue_task(task), folder, tokenizer, options);
}

}  // namespace adder::tools
