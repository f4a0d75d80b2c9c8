// Matrix products and bandwidth-bound matrix-vector products.
#pragma once

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

// c = alpha * op(a) op(b) + beta * c, where op transposes when the flag is set. The product of two
// bfloat16 matrices may be bfloat16 or float32; it is accumulated in float32.
struct MatmulArgs {
  Tensor a;  // (M, K), or (K, M) when trans_a; rows may be strided, columns dense
  Tensor b;  // (K, N), or (N, K) when trans_b; may be bf16/f16 beside float32 a (widened inside)
  Tensor c;  // (M, N)
  bool trans_a = false;
  bool trans_b = false;
  double alpha = 1;
  double beta = 0;  // 0: c is not read, so it may be uninitialised
};

ADDER_KERNEL(matmul, MatmulArgs);

// The library behind float32 products: "oneDNN 2.6.3", "BLIS", "OpenBLAS" or "Eigen 3.4.0".
const char* matmul_library();

}  // namespace adder
