// The diagonal state space layer S4D (Gu et al. 2022) with complex modes, of which one of each
// conjugate pair is stored. Per channel h and mode n, with A = -f(A_real) + i sign f(A_imag) and
// the step dt, a discretisation gives q and b, and
//   x_t = q x_{t-1} + b u_t,   y_t = 2 Re sum_n C_n x_t + D u_t.
// The same y is u convolved with K_l = 2 Re sum_n C_n b_n q_n^l.
//
// H channels, N stored modes, S copies of A and B (channel h has copy h mod S), M outputs for each
// channel (the reference's "channels"). Complex tensors are real ones with a last axis of 2:
// (re, im). Modes are float64 beside activations of any type: a phase l Im(log q) of a thousand
// radians must keep float32's accuracy. All tensors have a dense last axis.
#pragma once

#include <cstdint>

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

// zoh: q = e^(dt A), b = B (q - 1) / A. bilinear: q = (1 + dt A / 2) / (1 - dt A / 2),
// b = B dt / (1 - dt A / 2). dss: the kernel Re sum C B (e^(dt A) - 1) conj(x) / (|x|^2 + 1e-7)
// e^(dt A l) with x = (e^(dt A L) - 1) A, which depends on the length L and has no recurrence.
enum class S4Method : std::uint8_t { zoh, bilinear, dss };
// f above; relu adds 1e-4.
enum class S4Transform : std::uint8_t { none, exp, relu, sigmoid, softplus };

struct S4Options {
  S4Method method = S4Method::zoh;
  S4Transform real = S4Transform::exp;
  S4Transform imag = S4Transform::none;
  S4Transform dt = S4Transform::exp;
  double imag_sign = 1;  // -1 in the official layers
  double rate = 1;       // multiplies dt
  double bandlimit = 0;  // when positive, b = 0 where dt |Im A| / pi >= bandlimit (dt without rate)
  std::int64_t length = 0;  // of dss
};

struct S4DiscretizeFwdArgs {
  Tensor A_real;  // (S, N)
  Tensor A_imag;  // (S, N)
  Tensor dt;      // (H), (H, 1) or (H, N), before its transform
  Tensor B;       // (S, N, 2), or undefined: 1
  S4Options options;
  Tensor log_q;  // (H, N, 2) float64, written
  Tensor p;      // (H, N, 2) float64, written: q - 1, in which slow modes keep their rate
  Tensor b;      // (H, N, 2) float64, written
};
struct S4DiscretizeBwdArgs {
  Tensor A_real, A_imag, dt, B;  // as in the forward pass
  S4Options options;
  Tensor dlog_q, dp, db;  // (H, N, 2) float64; undefined: 0
  // Overwritten where defined, in the shapes of what they are the gradients of.
  Tensor dA_real, dA_imag, ddt, dB;
};

struct S4KernelFwdArgs {
  Tensor log_q, b;  // (H, N, 2) float64
  Tensor C;         // (M, H, N, 2)
  Tensor K;         // (M, H, L), written
};
struct S4KernelBwdArgs {
  Tensor log_q, b, C;
  Tensor dK;      // (M, H, L)
  Tensor dlog_q;  // (H, N, 2) float64, overwritten, or undefined
  Tensor db;      // (H, N, 2) float64, overwritten, or undefined
  Tensor dC;      // (M, H, N, 2), overwritten, or undefined
};

// On the CPU, the sequences u and y of convolution and scan, and their gradients, may have their
// channels side by side instead of their steps: views of (B, L, H) and (B, L, M, H).
//
// y_t = sum_{l <= t} K_l u_{t-l} + D u_t. When bidirectional, K is (2 M, H, L) and its second half
// looks strictly ahead: y_t += sum_l K_{M+m,l} u_{t+1+l}.
struct S4ConvFwdArgs {
  Tensor u;  // (B, H, L)
  Tensor K;  // (M, H, L), or (2 M, H, L)
  Tensor D;  // (M, H), or undefined
  bool bidirectional = false;
  Tensor y;  // (B, M, H, L), written
};
struct S4ConvBwdArgs {
  Tensor u, K, D;
  bool bidirectional = false;
  Tensor dy;  // (B, M, H, L)
  // Overwritten where defined.
  Tensor du;  // (B, H, L)
  Tensor dK;  // as K
  Tensor dD;  // (M, H)
};

// States are saved every this many steps for the scan's backward pass.
inline constexpr std::int64_t kS4Chunk = 32;

struct S4ScanFwdArgs {
  Tensor u;       // (B, H, L)
  Tensor p, b;    // (H, N, 2) float64
  Tensor C;       // (M, H, N, 2)
  Tensor D;       // (M, H), or undefined
  Tensor x0;      // (B, H, N, 2), or undefined: 0
  Tensor y;       // (B, M, H, L), written
  Tensor x_last;  // (B, H, N, 2), written, or undefined
  // States at the start of each chunk in an order private to the device; undefined when no gradient
  // will be asked for. Contiguous, of u's dtype, s4_scan_checkpoint_numel elements.
  Tensor checkpoints;
};
struct S4ScanBwdArgs {
  Tensor u, p, b, C, D, checkpoints;  // as the forward pass left them
  Tensor dy;                          // (B, M, H, L)
  Tensor dx_last;                     // (B, H, N, 2), or undefined: 0
  // Overwritten where defined.
  Tensor du;      // (B, H, L)
  Tensor dp, db;  // (H, N, 2) float64
  Tensor dC;      // (M, H, N, 2)
  Tensor dD;      // (M, H)
  Tensor dx0;     // (B, H, N, 2)
};

// One step: x is updated in place, then y is read from it.
struct S4StepArgs {
  Tensor u;     // (B, H)
  Tensor p, b;  // (H, N, 2) float64
  Tensor C;     // (M, H, N, 2)
  Tensor D;     // (M, H), or undefined
  Tensor x;     // (B, H, N, 2), read and written
  Tensor y;     // (B, M, H), written
};

ADDER_KERNEL(s4_discretize_fwd, S4DiscretizeFwdArgs);
ADDER_KERNEL(s4_discretize_bwd, S4DiscretizeBwdArgs);
ADDER_KERNEL(s4_kernel_fwd, S4KernelFwdArgs);
ADDER_KERNEL(s4_kernel_bwd, S4KernelBwdArgs);
ADDER_KERNEL(s4_conv_fwd, S4ConvFwdArgs);
ADDER_KERNEL(s4_conv_bwd, S4ConvBwdArgs);
ADDER_KERNEL(s4_scan_fwd, S4ScanFwdArgs);
ADDER_KERNEL(s4_scan_bwd, S4ScanBwdArgs);
ADDER_KERNEL(s4_step, S4StepArgs);

// What all devices ask of the arguments: throws ShapeError, DtypeError or ConfigError that names
// `place` and the argument. Every extent must be at least 1.
void check_s4(const char* place, const S4DiscretizeFwdArgs& args);
void check_s4(const char* place, const S4DiscretizeBwdArgs& args);
void check_s4(const char* place, const S4KernelFwdArgs& args);
void check_s4(const char* place, const S4KernelBwdArgs& args);
void check_s4(const char* place, const S4ConvFwdArgs& args);
void check_s4(const char* place, const S4ConvBwdArgs& args);
void check_s4(const char* place, const S4ScanFwdArgs& args);
void check_s4(const char* place, const S4ScanBwdArgs& args);
void check_s4(const char* place, const S4StepArgs& args);

// Elements of the checkpoint tensor (padding of rows included).
std::int64_t s4_scan_checkpoint_numel(std::int64_t batch, std::int64_t channels,
                                      std::int64_t length, std::int64_t modes);

// The transform length of a convolution: the least 2^a 3^b 5^c that is at least 2 length.
std::int64_t s4_fft_length(std::int64_t length);

}  // namespace adder
