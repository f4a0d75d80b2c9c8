#include "cublasLt.h"

#include <algorithm>
#include <cstring>

#include "tests/simt/blas.h"

// Objects are plain memory of their owner; only the handle needs a device.
struct cublasLtContext {};
struct cublasLtMatmulDescOpaque {
  cublasComputeType_t compute;
  cublasOperation_t transa = CUBLAS_OP_N;
  cublasOperation_t transb = CUBLAS_OP_N;
};
struct cublasLtMatrixLayoutOpaque {
  cudaDataType type;
  std::uint64_t rows, columns;
  std::int64_t pitch;
};
struct cublasLtMatmulPreferenceOpaque {
  std::size_t workspace = 0;
  std::uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C, D
};

namespace simt {
namespace {

constexpr std::size_t kWantedWorkspace = std::size_t{1} << 20;

// What the stand-in keeps in an algorithm's opaque words.
struct Algorithm {
  std::uint64_t workspace;
  std::uint32_t alignment[4];
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

Product product_of(const cublasLtMatmulDescOpaque& desc, const cublasLtMatrixLayoutOpaque& a,
                   const cublasLtMatrixLayoutOpaque& b, const cublasLtMatrixLayoutOpaque& c) {
  const bool ta = desc.transa != CUBLAS_OP_N;
  const bool tb = desc.transb != CUBLAS_OP_N;
  return {static_cast<int>(c.rows),
          static_cast<int>(c.columns),
          static_cast<int>(ta ? a.rows : a.columns),
          1,
          {nullptr, a.type, static_cast<int>(a.pitch), 0, ta},
          {nullptr, b.type, static_cast<int>(b.pitch), 0, tb},
          {nullptr, c.type, static_cast<int>(c.pitch), 0, false},
          0,
          0,
          nullptr,
          nullptr};
}

bool agree(const cublasLtMatmulDescOpaque& desc, const cublasLtMatrixLayoutOpaque& a,
           const cublasLtMatrixLayoutOpaque& b, const cublasLtMatrixLayoutOpaque& c) {
  const bool ta = desc.transa != CUBLAS_OP_N;
  const bool tb = desc.transb != CUBLAS_OP_N;
  return (ta ? a.columns : a.rows) == c.rows && (tb ? b.rows : b.columns) == c.columns &&
         (ta ? a.rows : a.columns) == (tb ? b.columns : b.rows);
}

bool same(const cublasLtMatrixLayoutOpaque& x, const cublasLtMatrixLayoutOpaque& y) {
  return x.type == y.type && x.rows == y.rows && x.columns == y.columns && x.pitch == y.pitch;
}

template <typename Opaque>
cublasStatus_t destroy(Opaque* object) {
  delete object;
  return CUBLAS_STATUS_SUCCESS;
}

template <typename T>
cublasStatus_t set(T& to, const void* value, std::size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace
}  // namespace simt

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  const std::lock_guard<std::recursive_mutex> lock(simt::emulator_mutex());
  if (simt::device_count() == 0) return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  return simt::destroy(handle);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType scale_type) {
  if (scale_type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *desc = new cublasLtMatmulDescOpaque{compute};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  return simt::destroy(desc);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
  return simt::set(attribute == CUBLASLT_MATMUL_DESC_TRANSA ? desc->transa : desc->transb, value,
                   bytes);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          std::uint64_t rows, std::uint64_t columns,
                                          std::int64_t pitch) {
  *layout = new cublasLtMatrixLayoutOpaque{type, rows, columns, pitch};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return simt::destroy(layout);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return simt::destroy(preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, std::size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
    return simt::set(preference->workspace, value, bytes);
  }
  return simt::set(preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES],
                   value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t A, cublasLtMatrixLayout_t B,
                                              cublasLtMatrixLayout_t C, cublasLtMatrixLayout_t D,
                                              cublasLtMatmulPreference_t preference, int asked,
                                              cublasLtMatmulHeuristicResult_t* results,
                                              int* returned) {
  *returned = 0;
  if (handle == nullptr || asked < 1 || results == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  const simt::Product product = simt::product_of(*desc, *A, *B, *C);
  if (!simt::fits(product) || !simt::agree(*desc, *A, *B, *C) || !simt::same(*C, *D)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (!simt::storage_is_supported(product)) return CUBLAS_STATUS_NOT_SUPPORTED;
  simt::Algorithm algorithm{std::min(preference->workspace, simt::kWantedWorkspace), {}};
  std::copy_n(preference->alignment, 4, algorithm.alignment);
  results[0] = {};
  std::memcpy(&results[0].algo, &algorithm, sizeof(algorithm));
  results[0].workspaceSize = algorithm.workspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *returned = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* A, cublasLtMatrixLayout_t Adesc, const void* B,
                              cublasLtMatrixLayout_t Bdesc, const void* beta, const void* C,
                              cublasLtMatrixLayout_t Cdesc, void* D, cublasLtMatrixLayout_t Ddesc,
                              const cublasLtMatmulAlgo_t* algo, void* workspace,
                              std::size_t workspace_bytes, cudaStream_t stream) {
  const std::lock_guard<std::recursive_mutex> lock(simt::emulator_mutex());
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (alpha == nullptr || beta == nullptr || C != D || !simt::same(*Cdesc, *Ddesc) ||
      !simt::agree(*desc, *Adesc, *Bdesc, *Cdesc)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (algo != nullptr) {
    simt::Algorithm algorithm{};
    std::memcpy(&algorithm, algo, sizeof(algorithm));
    const void* pointers[] = {A, B, C, D};
    for (int i = 0; i < 4; ++i) {
      const auto address = reinterpret_cast<std::uintptr_t>(pointers[i]);
      if (address % algorithm.alignment[i] != 0) return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (workspace_bytes < algorithm.workspace ||
        !simt::in_allocation(workspace, algorithm.workspace)) {
      return CUBLAS_STATUS_INVALID_VALUE;
    }
  }
  simt::Product product = simt::product_of(*desc, *Adesc, *Bdesc, *Cdesc);
  if (!simt::fits(product)) return CUBLAS_STATUS_INVALID_VALUE;
  if (!simt::storage_is_supported(product)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (product.m == 0 || product.n == 0) return CUBLAS_STATUS_SUCCESS;
  product.a.data = A;
  product.b.data = B;
  product.c.data = D;
  product.alpha = *static_cast<const float*>(alpha);
  product.beta = *static_cast<const float*>(beta);
  return simt::submit_product(stream, product);
}
