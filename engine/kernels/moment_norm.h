// Normalisation by mean and variance over positions: BatchNorm (Ioffe & Szegedy 2015), InstanceNorm
// (Ulyanov et al. 2016) and GroupNorm with one group (Wu & He 2018), on sequences with the channel
// last. All tensors are of one type, float32 or, on the CPU, float64; statistics are summed in
// float64.
#pragma once

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

// x is (G, R, D). A statistic is taken for each channel of each group, over its R rows (C = D;
// batch: one group, instance: one for each sequence), or for each group, over all R D (C = 1).
// The variance is the biased one.
struct MomentNormFwdArgs {
  Tensor x;             // (G, R, D), rows dense and adjacent
  Tensor weight, bias;  // (D), or undefined: 1 and 0
  double epsilon = 1e-5;
  Tensor y;      // (G, R, D), written
  Tensor stats;  // (2, G, C), written: means, then 1 / sqrt(variance + epsilon)
  // One group with C = D; or undefined. Either the statistics to use, or what they are blended
  // into: r <- (1 - momentum) r + momentum s, s having the unbiased variance.
  Tensor running_mean, running_var;  // (D)
  Tensor batches;                    // () int64: is raised by one when blended, or undefined
  bool use_running = false;
  double momentum = 0.1;
};

// With x^ = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - x^ mean(g x^)), the means
// over what a statistic was taken of; dx = rstd g when the statistics were given.
struct MomentNormBwdArgs {
  Tensor x, weight, stats;  // as in the forward pass
  Tensor dy;                // (G, R, D)
  bool given_stats = false;
  // Overwritten, or undefined.
  Tensor dx;              // (G, R, D)
  Tensor dweight, dbias;  // (D)
};

ADDER_KERNEL(moment_norm_fwd, MomentNormFwdArgs);
ADDER_KERNEL(moment_norm_bwd, MomentNormBwdArgs);

// What the two devices' kernels check, and what they read off the shapes. Throw ShapeError and
// DtypeError.
struct MomentExtent {
  std::int64_t groups, rows, channels;
  bool per_channel;
  // Of what a statistic is taken.
  std::int64_t count() const { return per_channel ? rows : rows * channels; }
};
MomentExtent check_moment_norm(const MomentNormFwdArgs& args);
MomentExtent check_moment_norm(const MomentNormBwdArgs& args);

}  // namespace adder
