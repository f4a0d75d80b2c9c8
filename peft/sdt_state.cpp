// SDT's selections as tensors of an adapter file or a checkpoint.
#include <algorithm>

#include "engine/error.h"
#include "peft/sdt.h"

namespace adder {
namespace {

constexpr const char* kDimensions = ".sdt_dimensions";  // E and N
constexpr const char* kChannels = ".sdt_channels";
constexpr const char* kStates = ".sdt_states";  // (channels, states of each)
constexpr const char* kZeroChannels = ".sdt_zero_channels";
constexpr const char* kChannelScores = ".sdt_channel_scores";
constexpr const char* kScores = ".sdt_scores";
constexpr const char* kGradient = ".sdt_gradient";

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

void Sdt::append_state(NamedTensors& tensors, bool with_scores) const {
  for (const Layer& layer : layers_) {
    if (layer.gradient.defined() && phase_ == Phase::warmup) {
      tensors.emplace_back(layer.a_log->name() + kGradient, layer.gradient);
    }
  }
  for (std::size_t i = 0; i < selections_.size(); ++i) {
    const LayerSelection& selection = selections_[i];
    const std::string& name = layers_[i].a_log->name();
    std::vector<std::int32_t> states;
    for (const auto& kept : selection.states) states.insert(states.end(), kept.begin(), kept.end());
    const auto channels = static_cast<std::int64_t>(selection.channels.size());
    tensors.emplace_back(name + kDimensions,
                         vector_of({static_cast<std::int32_t>(selection.num_channels),
                                    static_cast<std::int32_t>(selection.num_states)}));
    tensors.emplace_back(name + kChannels, vector_of(selection.channels));
    tensors.emplace_back(name + kStates, vector_of(states).reshape({channels, -1}));
    if (!selection.zero_channels.empty()) {
      tensors.emplace_back(name + kZeroChannels, vector_of(selection.zero_channels));
    }
    if (!selection.channel_scores.empty()) {
      tensors.emplace_back(name + kChannelScores,
                           Tensor::from({selection.num_channels}, selection.channel_scores));
    }
    if (with_scores && selection.scores.defined()) {
      tensors.emplace_back(name + kScores, selection.scores);
    }
  }
}

std::vector<LayerSelection> read_selections(const TensorMap& tensors,
                                            std::vector<std::string>& used) {
  std::vector<LayerSelection> selections;
  for (const auto& [channels_name, channels] : tensors) {
    if (!ends_with(channels_name, kChannels) || ends_with(channels_name, kZeroChannels)) continue;
    const std::string a_log =
        channels_name.substr(0, channels_name.size() - std::string(kChannels).size());
    const auto find = [&](const char* ending, bool required) {
      const auto it = tensors.find(a_log + ending);
      if (it == tensors.end()) {
        if (required) throw ConfigError(str("the adapter lacks ", a_log, ending));
        return Tensor();
      }
      used.push_back(it->first);
      return it->second;
    };
    LayerSelection selection;
    selection.layer = a_log.substr(0, a_log.rfind('.'));
    const auto size = integers(a_log + kDimensions, find(kDimensions, true));
    if (size.size() != 2) throw ConfigError(str(a_log, kDimensions, ": expected two numbers"));
    selection.num_channels = size[0];
    selection.num_states = size[1];
    selection.channels = integers(channels_name, find(kChannels, true));
    const Tensor states = find(kStates, true);
    if (states.rank() != 2 ||
        states.dim(0) != static_cast<std::int64_t>(selection.channels.size())) {
      throw ConfigError(str(a_log, kStates, " is ", states.shape(), " for ",
                            selection.channels.size(), " channels"));
    }
    const auto flat = integers(a_log + kStates, states);
    for (std::int64_t i = 0; i < states.dim(0); ++i) {
      const auto begin = flat.begin() + i * states.dim(1);
      selection.states.emplace_back(begin, begin + states.dim(1));
    }
    if (const Tensor zero = find(kZeroChannels, false); zero.defined()) {
      selection.zero_channels = integers(a_log + kZeroChannels, zero);
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
  for (const char* ending :
       {kDimensions, kChannels, kStates, kZeroChannels, kChannelScores, kScores, kGradient}) {
    if (ends_with(name, ending)) return true;
  }
  return false;
}

void Sdt::restore(const TensorMap& tensors, std::vector<std::string>& used) {
  std::vector<LayerSelection> saved = read_selections(tensors, used);
  if (saved.empty()) {
    if (phase_ == Phase::training) {
      throw ConfigError("SD_LORA: a state of the warm-up for an adapter that is beyond it");
    }
    if (phase_ == Phase::idle) start_warmup();
    for (const Layer& layer : layers_) {
      if (!layer.gradient.defined()) continue;
      const std::string name = layer.a_log->name() + kGradient;
      const auto it = tensors.find(name);
      if (it == tensors.end()) throw ConfigError(str("the adapter lacks ", name));
      check_shape("adapter", name.c_str(), it->second, layer.gradient.shape());
      layer.gradient.copy_from(it->second);
      used.push_back(name);
    }
    return;
  }
  if (phase_ != Phase::training) {
    train_selected(std::move(saved));
    return;
  }
  for (std::size_t i = 0; i < saved.size(); ++i) {
    if (i >= selections_.size() || saved[i].channels != selections_[i].channels ||
        saved[i].states != selections_[i].states ||
        saved[i].zero_channels != selections_[i].zero_channels) {
      throw ConfigError(str(saved[i].layer, ": other dimensions are selected already"));
    }
  }
  selections_ = std::move(saved);
}

}  // namespace adder
