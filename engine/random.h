// Philox-4x32-10, the counter-based generator of Salmon et al. 2011: a number is a pure function of
// (seed, stream, index), so every device and every thread count draws the same.
#pragma once

#include <array>
#include <cstdint>

#include "engine/tensor.h"

namespace adder {

// Four 32-bit words for counter `index` of `stream` under `seed`.
inline std::array<std::uint32_t, 4> philox(std::uint64_t seed, std::uint64_t stream,
                                           std::uint64_t index) {
  std::array<std::uint32_t, 4> c{
      static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
      static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)};
  auto k0 = static_cast<std::uint32_t>(seed);
  auto k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53U} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57U} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return c;
}

// A sequential reader of one stream. Copyable; its position can be saved and restored.
class Random {
 public:
  explicit Random(std::uint64_t seed, std::uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  std::uint32_t next_u32();
  double uniform();                          // [0, 1), 53 bits
  double normal();                           // standard normal (Box-Muller)
  std::uint64_t below(std::uint64_t bound);  // uniform in [0, bound), without bias; bound >= 1
  std::uint64_t position() const { return position_; }
  void set_position(std::uint64_t position) { position_ = position; }

 private:
  std::uint64_t seed_;
  std::uint64_t stream_;
  std::uint64_t position_ = 0;  // in 32-bit words
};

// Fill a contiguous floating tensor from stream `stream` under `seed`.
void fill_uniform(const Tensor& tensor, double low, double high, std::uint64_t seed,
                  std::uint64_t stream);
void fill_normal(const Tensor& tensor, double mean, double deviation, std::uint64_t seed,
                 std::uint64_t stream);

}  // namespace adder
