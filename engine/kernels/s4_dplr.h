// S4 with a state matrix that is diagonal plus low rank (Gu et al. 2021): on modes beside their
// conjugates, A = diag(A) - sum_r P_r P_r^H, discretised by the bilinear rule. Its convolution
// kernel comes from its generating function at the roots of unity w_j = e^(-2 pi i j / n), by
// Woodbury's identity:
//   k_j = g_BC - h g_PC (I + h g_PQ)^-1 g_BQ,   Q = conj(P), h = (1 + w) / 2,
//   g_xy = sum over modes and conjugates of 2 dt x y / (2 (1 - w) - (1 + w) dt A),
// which stays finite at w = -1. K is the inverse transform of k, cut to L.
//
// C is the stored one of the official layer, C~ = (I - (Ad^n)^T) C for the state matrix's
// discretisation Ad. Names and storage as in s4.h; R is the rank. Everything is computed in
// float64.
#pragma once

#include "engine/kernels/s4.h"

namespace adder {

inline constexpr std::int64_t kS4MostRanks = 8;

struct S4DplrKernelFwdArgs {
  Tensor A_real;           // (S, N)
  Tensor A_imag;           // (S, N)
  Tensor dt;               // (H) or (H, 1)
  Tensor B;                // (S, N, 2)
  Tensor P;                // (R, S, N, 2)
  Tensor C;                // (M, H, N, 2)
  S4Options options;       // method is bilinear; bandlimit takes C's place to 0
  std::int64_t nodes = 0;  // n: the length that C~ was made for, divided by the rate
  Tensor K;                // (M, H, L), L <= n, written
};
struct S4DplrKernelBwdArgs {
  Tensor A_real, A_imag, dt, B, P, C;
  S4Options options;
  std::int64_t nodes = 0;
  Tensor dK;  // (M, H, L)
  // Overwritten where defined, in the shapes of what they are the gradients of.
  Tensor dA_real, dA_imag, ddt, dB, dP, dC;
};

// One step in O(N R): with s the state, products over modes and conjugates (2 Re),
//   s1 = E s - sum_r P_r (Q_r . s) + 2 B u,   s = F (s1 - sum_r P_r (W_r . s1)),
//   y = 2 Re sum_n C s + D u.
struct S4DplrStepArgs {
  Tensor u;        // (B, H)
  Tensor E;        // (H, N, 2) float64: 2 / dt + A
  Tensor F;        // (H, N, 2) float64: 1 / (2 / dt - A)
  Tensor B;        // (H, N, 2) float64
  Tensor P;        // (R, H, N, 2) float64
  Tensor W;        // (R, H, N, 2) float64: (I + Q F P)^-1 Q F
  Tensor C;        // (M, H, N, 2) float64
  Tensor D;        // (M, H), or undefined
  Tensor s;        // (B, H, N, 2), read and written
  Tensor scratch;  // (2, B, H, N, 2) float64
  Tensor y;        // (B, M, H), written
};

ADDER_KERNEL(s4_dplr_kernel_fwd, S4DplrKernelFwdArgs);
ADDER_KERNEL(s4_dplr_kernel_bwd, S4DplrKernelBwdArgs);
ADDER_KERNEL(s4_dplr_step, S4DplrStepArgs);

// Nodes of the generating function for a C that was stored for `length`: round(length / rate).
// Throws ConfigError for a rate that is not positive.
std::int64_t s4_dplr_nodes(std::int64_t length, double rate);

// As check_s4.
void check_s4_dplr(const char* place, const S4DplrKernelFwdArgs& args);
void check_s4_dplr(const char* place, const S4DplrKernelBwdArgs& args);
void check_s4_dplr(const char* place, const S4DplrStepArgs& args);

}  // namespace adder
