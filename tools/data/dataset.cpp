#include "tools/data/dataset.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>

#include "engine/error.h"
#include "engine/text/suggest.h"
#include "tools/data/example_builder.h"
#include "tools/data/file_reader.h"

namespace adder::tools {
namespace {

// Pieces of a .txt file when no length is given.
constexpr int64_t kDefaultPiece = 256;

// A collection: every name that the command line and experiment files use for it, and the folder
// under data_root that holds it ("" when this version cannot read it).
struct TaskName {
  const char* name;
  const char* task;
  const char* folder;
};

constexpr std::array kTasks = {
    TaskName{"sst2", "sst2", "glue_sst2"}, TaskName{"glue-tvt_sst2", "sst2", "glue_sst2"},
    TaskName{"cola", "cola", "glue_cola"}, TaskName{"glue-tvt_cola", "cola", "glue_cola"},
    TaskName{"dart", "dart", "dart"},
};

constexpr std::array kFutureTasks = {
    "rte",      "mrpc",          "qnli",    "qqp",    "mnli",           "wnli",        "samsum",
    "spider",   "cifar",         "cifar10", "mnist",  "boolq",          "piqa",        "arc",
    "arc-easy", "arc-challenge", "mmlu",    "alpaca", "mmlu_zero_shot", "alpaca_eval", "random"};

std::optional<TaskName> find_task(const std::string& name) {
  for (const TaskName& task : kTasks) {
    if (name == task.name) return task;
  }
  return std::nullopt;
}

// Experiment files spell a collection as [glue-]NAME[-tvt][_VARIANT]; this keeps NAME.
bool is_future_task(std::string name) {
  const std::string glue = "glue-tvt_";
  if (name.starts_with(glue)) name.erase(0, glue.size());
  const size_t split = name.find("-tvt");
  if (split != std::string::npos) name.erase(split);
  return std::find(kFutureTasks.begin(), kFutureTasks.end(), name) != kFutureTasks.end();
}

[[noreturn]] void unknown_task(const std::string& spec, const std::string& name) {
  std::string known;
  std::vector<std::string> names;
  for (const TaskName& task : kTasks) {
    known += str(known.empty() ? "" : ", ", task.name);
    names.push_back(task.name);
  }
  if (is_future_task(name)) {
    throw ConfigError(str("data \"", spec, "\": the data set ", name,
                          " is not available yet; available are ", known,
                          ", and .jsonl and .txt files"));
  }
  throw ConfigError(str("data \"", spec, "\": unknown data set \"", name,
                        "\"; give a .jsonl or .txt file, or TASK:FOLDER with TASK one of ", known,
                        did_you_mean(name, names)));
}

// "jsonl" or "txt", of the name without .xz; "" for any other.
std::string extension(std::string path) {
  if (path.ends_with(".xz")) path.erase(path.size() - 3);
  for (const char* known : {"jsonl", "txt"}) {
    if (path.ends_with(str(".", known))) return known;
  }
  return "";
}

}  // namespace

Dataset parse_text(std::string_view text, const std::string& name, const Tokenizer* tokenizer,
                   const DataOptions& options) {
  const ExampleBuilder builder(name, tokenizer, options);
  if (text.empty()) throw IoError(str(name, ": the data file is empty"));
  Dataset data;
  data.name = name;
  data.metrics = {"loss"};
  builder.append_pieces(builder.encode(text, name),
                        options.max_length > 0 ? options.max_length : kDefaultPiece, name,
                        data.examples);
  builder.keep_subset(data.examples);
  return data;
}

Dataset load_dataset(const std::string& spec, const Tokenizer* tokenizer,
                     const DataOptions& options) {
  if (const auto task = find_task(spec)) {
    const auto root = options.overrides.find("data_root");
    if (root == options.overrides.end()) {
      throw ConfigError(str("data \"", spec, "\": its folder is missing; give ", spec,
                            ":FOLDER, or the data option data_root for the folder that holds ",
                            task->folder));
    }
    const std::filesystem::path folder = std::filesystem::path(root->second) / task->folder;
    return load_task(task->task, folder.string(), tokenizer, options);
  }
  const size_t colon = spec.find(':');
  if (colon != std::string::npos) {
    if (const auto task = find_task(spec.substr(0, colon))) {
      return load_task(task->task, spec.substr(colon + 1), tokenizer, options);
    }
  }
  const std::string type = extension(spec);
  if (type.empty()) unknown_task(spec, spec.substr(0, colon));
  const std::string text = read_text_file(spec);
  return type == "jsonl" ? parse_jsonl(text, spec, tokenizer, options)
                         : parse_text(text, spec, tokenizer, options);
}

}  // namespace adder::tools
