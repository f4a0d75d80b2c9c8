// Short vectors for CPU kernels, on the vector extensions that GCC and clang share.
//
// Vec<T> is the widest vector of the instruction set the file is compiled for. Arithmetic and
// comparisons are the language's own operators, lane by lane; mul_add contracts to one instruction.
// The float functions are polynomials with a relative error of a few 1e-7 at most; the double ones
// call the C library lane by lane, because double serves as the reference.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>
#include <vector>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define ADDER_AVX512 1
#endif

namespace adder::cpu {

#if defined(ADDER_AVX512)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

typedef float VecF __attribute__((vector_size(kVectorBytes)));
typedef double VecD __attribute__((vector_size(kVectorBytes)));
typedef std::int32_t VecI __attribute__((vector_size(kVectorBytes)));

template <typename T>
struct VecOf;
template <>
struct VecOf<float> {
  typedef VecF type;
};
template <>
struct VecOf<double> {
  typedef VecD type;
};
template <typename T>
using Vec = typename VecOf<T>::type;
template <typename T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// Memory for vectors: aligned so that no load straddles two cache lines.
template <typename T>
struct CacheLineAllocator {
  using value_type = T;
  CacheLineAllocator() = default;
  template <typename U>
  CacheLineAllocator(const CacheLineAllocator<U>&) {}
  T* allocate(std::size_t n) {
    return static_cast<T*>(::operator new (n * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* p, std::size_t) { ::operator delete (p, std::align_val_t{64}); }
  friend bool operator==(const CacheLineAllocator&, const CacheLineAllocator&) { return true; }
};
template <typename T>
using Scratch = std::vector<T, CacheLineAllocator<T>>;

template <typename T>
inline Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <typename T>
inline void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof v);
}
// The first `count` lanes; the others are zero, and their memory is not touched.
template <typename T>
inline Vec<T> load(const T* p, std::int64_t count) {
  if (count >= kLanes<T>) return load(p);
  Vec<T> v{};
  std::memcpy(&v, p, static_cast<std::size_t>(std::max<std::int64_t>(count, 0)) * sizeof(T));
  return v;
}
template <typename T>
inline void store(T* p, Vec<T> v, std::int64_t count) {
  if (count >= kLanes<T>) return store(p, v);
  std::memcpy(p, &v, static_cast<std::size_t>(std::max<std::int64_t>(count, 0)) * sizeof(T));
}
// `count` elements `stride` apart; the other lanes are zero.
template <typename T>
inline Vec<T> gather(const T* p, std::int64_t stride, std::int64_t count) {
  Vec<T> v{};
  for (int i = 0; i < kLanes<T> && i < count; ++i) v[i] = p[i * stride];
  return v;
}
template <typename T>
inline Vec<T> broadcast(T value) {
#if defined(ADDER_AVX512)
  if constexpr (std::is_same_v<T, float>) return (VecF)_mm512_set1_ps(value);
#endif
  return value - Vec<T>{};
}
template <typename V>
inline V mul_add(V a, V b, V c) {
  return a * b + c;
}
// In a fixed order: pairs of halves.
template <typename T>
inline T sum_lanes(Vec<T> v) {
  T lane[kLanes<T>];
  std::memcpy(lane, &v, sizeof v);
  for (int half = kLanes<T> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

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
