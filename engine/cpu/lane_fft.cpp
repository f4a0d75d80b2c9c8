#include "engine/cpu/lane_fft.h"

#include <cmath>
#include <numbers>

#include "engine/error.h"

namespace adder::cpu {
namespace {

template <typename T>
struct Complex {
  Vec<T> re, im;
};
template <typename T>
inline Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}
template <typename T>
inline Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}
template <typename T>
inline Complex<T> scaled(T factor, Complex<T> a) {
  return {broadcast(factor) * a.re, broadcast(factor) * a.im};
}
// a (re + i im), or by the conjugate in the inverse transform.
template <typename T, bool kInverse>
inline Complex<T> twiddled(Complex<T> a, T re, T im) {
  const Vec<T> c = broadcast(re);
  const Vec<T> s = broadcast(kInverse ? -im : im);
  return {a.re * c - a.im * s, a.re * s + a.im * c};
}
// a times -i, or i in the inverse transform.
template <typename T, bool kInverse>
inline Complex<T> quarter(Complex<T> a) {
  if constexpr (kInverse) return {-a.im, a.re};
  return {a.im, -a.re};
}

// The transform of kRadix numbers.
template <typename T, int kRadix, bool kInverse>
inline void butterfly(Complex<T>* x) {
  if constexpr (kRadix == 2) {
    const Complex<T> sum = x[0] + x[1];
    x[1] = x[0] - x[1];
    x[0] = sum;
  } else if constexpr (kRadix == 3) {
    const Complex<T> sum = x[1] + x[2];
    const Complex<T> turned =
        quarter<T, kInverse>(scaled(static_cast<T>(std::numbers::sqrt3 / 2), x[1] - x[2]));
    const Complex<T> rest = x[0] - scaled(T{0.5}, sum);
    x[0] = x[0] + sum;
    x[1] = rest + turned;
    x[2] = rest - turned;
  } else if constexpr (kRadix == 4) {
    const Complex<T> even = x[0] + x[2];
    const Complex<T> odd = x[0] - x[2];
    const Complex<T> sum = x[1] + x[3];
    const Complex<T> turned = quarter<T, kInverse>(x[1] - x[3]);
    x[0] = even + sum;
    x[1] = odd + turned;
    x[2] = even - sum;
    x[3] = odd - turned;
  } else {
    static_assert(kRadix == 5);
    constexpr T kCos1 = static_cast<T>(0.30901699437494742410);
    constexpr T kCos2 = static_cast<T>(-0.80901699437494742410);
    constexpr T kSin1 = static_cast<T>(0.95105651629515357212);
    constexpr T kSin2 = static_cast<T>(0.58778525229247312917);
    const Complex<T> outer = x[1] + x[4];
    const Complex<T> inner = x[2] + x[3];
    const Complex<T> outer_gap = x[1] - x[4];
    const Complex<T> inner_gap = x[2] - x[3];
    const Complex<T> first = x[0] + scaled(kCos1, outer) + scaled(kCos2, inner);
    const Complex<T> second = x[0] + scaled(kCos2, outer) + scaled(kCos1, inner);
    const Complex<T> first_turned =
        quarter<T, kInverse>(scaled(kSin1, outer_gap) + scaled(kSin2, inner_gap));
    const Complex<T> second_turned =
        quarter<T, kInverse>(scaled(kSin2, outer_gap) - scaled(kSin1, inner_gap));
    x[0] = x[0] + outer + inner;
    x[1] = first + first_turned;
    x[2] = second + second_turned;
    x[3] = second - second_turned;
    x[4] = first - first_turned;
  }
}

// All butterflies of one block. Twiddles follow them in the forward transform and precede them in
// the inverse.
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
void run_stage(int radix, std::int64_t distance, const T* twiddles, T* block) {
  switch (radix) {
    case 2:
      return pass<T, 2, kInverse>(distance, twiddles, block);
    case 3:
      return pass<T, 3, kInverse>(distance, twiddles, block);
    case 4:
      return pass<T, 4, kInverse>(distance, twiddles, block);
    default:
      return pass<T, 5, kInverse>(distance, twiddles, block);
  }
}

}  // namespace

template <typename T>
LaneFft<T>::LaneFft(std::int64_t length) : length_(length) {
  std::int64_t rest = length;
  for (const int radix : {4, 2, 3, 5}) {
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

// A block's parts are finished one after the other, so that they stay in the caches.
template <typename T>
void LaneFft<T>::forward_from(std::size_t number, T* x) const {
  if (number == stages_.size()) return;
  const Stage& stage = stages_[number];
  run_stage<T, false>(stage.radix, stage.distance, stage.twiddles.data(), x);
  for (int r = 0; r < stage.radix; ++r) {
    forward_from(number + 1, x + r * stage.distance * 2 * kLanes<T>);
  }
}

template <typename T>
void LaneFft<T>::inverse_from(std::size_t number, T* x) const {
  if (number == stages_.size()) return;
  const Stage& stage = stages_[number];
  for (int r = 0; r < stage.radix; ++r) {
    inverse_from(number + 1, x + r * stage.distance * 2 * kLanes<T>);
  }
  run_stage<T, true>(stage.radix, stage.distance, stage.twiddles.data(), x);
}

template class LaneFft<float>;
template class LaneFft<double>;

}  // namespace adder::cpu
