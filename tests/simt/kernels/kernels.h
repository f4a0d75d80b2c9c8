// Kernels that the emulator is tested with, by their launching functions.
#pragma once

#include <cstddef>
#include <cuda_runtime.h>

namespace simt_test {

struct ScanShape {
  int batch, length, channels;
};

// correct.cu
void block_sums(const float* x, float* sums, int n, int block, cudaStream_t stream);
void warp_reduce_scatter(const float* x, float* sums, int warps, cudaStream_t stream);
void exchange_in_warp(const double* x, double* out, unsigned* ballot, cudaStream_t stream);
void write_places(int* out, dim3 grid, dim3 block, cudaStream_t stream);
void scale(const float* x, float* y, int n, float factor, cudaStream_t stream);
void round_trip_bf16(const float* x, float* y, int n, cudaStream_t stream);

// scan.cu: h = exp(dt A) h + dt B x; y = C h + D x, for 16 states; (B, L, D) and (B, L, N) layout.
void scan(const float* x, const float* dt, const float* A, const float* B, const float* C,
          const float* D, float* y, ScanShape shape, cudaStream_t stream);

// planted.cu: each has one mistake.
void missing_barrier(float* y, int block, cudaStream_t stream);
void shared_overrun(float* y, int block, cudaStream_t stream);
void global_overrun(float* y, int n, cudaStream_t stream);
void divergent_shuffle(float* y, cudaStream_t stream);
void shuffle_after_exit(float* y, cudaStream_t stream);
void shuffle_and_barrier(float* y, cudaStream_t stream);
void shuffle_in_partial_warp(float* y, cudaStream_t stream);
void barrier_after_exit(float* y, cudaStream_t stream);
void different_barriers(float* y, cudaStream_t stream);
void missing_wait(const float* x, float* y, cudaStream_t stream);
void early_copy(const float* x, float* y, cudaStream_t stream);
void misaligned_copy(const float* x, float* y, cudaStream_t stream);
void uninitialised_shared(float* y, int block, cudaStream_t stream);
void no_shared_memory(float* y, cudaStream_t stream);
void block_order(int* y, int blocks, cudaStream_t stream);
void same_element(int* y, bool atomically, cudaStream_t stream);
void lanes_in_step(float* y, bool synchronised, cudaStream_t stream);
void throws(float* y, cudaStream_t stream);

// Launches of nothing with these extents, for the checks of the launch itself.
void launch_nothing(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream);
cudaError_t allow_shared(int bytes);
void barriers_only(int block, int rounds, cudaStream_t stream);

}  // namespace simt_test
