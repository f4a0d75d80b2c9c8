// The device side of CUDA for host code: what a kernel's body may name. Functions that wait take
// the place they were called from, so that a deadlock's report can say where everyone stands.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "simt/vector_types.h"

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
// A static array would neither be poisoned per block nor have red zones around it.
#define __shared__ static_assert(false, "shared memory is dynamic only: ADDER_SHARED(T, name)");

namespace simt {

// Where a thread waits.
struct Site {
  const char* what;
  const char* file;
  int line;
};

extern uint3 current_thread;
extern uint3 current_block;
extern dim3 current_block_extent;
extern dim3 current_grid_extent;

void barrier(Site site);
std::uint64_t warp_exchange(Site site, std::uint64_t value, unsigned source_lane);
unsigned warp_vote(Site site, bool value);
void warp_barrier(Site site);
unsigned lane();
void* shared_memory();
[[noreturn]] void kernel_error(const std::string& message);  // names kernel, block and thread

// A copy that arrives at the wait and not before; until then its destination holds NaN bytes.
void copy_async(void* shared, const void* global, unsigned bytes, unsigned valid, Site site);
void copy_commit();
void copy_wait(unsigned groups_that_may_remain);
void check_alignment(const void* pointer, std::size_t bytes, const char* what);

template <typename T>
T exchange(Site site, T value, unsigned source_lane) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "warp shuffles move 4 or 8 bytes");
  static_assert(std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_exchange(site, bits, source_lane);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace simt

// The values of the thread that runs; reading is all a kernel may do.
inline const uint3& threadIdx = simt::current_thread;
inline const uint3& blockIdx = simt::current_block;
inline const dim3& blockDim = simt::current_block_extent;
inline const dim3& gridDim = simt::current_grid_extent;
inline constexpr int warpSize = 32;

#define SIMT_SITE_PARAMETERS const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SIMT_SITE_PARAMETERS) {
  simt::barrier({"__syncthreads", file, line});
}
inline void __syncwarp(unsigned mask = 0xffffffffU, SIMT_SITE_PARAMETERS) {
  if (mask != 0xffffffffU) simt::kernel_error("__syncwarp of a part of the warp");
  simt::warp_barrier({"__syncwarp", file, line});
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// Lanes outside the warp: a shuffle up or down gives such a lane its own value, as on hardware.
namespace simt {

template <typename T>
T warp_shfl(T value, int source, SIMT_SITE_PARAMETERS) {
  return exchange({"warp_shfl", file, line}, value, static_cast<unsigned>(source) & 31U);
}
template <typename T>
T warp_shfl_down(T value, unsigned offset, SIMT_SITE_PARAMETERS) {
  const unsigned source = lane() + offset;
  return exchange({"warp_shfl_down", file, line}, value, source < 32 ? source : lane());
}
template <typename T>
T warp_shfl_up(T value, unsigned offset, SIMT_SITE_PARAMETERS) {
  const unsigned self = lane();
  return exchange({"warp_shfl_up", file, line}, value, offset <= self ? self - offset : self);
}
template <typename T>
T warp_shfl_xor(T value, unsigned lane_mask, SIMT_SITE_PARAMETERS) {
  const unsigned source = lane() ^ lane_mask;
  return exchange({"warp_shfl_xor", file, line}, value, source < 32 ? source : lane());
}
inline unsigned warp_ballot(bool value, SIMT_SITE_PARAMETERS) {
  return warp_vote({"warp_ballot", file, line}, value);
}
inline void warp_sync(SIMT_SITE_PARAMETERS) {
  warp_barrier({"warp_sync", file, line});
}

}  // namespace simt

// --- atomics: plain, since one thread runs at a time ---------------------------------------------
namespace simt {

void begin_atomic();
void end_atomic();
// Tells the race detector.
struct Atomic {
  Atomic() { begin_atomic(); }
  ~Atomic() { end_atomic(); }
};
template <typename T, typename Update>
T update(T* address, Update new_value) {
  const Atomic atomic;
  const T old = *address;
  *address = new_value(old);
  return old;
}

}  // namespace simt

template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return simt::update(address, [=](T old) { return old + value; });
}
template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return simt::update(address, [=](T old) { return old < value ? value : old; });
}
template <typename T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return simt::update(address, [=](T old) { return value < old ? value : old; });
}
template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return simt::update(address, [=](T) { return value; });
}
template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return simt::update(address, [=](T old) { return old == expected ? value : old; });
}

// --- intrinsics ----------------------------------------------------------------------------------
template <typename T>
T __ldg(const T* address) {
  return *address;
}
inline int __float_as_int(float x) {
  return std::bit_cast<int>(x);
}
inline unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}
inline float __int_as_float(int x) {
  return std::bit_cast<float>(x);
}
inline float __uint_as_float(unsigned x) {
  return std::bit_cast<float>(x);
}
inline int __popc(unsigned x) {
  return std::popcount(x);
}
inline int __clz(int x) {
  return std::countl_zero(static_cast<unsigned>(x));
}
inline int __ffs(int x) {
  return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((std::uint64_t{a} * b) >> 32U);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __frcp_rn(float a) {
  return 1.0F / a;
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fmaf(a, b, c);
}
inline float rsqrtf(float x) {
  return 1.0F / std::sqrt(x);
}

// CUDA has these in the global namespace, for any two arithmetic types.
template <typename A, typename B>
requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <typename A, typename B>
requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}
