// The one interface to the library behind float32 matrix products. The build defines one of
// ADDER_SGEMM_ONEDNN, ADDER_SGEMM_BLIS, ADDER_SGEMM_OPENBLAS, ADDER_SGEMM_EIGEN; every
// sgemm_*.cpp is compiled and exactly one of them is not empty.
#pragma once

#include <cstdint>

namespace adder::cpu {

// Row-major c = alpha * op(a) op(b) + beta * c with op(a) (M, K), op(b) (K, N), c (M, N); ld* are
// the distances between rows as stored. All extents are at least 1. With beta 0 c is not read.
// Runs on num_threads() threads.
void sgemm(bool trans_a, bool trans_b, std::int64_t M, std::int64_t N, std::int64_t K, float alpha,
           const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
           std::int64_t ldc);

// Name and version, for reports.
const char* sgemm_library();

}  // namespace adder::cpu
