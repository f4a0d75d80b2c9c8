// Matrix products by cuBLAS. Its matrices are column major, so a row-major c = op(a) op(b) is asked
// for as c^T = op(b)^T op(a)^T with the operands exchanged.
#include "engine/kernels/matmul.h"

#include "cuda/runtime.h"

namespace adder::cuda {
namespace {

cudaDataType_t data_type(const char* what, const Tensor& tensor) {
  if (tensor.dtype() == Dtype::f32) return CUDA_R_32F;
  if (tensor.dtype() == Dtype::bf16) return CUDA_R_16BF;
  throw DtypeError(str("matmul: ", what, " is ", dtype_name(tensor.dtype()),
                       " on CUDA, expected float32 or bfloat16"));
}

void check_matrix(const char* what, const Tensor& tensor) {
  if (!tensor.defined() || tensor.rank() != 2 || (tensor.dim(1) > 1 && tensor.stride(1) != 1)) {
    throw ShapeError(
        str("matmul: ", what, " is ", tensor.shape(), ", expected a matrix with dense rows"));
  }
}

int leading(const Tensor& tensor) {
  return static_cast<int>(tensor.dim(0) > 1 ? tensor.stride(0)
                                            : std::max<std::int64_t>(tensor.dim(1), 1));
}

}  // namespace

void matmul(const MatmulArgs& args) {
  check_matrix("a", args.a);
  check_matrix("b", args.b);
  check_matrix("c", args.c);
  const std::int64_t M = args.a.dim(args.trans_a ? 1 : 0);
  const std::int64_t K = args.a.dim(args.trans_a ? 0 : 1);
  const std::int64_t N = args.b.dim(args.trans_b ? 0 : 1);
  if (args.b.dim(args.trans_b ? 1 : 0) != K || args.c.dim(0) != M || args.c.dim(1) != N) {
    throw ShapeError(str("matmul: a", args.trans_a ? "^T " : " ", args.a.shape(), " times b",
                         args.trans_b ? "^T " : " ", args.b.shape(), " into c ", args.c.shape()));
  }
  if (M == 0 || N == 0) return;
  if (K == 0) {
    args.beta == 0 ? args.c.fill(0) : args.c.scale_(args.beta);
    return;
  }
  // cuBLAS takes both operands in one type: the odd one is converted, which costs one pass over it.
  Tensor a = args.a;
  Tensor b = args.b;
  if (a.dtype() != b.dtype()) {
    if (a.dtype() == Dtype::f32) {
      b = b.to(Dtype::f32);
    } else {
      a = a.to(Dtype::f32);
    }
  }
  const auto alpha = static_cast<float>(args.alpha);
  const auto beta = static_cast<float>(args.beta);
  check(cublasGemmEx(blas(args.c.device()), args.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                     args.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N, static_cast<int>(N),
                     static_cast<int>(M), static_cast<int>(K), &alpha, b.raw(), data_type("b", b),
                     leading(b), a.raw(), data_type("a", a), leading(a), &beta, args.c.raw(),
                     data_type("c", args.c), leading(args.c), CUBLAS_COMPUTE_32F,
                     CUBLAS_GEMM_DEFAULT),
        "matmul");
}

}  // namespace adder::cuda
