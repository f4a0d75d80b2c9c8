#include "peft/selection_state.h"

#include <algorithm>

#include "engine/error.h"

namespace adder {
namespace {

constexpr const char* kDimensions = ".sdt_dimensions";  // E and N
constexpr const char* kChannels = ".sdt_channels";
constexpr const char* kStates = ".sdt_states";  // (channels, states of each)
constexpr const char* kZeroChannels = ".sdt_zero_channels";
constexpr const char* kSelectChannels = ".sdt_select_channels";
constexpr const char* kSelectStates = ".sdt_select_states";
constexpr const char* kChannelScores = ".sdt_channel_scores";
constexpr const char* kScores = ".sdt_scores";

bool ends_with(const std::string& name, const std::string& ending) {
  return name.size() >= ending.size() &&
         name.compare(name.size() - ending.size(), ending.size(), ending) == 0;
}

std::vector<std::int32_t> integers(const std::string& name, const Tensor& tensor) {
  if (tensor.dtype() != Dtype::i32 && tensor.dtype() != Dtype::i64) {
    throw ConfigError(str(name, " is ", dtype_name(tensor.dtype()), ", expected integers"));
  }
  std::vector<std::int32_t> values;
  for (const double value : tensor.to_vector()) {
    if (!(value >= 0 && value < 2147483648.0)) {
      throw ConfigError(str(name, " holds ", value, ", expected indices"));
    }
    values.push_back(static_cast<std::int32_t>(value));
  }
  return values;
}

Tensor vector_of(const std::vector<std::int32_t>& values) {
  return Tensor::from({static_cast<std::int64_t>(values.size())}, values);
}

// Rows of different lengths, those that are short filled up with `size`, which is no index.
Tensor rows_of(const std::vector<std::vector<std::int32_t>>& rows, std::int64_t size) {
  std::size_t width = 0;
  for (const auto& row : rows) width = std::max(width, row.size());
  std::vector<std::int32_t> flat;
  for (const auto& row : rows) {
    flat.insert(flat.end(), row.begin(), row.end());
    flat.resize(flat.size() + width - row.size(), static_cast<std::int32_t>(size));
  }
  return vector_of(flat).reshape(
      {static_cast<std::int64_t>(rows.size()), static_cast<std::int64_t>(width)});
}

std::vector<std::vector<std::int32_t>> rows_from(const std::string& name, const Tensor& tensor,
                                                 std::size_t count, std::int64_t size) {
  if (tensor.rank() != 2 || tensor.dim(0) != static_cast<std::int64_t>(count)) {
    throw ConfigError(str(name, " is ", tensor.shape(), " for ", count, " channels"));
  }
  const auto flat = integers(name, tensor);
  std::vector<std::vector<std::int32_t>> rows;
  for (std::int64_t i = 0; i < tensor.dim(0); ++i) {
    const auto begin = flat.begin() + i * tensor.dim(1);
    std::vector<std::int32_t> row(begin, begin + tensor.dim(1));
    while (!row.empty() && row.back() == size) row.pop_back();
    rows.push_back(std::move(row));
  }
  return rows;
}

// Layers in the order a model has them: "layers.10" after "layers.9".
bool numeric_less(const std::string& a, const std::string& b) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  std::size_t i = 0;
  while (i < a.size() && i < b.size() && a[i] == b[i]) ++i;
  while (i > 0 && digit(a[i - 1])) --i;
  std::size_t end_a = i;
  std::size_t end_b = i;
  while (end_a < a.size() && digit(a[end_a])) ++end_a;
  while (end_b < b.size() && digit(b[end_b])) ++end_b;
  if (end_a > i && end_b > i && end_a != end_b) return end_a < end_b;
  return a < b;
}

}  // namespace

void append_selection(NamedTensors& tensors, const std::string& prefix,
                      const LayerSelection& selection, bool with_scores) {
  tensors.emplace_back(prefix + kDimensions,
                       vector_of({static_cast<std::int32_t>(selection.num_channels),
                                  static_cast<std::int32_t>(selection.num_states)}));
  tensors.emplace_back(prefix + kChannels, vector_of(selection.channels));
  tensors.emplace_back(prefix + kStates, rows_of(selection.states, selection.num_states));
  if (!selection.zero_channels.empty()) {
    tensors.emplace_back(prefix + kZeroChannels, vector_of(selection.zero_channels));
  }
  if (!selection.select_channels.empty()) {
    tensors.emplace_back(prefix + kSelectChannels, vector_of(selection.select_channels));
    tensors.emplace_back(prefix + kSelectStates,
                         rows_of(selection.select_states, selection.num_states));
  }
  if (!selection.channel_scores.empty()) {
    tensors.emplace_back(prefix + kChannelScores,
                         Tensor::from({selection.num_channels}, selection.channel_scores));
  }
  if (with_scores && selection.scores.defined()) {
    tensors.emplace_back(prefix + kScores, selection.scores);
  }
}

std::vector<LayerSelection> read_selections(const TensorMap& tensors,
                                            std::vector<std::string>& used) {
  std::vector<LayerSelection> selections;
  for (const auto& [channels_name, channels] : tensors) {
    if (!ends_with(channels_name, kChannels)) continue;
    const std::string prefix =
        channels_name.substr(0, channels_name.size() - std::string(kChannels).size());
    const auto find = [&](const char* ending, bool required) {
      const auto it = tensors.find(prefix + ending);
      if (it == tensors.end()) {
        if (required) throw ConfigError(str("the adapter lacks ", prefix, ending));
        return Tensor();
      }
      used.push_back(it->first);
      return it->second;
    };
    LayerSelection selection;
    selection.layer = prefix.substr(0, prefix.rfind('.'));
    const auto size = integers(prefix + kDimensions, find(kDimensions, true));
    if (size.size() != 2) throw ConfigError(str(prefix, kDimensions, ": expected two numbers"));
    selection.num_channels = size[0];
    selection.num_states = size[1];
    selection.channels = integers(channels_name, find(kChannels, true));
    selection.states = rows_from(prefix + kStates, find(kStates, true), selection.channels.size(),
                                 selection.num_states);
    if (const Tensor select = find(kSelectChannels, false); select.defined()) {
      selection.select_channels = integers(prefix + kSelectChannels, select);
      selection.select_states = rows_from(prefix + kSelectStates, find(kSelectStates, true),
                                          selection.select_channels.size(), selection.num_states);
    }
    if (const Tensor zero = find(kZeroChannels, false); zero.defined()) {
      selection.zero_channels = integers(prefix + kZeroChannels, zero);
    }
    if (const Tensor scores = find(kChannelScores, false); scores.defined()) {
      for (const double score : scores.to_vector()) {
        selection.channel_scores.push_back(static_cast<float>(score));
      }
    }
    if (const Tensor scores = find(kScores, false); scores.defined()) {
      selection.scores = scores.to(Dtype::f32).clone();
    }
    selection.check();
    selections.push_back(std::move(selection));
  }
  std::sort(selections.begin(), selections.end(),
            [](const LayerSelection& a, const LayerSelection& b) {
              return numeric_less(a.layer, b.layer);
            });
  return selections;
}

bool describes_selection(const std::string& name) {
  for (const std::string ending : {kDimensions, kChannels, kStates, kZeroChannels, kSelectChannels,
                                   kSelectStates, kChannelScores, kScores}) {
    if (ends_with(name, ending)) return true;
  }
  return ends_with(name, kSavedGradient) || name == kStoredLength;
}

void restore_tensor(const TensorMap& tensors, const std::string& name, const Tensor& to,
                    std::vector<std::string>& used) {
  const auto it = tensors.find(name);
  if (it == tensors.end()) throw ConfigError(str("the adapter lacks ", name));
  check_shape("adapter", name.c_str(), it->second, to.shape());
  to.copy_from(it->second);
  used.push_back(name);
}

}  // namespace adder
