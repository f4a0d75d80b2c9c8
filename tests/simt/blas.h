// Matrix products as the stand-ins for cuBLAS and cuBLASLt keep them: column major, in float64.
#pragma once

#include "cublas_v2.h"
#include "tests/simt/internal.h"

namespace simt {

struct Matrix {
  const void* data;
  cudaDataType type;
  int pitch;  // the leading dimension
  long long stride;
  bool transposed;
};

struct Product {
  int m, n, k, batch;
  Matrix a, b, c;
  double alpha, beta;
  const float* alpha_on_device;  // null: the values above
  const float* beta_on_device;
};

// Whether sizes and pitches make matrices.
bool fits(const Product& p);
bool storage_is_supported(const Product& p);
// Computes it when the stream gets there.
cublasStatus_t submit_product(cudaStream_t stream, const Product& p);

}  // namespace simt
