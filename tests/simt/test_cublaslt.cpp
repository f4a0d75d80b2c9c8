// The stand-in for cuBLASLt: it multiplies as the one for cuBLAS does, and refuses a plan that is
// used for what it was not made for.
#include <cublasLt.h>
#include <random>

#include "tests/simt/support.h"

using namespace simt_test;

namespace {

constexpr int kM = 5;
constexpr int kN = 7;
constexpr int kK = 3;

struct Plan {
  explicit Plan(std::uint32_t alignment, std::size_t workspace) {
    REQUIRE_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_SUCCESS);
    REQUIRE_EQ(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F),
               CUBLAS_STATUS_SUCCESS);
    const cublasOperation_t transpose = CUBLAS_OP_T;
    REQUIRE_EQ(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                              sizeof(transpose)),
               CUBLAS_STATUS_SUCCESS);
    REQUIRE_EQ(cublasLtMatrixLayoutCreate(&a, CUDA_R_32F, kK, kM, kK), CUBLAS_STATUS_SUCCESS);
    REQUIRE_EQ(cublasLtMatrixLayoutCreate(&b, CUDA_R_32F, kK, kN, kK), CUBLAS_STATUS_SUCCESS);
    REQUIRE_EQ(cublasLtMatrixLayoutCreate(&c, CUDA_R_32F, kM, kN, kM), CUBLAS_STATUS_SUCCESS);
    REQUIRE_EQ(cublasLtMatmulPreferenceCreate(&preference), CUBLAS_STATUS_SUCCESS);
    for (const auto which :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      REQUIRE_EQ(
          cublasLtMatmulPreferenceSetAttribute(preference, which, &alignment, sizeof(alignment)),
          CUBLAS_STATUS_SUCCESS);
    }
    REQUIRE_EQ(
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &workspace, sizeof(workspace)),
        CUBLAS_STATUS_SUCCESS);
    int count = 0;
    REQUIRE_EQ(
        cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, c, c, preference, 1, &found, &count),
        CUBLAS_STATUS_SUCCESS);
    REQUIRE_EQ(count, 1);
  }
  ~Plan() {
    cublasLtMatmulPreferenceDestroy(preference);
    for (cublasLtMatrixLayout_t layout : {a, b, c}) cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(desc);
    cublasLtDestroy(handle);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  cublasStatus_t run(const float* x, const float* y, float beta, float* z, void* workspace,
                     std::size_t bytes) const {
    const float alpha = 2;
    return cublasLtMatmul(handle, desc, &alpha, x, a, y, b, &beta, z, c, z, c, &found.algo,
                          workspace, bytes, nullptr);
  }

  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulHeuristicResult_t found{};
};

}  // namespace

TEST_CASE("cublasLt multiplies by a plan, again and again") {
  const Plan plan(4, 512);
  std::vector<float> a(kM * kK);
  std::vector<float> b(kN * kK);
  std::mt19937 generator(3);
  for (auto* values : {&a, &b}) {
    for (float& value : *values) value = static_cast<float>(generator() % 17) - 8;
  }
  float* device = nullptr;
  void* workspace = nullptr;
  const std::size_t count = a.size() + b.size() + kM * kN;
  REQUIRE_EQ(cudaMalloc(&device, count * sizeof(float)), cudaSuccess);
  REQUIRE_EQ(cudaMalloc(&workspace, 512), cudaSuccess);
  cudaMemcpy(device, a.data(), a.size() * sizeof(float), cudaMemcpyHostToDevice);
  float* y = device + a.size();
  float* z = y + b.size();
  cudaMemcpy(y, b.data(), b.size() * sizeof(float), cudaMemcpyHostToDevice);
  std::vector<float> before(kM * kN, 0.0F);
  for (const float beta : {0.0F, 1.0F}) {
    REQUIRE_EQ(plan.run(device, y, beta, z, workspace, 512), CUBLAS_STATUS_SUCCESS);
    std::vector<float> got(kM * kN);
    cudaMemcpy(got.data(), z, got.size() * sizeof(float), cudaMemcpyDeviceToHost);
    for (int column = 0; column < kN; ++column) {
      for (int row = 0; row < kM; ++row) {
        float expected = beta * before[column * kM + row];
        for (int i = 0; i < kK; ++i) expected += 2 * a[row * kK + i] * b[column * kK + i];
        CHECK(got[column * kM + row] == expected);
      }
    }
    before = got;
  }
  // Without the workspace that the algorithm asked for, and a plan for aligned pointers.
  CHECK(plan.run(device, y, 0, z, workspace, 100) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(plan.run(device, y, 0, z, nullptr, 512) == CUBLAS_STATUS_INVALID_VALUE);
  const Plan aligned(16, 0);
  CHECK(aligned.run(device, y, 0, z, nullptr, 0) == CUBLAS_STATUS_INVALID_VALUE);
  cudaFree(device);
  cudaFree(workspace);
}
