// Matrix products by cuBLASLt. Its matrices are column major, so a row-major c = op(a) op(b) is
// asked for as c^T = op(b)^T op(a)^T with the operands exchanged. Float32 products are computed in
// float32, not in TF32.
//
// Choosing an algorithm takes longer than a small product, so the choice is kept by everything it
// depends on. Where cuBLASLt has none, cuBLAS multiplies.
#include "engine/kernels/matmul.h"

#include <array>
#include <map>
#include <mutex>

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

// The power of two, 256 at most, that a pointer is a multiple of.
std::uint32_t alignment(const void* pointer) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  return address == 0
             ? 256
             : static_cast<std::uint32_t>(std::min<std::uintptr_t>(address & (~address + 1), 256));
}

// Column major, as cuBLAS sees it: its first operand is our b.
struct Operand {
  void* data;
  cudaDataType_t type;
  std::int64_t rows, columns, pitch;
  bool transposed;
};

struct Plan {
  bool usable = false;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algo{};
};

cublasLtMatrixLayout_t layout_of(const Operand& operand) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(cublasLtMatrixLayoutCreate(&layout, operand.type, static_cast<std::uint64_t>(operand.rows),
                                   static_cast<std::uint64_t>(operand.columns), operand.pitch),
        "cublasLtMatrixLayoutCreate");
  return layout;
}

Plan make_plan(const Blas& own, const Operand& a, const Operand& b, const Operand& c) {
  Plan plan;
  check(cublasLtMatmulDescCreate(&plan.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "cublasLtMatmulDescCreate");
  const auto transpose = [&](cublasLtMatmulDescAttributes_t which, const Operand& operand) {
    const cublasOperation_t operation = operand.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(plan.desc, which, &operation, sizeof(operation)),
          "cublasLtMatmulDescSetAttribute");
  };
  transpose(CUBLASLT_MATMUL_DESC_TRANSA, a);
  transpose(CUBLASLT_MATMUL_DESC_TRANSB, b);
  plan.a = layout_of(a);
  plan.b = layout_of(b);
  plan.c = layout_of(c);
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference, which, &value, sizeof(value)),
          "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, own.workspace_bytes);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(a.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(b.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(c.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(c.data));
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      own.lt, plan.desc, plan.a, plan.b, plan.c, plan.c, preference, 1, &found, &count);
  plan.usable =
      status == CUBLAS_STATUS_SUCCESS && count > 0 && found.state == CUBLAS_STATUS_SUCCESS;
  plan.algo = found.algo;
  cublasLtMatmulPreferenceDestroy(preference);
  return plan;
}

void destroy(const Plan& plan) {
  cublasLtMatmulDescDestroy(plan.desc);
  for (cublasLtMatrixLayout_t layout : {plan.a, plan.b, plan.c}) {
    cublasLtMatrixLayoutDestroy(layout);
  }
}

using PlanKey = std::array<std::int64_t, 15>;

// Lengths differ from batch to batch, so there may be many; the oldest go all at once.
Plan plan_for(const Blas& own, const Operand& a, const Operand& b, const Operand& c) {
  constexpr std::size_t kMost = 8192;
  static std::mutex mutex;
  static auto* plans = new std::map<std::pair<cublasLtHandle_t, PlanKey>, Plan>;
  const PlanKey key{a.rows,  a.columns, a.pitch,           a.transposed,      a.type,
                    b.rows,  b.columns, b.pitch,           b.transposed,      b.type,
                    c.pitch, c.type,    alignment(a.data), alignment(b.data), alignment(c.data)};
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = plans->find({own.lt, key});
  if (found != plans->end()) return found->second;
  if (plans->size() >= kMost) {
    for (const auto& [old_key, old] : *plans) destroy(old);
    plans->clear();
  }
  return plans->emplace(std::pair{own.lt, key}, make_plan(own, a, b, c)).first->second;
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
  const Device device = args.c.device();
  const Blas& own = blas(device);
  const auto operand = [](const char* what, const Tensor& tensor, bool transposed) {
    return Operand{tensor.raw(),  data_type(what, tensor), tensor.dim(1),
                   tensor.dim(0), leading(tensor),         transposed};
  };
  const Operand left = operand("b", b, args.trans_b);
  const Operand right = operand("a", a, args.trans_a);
  const Operand result = operand("c", args.c, false);
  const Plan plan = plan_for(own, left, right, result);
  if (plan.usable) {
    check(cublasLtMatmul(own.lt, plan.desc, &alpha, left.data, plan.a, right.data, plan.b, &beta,
                         result.data, plan.c, result.data, plan.c, &plan.algo, own.workspace,
                         own.workspace_bytes, stream(device)),
          "matmul");
    return;
  }
  check(cublasGemmEx(own.handle, args.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                     args.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N, static_cast<int>(N),
                     static_cast<int>(M), static_cast<int>(K), &alpha, left.data, left.type,
                     static_cast<int>(left.pitch), right.data, right.type,
                     static_cast<int>(right.pitch), &beta, result.data, result.type,
                     static_cast<int>(result.pitch), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "matmul");
}

}  // namespace adder::cuda
