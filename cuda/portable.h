// The only place where a kernel's two builds differ: nvcc for a GPU, and the host's C++ compiler
// with the emulator of tests/simt/ in the CUDA Toolkit's place. Kernels use these names and plain
// CUDA; docs/simt.md has the rules that keep them emulatable.
#pragma once

#include <cstdint>
#include <cstring>
#include <cuda_runtime.h>
#include <type_traits>

#include "engine/dtype.h"

namespace adder::cuda {

// Throws DeviceError when the launch before it was refused. Called by ADDER_LAUNCH.
void check_launch(const char* kernel_name);

}  // namespace adder::cuda

// ADDER_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...) launches and checks. A
// kernel whose template arguments hold a comma stands in parentheses: (scan_kernel<float, 16>).
//
// ADDER_SHARED(T, name) makes `name` a T* to the block's dynamic shared memory, 16-byte aligned. It
// is the only shared memory there is.
#if defined(ADDER_SIMT_EMULATOR)

#define ADDER_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                              \
  (::simt::launch(#kernel, kernel, grid, block, shared_bytes, stream __VA_OPT__(, ) __VA_ARGS__), \
   ::adder::cuda::check_launch(#kernel))
#define ADDER_SHARED(T, name) T* const name = static_cast<T*>(::simt::shared_memory())

#elif defined(__CUDACC__)

#define ADDER_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)    \
  do {                                                                  \
    kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__); \
    ::adder::cuda::check_launch(#kernel);                               \
  } while (false)
#define ADDER_SHARED(T, name)                                         \
  extern __shared__ __align__(16) unsigned char adder_shared_bytes[]; \
  T* const name = reinterpret_cast<T*>(adder_shared_bytes)

#endif

// --- device functions ----------------------------------------------------------------------------
// warp_*: full-mask collectives on values of 4 or 8 bytes, to be reached by all 32 lanes. A lane
//   outside the warp gives warp_shfl_up and warp_shfl_down the caller's own value.
// fast_*: the special-function unit's approximations (2 ulp or so; denormals become 0).
// sin_cos_pi: sine and cosine of pi x, in the full accuracy of the type.
// load_streaming, store_streaming: 16 bytes that nobody reads again soon.
// load_vector<T>, store_vector: T's 8 or 16 bytes in one access, which must be aligned.
// cp_async_16(shared, global, valid): copies to shared memory without registers; bytes from `valid`
//   on become 0 and are not read. What a thread issued since its last cp_async_commit is a group;
//   cp_async_wait<N> returns when at most N of its groups are under way. Others see it only after a
//   barrier.
// to_float, from_float: between storage and the float32 that kernels compute in.
#if defined(ADDER_SIMT_EMULATOR)

namespace adder::cuda {

using ::simt::warp_ballot;
using ::simt::warp_shfl;
using ::simt::warp_shfl_down;
using ::simt::warp_shfl_up;
using ::simt::warp_shfl_xor;
using ::simt::warp_sync;

inline float fast_exp2(float x) {
  return std::exp2(x);
}
inline float fast_log2(float x) {
  return std::log2(x);
}
inline float fast_rcp(float x) {
  return 1.0F / x;
}
inline void sin_cos_pi(double x, double* sine, double* cosine) {
  *sine = std::sin(3.14159265358979323846 * x);
  *cosine = std::cos(3.14159265358979323846 * x);
}
inline void sin_cos_pi(float x, float* sine, float* cosine) {
  double wide[2];
  sin_cos_pi(static_cast<double>(x), &wide[0], &wide[1]);
  *sine = static_cast<float>(wide[0]);
  *cosine = static_cast<float>(wide[1]);
}

template <typename T>
T load_vector(const void* address) {
  ::simt::check_alignment(address, sizeof(T), "load");
  T value;
  std::memcpy(&value, address, sizeof(T));
  return value;
}
template <typename T>
void store_vector(void* address, const T& value) {
  ::simt::check_alignment(address, sizeof(T), "store");
  std::memcpy(address, &value, sizeof(T));
}
template <typename T>
T load_streaming(const T* address) {
  static_assert(sizeof(T) == 16 && std::is_trivially_copyable_v<T>);
  ::simt::check_alignment(address, 16, "load");
  return *address;
}
template <typename T>
void store_streaming(T* address, const T& value) {
  static_assert(sizeof(T) == 16 && std::is_trivially_copyable_v<T>);
  ::simt::check_alignment(address, 16, "store");
  *address = value;
}

inline void cp_async_16(void* shared, const void* global, unsigned valid = 16,
                        const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  ::simt::copy_async(shared, global, 16, valid, {"cp_async_16", file, line});
}
inline void cp_async_commit() {
  ::simt::copy_commit();
}
template <int N>
void cp_async_wait() {
  ::simt::copy_wait(N);
}

inline float to_float(float x) {
  return x;
}
inline float to_float(BFloat16 x) {
  return static_cast<float>(x);
}
template <typename T>
T from_float(float x) {
  return T(x);
}

}  // namespace adder::cuda

#elif defined(__CUDACC__)

namespace adder::cuda {

// Shuffles any 4 or 8 bytes as an unsigned integer.
template <typename T, typename Shuffle>
__device__ __forceinline__ T shuffle_bits(const T& value, Shuffle shuffle) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "warp shuffles move 4 or 8 bytes");
  std::conditional_t<sizeof(T) == 4, unsigned, unsigned long long> bits;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(bits);
  T result;
  std::memcpy(&result, &bits, sizeof(T));
  return result;
}
template <typename T>
__device__ __forceinline__ T warp_shfl(T value, int source) {
  return shuffle_bits(value, [=](auto v) { return __shfl_sync(0xffffffffU, v, source); });
}
template <typename T>
__device__ __forceinline__ T warp_shfl_down(T value, unsigned offset) {
  return shuffle_bits(value, [=](auto v) { return __shfl_down_sync(0xffffffffU, v, offset); });
}
template <typename T>
__device__ __forceinline__ T warp_shfl_up(T value, unsigned offset) {
  return shuffle_bits(value, [=](auto v) { return __shfl_up_sync(0xffffffffU, v, offset); });
}
template <typename T>
__device__ __forceinline__ T warp_shfl_xor(T value, unsigned lane_mask) {
  const int mask = static_cast<int>(lane_mask);
  return shuffle_bits(value, [=](auto v) { return __shfl_xor_sync(0xffffffffU, v, mask); });
}
__device__ __forceinline__ unsigned warp_ballot(bool value) {
  return __ballot_sync(0xffffffffU, value);
}
__device__ __forceinline__ void warp_sync() {
  __syncwarp();
}

__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float fast_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float fast_rcp(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ void sin_cos_pi(float x, float* sine, float* cosine) {
  sincospif(x, sine, cosine);
}
__device__ __forceinline__ void sin_cos_pi(double x, double* sine, double* cosine) {
  sincospi(x, sine, cosine);
}

template <typename T>
using VectorBits = std::conditional_t<sizeof(T) == 16, uint4, uint2>;
template <typename T>
__device__ __forceinline__ T load_vector(const void* address) {
  static_assert(sizeof(T) == sizeof(VectorBits<T>));
  const VectorBits<T> bits = *static_cast<const VectorBits<T>*>(address);
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
template <typename T>
__device__ __forceinline__ void store_vector(void* address, const T& value) {
  VectorBits<T> bits;
  std::memcpy(&bits, &value, sizeof(T));
  *static_cast<VectorBits<T>*>(address) = bits;
}
template <typename T>
__device__ __forceinline__ T load_streaming(const T* address) {
  static_assert(sizeof(T) == 16 && std::is_trivially_copyable_v<T>);
  const uint4 bits = __ldcs(reinterpret_cast<const uint4*>(address));
  T value;
  std::memcpy(&value, &bits, 16);
  return value;
}
template <typename T>
__device__ __forceinline__ void store_streaming(T* address, const T& value) {
  static_assert(sizeof(T) == 16 && std::is_trivially_copyable_v<T>);
  uint4 bits;
  std::memcpy(&bits, &value, 16);
  __stcs(reinterpret_cast<uint4*>(address), bits);
}

__device__ __forceinline__ void cp_async_16(void* shared, const void* global, unsigned valid = 16) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(valid)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(BFloat16 x) {
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16U);
}
template <typename T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    BFloat16 y;  // rounds to nearest, ties to even, as BFloat16(float) does on the host
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
  } else {
    return T(x);
  }
}

}  // namespace adder::cuda

#endif
