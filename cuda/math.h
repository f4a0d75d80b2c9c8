// Scalar functions of the kernels, in float32. Private to cuda/.
#pragma once

#include <cmath>

#include "cuda/portable.h"
#include "engine/dtype.h"

namespace adder::cuda {

inline constexpr float kLog2e = 1.4426950408889634F;
inline constexpr float kLn2 = 0.6931471805599453F;
inline constexpr int kWarp = 32;

__device__ inline float fast_exp(float x) {
  return fast_exp2(x * kLog2e);
}
__device__ inline float sigmoid(float x) {
  return 1.0F / (1.0F + fast_exp(-x));
}
// The identity beyond 20, as in PyTorch.
__device__ inline float softplus(float x) {
  return x > 20.0F ? x : log1pf(fast_exp(x));
}
__device__ inline float softplus_slope(float x) {
  return x > 20.0F ? 1.0F : sigmoid(x);
}
__device__ inline float silu(float x) {
  return x * sigmoid(x);
}
// d silu / dx, given s = sigmoid(x).
__device__ inline float silu_slope(float x, float s) {
  return s * (1.0F + x * (1.0F - s));
}

// Sum over the lanes that differ from this one in the bits below kLanes; all of them get it.
template <int kLanes>
__device__ inline float lane_sum(float value) {
  for (int mask = kLanes / 2; mask > 0; mask /= 2) value += warp_shfl_xor(value, mask);
  return value;
}

// Sum over a block of kThreads threads, the same bits in every thread; `scratch` holds
// kThreads / 32 floats. Every thread of the block calls it.
template <int kThreads>
__device__ inline float block_sum(float value, float* scratch) {
  static_assert(kThreads % kWarp == 0);
  value = lane_sum<kWarp>(value);
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();  // scratch may still be read from the call before
  if (thread % kWarp == 0) scratch[thread / kWarp] = value;
  __syncthreads();
  float total = 0;
  for (int i = 0; i < kThreads / kWarp; ++i) total += scratch[i];
  return total;
}

}  // namespace adder::cuda
