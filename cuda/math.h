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
  return fast_rcp(1.0F + fast_exp(-x));
}
// log(1 + e) for e in [0, 1], within 2e-7 of itself however small e is: a Chebyshev fit of degree 8
// to log(1 + e) / e. It spares the special-function unit, which limits the scan.
__device__ inline float log1p_unit(float e) {
  float r = 0.005126102361828089F;
  r = r * e - 0.029074065387248993F;
  r = r * e + 0.0775160863995552F;
  r = r * e - 0.13602247834205627F;
  r = r * e + 0.19076880812644958F;
  r = r * e - 0.2483539879322052F;
  r = r * e + 0.3331812024116516F;
  r = r * e - 0.4999944567680359F;
  r = r * e + 0.9999999403953552F;
  return r * e;
}
// The identity beyond 20, as in PyTorch: what is added there is below half a unit in the last
// place.
__device__ inline float softplus(float x) {
  return fmaxf(x, 0.0F) + log1p_unit(fast_exp(-fabsf(x)));
}
// The slope of softplus is the sigmoid; one exponential serves both.
__device__ inline float softplus(float x, float& slope) {
  const float e = fast_exp(-fabsf(x));
  const float r = fast_rcp(1.0F + e);
  slope = x >= 0 ? r : e * r;
  return fmaxf(x, 0.0F) + log1p_unit(e);
}
__device__ inline float softplus_slope(float x) {
  return sigmoid(x);
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
