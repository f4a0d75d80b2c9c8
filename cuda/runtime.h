// What every CUDA kernel file needs of the device: its stream, error checks, launch shapes. Private
// to cuda/.
#pragma once

#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include "cuda/portable.h"
#include "engine/tensor.h"

namespace adder::cuda {

// Kernels, copies and products of a device all go to this one stream, so they run in the order they
// were asked for and freed memory can be handed out again at once.
cudaStream_t stream(Device device);

// The handles of cuBLAS, and memory for either's products: one buffer serves all of them, because
// they run one after the other.
struct Blas {
  cublasHandle_t handle = nullptr;
  cublasLtHandle_t lt = nullptr;
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};
const Blas& blas(Device device);

// Throws DeviceError "<what>: <CUDA's name and text>; last launched: a, b, c".
void check(cudaError_t status, const char* what);
void check(cublasStatus_t status, const char* what);

int multiprocessors(Device device);

// Lets a kernel have more dynamic shared memory than the 48 KB that need no permission. Throws
// DeviceError when the device has less.
void allow_shared(const void* kernel, std::size_t bytes);

// Calls f(float{}) or f(BFloat16{}); throws DtypeError for other types.
template <typename F>
void dispatch_storage(const char* place, Dtype dtype, const F& f) {
  if (dtype == Dtype::f32) return f(float{});
  if (dtype == Dtype::bf16) return f(BFloat16{});
  throw DtypeError(str(place, ": ", dtype_name(dtype), " on CUDA, expected float32 or bfloat16"));
}

inline int blocks_for(std::int64_t count, std::int64_t per_block) {
  return static_cast<int>((count + per_block - 1) / per_block);
}

}  // namespace adder::cuda
