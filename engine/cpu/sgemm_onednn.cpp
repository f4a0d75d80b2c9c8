#ifdef ADDER_SGEMM_ONEDNN

#include <dnnl.h>

#include "engine/cpu/sgemm.h"
#include "engine/error.h"

namespace adder::cpu {

// oneDNN reads the thread count from OpenMP, where set_num_threads() puts it.
void sgemm(bool trans_a, bool trans_b, std::int64_t M, std::int64_t N, std::int64_t K, float alpha,
           const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
           std::int64_t ldc) {
  const dnnl_status_t status = dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', M, N, K, alpha,
                                          a, lda, b, ldb, beta, c, ldc);
  if (status != dnnl_success) {
    throw DeviceError(str("matmul: oneDNN status ", static_cast<int>(status), " for M ", M, ", N ",
                          N, ", K ", K));
  }
}

const char* sgemm_library() {
  static const std::string name = [] {
    const dnnl_version_t* version = dnnl_version();
    return str("oneDNN ", version->major, ".", version->minor, ".", version->patch);
  }();
  return name.c_str();
}

}  // namespace adder::cpu

#endif
