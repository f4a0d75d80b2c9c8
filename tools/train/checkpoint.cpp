#include "tools/train/checkpoint.h"

#include <algorithm>
#include <filesystem>

#include "engine/io/file.h"
#include "engine/io/safetensors.h"
#include "models/weight_table.h"

namespace adder::tools {
namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kPrefix = "checkpoint-";
constexpr const char* kWarmUpPrefix = "checkpoint-warmup-";
// Written only where they are set.
constexpr std::pair<const char*, std::optional<double> TrainState::*> kOptionalState[] = {
    {"best_loss", &TrainState::best_loss}, {"best_accuracy", &TrainState::best_accuracy}};

// Orders checkpoints: those of the warm-up come before all others.
bool parse_name(const std::string& name, std::pair<int, std::int64_t>& order) {
  const bool warm_up = name.rfind(kWarmUpPrefix, 0) == 0;
  const std::string prefix = warm_up ? kWarmUpPrefix : kPrefix;
  if (name.rfind(prefix, 0) != 0) return false;
  const std::string digits = name.substr(prefix.size());
  if (digits.empty() || digits.size() > 18 ||
      !std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    return false;
  }
  order = {warm_up ? 0 : 1, std::stoll(digits)};
  return true;
}

std::vector<std::string> checkpoints_in_order(const std::string& run) {
  std::vector<std::pair<std::pair<int, std::int64_t>, std::string>> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(run, error)) {
    std::pair<int, std::int64_t> order;
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && parse_name(name, order)) found.emplace_back(order, name);
  }
  std::sort(found.begin(), found.end());
  std::vector<std::string> names;
  for (const auto& [order, name] : found) names.push_back(join_path(run, name));
  return names;
}

void remove_partial_outputs(const std::string& run) {
  std::vector<std::string> leftovers;
  for (const auto& entry : std::filesystem::directory_iterator(run)) {
    const std::string name = entry.path().filename().string();
    const bool unfinished =
        name.find(".partial-") != std::string::npos || name.find(".old-") != std::string::npos;
    if (name.front() == '.' && unfinished) leftovers.push_back(entry.path().string());
  }
  for (const std::string& path : leftovers) remove_tree(path);
}

}  // namespace

std::string latest_checkpoint(const std::string& run) {
  const auto names = checkpoints_in_order(run);
  return names.empty() ? "" : names.back();
}

void prepare_run_directory(const std::string& run, bool resume, bool overwrite) {
  if (!exists(run)) return make_directories(run);
  if (resume) return remove_partial_outputs(run);
  if (!overwrite) {
    throw ConfigError(str(run,
                          " exists already: give --resume to go on with it, "
                          "--overwrite to start anew, or another --out"));
  }
  remove_tree(run);
  make_directories(run);
}

void save_checkpoint(const std::string& run, const TrainState& state, const Model& model,
                     const Adapter* adapter, const Optimizer& optimizer, const Json& log_state,
                     int keep) {
  const std::string name = str(state.warm_up ? kWarmUpPrefix : kPrefix, state.step);
  AtomicDirectory directory(join_path(run, name));
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& [key, tensor] : optimizer.state())
    tensors.emplace_back("optimizer/" + key, tensor);
  if (adapter != nullptr) {
    for (const auto& [key, tensor] : adapter->state())
      tensors.emplace_back("adapter/" + key, tensor);
    if (!state.warm_up) adapter->save(directory.path());
  } else {
    model.save(directory.path());
  }
  write_safetensors(join_path(directory.path(), "training_state.safetensors"), tensors);
  Json json = {{"phase", state.warm_up ? "warm-up" : "train"},
               {"step", state.step},
               {"optimizer_steps", optimizer.steps()},
               {"has_best", state.has_best},
               {"best", state.best},
               {"best_step", state.best_step},
               {"best_metrics", state.best_metrics},
               {"warm_up_steps", state.warm_up_steps}};
  for (const auto& [key, member] : kOptionalState) {
    if (state.*member) json[key] = *(state.*member);
  }
  write_file_atomic(join_path(directory.path(), "training_state.json"), json.dump(2) + "\n");
  // Times and log positions differ from run to run, so they stand apart from what must not.
  write_file_atomic(join_path(directory.path(), "log_state.json"), log_state.dump(2) + "\n");
  directory.commit(true);
  const auto names = checkpoints_in_order(run);
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < names.size(); ++i) {
    remove_tree(names[i]);
  }
}

LoadedCheckpoint load_checkpoint(const std::string& directory, Model& model,
                                 bool full_fine_tuning) {
  LoadedCheckpoint loaded;
  const std::string path = join_path(directory, "training_state.json");
  try {
    const Json json = Json::parse(read_file(path));
    loaded.state.warm_up = json.at("phase") == "warm-up";
    loaded.state.step = json.at("step").get<std::int64_t>();
    loaded.state.has_best = json.at("has_best").get<bool>();
    loaded.state.best = json.at("best").is_null() ? 0 : json.at("best").get<double>();
    loaded.state.best_step = json.at("best_step").get<std::int64_t>();
    loaded.state.best_metrics = json.at("best_metrics");
    loaded.state.warm_up_steps = json.at("warm_up_steps").get<std::int64_t>();
    for (const auto& [key, member] : kOptionalState) {
      if (json.contains(key)) loaded.state.*member = json.at(key).get<double>();
    }
    loaded.log_state = Json::parse(read_file(join_path(directory, "log_state.json")));
  } catch (const Json::exception& error) {
    throw IoError(str(path, ": not a checkpoint's state: ", error.what()));
  }
  const SafetensorsFile file =
      SafetensorsFile::open(join_path(directory, "training_state.safetensors"));
  for (const SafetensorsEntry& entry : file.entries()) {
    loaded.tensors.emplace_back(entry.name, file.load(entry.name));
  }
  if (full_fine_tuning) {
    const WeightFiles weights = WeightFiles::open(directory);
    for (const ParameterPtr& parameter : model.parameters()) {
      load_parameter(*parameter, weights, parameter->name());
    }
    for (const BufferPtr& buffer : model.buffers()) {
      buffer->value.copy_from(weights.load(buffer->name).reshape(buffer->value.shape()));
    }
  }
  return loaded;
}

std::vector<std::pair<std::string, Tensor>> with_prefix(
    const std::vector<std::pair<std::string, Tensor>>& tensors, const std::string& prefix) {
  std::vector<std::pair<std::string, Tensor>> chosen;
  for (const auto& [name, tensor] : tensors) {
    if (name.rfind(prefix, 0) == 0) chosen.emplace_back(name.substr(prefix.size()), tensor);
  }
  return chosen;
}

}  // namespace adder::tools
