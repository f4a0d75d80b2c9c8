#include "engine/cpu/lane_fft.h"

#include <cmath>
#include <numbers>

#include "engine/error.h"

namespace adder::cpu {
namespace {

using lanes::butterfly;
using lanes::Complex;
using lanes::twiddled;

// Twiddles follow the butterflies in the forward transform and precede them in the inverse.
template <typename T, int kRadix, bool kInverse>
void pass(std::int64_t distance, const T* twiddles, T* block) {
  constexpr std::int64_t kElement = 2 * kLanes<T>;
  for (std::int64_t j = 0; j < distance; ++j, twiddles += 2 * (kRadix - 1)) {
    Complex<T> x[kRadix];
    for (int r = 0; r < kRadix; ++r) {
      const T* at = block + (j + r * distance) * kElement;
      x[r] = {load(at), load(at + kLanes<T>)};
      if constexpr (kInverse) {
        if (r > 0) x[r] = twiddled<T, true>(x[r], twiddles[2 * r - 2], twiddles[2 * r - 1]);
      }
    }
    butterfly<T, kRadix, kInverse>(x);
    for (int r = 0; r < kRadix; ++r) {
      if constexpr (!kInverse) {
        if (r > 0) x[r] = twiddled<T, false>(x[r], twiddles[2 * r - 2], twiddles[2 * r - 1]);
      }
      T* at = block + (j + r * distance) * kElement;
      store(at, x[r].re);
      store(at + kLanes<T>, x[r].im);
    }
  }
}

template <typename T, bool kInverse>
void any_pass(int radix, std::int64_t distance, const T* twiddles, T* block) {
  switch (radix) {
    case 2:
      return pass<T, 2, kInverse>(distance, twiddles, block);
    case 3:
      return pass<T, 3, kInverse>(distance, twiddles, block);
    case 4:
      return pass<T, 4, kInverse>(distance, twiddles, block);
    case 8:
      return pass<T, 8, kInverse>(distance, twiddles, block);
    default:
      return pass<T, 5, kInverse>(distance, twiddles, block);
  }
}

}  // namespace

template <typename T>
LaneFft<T>::LaneFft(std::int64_t length) : length_(length) {
  std::int64_t rest = length;
  for (const int radix : {8, 4, 2, 3, 5}) {
    while (rest > 1 && rest % radix == 0) {
      const std::int64_t block = rest;
      rest /= radix;
      Stage stage{radix, rest, {}};
      for (std::int64_t j = 0; j < rest; ++j) {
        for (int r = 1; r < radix; ++r) {
          const double angle =
              -2 * std::numbers::pi * static_cast<double>(r * j) / static_cast<double>(block);
          stage.twiddles.push_back(static_cast<T>(std::cos(angle)));
          stage.twiddles.push_back(static_cast<T>(std::sin(angle)));
        }
      }
      stages_.push_back(std::move(stage));
    }
  }
  if (rest != 1) {
    throw ShapeError(str("LaneFft: the length ", length, " has other factors than 2, 3 and 5"));
  }
}

template <typename T>
void LaneFft<T>::run_stage(std::size_t number, bool inverse, T* block) const {
  const Stage& stage = stages_[number];
  if (inverse) {
    any_pass<T, true>(stage.radix, stage.distance, stage.twiddles.data(), block);
  } else {
    any_pass<T, false>(stage.radix, stage.distance, stage.twiddles.data(), block);
  }
}

// A block's parts are finished one after the other, so that they stay in the caches.
template <typename T>
void LaneFft<T>::forward_from(std::size_t number, T* x) const {
  if (number == stages_.size()) return;
  run_stage(number, false, x);
  if (number + 1 == stages_.size()) return;
  const Stage& stage = stages_[number];
  for (int r = 0; r < stage.radix; ++r) forward_from(number + 1, x + r * stage.distance * kElement);
}

template <typename T>
void LaneFft<T>::inverse_from(std::size_t number, T* x) const {
  if (number == stages_.size()) return;
  const Stage& stage = stages_[number];
  const int parts = number + 1 < stages_.size() ? stage.radix : 0;  // none inside the last stage
  for (int r = 0; r < parts; ++r) inverse_from(number + 1, x + r * stage.distance * kElement);
  run_stage(number, true, x);
}

template class LaneFft<float>;
template class LaneFft<double>;

}  // namespace adder::cpu
