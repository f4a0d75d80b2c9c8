// RMSNorm and LayerNorm. RMSNorm with the residual addition in front of it: r' = x + r, y = r' /
// sqrt(mean(r'^2) + eps) w. All of one type; on CUDA x and y may be bfloat16, each by itself,
// beside float32 sums. Weight and inv_rms are float32 there.
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

// LayerNorm (Ba et al. 2016): y = (x - mean) / sqrt(variance + eps) w + b, of each row. All of one
// type, weights float32 beside bfloat16 on CUDA.
struct LayerNormFwdArgs {
  Tensor x;             // (rows, D)
  Tensor weight, bias;  // (D)
  double epsilon = 1e-5;
  Tensor y;      // (rows, D), written
  Tensor stats;  // (rows, 2) of the weights' type, written: mean and 1 / sqrt(variance + eps)
};

struct LayerNormBwdArgs {
  Tensor x, weight, stats;  // as in the forward pass
  Tensor dy;                // (rows, D)
  // Overwritten, or undefined.
  Tensor dx;              // (rows, D)
  Tensor dweight, dbias;  // (D)
};

ADDER_KERNEL(layer_norm_fwd, LayerNormFwdArgs);
ADDER_KERNEL(layer_norm_bwd, LayerNormBwdArgs);

}  // namespace adder
