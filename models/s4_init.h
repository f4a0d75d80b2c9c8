// Initial state matrices of S4 layers: HiPPO matrices in normal-plus-low-rank form, and diagonals
// written down directly (Gu et al. 2021, 2022). For training from scratch; the tensors of a
// checkpoint are loaded as they are, since an eigenvector is only defined up to its phase.
#pragma once

#include <cstdint>
#include <string>

#include "engine/kernels/s4.h"

namespace adder {

enum class HippoMeasure : std::uint8_t { legs, legt, fourier };

// The real matrix A (M, M) and vector B (M), float64.
struct HippoSystem {
  Tensor A, B;
};
HippoSystem hippo_system(HippoMeasure measure, std::int64_t d_state);

// Per stored mode, float64, complex numbers as pairs: A (N, 2) with the most negative imaginary
// part first, B (N, 2) and P (R, N, 2), such that diag(A) - P P^H on modes and conjugates is the
// HiPPO matrix in another basis. N = d_state / 2. The phase of each eigenvector makes B real and
// positive. Rows of zeros are appended to P up to `rank`. Throws ConfigError for an odd or small
// d_state or a rank below the measure's own (legt: 2, others: 1).
struct S4Nplr {
  Tensor A, B, P;
};
S4Nplr s4_nplr(HippoMeasure measure, std::int64_t d_state, std::int64_t rank);

struct S4InitOptions {
  // legs, legt, fourier; diag-X and dplr-X with X one of lin, inv, inv2, quad, legs (also hippo, or
  // nothing after dplr), real, random; or a combination whose parts share the copies equally, in
  // this order: hippo (legs, fourier), diag (diag-inv, diag-lin), all (legs, fourier, diag-inv,
  // diag-lin).
  std::string init = "legs";
  std::int64_t d_state = 64;
  std::int64_t copies = 1;
  std::int64_t rank = 1;
  // Of the direct ones:
  bool real_random = false;  // real part from [0, 1), or [0, d_state / 2) for X = real
  bool imag_random = false;  // imaginary part before X's formula from [0, d_state / 2)
  double real_scale = 1;
  double imag_scale = 1;
  std::string B_init = "constant";  // or random, alternating, unit-cw, unit-ccw
  double B_scale = 1;
  double P_scale = 1;      // dplr-X only: P is random
  bool normalize = false;  // B / sqrt(2 sum |B / A|^2)
  std::uint64_t seed = 0;
};

// A (S, N, 2), B (S, N, 2) and P (R, S, N, 2), float64; Re A <= 0 and Im A <= 0. P is zero for
// diag.
struct S4Init {
  Tensor A, B, P;
};
// Throws ConfigError for an unknown name or an option out of range.
S4Init s4_init(const S4InitOptions& options);

// The parameters whose transforms give these values; options' imag_sign is -1. Decay and frequency
// are at least 1e-4 first, as in the official layers: A = 0 has no logarithm, and its generating
// function a pole.
struct S4StateParameters {
  Tensor A_real, A_imag;  // (S, N)
  Tensor B;               // (S, N, 2)
  Tensor P;               // (R, S, N, 2)
};
S4StateParameters s4_state_parameters(const S4Init& init, const S4Options& options, Dtype dtype);
// x with transform(x) = value, value being at least 1e-4 first.
double s4_inverse_transform(S4Transform transform, double value);

}  // namespace adder
