#include "peft/sdt_selection.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/error.h"

namespace adder {
namespace {

// Indices of `scores`, largest score first.
std::vector<std::int32_t> ranking(const std::vector<double>& scores) {
  std::vector<std::int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
  });
  return order;
}

bool contains(const std::vector<std::int32_t>& indices, std::int32_t index) {
  return std::find(indices.begin(), indices.end(), index) != indices.end();
}

void check_indices(const std::string& layer, const char* what, std::vector<std::int32_t> indices,
                   std::int64_t size) {
  std::sort(indices.begin(), indices.end());
  for (const std::int32_t index : indices) {
    if (index < 0 || index >= size) {
      throw ConfigError(str(layer, ": selected ", what, " ", index, " of ", size));
    }
  }
  const auto twice = std::adjacent_find(indices.begin(), indices.end());
  if (twice != indices.end()) {
    throw ConfigError(str(layer, ": ", what, " ", *twice, " is selected twice"));
  }
}

}  // namespace

std::int64_t AxisCount::resolve(std::int64_t size, const std::string& key) const {
  if (fraction && !(value >= 0 && value <= 1)) {
    throw ConfigError(str(key, " is ", value, "; a fraction lies between 0.0 and 1.0"));
  }
  // nearbyint rounds exact halves to the even neighbour, as Python's round() does.
  const double count = fraction ? std::nearbyint(value * static_cast<double>(size)) : value;
  if (!(count >= 0 && count <= static_cast<double>(size))) {
    throw ConfigError(str(key, " is ", value, ", but the axis has ", size, " entries"));
  }
  return static_cast<std::int64_t>(count);
}

SdtCounts sdt_counts(std::int64_t channels, std::int64_t states, const DimensionCounts& num_zero,
                     const DimensionCounts& num_freeze) {
  SdtCounts counts;
  const std::int64_t zero_states = num_zero.state.resolve(states, "num_zero.state");
  const std::int64_t freeze_states = num_freeze.state.resolve(states, "num_freeze.state");
  counts.zero_channels = num_zero.channel.resolve(channels, "num_zero.channel");
  counts.freeze_channels = num_freeze.channel.resolve(channels, "num_freeze.channel");
  counts.train_states = states - zero_states - freeze_states;
  counts.train_channels = channels - counts.zero_channels - counts.freeze_channels;
  if (counts.train_states < 1) {
    throw ConfigError(str("sdt: no state is left to train: ", states, " states, num_freeze ",
                          freeze_states, ", num_zero ", zero_states));
  }
  if (counts.train_channels < 1) {
    throw ConfigError(str("sdt: no channel is left to train: ", channels, " channels, num_freeze ",
                          counts.freeze_channels, ", num_zero ", counts.zero_channels));
  }
  return counts;
}

std::vector<std::int32_t> LayerSelection::sorted_channels() const {
  std::vector<std::int32_t> sorted = channels;
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

std::vector<std::int64_t> LayerSelection::entry_positions() const {
  std::vector<std::pair<std::int32_t, std::int32_t>> pairs;  // (state, channel)
  for (std::size_t i = 0; i < channels.size(); ++i) {
    for (const std::int32_t state : states[i]) pairs.emplace_back(state, channels[i]);
  }
  std::sort(pairs.begin(), pairs.end());
  std::vector<std::int64_t> positions;
  positions.reserve(pairs.size());
  for (const auto& [state, channel] : pairs) positions.push_back(channel * num_states + state);
  return positions;
}

std::vector<std::int32_t> LayerSelection::unselected_channels() const {
  std::vector<std::int32_t> unselected;
  for (std::int32_t channel = 0; channel < num_channels; ++channel) {
    if (!contains(select_channels, channel)) unselected.push_back(channel);
  }
  return unselected;
}

std::vector<std::int32_t> LayerSelection::states_in_use(std::int32_t channel) const {
  const auto it = std::find(select_channels.begin(), select_channels.end(), channel);
  if (it != select_channels.end()) {
    return select_states[static_cast<std::size_t>(it - select_channels.begin())];
  }
  std::vector<std::int32_t> all(static_cast<std::size_t>(num_states));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

void LayerSelection::check() const {
  if (channels.empty()) throw ConfigError(str(layer, ": no channel is selected"));
  if (states.size() != channels.size()) {
    throw ConfigError(
        str(layer, ": states of ", states.size(), " channels for ", channels.size(), " channels"));
  }
  check_indices(layer, "channel", channels, num_channels);
  check_indices(layer, "zero channel", zero_channels, num_channels);
  for (const auto& kept : states) {
    if (kept.empty()) throw ConfigError(str(layer, ": a channel without a selected state"));
    check_indices(layer, "state", kept, num_states);
  }
  for (const std::int32_t zero : zero_channels) {
    if (contains(channels, zero)) {
      throw ConfigError(str(layer, ": channel ", zero, " is both trained and zeroed"));
    }
    if (contains(select_channels, zero)) {
      throw ConfigError(str(layer, ": channel ", zero, " is both selected and zeroed"));
    }
  }
  if (select_channels.empty()) return;
  check_indices(layer, "channel", select_channels, num_channels);
  if (select_states.size() != select_channels.size()) {
    throw ConfigError(str(layer, ": states of ", select_states.size(), " channels for ",
                          select_channels.size(), " selected channels"));
  }
  for (const auto& kept : select_states) check_indices(layer, "state", kept, num_states);
  for (std::size_t i = 0; i < channels.size(); ++i) {
    if (!contains(select_channels, channels[i])) {
      throw ConfigError(str(layer, ": channel ", channels[i], " trains but is not selected"));
    }
    const std::vector<std::int32_t> in_use = states_in_use(channels[i]);
    for (const std::int32_t state : states[i]) {
      if (contains(in_use, state)) continue;
      throw ConfigError(str(layer, ": state ", state, " of channel ", channels[i],
                            " trains but is not selected"));
    }
  }
}

LayerSelection select_dimensions(const std::string& layer, const Tensor& scores,
                                 const SdtCounts& counts) {
  if (scores.rank() != 2) {
    throw ShapeError(str(layer, ": scores are ", scores.shape(), ", expected (E, N)"));
  }
  LayerSelection selection;
  selection.layer = layer;
  selection.num_channels = scores.dim(0);
  selection.num_states = scores.dim(1);
  selection.scores = scores.to(Dtype::f32).clone();
  if (counts.train_channels + counts.freeze_channels + counts.zero_channels !=
          selection.num_channels ||
      counts.train_states > selection.num_states) {
    throw ConfigError(str(layer, ": counts for another shape than ", scores.shape()));
  }
  const std::vector<double> values = scores.to_vector();
  const auto n = static_cast<std::size_t>(selection.num_states);
  std::vector<double> sums(static_cast<std::size_t>(selection.num_channels), 0.0);
  double total = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      throw NumericError(
          str(layer, ": the score of channel ", i / n, ", state ", i % n, " is ", values[i]));
    }
    sums[i / n] += values[i];
    total += values[i];
  }
  if (total == 0) {
    throw ConfigError(str(layer, ": all ", values.size(),
                          " scores are zero, so nothing tells the channels apart; was the warm-up "
                          "run with a learning rate above zero?"));
  }
  const std::vector<std::int32_t> order = ranking(sums);
  const auto zero_begin = order.begin() + counts.train_channels + counts.freeze_channels;
  selection.channels.assign(order.begin(), order.begin() + counts.train_channels);
  selection.zero_channels.assign(zero_begin, zero_begin + counts.zero_channels);
  for (const std::int32_t channel : selection.channels) {
    const auto begin = values.begin() + channel * selection.num_states;
    std::vector<std::int32_t> kept =
        ranking(std::vector<double>(begin, begin + selection.num_states));
    kept.resize(static_cast<std::size_t>(counts.train_states));
    selection.states.push_back(std::move(kept));
  }
  for (const double sum : sums) selection.channel_scores.push_back(static_cast<float>(sum));
  return selection;
}

}  // namespace adder
