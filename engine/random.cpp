#include "engine/random.h"

#include <cmath>
#include <limits>
#include <numbers>

#include "engine/cpu/parallel.h"
#include "engine/cpu/philox.h"

namespace adder {
namespace {

constexpr double kTwoToMinus53 = 0x1p-53;

// 53 random bits of two words as a number in [0, 1).
double unit(std::uint32_t low, std::uint32_t high) {
  return static_cast<double>(((std::uint64_t{high} << 32) | low) >> 11) * kTwoToMinus53;
}

// Box-Muller: (1 - u) lies in (0, 1], so the logarithm is finite.
double radius(double u) {
  return std::sqrt(-2 * std::log1p(-u));
}
double angle(double u) {
  return 2 * std::numbers::pi * u;
}

// Calls fill(out, words, count) for blocks of `per_block` elements, each from kPhiloxWords words.
template <typename T, typename Fill>
void fill_blocks(const Tensor& tensor, std::uint64_t seed, std::uint64_t stream,
                 std::int64_t per_block, const Fill& fill) {
  T* data = tensor.data<T>();
  const std::int64_t n = tensor.numel();
  const std::int64_t blocks = (n + per_block - 1) / per_block;
  cpu::parallel_for(blocks, 128, [&](std::int64_t begin, std::int64_t end) {
    std::uint32_t words[cpu::kPhiloxWords];
    for (std::int64_t block = begin; block < end; ++block) {
      cpu::philox_words(seed, stream, static_cast<std::uint64_t>(block * cpu::kPhiloxCounters),
                        words);
      fill(data + block * per_block, words, std::min(per_block, n - block * per_block));
    }
  });
}

template <typename F>
void dispatch_floating(const char* place, const Tensor& tensor, const F& f) {
  if (!tensor.device().is_cpu()) {
    throw DeviceError(str(place, ": ", device_name(tensor.device()), ", expected cpu"));
  }
  if (!tensor.is_contiguous()) {
    throw ShapeError(str(place, ": tensor ", tensor.shape(), " must be contiguous"));
  }
  if (tensor.numel() == 0) return;
  dispatch(tensor.dtype(), [&](auto type) {
    if constexpr (std::is_integral_v<decltype(type)>) {
      throw DtypeError(str(place, ": ", dtype_name(tensor.dtype()), " is not a floating type"));
    } else {
      f(type);
    }
  });
}

}  // namespace

std::uint32_t Random::next_u32() {
  const std::uint32_t word = philox(seed_, stream_, position_ / 4)[position_ % 4];
  ++position_;
  return word;
}

double Random::uniform() {
  const std::uint32_t low = next_u32();
  return unit(low, next_u32());
}

double Random::normal() {
  const double u = uniform();
  return radius(u) * std::cos(angle(uniform()));
}

std::uint64_t Random::below(std::uint64_t bound) {
  if (bound == 0) throw ConfigError("random: below(0) has no value to draw");
  // The lowest 2^64 mod bound values are rejected: what is left is a multiple of bound.
  const std::uint64_t reject = (std::uint64_t{0} - bound) % bound;
  for (;;) {
    const std::uint64_t low = next_u32();
    const std::uint64_t value = (std::uint64_t{next_u32()} << 32) | low;
    if (value >= reject) return value % bound;
  }
}

void fill_uniform(const Tensor& tensor, double low, double high, std::uint64_t seed,
                  std::uint64_t stream) {
  dispatch_floating("fill_uniform", tensor, [&](auto type) {
    using T = decltype(type);
    fill_blocks<T>(tensor, seed, stream, cpu::kPhiloxWords / 2,
                   [&](T* out, const std::uint32_t* words, std::int64_t count) {
                     for (std::int64_t i = 0; i < count; ++i) {
                       out[i] =
                           convert<T>(low + (high - low) * unit(words[2 * i], words[2 * i + 1]));
                     }
                   });
  });
}

void fill_normal(const Tensor& tensor, double mean, double deviation, std::uint64_t seed,
                 std::uint64_t stream) {
  dispatch_floating("fill_normal", tensor, [&](auto type) {
    using T = decltype(type);
    fill_blocks<T>(tensor, seed, stream, cpu::kPhiloxWords / 2,
                   [&](T* out, const std::uint32_t* words, std::int64_t count) {
                     for (std::int64_t i = 0; i < count; i += 2) {
                       const std::uint32_t* w = words + 2 * i;
                       const double r = deviation * radius(unit(w[0], w[1]));
                       const double a = angle(unit(w[2], w[3]));
                       out[i] = convert<T>(mean + r * std::cos(a));
                       if (i + 1 < count) out[i + 1] = convert<T>(mean + r * std::sin(a));
                     }
                   });
  });
}

}  // namespace adder
