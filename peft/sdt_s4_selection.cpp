#include "peft/sdt_s4_selection.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/error.h"

namespace adder {
namespace {

using Indices = std::vector<std::int32_t>;

Indices range(std::int64_t count) {
  Indices indices(static_cast<std::size_t>(count));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

// The items by falling score, equal ones in their order. A NaN is less than nothing and greater
// than nothing, which no library's sort allows: the result depends on the way of sorting. This is
// Python's (for up to 63 items): sorting the reversed list upwards, by binary insertion behind the
// run that it begins with.
Indices ranking(Indices items, const double* scores) {
  const auto less = [&](std::int32_t a, std::int32_t b) { return scores[a] < scores[b]; };
  std::reverse(items.begin(), items.end());
  const std::size_t count = items.size();
  std::size_t run = std::min<std::size_t>(count, 1);
  if (count > 1) {
    const bool falling = less(items[1], items[0]);
    while (run < count && less(items[run], items[run - 1]) == falling) ++run;
    if (falling) std::reverse(items.begin(), items.begin() + static_cast<std::ptrdiff_t>(run));
  }
  for (; run < count; ++run) {
    std::size_t low = 0;
    std::size_t high = run;
    while (low < high) {
      const std::size_t middle = low + (high - low) / 2;
      if (less(items[run], items[middle])) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    const auto from = items.begin() + static_cast<std::ptrdiff_t>(run);
    std::rotate(items.begin() + static_cast<std::ptrdiff_t>(low), from, from + 1);
  }
  std::reverse(items.begin(), items.end());
  return items;
}

Indices best(Indices items, const double* scores, std::int64_t count, bool drop_zero) {
  Indices ranked = ranking(std::move(items), scores);
  ranked.resize(std::min(ranked.size(), static_cast<std::size_t>(count)));
  while (drop_zero && ranked.size() > 1 && scores[ranked.back()] == 0) ranked.pop_back();
  return ranked;
}

// Without this or that channel or state: C, (H, N, 2) or (M, H, N, 2), as values on the host.
class Zeroing {
 public:
  explicit Zeroing(const Tensor& C)
      : tensor_(C), channels_(C.dim(-3)), states_(C.dim(-2)), values_(C.to_vector()) {}

  void channel(std::int32_t channel) {
    for (std::int64_t state = 0; state < states_; ++state) entry(channel, state);
  }
  void entry(std::int32_t channel, std::int64_t state) {
    const auto kernel = static_cast<std::size_t>(2 * channels_ * states_);
    for (std::size_t begin = 0; begin < values_.size(); begin += kernel) {
      const std::size_t at = begin + static_cast<std::size_t>(2 * (channel * states_ + state));
      values_[at] = 0;
      values_[at + 1] = 0;
    }
  }
  void apply() const {
    tensor_.copy_from(Tensor::from(tensor_.shape(), values_).to(tensor_.dtype()));
  }

 private:
  Tensor tensor_;
  std::int64_t channels_, states_;
  std::vector<double> values_;
};

double measure(const std::string& layer, const Zeroing& zeroed,
               const std::function<double()>& loss) {
  zeroed.apply();
  const double value = loss();
  if (!std::isfinite(value)) {
    throw NumericError(str(layer, ": the loss with a part of the layer zeroed is ", value));
  }
  return value;
}

}  // namespace

S4Counts s4_counts(const SdtS4Config& config, const DiagonalStates& layer) {
  const std::int64_t channels = layer.channels();
  const std::int64_t states = layer.states();
  const auto resolve = [&](const std::optional<AxisCount>& count, std::int64_t size,
                           std::int64_t otherwise, const char* key) {
    if (count && !count->fraction && count->value > static_cast<double>(size)) {
      const bool of_channels = std::string_view(key).ends_with("channels");
      throw ConfigError(str("SDT_S4: ", key, " is ", count->value, ", but ", layer.name, " has ",
                            size,
                            of_channels ? str(" channels (", layer.channels_key, ")") : " states"));
    }
    const std::int64_t number = count ? count->resolve(size, str("SDT_S4: ", key)) : otherwise;
    if (number < 1) {
      throw ConfigError(str("SDT_S4: ", key, " leaves none of ", size, " to train"));
    }
    return number;
  };
  S4Counts counts;
  counts.select_channels = resolve(config.select_channels, channels, channels, "select_channels");
  counts.update_channels =
      resolve(config.update_channels, channels, counts.select_channels, "update_channels");
  counts.select_states = resolve(config.select_states, states, states, "select_states");
  counts.update_states =
      resolve(config.update_states, states, counts.select_states, "update_states");
  if (config.rule == SdtS4Rule::gradient) {  // all stay in use
    counts.select_channels = channels;
    counts.select_states = states;
  }
  if (counts.update_channels > counts.select_channels) {
    throw ConfigError(str("SDT_S4: update_channels is ", counts.update_channels,
                          ", more than select_channels, ", counts.select_channels));
  }
  if (counts.update_states > counts.select_states) {
    throw ConfigError(str("SDT_S4: update_states is ", counts.update_states,
                          ", more than select_states, ", counts.select_states));
  }
  return counts;
}

void check_finite(const std::string& layer, const S4Scores& scores) {
  for (const std::vector<double>* values : {&scores.select_channels, &scores.select_states,
                                            &scores.update_channels, &scores.update_states}) {
    for (const double value : *values) {
      if (std::isfinite(value)) continue;
      throw NumericError(str(layer, ": a score of its channels or states is ", value,
                             "; did the warm-up diverge?"));
    }
  }
}

LayerSelection select_s4(const std::string& layer, const S4Scores& scores, const S4Counts& counts,
                         bool drop_zero) {
  const auto row = [&](const std::vector<double>& states, std::int32_t channel) {
    return states.data() + channel * scores.states;
  };
  LayerSelection selection;
  selection.layer = layer;
  selection.num_channels = scores.channels;
  selection.num_states = scores.states;
  selection.select_channels = best(range(scores.channels), scores.select_channels.data(),
                                   counts.select_channels, drop_zero);
  for (const std::int32_t channel : selection.select_channels) {
    selection.select_states.push_back(best(range(scores.states), row(scores.select_states, channel),
                                           counts.select_states, drop_zero));
  }
  selection.channels = best(selection.select_channels, scores.update_channels.data(),
                            counts.update_channels, drop_zero);
  for (const std::int32_t channel : selection.channels) {
    selection.states.push_back(best(selection.states_in_use(channel),
                                    row(scores.update_states, channel), counts.update_states,
                                    drop_zero));
  }
  selection.scores =
      Tensor::from({scores.channels, scores.states}, scores.update_states).to(Dtype::f32);
  for (const double score : scores.update_channels) {
    selection.channel_scores.push_back(static_cast<float>(score));
  }
  return selection;
}

LayerSelection select_s4_by_loss(const std::string& layer, const Tensor& C, const S4Counts& counts,
                                 bool zero, const std::function<double()>& loss) {
  const std::int64_t channels = C.dim(-3);
  const std::int64_t states = C.dim(-2);
  LayerSelection selection;
  selection.layer = layer;
  selection.num_channels = channels;
  selection.num_states = states;
  const Zeroing whole(C);
  std::vector<double> losses;
  for (const std::int32_t channel : range(channels)) {
    Zeroing without = whole;
    without.channel(channel);
    losses.push_back(measure(layer, without, loss));
  }
  const Indices order = ranking(range(channels), losses.data());
  selection.select_channels.assign(order.begin(), order.begin() + counts.select_channels);
  selection.channels.assign(order.begin(), order.begin() + counts.update_channels);
  for (const double value : losses) selection.channel_scores.push_back(static_cast<float>(value));

  Zeroing kept = whole;
  if (zero) {
    for (auto it = order.begin() + counts.select_channels; it != order.end(); ++it) {
      kept.channel(*it);
    }
  }
  // States of channels that are selected but do not train are never zeroed.
  selection.select_states.assign(selection.select_channels.size(), range(states));
  for (std::size_t i = 0; i < selection.channels.size(); ++i) {
    const std::int32_t channel = selection.channels[i];
    losses.clear();
    for (std::int64_t state = 0; state < states; ++state) {
      Zeroing without = kept;
      without.entry(channel, state);
      losses.push_back(measure(layer, without, loss));
    }
    const Indices best_states = ranking(range(states), losses.data());
    const auto begin = best_states.begin();
    selection.select_states[i].assign(begin, begin + counts.select_states);
    selection.states.emplace_back(begin, begin + counts.update_states);
  }
  kept.apply();
  return selection;
}

void zero_unused(const LayerSelection& selection, const Tensor& C) {
  Zeroing zeroing(C);
  const auto lacks = [](const Indices& indices, std::int64_t index) {
    return std::find(indices.begin(), indices.end(), index) == indices.end();
  };
  for (const std::int32_t channel : selection.unselected_channels()) zeroing.channel(channel);
  for (const std::int32_t channel : selection.channels) {
    const Indices in_use = selection.states_in_use(channel);
    for (std::int64_t state = 0; state < selection.num_states; ++state) {
      if (lacks(in_use, state)) zeroing.entry(channel, state);
    }
  }
  zeroing.apply();
}

}  // namespace adder
