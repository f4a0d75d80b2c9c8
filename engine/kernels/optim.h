// Optimiser updates, over one trainable tensor (dense or compact) at a time.
#pragma once

#include <cstdint>

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

// AdamW (Loshchilov & Hutter 2019), PyTorch's order of operations: decay, moments, bias
// correction, update. Moments are float32 (float64 for float64 values).
struct AdamwArgs {
  Tensor value;  // any shape, contiguous, updated in place
  Tensor grad;   // same shape
  Tensor m, v;   // first and second moment, updated in place
  double lr = 0, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  double grad_scale = 1;  // the gradient is multiplied by this first (clipping)
  std::int64_t step = 1;  // 1 for the first update
};

// SGD with momentum as PyTorch's: g += wd * value; buf = momentum * buf + g (buf = g at step 1).
struct SgdArgs {
  Tensor value, grad;
  Tensor momentum_buffer;  // undefined when momentum is 0
  double lr = 0, momentum = 0, weight_decay = 0, grad_scale = 1;
  std::int64_t step = 1;
};

// *sum = sum of squares, accumulated in float64 in a fixed order; NaN and infinities propagate.
struct SumSquaresArgs {
  Tensor x;
  double* sum = nullptr;
};

ADDER_KERNEL(adamw_step, AdamwArgs);
ADDER_KERNEL(sgd_step, SgdArgs);
ADDER_KERNEL(sum_squares, SumSquaresArgs);

}  // namespace adder
