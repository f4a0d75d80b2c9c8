#ifdef ADDER_SGEMM_BLIS

// BLIS's header is C and not clean under this project's warnings.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wshadow"
#include <blis.h>
#pragma GCC diagnostic pop

#include <string>

#include "engine/cpu/parallel.h"
#include "engine/cpu/sgemm.h"

namespace adder::cpu {

void sgemm(bool trans_a, bool trans_b, std::int64_t M, std::int64_t N, std::int64_t K, float alpha,
           const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
           std::int64_t ldc) {
  thread_local int threads = 0;
  if (threads != num_threads()) {
    threads = num_threads();
    bli_thread_set_num_threads(threads);
  }
  // BLIS takes row and column strides, and pointers to non-const that it does not write through.
  bli_sgemm(trans_a ? BLIS_TRANSPOSE : BLIS_NO_TRANSPOSE,
            trans_b ? BLIS_TRANSPOSE : BLIS_NO_TRANSPOSE, M, N, K, &alpha, const_cast<float*>(a),
            lda, 1, const_cast<float*>(b), ldb, 1, &beta, c, ldc, 1);
}

const char* sgemm_library() {
  static const std::string name = std::string("BLIS ") + bli_info_get_version_str();
  return name.c_str();
}

}  // namespace adder::cpu

#endif
