#include "engine/kernels/matmul.h"

#include "engine/cpu/eigen_gemm.h"
#include "engine/cpu/gemv.h"
#include "engine/cpu/rows.h"
#include "engine/cpu/sgemm.h"

namespace adder {

const char* matmul_library() {
  return cpu::sgemm_library();
}

namespace cpu {
namespace {

// Float elements of b that are widened at a time: 4 MB, reused from the allocator's cache.
constexpr std::int64_t kPanelElements = std::int64_t{1} << 20;

struct Extents {
  std::int64_t M, N, K;
};

Extents check(const MatmulArgs& args) {
  const Tensor* tensors[] = {&args.a, &args.b, &args.c};
  const char* names[] = {"a", "b", "c"};
  for (int i = 0; i < 3; ++i) {
    check_dense_rows("matmul", names[i], *tensors[i]);
    if (tensors[i]->rank() != 2) {
      throw ShapeError(
          str("matmul: ", names[i], " is ", tensors[i]->shape(), ", expected a matrix"));
    }
    if (tensors[i]->dim(0) > 1 && tensors[i]->stride(0) < tensors[i]->dim(1)) {
      throw ShapeError(str("matmul: ", names[i], " ", tensors[i]->shape(), " has row stride ",
                           tensors[i]->stride(0), ", less than a row"));
    }
  }
  const Extents e{args.a.dim(args.trans_a ? 1 : 0), args.b.dim(args.trans_b ? 0 : 1),
                  args.a.dim(args.trans_a ? 0 : 1)};
  if (args.b.dim(args.trans_b ? 1 : 0) != e.K) {
    throw ShapeError(str("matmul: a", args.trans_a ? "^T " : " ", args.a.shape(), " times b",
                         args.trans_b ? "^T " : " ", args.b.shape(), ": inner extents differ"));
  }
  if (args.c.dim(0) != e.M || args.c.dim(1) != e.N) {
    throw ShapeError(str("matmul: c is ", args.c.shape(), ", expected ", Shape{e.M, e.N}, " for a",
                         args.trans_a ? "^T " : " ", args.a.shape(), " times b",
                         args.trans_b ? "^T " : " ", args.b.shape()));
  }
  const Dtype dtype = args.c.dtype();
  const bool half_b = args.b.dtype() == Dtype::bf16 || args.b.dtype() == Dtype::f16;
  if ((dtype != Dtype::f32 && dtype != Dtype::f64) || args.a.dtype() != dtype ||
      (args.b.dtype() != dtype && !(half_b && dtype == Dtype::f32))) {
    throw DtypeError(str("matmul: ", dtype_name(args.a.dtype()), " times ",
                         dtype_name(args.b.dtype()), " into ", dtype_name(dtype)));
  }
  return e;
}

// A single row may have any stride; libraries still want a leading dimension of a row or more.
std::int64_t leading(const Tensor& t) {
  return t.dim(0) > 1 ? t.stride(0) : std::max<std::int64_t>(t.dim(1), 1);
}

template <typename T>
void scale_only(const Tensor& c, double beta) {
  const std::int64_t ldc = leading(c);
  for (std::int64_t row = 0; row < c.dim(0); ++row) {
    T* out = c.data<T>() + row * ldc;
    for (std::int64_t i = 0; i < c.dim(1); ++i) out[i] = beta == 0 ? T{0} : out[i] * T(beta);
  }
}

float to_float(BFloat16 value) {
  return static_cast<float>(value);
}
// Without branches, so that loops vectorise: the exponent is moved by a multiplication, which is
// exact and also right for subnormal numbers; infinities and NaN get the largest exponent back.
float to_float(Float16 value) {
  const std::uint32_t magnitude = (value.bits & 0x7fffU) << 13;
  const std::uint32_t scaled =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
  const std::uint32_t special = magnitude >= 0x0f800000U ? 0x7f800000U : 0U;
  return std::bit_cast<float>(scaled | special | (value.bits & 0x8000U) << 16);
}

template <typename Half>
void widen(const Half* from, std::int64_t from_stride, float* to, std::int64_t rows,
           std::int64_t columns) {
  parallel_for(rows, row_grain(columns), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const Half* source = from + row * from_stride;
      float* target = to + row * columns;
#pragma omp simd
      for (std::int64_t i = 0; i < columns; ++i) target[i] = to_float(source[i]);
    }
  });
}

void small_or_library(const Extents& e, const MatmulArgs& args, const float* b, std::int64_t ldb,
                      float* c) {
  const auto alpha = static_cast<float>(args.alpha);
  const auto beta = static_cast<float>(args.beta);
  const auto* a = args.a.data<float>();
  const std::int64_t lda = leading(args.a);
  if (e.M <= kGemvMaxRows && !args.trans_a && args.trans_b) {
    gemv(e.M, e.N, e.K, alpha, a, lda, b, ldb, beta, c, leading(args.c));
  } else {
    sgemm(args.trans_a, args.trans_b, e.M, e.N, e.K, alpha, a, lda, b, ldb, beta, c,
          leading(args.c));
  }
}

// b is stored in 16 bits: widened by panels of its N dimension, each used once at full speed.
template <typename Half>
void matmul_half(const Extents& e, const MatmulArgs& args) {
  const Half* b = args.b.data<Half>();
  const std::int64_t ldb = leading(args.b);
  auto* c = args.c.data<float>();
  if constexpr (std::is_same_v<Half, BFloat16>) {
    if (e.M <= kGemvMaxRows && !args.trans_a && args.trans_b) {
      return gemv(e.M, e.N, e.K, static_cast<float>(args.alpha), args.a.data<float>(),
                  leading(args.a), b, ldb, static_cast<float>(args.beta), c, leading(args.c));
    }
  }
  const std::int64_t most = std::clamp<std::int64_t>(kPanelElements / e.K, 16, e.N + 15);
  const std::int64_t panels = (e.N + most - 1) / most;
  const std::int64_t width = std::min(e.N, ((e.N + panels - 1) / panels + 15) / 16 * 16);
  const Tensor panel = Tensor::empty({width * e.K});
  auto* wide = panel.data<float>();
  for (std::int64_t n = 0; n < e.N; n += width) {
    Extents part = e;
    part.N = std::min(width, e.N - n);
    if (args.trans_b) {
      widen(b + n * ldb, ldb, wide, part.N, e.K);
      small_or_library(part, args, wide, e.K, c + n);
    } else {
      widen(b + n, ldb, wide, e.K, part.N);
      small_or_library(part, args, wide, part.N, c + n);
    }
  }
}

}  // namespace

void matmul(const MatmulArgs& args) {
  const Extents e = check(args);
  if (e.M == 0 || e.N == 0) return;
  const bool doubles = args.c.dtype() == Dtype::f64;
  if (e.K == 0) {
    return doubles ? scale_only<double>(args.c, args.beta) : scale_only<float>(args.c, args.beta);
  }
  if (doubles) {
    return eigen_gemm<double>(args.trans_a, args.trans_b, e.M, e.N, e.K, args.alpha,
                              args.a.data<double>(), leading(args.a), args.b.data<double>(),
                              leading(args.b), args.beta, args.c.data<double>(), leading(args.c));
  }
  if (args.b.dtype() == Dtype::bf16) return matmul_half<BFloat16>(e, args);
  if (args.b.dtype() == Dtype::f16) return matmul_half<Float16>(e, args);
  small_or_library(e, args, args.b.data<float>(), leading(args.b), args.c.data<float>());
}

}  // namespace cpu
}  // namespace adder
