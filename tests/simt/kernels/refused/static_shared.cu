#include <cuda_runtime.h>

// Must not compile under the emulator: the array would be neither poisoned nor guarded.
__global__ void static_shared_kernel(float* y) {
  __shared__ float row[32];
  row[threadIdx.x] = 0.0F;
  y[threadIdx.x] = row[threadIdx.x];
}
