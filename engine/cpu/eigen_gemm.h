// Matrix product through Eigen, for any element type: float64 always, float32 as the fallback.
// Private to matmul.cpp and sgemm_eigen.cpp.
#pragma once

// GCC 12 takes its own AVX-512 intrinsics, inlined from Eigen, for reads of uninitialised memory;
// it reports them where they are instantiated, so the whole including file is covered.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <Eigen/Core>
#include <cstdint>

namespace adder::cpu {

// Row-major c = alpha * op(a) op(b) + beta * c; see sgemm.h.
template <typename T>
void eigen_gemm(bool trans_a, bool trans_b, std::int64_t M, std::int64_t N, std::int64_t K, T alpha,
                const T* a, std::int64_t lda, const T* b, std::int64_t ldb, T beta, T* c,
                std::int64_t ldc) {
  using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using In = Eigen::Map<const Matrix, Eigen::Unaligned, Eigen::OuterStride<>>;
  using Out = Eigen::Map<Matrix, Eigen::Unaligned, Eigen::OuterStride<>>;
  const In left(a, trans_a ? K : M, trans_a ? M : K, Eigen::OuterStride<>(lda));
  const In right(b, trans_b ? N : K, trans_b ? K : N, Eigen::OuterStride<>(ldb));
  Out out(c, M, N, Eigen::OuterStride<>(ldc));
  if (beta == T{0}) {
    out.setZero();
  } else if (beta != T{1}) {
    out *= beta;
  }
  if (trans_a && trans_b) {
    out.noalias() += alpha * left.transpose() * right.transpose();
  } else if (trans_a) {
    out.noalias() += alpha * left.transpose() * right;
  } else if (trans_b) {
    out.noalias() += alpha * left * right.transpose();
  } else {
    out.noalias() += alpha * left * right;
  }
}

}  // namespace adder::cpu
