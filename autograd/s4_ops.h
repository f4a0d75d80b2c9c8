// Differentiable operations of the S4 layers; shapes, equations and sources are those of
// engine/kernels/s4.h. One layer has three exact forms:
//   convolution: s4_convolve(u, s4_kernel(modes, C, L), D), any method, one or two directions;
//   scan: s4_scan(u, modes, C, D, x0), linear in L, with initial and final state;
//   step: kernel::s4_step, one token, without a gradient.
#pragma once

#include <cstdint>

#include "autograd/tape.h"
#include "autograd/variable.h"
#include "engine/kernels/s4.h"
#include "engine/kernels/s4_dplr.h"

namespace adder {

struct S4Parameters {
  Var A_real;  // (S, N)
  Var A_imag;  // (S, N)
  Var dt;      // (H), (H, 1) or (H, N)
  Var B;       // (S, N, 2), or absent: 1
};

// The recurrence of the modes, float64 whatever the parameters are.
struct S4Modes {
  Var log_q, p, b;  // (H, N, 2): log q, q - 1, b
};

// Discretises the modes. Throws NumericError for Re A > 0, dt <= 0 or a value that is not finite
// (on a GPU such a mode becomes NaN instead). Saves the parameters.
S4Modes s4_discretize(const S4Parameters& parameters, const S4Options& options);

// The convolution kernel K (M, H, L). C is (M, H, N, 2). Saves its inputs.
Var s4_kernel(const S4Modes& modes, const Var& C, std::int64_t length);

// The order of the axes of sequences: u (B, H, L) gives y (B, M, H, L), or u (B, L, H), as models
// have it, gives y (B, L, M, H). On the CPU neither is copied.
enum class S4Axes : std::uint8_t { channels_steps, steps_channels };

// u (B, H, L) convolved with K (M, H, L), or (2 M, H, L) for two directions, plus D u:
// (B, M, H, L). D is (M, H) or absent. Saves u and K.
Var s4_convolve(const Var& u, const Var& K, const Var& D, bool bidirectional = false,
                S4Axes axes = S4Axes::channels_steps);

struct S4ScanResult {
  Var y;       // (B, M, H, L), or (B, L, M, H)
  Var x_last;  // (B, H, N, 2): the state after the last step
};
// The recurrence itself, from x0 (B, H, N, 2) or 0. Saves its inputs and one state in every
// kS4Chunk.
S4ScanResult s4_scan(const Var& u, const S4Modes& modes, const Var& C, const Var& D,
                     const Var& x0 = {}, S4Axes axes = S4Axes::channels_steps);

// Whether the scan is faster than kernel and convolution: measured on CPUs (bench/results). On
// other devices the convolution is taken.
bool s4_scan_is_faster(Device device, std::int64_t modes, std::int64_t length);
// The layer in the faster of the two forms: u (B, H, L) to (B, M, H, L), C (M, H, N, 2), D (M, H)
// or absent. The modes are of a method with a recurrence, so not of dss.
Var s4_apply(const Var& u, const S4Modes& modes, const Var& C, const Var& D,
             S4Axes axes = S4Axes::channels_steps);

struct S4DplrParameters {
  Var A_real;  // (S, N)
  Var A_imag;  // (S, N)
  Var dt;      // (H) or (H, 1)
  Var B;       // (S, N, 2)
  Var P;       // (R, S, N, 2)
};

// The convolution kernel K (M, H, L) of a diagonal-plus-low-rank layer (engine/kernels/s4_dplr.h)
// from the stored C (M, H, N, 2), made for `stored_length`; length times rate may not exceed that.
// options.method is bilinear. Saves its inputs.
Var s4_dplr_kernel(const S4DplrParameters& parameters, const Var& C, const S4Options& options,
                   std::int64_t stored_length, std::int64_t length);

}  // namespace adder
