// Short vectors for CPU kernels, on the vector extensions that GCC and clang share.
//
// Vec<T> is the widest vector of the instruction set the file is compiled for. Arithmetic and
// comparisons are the language's own operators, lane by lane; mul_add contracts to one instruction.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__) && defined(__AVX512DQ__)
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
// The same past the caches, for results larger than they are: memory need not be read first. p is
// aligned to the vector. Each thread ends with streamed(), before others read.
template <typename T>
inline void stream(T* p, Vec<T> v) {
#if defined(ADDER_AVX512)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)v);
#else
  store(p, v);
#endif
}
inline void streamed() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}
// Asks for the cache line `ahead` bytes after p; any address will do.
inline void prefetch(const void* p, std::int64_t ahead) {
  __builtin_prefetch(static_cast<const char*>(p) + ahead);
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
namespace detail {
template <typename V, int... kLane>
inline auto sum_halves(V v, std::integer_sequence<int, kLane...>) {
  constexpr int kHalf = sizeof...(kLane);
  if constexpr (kHalf == 1) {
    return v[0] + v[1];
  } else {
    // Shuffles stay in registers; going through an array costs a hundred cycles of forwarding.
    return sum_halves(
        __builtin_shufflevector(v, v, kLane...) + __builtin_shufflevector(v, v, (kLane + kHalf)...),
        std::make_integer_sequence<int, kHalf / 2>{});
  }
}
}  // namespace detail

// In a fixed order: pairs of halves.
template <typename T>
inline T sum_lanes(Vec<T> v) {
  return detail::sum_halves(v, std::make_integer_sequence<int, kLanes<T> / 2>{});
}

}  // namespace adder::cpu
