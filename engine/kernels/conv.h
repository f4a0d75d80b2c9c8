// The causal depth-wise convolution in front of the scan, with its SiLU:
//   c_t = bias + sum_k weight[k] x_{t - K + 1 + k},   y_t = silu(c_t),   x before the start is
//   zero.
// (B, L, D) tensors have a dense last axis and may have strided rows.
#pragma once

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

struct CausalConvFwdArgs {
  Tensor x;       // (B, L, D)
  Tensor weight;  // (D, K)
  Tensor bias;    // (D), or undefined
  Tensor y;       // (B, L, D), written
};

// Recomputes c from x; dweight and dbias are skipped when undefined (frozen convolution).
struct CausalConvBwdArgs {
  Tensor x, weight, bias;
  Tensor dy;       // (B, L, D)
  Tensor dx;       // (B, L, D), overwritten, or undefined
  Tensor dweight;  // (D, K), overwritten, or undefined
  Tensor dbias;    // (D), overwritten, or undefined
};

// One token: the window of the last K inputs is shifted in place.
struct CausalConvStepArgs {
  Tensor x;       // (B, D)
  Tensor weight;  // (D, K)
  Tensor bias;    // (D) or undefined
  Tensor window;  // (B, K, D), oldest first, read and written
  Tensor y;       // (B, D)
};

ADDER_KERNEL(causal_conv_silu_fwd, CausalConvFwdArgs);
ADDER_KERNEL(causal_conv_silu_bwd, CausalConvBwdArgs);
ADDER_KERNEL(causal_conv_silu_step, CausalConvStepArgs);

}  // namespace adder
