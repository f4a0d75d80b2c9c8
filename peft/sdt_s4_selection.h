// Which channels and states of an S4 layer SDT keeps in use and trains: pure functions of a layer's
// tensors. Shapes use H channels, N complex modes (states) and M kernels of C for each channel.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/kernels/s4.h"
#include "models/diagonal_states.h"
#include "peft/config.h"

namespace adder {

struct S4Counts {
  std::int64_t select_channels = 0;
  std::int64_t update_channels = 0;  // of those
  std::int64_t select_states = 0;    // of each channel
  std::int64_t update_states = 0;
};

// Throws ConfigError, naming the keys, when more is counted than `layer` has, when more is to train
// than is selected, or nothing.
S4Counts s4_counts(const SdtS4Config& config, const DiagonalStates& layer);

// The values, or the gradients, of a layer.
struct S4Tensors {
  Tensor log_dt;      // (H) or (H, 1)
  Tensor log_A_real;  // (H, N)
  Tensor A_imag;      // (H, N)
  Tensor C;           // (H, N, 2) or (M, H, N, 2)
  Tensor B{};         // (1, H, N, 2), or undefined: 1
};

// What is ranked, the largest first.
struct S4Scores {
  std::int64_t channels = 0;            // H
  std::int64_t states = 0;              // N
  std::vector<double> select_channels;  // (H)
  std::vector<double> select_states;    // (H, N)
  std::vector<double> update_channels;  // (H)
  std::vector<double> update_states;    // (H, N)
};

// A = -exp(log_A_real) + i A_imag, dt = exp(log_dt). For select: the magnitude of a mode's part of
// the kernel at position `power`, |C b q^power|, over the M kernels the Euclidean norm. With zoh
// q = exp(dt A), b = B (q - 1) / A; bilinear q = (1 + dt A / 2) / (1 - dt A / 2),
// b = B dt / (1 - dt A / 2). For update: |A - A0|, A0 that of `before`. Channels: the Euclidean
// norm over their states. A mode that options.bandlimit silences scores 0.
S4Scores displacement_scores(const S4Tensors& now, const S4Tensors& before, std::int64_t power,
                             const S4Options& options = {});

// The same (zoh) as the reference's code computes it, in the tensors' own precision: A is the real
// number -exp(log_A_real) + imag_sign A_imag in the first, and the second is the norm of
// (-exp(log_A_real) - exp(log_A_real0), A_imag - A_imag0). Scores may be infinite or NaN.
S4Scores compat_scores(const S4Tensors& now, const S4Tensors& before, std::int64_t power,
                       const S4Options& options = {});

// States: the norm of the gradients of log_A_real, A_imag and C. Channels: that over all their
// states and the columns of the output map's weight, whose gradient is `output` (rows, a multiple
// of H; column i belongs to channel i mod H). The same for select and update.
S4Scores gradient_scores(const S4Tensors& gradients, const Tensor& output);

// Uniform numbers, the same for select and update.
S4Scores random_scores(std::int64_t channels, std::int64_t states, std::uint64_t seed,
                       std::uint64_t stream);

// After a warm-up with an L1 penalty, which holds an entry near zero but not at it: the components
// of C, and the displacements of log_A_real and A_imag, each moved towards zero by `threshold`.
// For select: the magnitude of C B times that of A; for update: that of the displacements.
S4Scores soft_scores(const S4Tensors& now, const S4Tensors& before, double threshold);

// Ranks the channels by their select scores and the states of each selected channel by theirs, then
// the selected ones by their update scores. Equal scores keep their order; so do those that compare
// with NaN, as in Python's sorted(). `drop_zero` leaves out what scores 0 except the first.
LayerSelection select_s4(const std::string& layer, const S4Scores& scores, const S4Counts& counts,
                         bool drop_zero = false);
// Throws NumericError when a score is not finite.
void check_finite(const std::string& layer, const S4Scores& scores);

// The rule "loss": zeroes one channel of C, (H, N, 2) or (M, H, N, 2), after the other and keeps
// those without which
// `loss` is largest, then the same for the states of each of these that trains, with all other
// channels zeroed where `zero` says so. The most important ones train. C is left as that search
// ends. Throws NumericError when a loss is not finite.
LayerSelection select_s4_by_loss(const std::string& layer, const Tensor& C, const S4Counts& counts,
                                 bool zero, const std::function<double()>& loss);

// C = 0 for channels that are not in use and for states of trained channels that are not.
void zero_unused(const LayerSelection& selection, const Tensor& C);

}  // namespace adder
