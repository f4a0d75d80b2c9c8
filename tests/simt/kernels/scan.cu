// A selective scan as the product's is built, small: a thread owns a channel and its states and
// walks the sequence; the block's channels share tiles of B and C, fetched asynchronously one
// ahead.
#include "cuda/portable.h"
#include "tests/simt/kernels/kernels.h"

namespace simt_test {
namespace {

using namespace adder::cuda;

constexpr float kLog2E = 1.4426950408889634F;

// Fetches steps [first, first + kTile) of one batch element; steps beyond the end become 0.
template <int N, int kTile>
__device__ void fetch_tile(float* tile, const float* source, int first, int length) {
  constexpr int kChunks = kTile * N / 4;
  const int left = (length - first) * N * 4;  // bytes
  for (int i = static_cast<int>(threadIdx.x); i < kChunks; i += static_cast<int>(blockDim.x)) {
    const int valid = min(16, max(0, left - i * 16));
    const float* from = valid > 0 ? source + static_cast<std::size_t>(first) * N + i * 4 : source;
    cp_async_16(tile + i * 4, from, static_cast<unsigned>(valid));
  }
}

template <int N, int kTile, int kBlock>
__global__ void __launch_bounds__(kBlock)
    scan_kernel(const float* __restrict__ x, const float* __restrict__ dt,
                const float* __restrict__ A, const float* __restrict__ B,
                const float* __restrict__ C, const float* __restrict__ D, float* __restrict__ y,
                ScanShape shape) {
  ADDER_SHARED(float, shared);
  constexpr int kBuffer = 2 * kTile * N;  // B's tile, then C's
  const int d = static_cast<int>(blockIdx.x) * kBlock + static_cast<int>(threadIdx.x);
  const int b = static_cast<int>(blockIdx.y);
  const int length = shape.length;
  const bool mine = d < shape.channels;  // the others still fetch, and wait at barriers
  const float* b_rows = B + static_cast<std::size_t>(b) * length * N;
  const float* c_rows = C + static_cast<std::size_t>(b) * length * N;

  float a[N];
  float h[N];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    a[n] = mine ? A[d * N + n] * kLog2E : 0.0F;
    h[n] = 0.0F;
  }
  const float skip = mine ? D[d] : 0.0F;

  fetch_tile<N, kTile>(shared, b_rows, 0, length);
  fetch_tile<N, kTile>(shared + kTile * N, c_rows, 0, length);
  cp_async_commit();
  int current = 0;
  for (int first = 0; first < length; first += kTile) {
    if (first + kTile < length) {
      float* next = shared + (1 - current) * kBuffer;
      fetch_tile<N, kTile>(next, b_rows, first + kTile, length);
      fetch_tile<N, kTile>(next + kTile * N, c_rows, first + kTile, length);
    }
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    const float* tile = shared + current * kBuffer;
    for (int s = 0; mine && s < kTile && first + s < length; ++s) {
      const std::size_t at =
          (static_cast<std::size_t>(b) * length + first + s) * shape.channels + d;
      const float u = x[at];
      const float step = dt[at];
      float sum = skip * u;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        h[n] = fast_exp2(step * a[n]) * h[n] + step * u * tile[s * N + n];
        sum += h[n] * tile[kTile * N + s * N + n];
      }
      y[at] = sum;
    }
    __syncthreads();
    current = 1 - current;
  }
}

}  // namespace

void scan(const float* x, const float* dt, const float* A, const float* B, const float* C,
          const float* D, float* y, ScanShape shape, cudaStream_t stream) {
  constexpr int kStates = 16;
  constexpr int kTile = 32;
  constexpr int kBlock = 64;
  const dim3 grid(static_cast<unsigned>((shape.channels + kBlock - 1) / kBlock),
                  static_cast<unsigned>(shape.batch));
  ADDER_LAUNCH((scan_kernel<kStates, kTile, kBlock>), grid, kBlock,
               4 * kTile * kStates * sizeof(float), stream, x, dt, A, B, C, D, y, shape);
}

}  // namespace simt_test
