// The selective state space scan of Mamba (Gu & Dao 2023, section 3): per batch b, channel d and
// state n, with delta = softplus(dt + dt_bias) and A = -exp(A_log),
//   h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t,   y_t = sum_n C_t h_t + D u_t,
// and the gate out_t = y_t * silu(z_t).
//
// All (B, L, ·) tensors have a dense last axis; their rows may be strided (slices of wider ones).
// Softplus is the identity beyond 20, as in PyTorch.
#pragma once

#include <cstdint>

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

// States are saved every this many steps for the backward pass, which recomputes the rest.
inline constexpr std::int64_t kScanChunk = 32;

struct SelectiveScanFwdArgs {
  Tensor u;        // (B, L, D)
  Tensor dt;       // (B, L, D), before bias and softplus
  Tensor A_log;    // (D, N)
  Tensor B;        // (B, L, N)
  Tensor C;        // (B, L, N)
  Tensor D;        // (D)
  Tensor z;        // (B, L, D), or undefined: no gate
  Tensor dt_bias;  // (D), or undefined
  Tensor h0;       // (B, D, N) initial state, or undefined: zero
  Tensor out;      // (B, L, D), written
  Tensor h_last;   // (B, D, N), written, or undefined
  // States at the *start* of each chunk, in an order private to the device's kernels; undefined
  // when no gradient will be asked for. Size from scan_checkpoint_numel.
  Tensor checkpoints;
};

struct SelectiveScanBwdArgs {
  Tensor u, dt, A_log, B, C, D, z, dt_bias;  // as in the forward pass
  Tensor checkpoints;                        // as the forward pass left them
  Tensor dout;                               // (B, L, D)
  // Written (overwritten) where defined; an undefined one is not computed.
  Tensor du;        // (B, L, D)
  Tensor ddt;       // (B, L, D), gradient of the pre-softplus dt
  Tensor dA_log;    // (D, N)
  Tensor dB;        // (B, L, N)
  Tensor dC;        // (B, L, N)
  Tensor dD;        // (D)
  Tensor dz;        // (B, L, D)
  Tensor ddt_bias;  // (D)
  Tensor dh0;       // (B, D, N)
  // (k) int32, ascending. When defined, dA_log is compact: channel dA_channels[i] fills row i of a
  // (k, N) tensor, and the other channels' work is skipped.
  Tensor dA_channels;
};

// One token: h is updated in place.
struct SelectiveScanStepArgs {
  Tensor u;        // (B, D)
  Tensor dt;       // (B, D)
  Tensor A_log;    // (D, N)
  Tensor B, C;     // (B, N)
  Tensor D;        // (D)
  Tensor z;        // (B, D) or undefined
  Tensor dt_bias;  // (D) or undefined
  Tensor h;        // (B, D, N), read and written
  Tensor out;      // (B, D)
};

ADDER_KERNEL(selective_scan_fwd, SelectiveScanFwdArgs);
ADDER_KERNEL(selective_scan_bwd, SelectiveScanBwdArgs);
ADDER_KERNEL(selective_scan_step, SelectiveScanStepArgs);

// What all devices ask of the arguments: throws ShapeError or DtypeError that names `place` and the
// argument. Beside bfloat16 activations, weights and states are float32.
void check_scan(const char* place, const SelectiveScanFwdArgs& args);
void check_scan(const char* place, const SelectiveScanBwdArgs& args);
void check_scan(const char* place, const SelectiveScanStepArgs& args);

// Elements of the checkpoint tensor for these extents (padding of channels included).
std::int64_t scan_checkpoint_numel(std::int64_t batch, std::int64_t length, std::int64_t channels,
                                   std::int64_t states);

}  // namespace adder
