// Butterflies of LaneFft: transforms of 2, 3, 4, 5 or 8 complex numbers in every vector lane.
// Private to engine/cpu.
#pragma once

#include <numbers>

#include "engine/cpu/vec.h"

namespace adder::cpu::lanes {

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

// a times (1 - i) / sqrt(2), or (1 + i) / sqrt(2) in the inverse transform.
template <typename T, bool kInverse>
inline Complex<T> eighth(Complex<T> a) {
  const T factor = static_cast<T>(std::numbers::sqrt2 / 2);
  if constexpr (kInverse) return scaled(factor, Complex<T>{a.re - a.im, a.re + a.im});
  return scaled(factor, Complex<T>{a.re + a.im, a.im - a.re});
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
  } else if constexpr (kRadix == 8) {
    Complex<T> even[4] = {x[0], x[2], x[4], x[6]};
    Complex<T> odd[4] = {x[1], x[3], x[5], x[7]};
    butterfly<T, 4, kInverse>(even);
    butterfly<T, 4, kInverse>(odd);
    odd[1] = eighth<T, kInverse>(odd[1]);
    odd[2] = quarter<T, kInverse>(odd[2]);
    odd[3] = quarter<T, kInverse>(eighth<T, kInverse>(odd[3]));
    for (int k = 0; k < 4; ++k) {
      x[k] = even[k] + odd[k];
      x[k + 4] = even[k] - odd[k];
    }
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

}  // namespace adder::cpu::lanes
