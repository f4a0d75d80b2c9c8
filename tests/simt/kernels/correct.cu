#include "cuda/portable.h"
#include "tests/simt/kernels/kernels.h"

namespace simt_test {
namespace {

using namespace adder::cuda;

__device__ float warp_sum(float v) {
#pragma unroll
  for (unsigned offset = 16; offset > 0; offset /= 2) v += warp_shfl_down(v, offset);
  return v;
}

// One value per block: shuffles within warps, then the first warp over the warps' sums.
template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    block_sum_kernel(const float* __restrict__ x, float* __restrict__ sums, int n) {
  ADDER_SHARED(float, partial);
  const int t = static_cast<int>(threadIdx.x);
  const int i = static_cast<int>(blockIdx.x) * kBlock + t;
  const float sum = warp_sum(i < n ? __ldg(x + i) : 0.0F);
  if (t % warpSize == 0) partial[t / warpSize] = sum;
  __syncthreads();
  if (t < warpSize) {
    const float total = warp_sum(t < kBlock / warpSize ? partial[t] : 0.0F);
    if (t == 0) sums[blockIdx.x] = total;
  }
}

// Halves the number of values a lane holds and doubles the lanes summed over, 16 + 8 + 4 + 2 + 1 =
// 31 shuffles: lane i ends with the warp's sum of value i. Recursion, because nvcc does not unroll
// the loop and would put `v` into local memory.
template <int kWidth>
struct ReduceScatter {
  static __device__ void run(float* v, unsigned lane) {
    const bool upper = (lane & kWidth) != 0;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float given = upper ? v[i] : v[i + kWidth];
      const float kept = upper ? v[i + kWidth] : v[i];
      v[i] = kept + warp_shfl_xor(given, kWidth);
    }
    ReduceScatter<kWidth / 2>::run(v, lane);
  }
};
template <>
struct ReduceScatter<0> {
  static __device__ void run(float* /*v*/, unsigned /*lane*/) {}
};

// x is (warps, 32 lanes, 32 values).
__global__ void reduce_scatter_kernel(const float* x, float* sums) {
  const unsigned lane = threadIdx.x % 32;
  const unsigned warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  float v[32];
  for (int i = 0; i < 32; ++i) v[i] = x[(warp * 32 + lane) * 32 + i];
  ReduceScatter<16>::run(v, lane);
  sums[warp * 32 + lane] = v[0];
}

__global__ void exchange_kernel(const double* x, double* out, unsigned* ballot) {
  const unsigned t = threadIdx.x;
  const double v = x[t];
  out[t] = warp_shfl_down(v, 1);
  out[32 + t] = warp_shfl_up(v, 2);
  out[64 + t] = warp_shfl(v, 5);
  const float2 pair = warp_shfl_xor(make_float2(static_cast<float>(v), 1.0F), 3);
  out[96 + t] = pair.x + pair.y;
  const unsigned odd = warp_ballot(t % 2 == 1);
  warp_sync();
  if (t == 0) *ballot = odd;
}

__global__ void places_kernel(int* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  atomicAdd(&out[block * threads + thread], static_cast<int>(block * threads + thread));
}

// Changes its own copy of an argument, which no other thread may see.
__global__ void scale_kernel(const float* x, float* y, int n, float factor) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  factor *= x[i];
  y[i] = factor;
}

__global__ void round_trip_kernel(const float* x, float* y, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i * 4 >= n) return;
  float4 v = load_streaming(reinterpret_cast<const float4*>(x) + i);
  v.x = to_float(from_float<adder::BFloat16>(v.x));
  v.y = to_float(from_float<adder::BFloat16>(v.y));
  v.z = to_float(from_float<float>(v.z));
  v.w = fast_rcp(fast_exp2(fast_log2(v.w)));
  store_streaming(reinterpret_cast<float4*>(y) + i, v);
}

dim3 blocks_for(int n, int block) {
  return {static_cast<unsigned>((n + block - 1) / block)};
}

}  // namespace

void block_sums(const float* x, float* sums, int n, int block, cudaStream_t stream) {
  const std::size_t bytes = 32 * sizeof(float);
  if (block == 64) {
    ADDER_LAUNCH(block_sum_kernel<64>, blocks_for(n, 64), 64, bytes, stream, x, sums, n);
  } else {
    ADDER_LAUNCH((block_sum_kernel<256>), blocks_for(n, 256), 256, bytes, stream, x, sums, n);
  }
}

void warp_reduce_scatter(const float* x, float* sums, int warps, cudaStream_t stream) {
  ADDER_LAUNCH(reduce_scatter_kernel, (warps + 1) / 2, 64, 0, stream, x, sums);
}

void exchange_in_warp(const double* x, double* out, unsigned* ballot, cudaStream_t stream) {
  ADDER_LAUNCH(exchange_kernel, 1, 32, 0, stream, x, out, ballot);
}

void write_places(int* out, dim3 grid, dim3 block, cudaStream_t stream) {
  ADDER_LAUNCH(places_kernel, grid, block, 0, stream, out);
}

void scale(const float* x, float* y, int n, float factor, cudaStream_t stream) {
  ADDER_LAUNCH(scale_kernel, blocks_for(n, 128), 128, 0, stream, x, y, n, factor);
}

void round_trip_bf16(const float* x, float* y, int n, cudaStream_t stream) {
  ADDER_LAUNCH(round_trip_kernel, blocks_for(n, 128), 32, 0, stream, x, y, n);
}

}  // namespace simt_test
