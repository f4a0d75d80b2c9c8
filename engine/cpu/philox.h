// Philox for many counters at once; the same words as philox() in engine/random.h.
#pragma once

#include <cstdint>

namespace adder::cpu {

inline constexpr int kPhiloxCounters = 16;  // per call: one 512-bit vector
inline constexpr int kPhiloxWords = 4 * kPhiloxCounters;

// words[4 * i + j] = word j of counter first + i. The lanes are plain arrays in a loop that the
// compiler turns into widening multiplications of whole vectors.
inline void philox_words(std::uint64_t seed, std::uint64_t stream, std::uint64_t first,
                         std::uint32_t* words) {
  constexpr int n = kPhiloxCounters;
  alignas(64) std::uint32_t c0[n];
  alignas(64) std::uint32_t c1[n];
  alignas(64) std::uint32_t c2[n];
  alignas(64) std::uint32_t c3[n];
  for (int i = 0; i < n; ++i) {
    const std::uint64_t counter = first + static_cast<std::uint64_t>(i);
    c0[i] = static_cast<std::uint32_t>(counter);
    c1[i] = static_cast<std::uint32_t>(counter >> 32);
    c2[i] = static_cast<std::uint32_t>(stream);
    c3[i] = static_cast<std::uint32_t>(stream >> 32);
  }
  auto k0 = static_cast<std::uint32_t>(seed);
  auto k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int i = 0; i < n; ++i) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53U} * c0[i];
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57U} * c2[i];
      c0[i] = static_cast<std::uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      c1[i] = static_cast<std::uint32_t>(p1);
      c2[i] = static_cast<std::uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c3[i] = static_cast<std::uint32_t>(p0);
    }
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    words[4 * i] = c0[i];
    words[4 * i + 1] = c1[i];
    words[4 * i + 2] = c2[i];
    words[4 * i + 3] = c3[i];
  }
}

}  // namespace adder::cpu
