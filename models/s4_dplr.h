// What a diagonal-plus-low-rank S4 layer needs beside its convolution kernel: the stored C, its
// doubling, and the coefficients of its steps. Dense linear algebra on the host, in float64.
#pragma once

#include <cstdint>

#include "engine/kernels/s4_dplr.h"

namespace adder {

// A layer's state matrix, shapes as in S4DplrKernelFwdArgs. The rate is not part of what is stored:
// these functions take dt as the parameters have it.
struct S4DplrSystem {
  Tensor A_real, A_imag, dt, B, P;
  S4Options options;
};

// The stored C~ = (I - (Ad^length)^T) C of C (M, H, N, 2), in C's dtype and on its device.
Tensor s4_dplr_store(const S4DplrSystem& system, const Tensor& C, std::int64_t length);
// C~ for 2 length from C~ for length: (I + (Ad^length)^T) C~.
Tensor s4_dplr_double(const S4DplrSystem& system, const Tensor& stored, std::int64_t length);
// C from C~, by solving. Throws NumericError when the state has not decayed within `length` at all.
Tensor s4_dplr_restore(const S4DplrSystem& system, const Tensor& stored, std::int64_t length);

// The discretised system of channel h on modes and conjugates: Ad (2N, 2N, 2), Bd (2N, 2), float64.
struct S4DplrDense {
  Tensor A, B;
};
S4DplrDense s4_dplr_dense(const S4DplrSystem& system, std::int64_t channel);

// The coefficients of kernel::s4_dplr_step for the C of a layer (not the stored one): args with all
// but u, D, s, scratch and y. On C's device.
S4DplrStepArgs s4_dplr_step_coefficients(const S4DplrSystem& system, const Tensor& C);

}  // namespace adder
