// Four neighbouring values at once: one access of 16 bytes in float32, of 8 in bfloat16. Private to
// cuda/.
#pragma once

#include "cuda/portable.h"
#include "engine/tensor.h"

namespace adder::cuda {

template <typename T>
struct Quad;
template <>
struct alignas(16) Quad<float> {
  float v[4];

  __device__ void set(int k, float value) { v[k] = value; }
  __device__ float get(int k) const { return v[k]; }
};
// In words, as nvcc would give every 16-bit member a register of its own.
template <>
struct alignas(8) Quad<BFloat16> {
  std::uint32_t word[2];

  __device__ void set(int k, BFloat16 value) {
    const std::uint32_t bits = value.bits;
    word[k / 2] =
        k % 2 == 0 ? (word[k / 2] & 0xffff0000U) | bits : (word[k / 2] & 0xffffU) | bits << 16U;
  }
  __device__ BFloat16 get(int k) const {
    BFloat16 value;
    value.bits = static_cast<std::uint16_t>(word[k / 2] >> (k % 2 * 16U));
    return value;
  }
};

__device__ __forceinline__ Quad<float> floats(const Quad<float>& from) {
  return from;
}
__device__ __forceinline__ Quad<float> floats(const Quad<BFloat16>& from) {
  Quad<float> to;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const std::uint32_t word = from.word[k / 2];
    const std::uint32_t bits = k % 2 == 0 ? word << 16U : word & 0xffff0000U;
    std::memcpy(&to.v[k], &bits, sizeof bits);
  }
  return to;
}
template <typename T>
__device__ __forceinline__ Quad<T> stored(const float (&from)[4]) {
  Quad<T> to = {};
#pragma unroll
  for (int k = 0; k < 4; ++k) to.set(k, from_float<T>(from[k]));
  return to;
}

template <typename T>
__device__ __forceinline__ Quad<T> load_aligned(const T* from) {
  return load_vector<Quad<T>>(from);
}
template <typename T>
__device__ __forceinline__ void store_aligned(T* to, const Quad<T>& quad) {
  store_vector(to, quad);
}

// The first `count` of four values, zeros behind them; with kVector, count is a multiple of 4 and
// the address is aligned.
template <bool kVector, typename T>
__device__ __forceinline__ Quad<T> load_quad(const T* from, int count) {
  Quad<T> quad = {};
  if constexpr (kVector) {
    if (count > 0) quad = load_aligned(from);
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k < count) quad.set(k, from[k]);
    }
  }
  return quad;
}
template <bool kVector, typename T>
__device__ __forceinline__ void store_quad(T* to, int count, const Quad<T>& quad) {
  if constexpr (kVector) {
    if (count > 0) store_aligned(to, quad);
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k < count) to[k] = quad.get(k);
    }
  }
}

// Whether every four values of every row can be had in one access: rows a multiple of four long,
// base and distances aligned. An undefined tensor stops nobody.
inline bool in_quads(std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* t : tensors) {
    if (!t->defined() || t->rank() == 0) continue;
    const std::int64_t size = dtype_size(t->dtype());
    if (t->dim(t->rank() - 1) % 4 != 0) return false;
    if (reinterpret_cast<std::uintptr_t>(t->raw()) % static_cast<std::uintptr_t>(4 * size) != 0) {
      return false;
    }
    for (int axis = 0; axis + 1 < t->rank(); ++axis) {
      if (t->dim(axis) > 1 && t->stride(axis) % 4 != 0) return false;
    }
  }
  return true;
}

// Calls f(true_type) or f(false_type).
template <typename F>
void dispatch_bool(bool value, const F& f) {
  value ? f(std::true_type{}) : f(std::false_type{});
}

}  // namespace adder::cuda
