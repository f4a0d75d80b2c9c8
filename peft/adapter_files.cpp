// Adapter directories: adapter_config.json and adapter_model.safetensors, in the layout and with
// the names of Hugging Face PEFT.
#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "engine/io/file.h"
#include "engine/io/safetensors.h"
#include "peft/adapter.h"
#include "peft/selection_state.h"

namespace adder {
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kTensorFile = "adapter_model.safetensors";
constexpr const char* kTorchFile = "adapter_model.bin";  // older versions of PEFT
const std::string kPrefix = "base_model.model.";

bool all_finite(const Tensor& tensor) {
  if (!is_floating(tensor.dtype())) return true;
  const std::vector<double> values = tensor.to_vector();
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

}  // namespace

bool is_adapter_directory(const std::string& directory) {
  return exists(join_path(directory, kConfigFile));
}

void Adapter::save(const std::string& directory) const {
  NamedTensors named;
  for (const auto& [name, tensor] : tensors(false)) named.emplace_back(kPrefix + name, tensor);
  write_safetensors(join_path(directory, kTensorFile), named, {{"format", "pt"}});
  write_file_atomic(join_path(directory, kConfigFile), config_.to_json());
}

SavedAdapter SavedAdapter::read(const std::string& directory) {
  const std::string config_path = join_path(directory, kConfigFile);
  SavedAdapter saved;
  saved.config = PeftConfig::parse(read_file(config_path), config_path);
  std::string path = join_path(directory, kTensorFile);
  if (!exists(path) && exists(join_path(directory, kTorchFile))) {
    path = join_path(directory, kTorchFile);
  }
  const WeightFiles files = WeightFiles::open(path);
  for (const std::string& name : files.names()) {
    const Tensor tensor = files.load(name);
    if (!all_finite(tensor)) throw IoError(str(path, ": ", name, " holds NaN or infinite values"));
    const bool prefixed = name.rfind(kPrefix, 0) == 0;
    saved.tensors.emplace_back(prefixed ? name.substr(kPrefix.size()) : name, tensor);
  }
  return saved;
}

std::int64_t SavedAdapter::trainable_count() const {
  std::int64_t count = 0;
  for (const auto& [name, tensor] : tensors) {
    if (!describes_selection(name) && name.rfind("initial/", 0) != 0) count += tensor.numel();
  }
  return count;
}

std::vector<LayerSelection> SavedAdapter::selections() const {
  std::vector<std::string> used;
  return read_selections(TensorMap(tensors.begin(), tensors.end()), used);
}

}  // namespace adder
