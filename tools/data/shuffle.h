// A small deterministic shuffle: the same order on every machine and with every standard library.
#pragma once

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace adder::tools {

// SplitMix64 (Steele, Lea, Flood 2014): a 64-bit counter through a mixing function.
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  // Uniform in [0, bound), bound > 0. Draws from the incomplete last block of the 64-bit range are
  // thrown away, so that no value is favoured.
  uint64_t below(uint64_t bound) {
    const uint64_t excess = (~uint64_t{0} % bound + 1) % bound;  // 2^64 mod bound
    uint64_t draw = next();
    while (draw > ~excess) draw = next();
    return draw % bound;
  }

 private:
  uint64_t state_;
};

// Fisher-Yates in place.
template <typename T>
void shuffle(std::vector<T>& values, SplitMix64& generator) {
  for (size_t i = values.size(); i > 1; --i) {
    std::swap(values[i - 1], values[generator.below(i)]);
  }
}

// The numbers 0 … n-1 in an order fixed by `seed`.
inline std::vector<int64_t> permutation(int64_t n, uint64_t seed) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  SplitMix64 generator(seed);
  shuffle(order, generator);
  return order;
}

}  // namespace adder::tools
