// Elementary functions on vectors.
//
// The float functions are polynomials with a relative error below 3e-7 in their whole range; the
// double ones call the C library lane by lane, because double serves as the reference. NaN in, NaN
// out.
#pragma once

#include <bit>
#include <cmath>

#include "engine/cpu/vec.h"

namespace adder::cpu {

// 2^f for |f| <= 1/2, exactly 1 at 0 so that slow decays keep their rate; minimax, 2.5e-9.
inline VecF exp2_fraction(VecF f) {
  VecF p = mul_add(f, broadcast(1.5461237365e-4F), broadcast(1.3400431098e-3F));
  p = mul_add(f, p, broadcast(9.6180573592e-3F));
  p = mul_add(f, p, broadcast(5.5503272167e-2F));
  p = mul_add(f, p, broadcast(2.4022650917e-1F));
  p = mul_add(f, p, broadcast(6.9314720671e-1F));
  return mul_add(f, p, broadcast(1.0F));
}
// e^r for |r| <= ln(2)/2, in the same way.
inline VecF exp_fraction(VecF r) {
  VecF p = mul_add(r, broadcast(1.3940921496e-3F), broadcast(8.3751282236e-3F));
  p = mul_add(r, p, broadcast(4.1666355845e-2F));
  p = mul_add(r, p, broadcast(1.6666415485e-1F));
  p = mul_add(r, p, broadcast(5.0000000461e-1F));
  p = mul_add(r, p, broadcast(1.0000000377F));
  return mul_add(r, p, broadcast(1.0F));
}

#if defined(ADDER_AVX512)
// The zero-masking forms with a full mask: the plain ones make GCC 12 warn about its own header.
inline constexpr __mmask16 kAllLanes = 0xFFFF;
inline VecF round_nearest(VecF x) {
  return (VecF)_mm512_maskz_roundscale_ps(kAllLanes, (__m512)x, 0x08);
}
inline VecF scale_by_power(VecF p, VecF n) {
  return (VecF)_mm512_maskz_scalef_ps(kAllLanes, (__m512)p, (__m512)n);
}
// max and min return their second operand when either is NaN.
inline VecF clamp(VecF x, float low, float high) {
  const __m512 raised = _mm512_maskz_max_ps(kAllLanes, _mm512_set1_ps(low), (__m512)x);
  return (VecF)_mm512_maskz_min_ps(kAllLanes, _mm512_set1_ps(high), raised);
}
#else
// |x| < 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
inline VecF round_nearest(VecF x) {
  const VecF magic = broadcast(12582912.0F);
  return (x + magic) - magic;
}
// p * 2^n for -127 <= n <= 128; the ends give 0 and infinity.
inline VecF scale_by_power(VecF p, VecF n) {
  const VecI bits = std::bit_cast<VecI>(n + broadcast(12582912.0F + 127.0F)) << 23;
  return p * std::bit_cast<VecF>(bits);
}
inline VecF clamp(VecF x, float low, float high) {
  x = x < broadcast(low) ? broadcast(low) : x;
  return x > broadcast(high) ? broadcast(high) : x;
}
#endif

// 2^x; 0 below the smallest (normal or denormal) float, infinity from 128 on, NaN for NaN.
inline VecF exp2(VecF x) {
#if defined(ADDER_AVX512)
  const VecF f = (VecF)_mm512_maskz_reduce_ps(kAllLanes, (__m512)x, 0x08);
  // f = x - round(x), and 0 for infinities
  return scale_by_power(exp2_fraction(f), round_nearest(x));
#else
  x = clamp(x, -127.0F, 128.0F);
  const VecF n = round_nearest(x);
  return scale_by_power(exp2_fraction(x - n), n);
#endif
}

// e^x, with the argument reduced in two parts so that the error does not grow with |x|.
inline VecF exp(VecF x) {
  const VecF c = clamp(x, -104.0F, 89.0F);
  const VecF n = round_nearest(c * broadcast(1.44269504F));
  VecF r = mul_add(n, broadcast(-0.693359375F), c);
  r = mul_add(n, broadcast(2.12194440e-4F), r);
  const VecF p = exp_fraction(r);
#if defined(ADDER_AVX512)
  return scale_by_power(p, n);
#else
  // In two steps: 2^128 alone would overflow too early, and 2^-150 has no exponent.
  const VecF half = round_nearest(n * broadcast(0.5F));
  return scale_by_power(scale_by_power(p, half), n - half);
#endif
}

// log(1 + e) for 0 <= e <= 1: 2 artanh(e / (2 + e)), whose series in the square converges fast.
inline VecF log1p_unit(VecF e) {
  const VecF s = e / (broadcast(2.0F) + e);
  const VecF q = s * s;
  VecF p = mul_add(q, broadcast(1.2144779187e-1F), broadcast(1.0715370450e-1F));
  p = mul_add(q, p, broadcast(1.4308298360e-1F));
  p = mul_add(q, p, broadcast(1.9999444178e-1F));
  p = mul_add(q, p, broadcast(3.3333337775e-1F));
  return (s + s) * mul_add(q, p, broadcast(1.0F));
}

template <typename F>
inline VecD each_lane(VecD x, const F& f) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = f(x[i]);
  return x;
}
inline VecD exp2(VecD x) {
  return each_lane(x, [](double v) { return std::exp2(v); });
}
inline VecD exp(VecD x) {
  return each_lane(x, [](double v) { return std::exp(v); });
}

// log(1 + e^x), and x itself beyond 20.
inline VecF softplus(VecF x) {
  const VecF zero{};
  const VecF magnitude = x < zero ? -x : x;
  const VecF smooth = (x > zero ? x : zero) + log1p_unit(exp(-magnitude));
  return x > broadcast(20.0F) ? x : smooth;
}
inline VecD softplus(VecD x) {
  return each_lane(x, [](double v) { return v > 20.0 ? v : std::log1p(std::exp(v)); });
}

template <typename V>
inline V sigmoid(V x) {
  const V one = V{} + 1;
  return one / (one + exp(-x));
}
template <typename V>
inline V silu(V x) {
  return x * sigmoid(x);
}
// The derivative of silu, from x and sigmoid(x).
template <typename V>
inline V silu_slope(V x, V sigmoid_x) {
  const V one = V{} + 1;
  return sigmoid_x * (one + x * (one - sigmoid_x));
}

}  // namespace adder::cpu
