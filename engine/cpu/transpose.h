// Transposes of square tiles in registers. Private to engine/cpu.
#pragma once

#include <utility>

#include "engine/cpu/vec.h"

namespace adder::cpu {
namespace detail {

// Exchanges bit kBit of the row number with that of the lane number.
template <typename T, int kBit, int... kLane>
[[gnu::always_inline]] inline void exchange_bit(Vec<T>* rows,
                                                std::integer_sequence<int, kLane...>) {
  constexpr int kWidth = sizeof...(kLane);
  for (int i = 0; i < kWidth; ++i) {
    if ((i & kBit) != 0) continue;
    const Vec<T> low = rows[i];
    const Vec<T> high = rows[i + kBit];
    rows[i] = __builtin_shufflevector(low, high,
                                      ((kLane & kBit) != 0 ? kWidth + kLane - kBit : kLane)...);
    rows[i + kBit] = __builtin_shufflevector(
        low, high, ((kLane & kBit) != 0 ? kWidth + kLane : kLane + kBit)...);
  }
}

}  // namespace detail

// rows[i][j] becomes rows[j][i]; as many rows as a vector has lanes.
template <typename T>
[[gnu::always_inline]] inline void transpose(Vec<T>* rows) {
  constexpr auto lanes = std::make_integer_sequence<int, kLanes<T>>{};
  detail::exchange_bit<T, 1>(rows, lanes);
  if constexpr (kLanes < T >> 2) detail::exchange_bit<T, 2>(rows, lanes);
  if constexpr (kLanes < T >> 4) detail::exchange_bit<T, 4>(rows, lanes);
  if constexpr (kLanes < T >> 8) detail::exchange_bit<T, 8>(rows, lanes);
}

}  // namespace adder::cpu
