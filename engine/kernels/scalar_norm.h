// The official S4 code's LayerNorm for channels before positions: y = s / std (x - mean + m) of
// each row, with the population's standard deviation, one s and one m for all channels, and no
// epsilon, so a row of equal values has no result. All of one type: float32 or, on the CPU,
// float64.
#pragma once

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

struct ScalarNormFwdArgs {
  Tensor x;             // (rows, D)
  Tensor scale, shift;  // (1): s and m
  Tensor y;             // (rows, D), written
  Tensor stats;         // (rows, 2), written: mean and 1 / std
};

// With x^ = (x - mean) / std: dx = s / std (dy - mean(dy) - x^ (mean(dy x^) + m / std mean(dy))),
// ds = sum dy (x^ + m / std), dm = sum dy s / std.
struct ScalarNormBwdArgs {
  Tensor x, scale, shift, stats;  // as in the forward pass
  Tensor dy;                      // (rows, D)
  // Overwritten, or undefined.
  Tensor dx;              // (rows, D)
  Tensor dscale, dshift;  // (1)
};

ADDER_KERNEL(scalar_norm_fwd, ScalarNormFwdArgs);
ADDER_KERNEL(scalar_norm_bwd, ScalarNormBwdArgs);

}  // namespace adder
