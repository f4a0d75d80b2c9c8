#ifdef ADDER_SGEMM_EIGEN

#include "engine/cpu/eigen_gemm.h"
#include "engine/cpu/sgemm.h"
#include "engine/error.h"

namespace adder::cpu {

void sgemm(bool trans_a, bool trans_b, std::int64_t M, std::int64_t N, std::int64_t K, float alpha,
           const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
           std::int64_t ldc) {
  eigen_gemm(trans_a, trans_b, M, N, K, alpha, a, lda, b, ldb, beta, c, ldc);
}

const char* sgemm_library() {
  static const std::string name =
      str("Eigen ", EIGEN_WORLD_VERSION, ".", EIGEN_MAJOR_VERSION, ".", EIGEN_MINOR_VERSION);
  return name.c_str();
}

}  // namespace adder::cpu

#endif
