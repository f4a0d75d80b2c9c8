// RMSNorm with the residual addition in front of it: r' = x + r, y = r' / sqrt(mean(r'^2) + eps) w.
// All of one type; on CUDA x and y may be bfloat16, each by itself, beside float32 sums. Weight and
// inv_rms are float32 there.
#pragma once

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

struct RmsNormFwdArgs {
  Tensor x;         // (rows, D)
  Tensor residual;  // (rows, D), or undefined: r' = x
  Tensor weight;    // (D)
  double epsilon = 1e-5;
  Tensor residual_out;  // (rows, D), written; undefined when residual is (r' is x itself)
  Tensor y;             // (rows, D), written
  Tensor inv_rms;       // (rows), written, or undefined when no gradient will be asked for
};

struct RmsNormBwdArgs {
  Tensor residual;      // (rows, D): r' of the forward pass
  Tensor weight;        // (D)
  Tensor inv_rms;       // (rows)
  Tensor dy;            // (rows, D)
  Tensor dresidual_in;  // (rows, D): gradient arriving through r' itself, or undefined
  Tensor
      dresidual;   // (rows, D), overwritten: the gradient of x and of residual alike; or undefined
  Tensor dweight;  // (D), overwritten, or undefined
  // (rows, D) bfloat16, overwritten: the same gradient for an x of 16 bits beside float32 sums; or
  // undefined.
  Tensor dx{};
};

ADDER_KERNEL(rms_norm_fwd, RmsNormFwdArgs);
ADDER_KERNEL(rms_norm_bwd, RmsNormBwdArgs);

}  // namespace adder
