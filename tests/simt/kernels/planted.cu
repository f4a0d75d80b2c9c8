// Kernels with one mistake each, which the emulator must find. Never to be run on a GPU.
#include <stdexcept>

#include "cuda/portable.h"
#include "tests/simt/kernels/kernels.h"

namespace simt_test {
namespace {

using namespace adder::cuda;

// Reads what a neighbour wrote, without a barrier in between.
__global__ void missing_barrier_kernel(float* y) {
  ADDER_SHARED(float, row);
  const unsigned t = threadIdx.x;
  row[t] = static_cast<float>(t);
  y[t] = row[t == 0 ? 0 : t - 1];
}

// The launch gives one element per thread; this writes one more.
__global__ void shared_overrun_kernel(float* y) {
  ADDER_SHARED(float, row);
  const unsigned t = threadIdx.x;
  row[t + 1] = 1.0F;  // planted: one past the end for the last thread
  __syncthreads();
  y[t] = row[t];
}

__global__ void global_overrun_kernel(float* y, int n) {
  if (static_cast<int>(threadIdx.x) <= n) y[threadIdx.x] = 1.0F;  // planted: <= for <
}

// In the second warp; the first one's lanes may just then wait at a sound shuffle.
__global__ void divergent_shuffle_kernel(float* y) {
  float v = static_cast<float>(threadIdx.x);
  if (threadIdx.x < 32) v = warp_shfl_up(v, 1);
  if (threadIdx.x >= 48) v = warp_shfl_down(v, 1);
  y[threadIdx.x] = v;
  v = warp_shfl_xor(v, 1);
  y[threadIdx.x] = v;
}

__global__ void shuffle_after_exit_kernel(float* y) {
  if (threadIdx.x == 37) return;
  y[threadIdx.x] = warp_shfl(static_cast<float>(threadIdx.x), 0);
}

__global__ void shuffle_and_barrier_kernel(float* y) {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    y[threadIdx.x] = warp_shfl(1.0F, 0);
  }
}

__global__ void partial_warp_kernel(float* y) {
  y[threadIdx.x] = warp_shfl(1.0F, 0);
}

__global__ void barrier_after_exit_kernel(float* y) {
  if (threadIdx.x == 3) return;
  __syncthreads();
  y[threadIdx.x] = 1.0F;
}

__global__ void different_barriers_kernel(float* y) {
  if (threadIdx.x < 32) {
    y[threadIdx.x] = 0.0F;
    __syncthreads();
  } else {
    __syncthreads();
    y[threadIdx.x] = 1.0F;
  }
}

__global__ void missing_wait_kernel(const float* x, float* y) {
  ADDER_SHARED(float, row);
  const unsigned t = threadIdx.x;
  cp_async_16(row + 4 * t, x + 4 * t);
  cp_async_commit();
  __syncthreads();  // planted: no cp_async_wait<0>() before it
  y[t] = row[t];
}

// Fetches into a buffer that others may still be reading.
__global__ void early_copy_kernel(const float* x, float* y) {
  ADDER_SHARED(float, row);
  const unsigned t = threadIdx.x;
  row[4 * t] = row[4 * t + 1] = row[4 * t + 2] = row[4 * t + 3] = 7.0F;
  __syncthreads();
  y[t] = row[t];  // planted: no barrier between this and the copies of the others
  cp_async_16(row + 4 * t, x + 4 * t);
  cp_async_commit();
  __syncthreads();
  cp_async_wait<0>();
}

__global__ void misaligned_copy_kernel(const float* x, float* y) {
  ADDER_SHARED(float, row);
  cp_async_16(row + 4 * threadIdx.x, x + 1 + 4 * threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
  y[threadIdx.x] = row[4 * threadIdx.x];
}

__global__ void uninitialised_kernel(float* y) {
  ADDER_SHARED(float, row);
  const unsigned t = threadIdx.x;
  if (t != 5) row[t] = 1.0F;
  __syncthreads();
  y[t] = row[t];
}

__global__ void wants_shared_kernel(float* y) {
  ADDER_SHARED(float, row);
  y[threadIdx.x] = row[threadIdx.x];
}

// A block builds on what the block before it wrote.
__global__ void block_order_kernel(int* y) {
  y[blockIdx.x] = blockIdx.x == 0 ? 1 : y[blockIdx.x - 1] + 1;
}

// Two blocks write one element, or add to it.
__global__ void same_element_kernel(int* y, bool atomically) {
  if (atomically) {
    atomicAdd(y, 1);
  } else {
    *y = static_cast<int>(blockIdx.x);
  }
}

// Lanes read what their neighbours wrote, in step or not.
__global__ void lanes_in_step_kernel(float* y, bool synchronised) {
  ADDER_SHARED(float, row);
  row[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (synchronised) warp_sync();
  y[threadIdx.x] = row[threadIdx.x ^ 1U];
}

struct CountsItsEnd {
  float* y;
  __device__ ~CountsItsEnd() { *y += 1.0F; }
};

__global__ void throwing_kernel(float* y) {
  const CountsItsEnd guard{y};
#ifdef ADDER_SIMT_EMULATOR
  if (threadIdx.x == 20) throw std::runtime_error("thrown by a kernel");
#endif
  __syncthreads();
}

__global__ void empty_kernel() {}

__global__ void barriers_kernel(int rounds) {
  for (int i = 0; i < rounds; ++i) __syncthreads();
}

}  // namespace

void missing_barrier(float* y, int block, cudaStream_t stream) {
  ADDER_LAUNCH(missing_barrier_kernel, 1, block, block * sizeof(float), stream, y);
}
void shared_overrun(float* y, int block, cudaStream_t stream) {
  ADDER_LAUNCH(shared_overrun_kernel, 1, block, block * sizeof(float), stream, y);
}
void global_overrun(float* y, int n, cudaStream_t stream) {
  ADDER_LAUNCH(global_overrun_kernel, 1, 64, 0, stream, y, n);
}
void divergent_shuffle(float* y, cudaStream_t stream) {
  ADDER_LAUNCH(divergent_shuffle_kernel, 1, 64, 0, stream, y);
}
void shuffle_after_exit(float* y, cudaStream_t stream) {
  ADDER_LAUNCH(shuffle_after_exit_kernel, 1, 64, 0, stream, y);
}
void shuffle_and_barrier(float* y, cudaStream_t stream) {
  ADDER_LAUNCH(shuffle_and_barrier_kernel, dim3(1, 2), 64, 0, stream, y);
}
void shuffle_in_partial_warp(float* y, cudaStream_t stream) {
  ADDER_LAUNCH(partial_warp_kernel, 1, 48, 0, stream, y);
}
void barrier_after_exit(float* y, cudaStream_t stream) {
  ADDER_LAUNCH(barrier_after_exit_kernel, 1, 64, 0, stream, y);
}
void different_barriers(float* y, cudaStream_t stream) {
  ADDER_LAUNCH(different_barriers_kernel, 1, 64, 0, stream, y);
}
void missing_wait(const float* x, float* y, cudaStream_t stream) {
  ADDER_LAUNCH(missing_wait_kernel, 1, 32, 128 * sizeof(float), stream, x, y);
}
void early_copy(const float* x, float* y, cudaStream_t stream) {
  ADDER_LAUNCH(early_copy_kernel, 1, 32, 128 * sizeof(float), stream, x, y);
}
void misaligned_copy(const float* x, float* y, cudaStream_t stream) {
  ADDER_LAUNCH(misaligned_copy_kernel, 1, 8, 128 * sizeof(float), stream, x, y);
}
void uninitialised_shared(float* y, int block, cudaStream_t stream) {
  ADDER_LAUNCH(uninitialised_kernel, 1, block, block * sizeof(float), stream, y);
}
void no_shared_memory(float* y, cudaStream_t stream) {
  ADDER_LAUNCH(wants_shared_kernel, 1, 32, 0, stream, y);
}
void block_order(int* y, int blocks, cudaStream_t stream) {
  ADDER_LAUNCH(block_order_kernel, blocks, 1, 0, stream, y);
}
void same_element(int* y, bool atomically, cudaStream_t stream) {
  ADDER_LAUNCH(same_element_kernel, 2, 32, 0, stream, y, atomically);
}
void lanes_in_step(float* y, bool synchronised, cudaStream_t stream) {
  ADDER_LAUNCH(lanes_in_step_kernel, 1, 32, 32 * sizeof(float), stream, y, synchronised);
}
void throws(float* y, cudaStream_t stream) {
  ADDER_LAUNCH(throwing_kernel, 1, 64, 0, stream, y);
}
void launch_nothing(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream) {
  ADDER_LAUNCH(empty_kernel, grid, block, shared_bytes, stream);
}
cudaError_t allow_shared(int bytes) {
  return cudaFuncSetAttribute(empty_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}
void barriers_only(int block, int rounds, cudaStream_t stream) {
  ADDER_LAUNCH(barriers_kernel, 1, block, 0, stream, rounds);
}

}  // namespace simt_test
