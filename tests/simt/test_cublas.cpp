// The stand-in for cuBLAS against sums written down from the definition.
#include <cublas_v2.h>

#include "engine/dtype.h"
#include "tests/simt/support.h"

using namespace simt_test;
using adder::BFloat16;

namespace {

class Handle {
 public:
  Handle() { REQUIRE_EQ(cublasCreate(&handle_), CUBLAS_STATUS_SUCCESS); }
  ~Handle() { cublasDestroy(handle_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator cublasHandle_t() const { return handle_; }

 private:
  cublasHandle_t handle_ = nullptr;
};

template <typename T>
constexpr cudaDataType kType = sizeof(T) == 2 ? CUDA_R_16BF : CUDA_R_32F;

template <typename T>
std::vector<T> stored(const std::vector<float>& values) {
  std::vector<T> result(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) result[i] = T(values[i]);
  return result;
}

template <typename T>
double worst(const std::vector<T>& got, const std::vector<double>& expected) {
  std::vector<float> widened(got.size());
  for (std::size_t i = 0; i < got.size(); ++i) widened[i] = static_cast<float>(got[i]);
  return relative_error(widened, expected);
}

template <typename In, typename Out>
void check_gemm(double tolerance) {
  const int m = 5;
  const int n = 7;
  const int k = 11;
  const int batch = 2;
  const float alpha = 1.5F;
  const Handle handle;
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      for (const float beta : {0.0F, 0.5F}) {
        CAPTURE(ta);
        CAPTURE(tb);
        CAPTURE(beta);
        const int lda = (ta ? k : m) + 2;
        const int ldb = (tb ? n : k) + 1;
        const int ldc = m + 3;
        const int stride_a = lda * (ta ? m : k);
        const int stride_b = ldb * (tb ? k : n);
        const int stride_c = ldc * n;
        const auto a = stored<In>(numbers(static_cast<std::size_t>(batch * stride_a), 1));
        const auto b = stored<In>(numbers(static_cast<std::size_t>(batch * stride_b), 2));
        const auto c = stored<Out>(numbers(static_cast<std::size_t>(batch * stride_c), 3));
        std::vector<double> expected(c.size());
        for (std::size_t i = 0; i < c.size(); ++i)
          expected[i] = static_cast<double>(static_cast<float>(c[i]));
        for (int s = 0; s < batch; ++s) {
          for (int j = 0; j < n; ++j) {
            for (int i = 0; i < m; ++i) {
              double sum = 0;
              for (int l = 0; l < k; ++l) {
                const int at = s * stride_a + (ta ? i * lda + l : l * lda + i);
                const int bt = s * stride_b + (tb ? l * ldb + j : j * ldb + l);
                sum += static_cast<double>(static_cast<float>(a[static_cast<std::size_t>(at)])) *
                       static_cast<double>(static_cast<float>(b[static_cast<std::size_t>(bt)]));
              }
              double& target = expected[static_cast<std::size_t>(s * stride_c + j * ldc + i)];
              target = alpha * sum + beta * target;
            }
          }
        }
        const Buffer<In> ga(a);
        const Buffer<In> gb(b);
        const Buffer<Out> gc(c);
        const auto ot = ta ? CUBLAS_OP_T : CUBLAS_OP_N;
        const auto pt = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
        CHECK_EQ(cublasGemmStridedBatchedEx(handle, ot, pt, m, n, k, &alpha, ga.get(), kType<In>,
                                            lda, stride_a, gb.get(), kType<In>, ldb, stride_b,
                                            &beta, gc.get(), kType<Out>, ldc, stride_c, batch,
                                            CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                 CUBLAS_STATUS_SUCCESS);
        CHECK_LT(worst(gc.read(), expected), tolerance);
        // The first of the batch alone.
        const Buffer<Out> single(c);
        CHECK_EQ(cublasGemmEx(handle, ot, pt, m, n, k, &alpha, ga.get(), kType<In>, lda, gb.get(),
                              kType<In>, ldb, &beta, single.get(), kType<Out>, ldc,
                              CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                 CUBLAS_STATUS_SUCCESS);
        const auto size = static_cast<std::ptrdiff_t>(stride_c);
        const auto got = single.read();
        CHECK_LT(worst(std::vector<Out>(got.begin(), got.begin() + size),
                       std::vector<double>(expected.begin(), expected.begin() + size)),
                 tolerance);
        CHECK_EQ(static_cast<float>(got.back()), static_cast<float>(c.back()));
      }
    }
  }
}

}  // namespace

TEST_CASE("products in float32, bfloat16, and bfloat16 into float32; all transpositions") {
  check_gemm<float, float>(1e-6);
  check_gemm<BFloat16, BFloat16>(4e-3);
  check_gemm<BFloat16, float>(1e-6);
}

TEST_CASE("with beta 0 the result's old content does not matter") {
  const Handle handle;
  const Buffer<float> a(std::vector<float>{2});
  const Buffer<float> c(1);  // NaN
  const float one = 1;
  const float zero = 0;
  CHECK_EQ(cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, a.get(), 1, a.get(), 1,
                       &zero, c.get(), 1),
           CUBLAS_STATUS_SUCCESS);
  CHECK_EQ(c.read()[0], 4.0F);
}

TEST_CASE("wrong arguments are refused as by cuBLAS, and matrices that leave their memory found") {
  const Handle handle;
  const Buffer<float> a(12);
  const Buffer<float> b(20);
  const Buffer<float> c(15);
  const float one = 1;
  const auto gemm = [&](int m, int lda, int ldb, int ldc) {
    return cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, m, 5, 4, &one, a.get(), lda, b.get(), ldb,
                       &one, c.get(), ldc);
  };
  CHECK_EQ(gemm(3, 3, 4, 3), CUBLAS_STATUS_SUCCESS);
  CHECK_EQ(gemm(3, 2, 4, 3), CUBLAS_STATUS_INVALID_VALUE);
  CHECK_EQ(gemm(3, 3, 3, 3), CUBLAS_STATUS_INVALID_VALUE);
  CHECK_EQ(gemm(3, 3, 4, 2), CUBLAS_STATUS_INVALID_VALUE);
  CHECK_EQ(gemm(-1, 3, 4, 3), CUBLAS_STATUS_INVALID_VALUE);
  CHECK_EQ(gemm(0, 3, 4, 3), CUBLAS_STATUS_SUCCESS);
  CHECK_EQ(cublasSgemm(handle, CUBLAS_OP_T, CUBLAS_OP_N, 3, 5, 4, &one, a.get(), 3, b.get(), 4,
                       &one, c.get(), 3),
           CUBLAS_STATUS_INVALID_VALUE);
  CHECK_EQ(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, a.get(), CUDA_R_32F, 1,
                        b.get(), CUDA_R_32F, 1, &one, c.get(), CUDA_R_16BF, 1, CUBLAS_COMPUTE_32F,
                        CUBLAS_GEMM_DEFAULT),
           CUBLAS_STATUS_NOT_SUPPORTED);
  const std::string message = error_of([&] { (void)gemm(3, 4, 4, 3); });
  CHECK_EQ(
      message,
      "cublas gemm 3 x 5 x 4: matrix A of batch 0 (3 x 4, pitch 4) leaves its device allocation");
}

TEST_CASE("products keep to the stream of the handle, and to a capture") {
  const Handle handle;
  const Stream stream;
  const Buffer<float> a(std::vector<float>{3});
  const Buffer<float> c(std::vector<float>{0});
  const float one = 1;
  REQUIRE_EQ(cublasSetStream(handle, stream), CUBLAS_STATUS_SUCCESS);
  REQUIRE_EQ(cublasSetMathMode(handle, CUBLAS_DEFAULT_MATH), CUBLAS_STATUS_SUCCESS);
  const auto square = [&] {
    return cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, a.get(), 1, a.get(), 1,
                       &one, c.get(), 1);
  };
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CHECK_EQ(square(), CUBLAS_STATUS_SUCCESS);
  cudaGraph_t graph = nullptr;
  must(cudaStreamEndCapture(stream, &graph));
  CHECK_EQ(c.read()[0], 0.0F);
  cudaGraphExec_t exec = nullptr;
  must(cudaGraphInstantiate(&exec, graph));
  must(cudaGraphLaunch(exec, stream));
  must(cudaGraphLaunch(exec, stream));
  CHECK_EQ(c.read()[0], 18.0F);
  must(cudaGraphExecDestroy(exec));
  must(cudaGraphDestroy(graph));
  simt::set_queued(true);
  CHECK_EQ(square(), CUBLAS_STATUS_SUCCESS);
  CHECK_EQ(c.read()[0], 18.0F);
  must(cudaStreamSynchronize(stream));
  CHECK_EQ(c.read()[0], 27.0F);
  simt::set_queued(false);
}
