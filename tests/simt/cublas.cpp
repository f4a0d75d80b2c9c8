#include <algorithm>
#include <vector>

#include "cublas_v2.h"
#include "engine/dtype.h"
#include "tests/simt/blas.h"

struct cublasContext {
  cudaStream_t stream = nullptr;
  cublasPointerMode_t pointer_mode = CUBLAS_POINTER_MODE_HOST;
};

namespace simt {
namespace {

std::vector<std::unique_ptr<cublasContext>>& handles() {
  static auto* instance = new std::vector<std::unique_ptr<cublasContext>>;
  return *instance;
}

bool is_live(cublasHandle_t handle) {
  return std::any_of(handles().begin(), handles().end(),
                     [handle](const auto& each) { return each.get() == handle; });
}

std::size_t element_bytes(cudaDataType type) {
  return type == CUDA_R_16BF ? 2 : 4;
}

double load(const void* matrix, cudaDataType type, std::size_t index) {
  if (type == CUDA_R_16BF) {
    return static_cast<double>(static_cast<const adder::BFloat16*>(matrix)[index]);
  }
  return static_cast<const float*>(matrix)[index];
}

void store(void* matrix, cudaDataType type, std::size_t index, double value) {
  if (type == CUDA_R_16BF) {
    static_cast<adder::BFloat16*>(matrix)[index] = adder::BFloat16(static_cast<float>(value));
  } else {
    static_cast<float*>(matrix)[index] = static_cast<float>(value);
  }
}

// One batch's matrix, whose columns of op() run along `inner`.
const void* batch_of(const Matrix& matrix, int batch) {
  return static_cast<const char*>(matrix.data) +
         batch * matrix.stride * static_cast<long long>(element_bytes(matrix.type));
}

void check_reach(const Product& p, const Matrix& matrix, const char* name, int rows, int columns) {
  if (rows == 0 || columns == 0) return;
  const auto elements = (static_cast<std::size_t>(columns) - 1) * matrix.pitch + rows;
  for (int batch = 0; batch < p.batch; ++batch) {
    if (!in_allocation(batch_of(matrix, batch), elements * element_bytes(matrix.type))) {
      throw Error("cublas gemm " + std::to_string(p.m) + " x " + std::to_string(p.n) + " x " +
                  std::to_string(p.k) + ": matrix " + name + " of batch " + std::to_string(batch) +
                  " (" + std::to_string(rows) + " x " + std::to_string(columns) + ", pitch " +
                  std::to_string(matrix.pitch) + ") leaves its device allocation");
    }
  }
}

// op(X) with element (outer, i) at outer * k + i: rows of op(A), columns of op(B).
std::vector<double> pack(const Matrix& matrix, const void* data, int outer, int k,
                         bool along_pitch) {
  std::vector<double> packed(static_cast<std::size_t>(outer) * k);
  for (int o = 0; o < outer; ++o) {
    for (int i = 0; i < k; ++i) {
      const auto row = static_cast<std::size_t>(along_pitch ? i : o);
      const auto column = static_cast<std::size_t>(along_pitch ? o : i);
      packed[static_cast<std::size_t>(o) * k + i] =
          load(data, matrix.type, column * matrix.pitch + row);
    }
  }
  return packed;
}

void run(const Product& p) {
  const DeviceAccess access;
  if (p.k > 0) {
    check_reach(p, p.a, "A", p.a.transposed ? p.k : p.m, p.a.transposed ? p.m : p.k);
    check_reach(p, p.b, "B", p.b.transposed ? p.n : p.k, p.b.transposed ? p.k : p.n);
  }
  check_reach(p, p.c, "C", p.m, p.n);
  const double alpha = p.alpha_on_device != nullptr ? *p.alpha_on_device : p.alpha;
  const double beta = p.beta_on_device != nullptr ? *p.beta_on_device : p.beta;
  for (int batch = 0; batch < p.batch; ++batch) {
    const auto a = pack(p.a, batch_of(p.a, batch), p.m, p.k, p.a.transposed);
    const auto b = pack(p.b, batch_of(p.b, batch), p.n, p.k, !p.b.transposed);
    void* c = const_cast<void*>(batch_of(p.c, batch));
    for (int column = 0; column < p.n; ++column) {
      for (int row = 0; row < p.m; ++row) {
        double sum = 0;
        const double* x = a.data() + static_cast<std::size_t>(row) * p.k;
        const double* y = b.data() + static_cast<std::size_t>(column) * p.k;
        for (int i = 0; i < p.k; ++i) sum += x[i] * y[i];
        const auto index = static_cast<std::size_t>(column) * p.c.pitch + row;
        const double before = beta == 0 ? 0 : beta * load(c, p.c.type, index);
        store(c, p.c.type, index, alpha * sum + before);
      }
    }
  }
}

}  // namespace

bool fits(const Product& p) {
  return p.m >= 0 && p.n >= 0 && p.k >= 0 && p.batch >= 0 &&
         p.a.pitch >= std::max(1, p.a.transposed ? p.k : p.m) &&
         p.b.pitch >= std::max(1, p.b.transposed ? p.n : p.k) && p.c.pitch >= std::max(1, p.m);
}

bool storage_is_supported(const Product& p) {
  if (p.a.type != p.b.type) return false;
  if (p.a.type == CUDA_R_32F) return p.c.type == CUDA_R_32F;
  return p.a.type == CUDA_R_16BF && (p.c.type == CUDA_R_16BF || p.c.type == CUDA_R_32F);
}

cublasStatus_t submit_product(cudaStream_t stream, const Product& p) {
  const cudaError_t error = record_error(submit(stream, [p] { run(p); }));
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

namespace {

cublasStatus_t multiply(cublasHandle_t handle, Product p, const void* alpha, const void* beta) {
  const std::lock_guard<std::recursive_mutex> lock(emulator_mutex());
  if (!is_live(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!fits(p) || alpha == nullptr || beta == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  if (!storage_is_supported(p)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (p.m == 0 || p.n == 0 || p.batch == 0) return CUBLAS_STATUS_SUCCESS;
  // The host's scalars are read now, the device's when the stream gets here.
  if (handle->pointer_mode == CUBLAS_POINTER_MODE_HOST) {
    p.alpha = *static_cast<const float*>(alpha);
    p.beta = *static_cast<const float*>(beta);
  } else {
    p.alpha_on_device = static_cast<const float*>(alpha);
    p.beta_on_device = static_cast<const float*>(beta);
  }
  return submit_product(handle->stream, p);
}

template <typename Function>
cublasStatus_t with(cublasHandle_t handle, Function&& function) {
  const std::lock_guard<std::recursive_mutex> lock(emulator_mutex());
  if (!is_live(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  function();
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace
}  // namespace simt

const char* cublasGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
      return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "unknown cuBLAS status";
}

const char* cublasGetStatusString(cublasStatus_t status) {
  return cublasGetStatusName(status);
}

cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  const std::lock_guard<std::recursive_mutex> lock(simt::emulator_mutex());
  if (simt::device_count() == 0) return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = simt::handles().emplace_back(std::make_unique<cublasContext>()).get();
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  return simt::with(handle, [&] {
    std::erase_if(simt::handles(), [handle](const auto& each) { return each.get() == handle; });
  });
}

cublasStatus_t cublasGetVersion(cublasHandle_t handle, int* version) {
  return simt::with(handle, [&] { *version = 130000; });
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  return simt::with(handle, [&] { handle->stream = stream; });
}

cublasStatus_t cublasGetStream(cublasHandle_t handle, cudaStream_t* stream) {
  return simt::with(handle, [&] { *stream = handle->stream; });
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t /*mode*/) {
  return simt::with(handle, [] {});
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, std::size_t /*bytes*/) {
  if (reinterpret_cast<std::uintptr_t>(workspace) % 256 != 0) return CUBLAS_STATUS_INVALID_VALUE;
  return simt::with(handle, [] {});
}

cublasStatus_t cublasSetPointerMode(cublasHandle_t handle, cublasPointerMode_t mode) {
  return simt::with(handle, [&] { handle->pointer_mode = mode; });
}

cublasStatus_t cublasGemmStridedBatchedEx(
    cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
    const void* alpha, const void* A, cudaDataType Atype, int lda, long long strideA, const void* B,
    cudaDataType Btype, int ldb, long long strideB, const void* beta, void* C, cudaDataType Ctype,
    int ldc, long long strideC, int batch_count, cublasComputeType_t compute_type,
    cublasGemmAlgo_t /*algorithm*/) {
  if (compute_type == CUBLAS_COMPUTE_64F) return CUBLAS_STATUS_NOT_SUPPORTED;
  const simt::Product product{m,
                              n,
                              k,
                              batch_count,
                              {A, Atype, lda, strideA, transa != CUBLAS_OP_N},
                              {B, Btype, ldb, strideB, transb != CUBLAS_OP_N},
                              {C, Ctype, ldc, strideC, false},
                              0,
                              0,
                              nullptr,
                              nullptr};
  return simt::multiply(handle, product, alpha, beta);
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa,
                            cublasOperation_t transb, int m, int n, int k, const void* alpha,
                            const void* A, cudaDataType Atype, int lda, const void* B,
                            cudaDataType Btype, int ldb, const void* beta, void* C,
                            cudaDataType Ctype, int ldc, cublasComputeType_t compute_type,
                            cublasGemmAlgo_t algorithm) {
  return cublasGemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, A, Atype, lda, 0, B,
                                    Btype, ldb, 0, beta, C, Ctype, ldc, 0, 1, compute_type,
                                    algorithm);
}

cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t transa,
                                         cublasOperation_t transb, int m, int n, int k,
                                         const float* alpha, const float* A, int lda,
                                         long long strideA, const float* B, int ldb,
                                         long long strideB, const float* beta, float* C, int ldc,
                                         long long strideC, int batch_count) {
  return cublasGemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, A, CUDA_R_32F, lda,
                                    strideA, B, CUDA_R_32F, ldb, strideB, beta, C, CUDA_R_32F, ldc,
                                    strideC, batch_count, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t transa,
                           cublasOperation_t transb, int m, int n, int k, const float* alpha,
                           const float* A, int lda, const float* B, int ldb, const float* beta,
                           float* C, int ldc) {
  return cublasSgemmStridedBatched(handle, transa, transb, m, n, k, alpha, A, lda, 0, B, ldb, 0,
                                   beta, C, ldc, 0, 1);
}
