// Kernels of the benchmark's own: inputs, and what the device can do at most. Rates are per second.
#pragma once

#include <cstdint>

#include "engine/tensor.h"

namespace adder::bench {

// Uniform in [low, high) by a hash of seed and position; float32 and bfloat16, contiguous.
void draw_on_device(const Tensor& tensor, float low, float high, std::uint32_t seed);

// Each launches once, on the device's stream, and returns how much it asked of the device.
double probe_copy(const Tensor& from, const Tensor& to);  // bytes read and written, 16 at a time
double probe_read(const Tensor& from, const Tensor& sink,
                  int rounds);  // bytes read, again and again
// `warps` per scheduler (four to a multiprocessor), 16 independent chains per thread as in a scan
// of 16 states; operations, one per lane.
double probe_exp2(const Tensor& sink, int warps, int rounds);
double probe_multiply_add(const Tensor& sink, int warps, int rounds);
double probe_shuffle(const Tensor& sink, int warps, int rounds);
// Float32 additions to memory that stays in the L2 cache, coalesced, without a result.
double probe_atomic_add(const Tensor& sums, int rounds);

}  // namespace adder::bench
