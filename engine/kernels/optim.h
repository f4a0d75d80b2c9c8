// Optimiser updates and the norm of the gradients, over all trainable tensors of a model at once:
// on a device they cost one or two launches, however many tensors there are.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

// One tensor that trains: all of a parameter, or a displacement of selected entries, which are
// written after the update: target[positions[i]] = base[i] + scale * value[i].
struct OptimItem {
  Tensor value;        // any shape, contiguous, updated in place
  Tensor grad;         // same shape
  Tensor first{};      // AdamW: first moment; SGD: momentum buffer, undefined without momentum
  Tensor second{};     // AdamW: second moment
  Tensor positions{};  // (count) int64, row-major, or undefined: not a displacement
  Tensor base{};       // same shape as value; with positions
  Tensor target{};     // contiguous; with positions
  double scale = 1;    // with positions
};

// AdamW (Loshchilov & Hutter 2019), PyTorch's order of operations: decay, moments, bias
// correction, update. Moments have the type of the value.
struct AdamwArgs {
  std::vector<OptimItem> items;  // of one device and dtype
  double lr = 0, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  double grad_scale = 1;  // gradients are multiplied by this first, unless `clip` is given
  std::int64_t step = 1;  // 1 for the first update
  // (3) float32 or undefined: an AdamwSchedule, read where it lies in place of what lr and step
  // say.
  Tensor schedule{};
  // What gradient_norm wrote: clip[1] takes the place of grad_scale, read where it lies. Where it
  // is NaN nothing at all is changed.
  Tensor clip{};
};

// What an update takes from its number and learning rate.
struct AdamwSchedule {
  double keep;       // 1 - lr * weight_decay
  double step_size;  // lr / (1 - beta1^step)
  double root2;      // sqrt(1 - beta2^step)
};
AdamwSchedule adamw_schedule(double lr, double beta1, double beta2, double weight_decay,
                             std::int64_t step);

// SGD with momentum as PyTorch's: g += wd * value; buf = momentum * buf + g (buf = g at step 1).
struct SgdArgs {
  std::vector<OptimItem> items;
  double lr = 0, momentum = 0, weight_decay = 0;
  double grad_scale = 1;
  std::int64_t step = 1;
  Tensor schedule{};  // (3) float32 or undefined: schedule[0] takes the place of lr
  Tensor clip{};      // as above
};

// result[0] = the Euclidean norm of all gradients together, accumulated in float64 in a fixed
// order; result[1] = min(1, max_norm / (norm + 1e-6)), or 1 when max_norm is 0, or NaN when the
// norm is not finite.
struct GradientNormArgs {
  std::vector<Tensor> grads;  // any shapes and strides
  double max_norm = 0;
  Tensor result;  // (2) float64, written
};

ADDER_KERNEL(adamw_step, AdamwArgs);
ADDER_KERNEL(sgd_step, SgdArgs);
ADDER_KERNEL(gradient_norm, GradientNormArgs);

// Throws ShapeError, DtypeError or ConfigError unless the items fit each other; `moments` is how
// many of first and second there have to be.
void check_optim_items(const char* place, const std::vector<OptimItem>& items, int moments,
                       std::int64_t step, const Tensor& schedule, const Tensor& clip);

}  // namespace adder
