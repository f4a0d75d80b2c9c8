// Products of few rows with a weight matrix: decoding reads every weight once per token, so these
// are bound by memory and not by arithmetic.
#pragma once

#include <cstdint>

#include "engine/dtype.h"

namespace adder::cpu {

inline constexpr std::int64_t kGemvMaxRows = 4;

// c[m, n] = alpha * sum over k of a[m, k] b[n, k] + beta * c[m, n] for M <= kGemvMaxRows rows; rows
// are lda, ldb, ldc elements apart. With beta 0 c is not read. Each sum has a fixed order.
void gemv(std::int64_t M, std::int64_t N, std::int64_t K, float alpha, const float* a,
          std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
          std::int64_t ldc);
void gemv(std::int64_t M, std::int64_t N, std::int64_t K, float alpha, const float* a,
          std::int64_t lda, const BFloat16* b, std::int64_t ldb, float beta, float* c,
          std::int64_t ldc);

}  // namespace adder::cpu
