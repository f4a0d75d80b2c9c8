// Which channels and states of a layer sparse dimension tuning (SDT) trains: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/tensor.h"

namespace adder {

// How many of an axis: a count, or a fraction that rounds to the nearest count, halves to even.
struct AxisCount {
  double value = 0;
  bool fraction = false;

  // Throws ConfigError, naming `key`, when the result is outside [0, size].
  std::int64_t resolve(std::int64_t size, const std::string& key) const;
};

struct DimensionCounts {
  AxisCount state;
  AxisCount channel;
};

// What becomes of the E channels and N states of a layer.
struct SdtCounts {
  std::int64_t train_states = 0;  // of each trained channel
  std::int64_t train_channels = 0;
  std::int64_t freeze_channels = 0;
  std::int64_t zero_channels = 0;  // their A_log becomes 10, so that no state carries over
};

// Throws ConfigError with the numbers when nothing is left to train.
SdtCounts sdt_counts(std::int64_t channels, std::int64_t states, const DimensionCounts& num_zero,
                     const DimensionCounts& num_freeze);

// The selected dimensions of one layer.
struct LayerSelection {
  std::string layer;                              // "backbone.layers.0.mixer"
  std::int64_t num_channels = 0;                  // E
  std::int64_t num_states = 0;                    // N
  std::vector<std::int32_t> channels;             // trained, the most important first
  std::vector<std::vector<std::int32_t>> states;  // of each of these, the most important first
  std::vector<std::int32_t> zero_channels;        // in falling order of importance
  // S4 only: the channels that stay in use, and the states of each of these that do. The trained
  // ones are among them.
  std::vector<std::int32_t> select_channels;
  std::vector<std::vector<std::int32_t>> select_states;
  std::vector<float> channel_scores;  // of all E channels
  Tensor scores;  // (E, N) float32, what was compared; undefined after loading a saved adapter

  std::vector<std::int32_t> sorted_channels() const;
  // Positions of the trained entries in A_log as stored, (E, N) row-major; their order is that of
  // the states first and the channels second, both ascending.
  std::vector<std::int64_t> entry_positions() const;
  // The channels that are not among select_channels.
  std::vector<std::int32_t> unselected_channels() const;
  // The states of a channel that stay in use: all of them where nothing else is said.
  std::vector<std::int32_t> states_in_use(std::int32_t channel) const;
  // Throws ConfigError when indices are out of range, repeated, or both trained and not in use.
  void check() const;
};

// Ranks channels by the sum of their states' scores (E, N; float32 or float64, not negative), and
// the states of each trained channel by their own. Equal scores keep the order of their indices.
// Throws ConfigError when all scores are zero and NumericError when one is not finite.
LayerSelection select_dimensions(const std::string& layer, const Tensor& scores,
                                 const SdtCounts& counts);

}  // namespace adder
