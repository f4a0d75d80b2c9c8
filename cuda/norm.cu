// RMSNorm with the residual addition. A block of kThreads threads owns one row (forward) or the
// rows of one part (backward), thread i the quads of columns i, i + kThreads, ...; a row is read
// twice, the second time from the caches. Traffic per element: forward 2 reads and 2 writes,
// backward 3 and 1, and one write more where x has a type of its own; that is the limit.
#include "cuda/math.h"
#include "cuda/runtime.h"
#include "cuda/strided.h"
#include "cuda/vector.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/norm.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr std::int64_t kRowsPerPart = 32;

struct NormFwd {
  int width;
  float epsilon;
  float* inv_rms;
};

// The sums R may be float32 beside inputs X or outputs Y of 16 bits.
template <typename X, typename R, typename Y, bool kVector>
__global__ void __launch_bounds__(kThreads)
    rms_norm_fwd_kernel(NormFwd p, Matrix<const X> x, Matrix<const R> residual, const float* weight,
                        Matrix<R> residual_out, Matrix<Y> y) {
  ADDER_SHARED(float, scratch);
  const std::int64_t row = blockIdx.x;
  const int first = static_cast<int>(threadIdx.x) * 4;
  float squares = 0;
  for (int i = first; i < p.width; i += 4 * kThreads) {
    Quad<float> value = floats(load_quad<kVector>(x(row) + i, p.width - i));
    if (residual.data != nullptr) {
      const Quad<float> more = floats(load_quad<kVector>(residual(row) + i, p.width - i));
#pragma unroll
      for (int k = 0; k < 4; ++k) value.v[k] += more.v[k];
      store_quad<kVector>(residual_out(row) + i, p.width - i, stored<R>(value.v));
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) squares += value.v[k] * value.v[k];
  }
  const float mean = block_sum<kThreads>(squares, scratch) / static_cast<float>(p.width);
  const float inverse = 1.0F / sqrtf(mean + p.epsilon);
  if (p.inv_rms != nullptr && threadIdx.x == 0) p.inv_rms[row] = inverse;
  for (int i = first; i < p.width; i += 4 * kThreads) {
    Quad<float> value = residual.data != nullptr
                            ? floats(load_quad<kVector>(residual_out(row) + i, p.width - i))
                            : floats(load_quad<kVector>(x(row) + i, p.width - i));
    const Quad<float> scale = load_quad<kVector>(weight + i, p.width - i);
#pragma unroll
    for (int k = 0; k < 4; ++k) value.v[k] *= inverse * scale.v[k];
    store_quad<kVector>(y(row) + i, p.width - i, stored<Y>(value.v));
  }
}

struct NormBwd {
  std::int64_t rows;
  int width;
  const float* inv_rms;
  float* partial;  // (parts, width), or null: the weight is frozen
};

template <typename Y, typename R, bool kVector>
__global__ void __launch_bounds__(kThreads)
    rms_norm_bwd_kernel(NormBwd p, Matrix<const R> residual, const float* weight,
                        Matrix<const Y> dy, Matrix<const R> dresidual_in, Matrix<R> dresidual,
                        Matrix<BFloat16> dx) {
  ADDER_SHARED(float, scratch);  // kThreads / 32 for sums, then the weight's gradient in quads
  float* dweight = scratch + kThreads / kWarp;
  const int first = static_cast<int>(threadIdx.x) * 4;
  if (p.partial != nullptr) {
    for (int i = first; i < p.width; i += 4 * kThreads) store_aligned(dweight + i, Quad<float>{});
  }
  const std::int64_t begin = blockIdx.x * kRowsPerPart;
  const std::int64_t end = begin + kRowsPerPart < p.rows ? begin + kRowsPerPart : p.rows;
  for (std::int64_t row = begin; row < end; ++row) {
    const float inverse = p.inv_rms[row];
    float dot = 0;
    for (int i = first; i < p.width; i += 4 * kThreads) {
      const int left = p.width - i;
      const Quad<float> grad = floats(load_quad<kVector>(dy(row) + i, left));
      const Quad<float> value = floats(load_quad<kVector>(residual(row) + i, left));
      const Quad<float> scale = load_quad<kVector>(weight + i, left);
      Quad<float> product;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        product.v[k] = grad.v[k] * (value.v[k] * inverse);
        dot += product.v[k] * scale.v[k];
      }
      if (p.partial == nullptr) continue;
      const Quad<float> before = load_aligned(dweight + i);
#pragma unroll
      for (int k = 0; k < 4; ++k) product.v[k] += before.v[k];
      store_aligned(dweight + i, product);
    }
    if (dresidual.data == nullptr && dx.data == nullptr) continue;
    const float mean = block_sum<kThreads>(dot, scratch) / static_cast<float>(p.width);
    for (int i = first; i < p.width; i += 4 * kThreads) {
      const int left = p.width - i;
      const Quad<float> grad = floats(load_quad<kVector>(dy(row) + i, left));
      const Quad<float> scale = load_quad<kVector>(weight + i, left);
      Quad<float> value = floats(load_quad<kVector>(residual(row) + i, left));
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        value.v[k] = inverse * (grad.v[k] * scale.v[k] - value.v[k] * inverse * mean);
      }
      if (dresidual_in.data != nullptr) {
        const Quad<float> more = floats(load_quad<kVector>(dresidual_in(row) + i, left));
#pragma unroll
        for (int k = 0; k < 4; ++k) value.v[k] += more.v[k];
      }
      if (dresidual.data != nullptr) {
        store_quad<kVector>(dresidual(row) + i, left, stored<R>(value.v));
      }
      if (dx.data != nullptr) {
        store_quad<kVector>(dx(row) + i, left, stored<BFloat16>(value.v));
      }
    }
  }
  if (p.partial == nullptr) return;
  for (int i = first; i < p.width; i += 4 * kThreads) {
    store_quad<kVector>(p.partial + blockIdx.x * static_cast<std::int64_t>(p.width) + i,
                        p.width - i, load_aligned(dweight + i));
  }
}

void check(const char* place, const Tensor& x) {
  if (!x.defined() || x.rank() != 2) {
    throw ShapeError(str(place, ": x is ", x.shape(), ", expected [rows, D]"));
  }
}

template <typename T>
Matrix<const T> read(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {tensor.data<T>(), tensor.stride(0)};
}

}  // namespace

void rms_norm_fwd(const RmsNormFwdArgs& args) {
  check("rms_norm_fwd", args.x);
  const Device device = args.x.device();
  const std::int64_t rows = args.x.dim(0);
  check_shape("rms_norm_fwd", "y", args.y, args.x.shape());
  check_shape("rms_norm_fwd", "weight", args.weight, {args.x.dim(1)});
  if (args.residual.defined()) {
    check_shape("rms_norm_fwd", "residual", args.residual, args.x.shape());
    check_shape("rms_norm_fwd", "residual_out", args.residual_out, args.x.shape());
  }
  if (rows == 0) return;
  const NormFwd p{static_cast<int>(args.x.dim(1)), static_cast<float>(args.epsilon),
                  args.inv_rms.defined() ? args.inv_rms.data<float>() : nullptr};
  const std::size_t shared = kThreads / kWarp * sizeof(float);
  const bool vectors =
      in_quads({&args.x, &args.residual, &args.weight, &args.residual_out, &args.y});
  dispatch_storage("rms_norm_fwd: x", args.x.dtype(), [&](auto x_type) {
    using X = decltype(x_type);
    dispatch_storage("rms_norm_fwd: y", args.y.dtype(), [&](auto y_type) {
      using Y = decltype(y_type);
      const auto launch = [&](auto residual_type) {
        using R = decltype(residual_type);
        dispatch_bool(vectors, [&](auto vector) {
          constexpr bool kVector = decltype(vector)::value;
          ADDER_LAUNCH((rms_norm_fwd_kernel<X, R, Y, kVector>), static_cast<int>(rows), kThreads,
                       shared, stream(device), p, read<X>(args.x), read<R>(args.residual),
                       args.weight.data<float>(), matrix<R>(args.residual_out), matrix<Y>(args.y));
        });
      };
      if (!args.residual.defined() || args.residual.dtype() == args.x.dtype()) return launch(X{});
      launch(float{});
    });
  });
}

void rms_norm_bwd(const RmsNormBwdArgs& args) {
  check("rms_norm_bwd", args.residual);
  const Device device = args.residual.device();
  const std::int64_t rows = args.residual.dim(0);
  const std::int64_t width = args.residual.dim(1);
  check_shape("rms_norm_bwd", "dy", args.dy, args.residual.shape());
  check_shape("rms_norm_bwd", "weight", args.weight, {width});
  if (args.dx.defined()) check_shape("rms_norm_bwd", "dx", args.dx, args.residual.shape());
  const std::int64_t parts = (rows + kRowsPerPart - 1) / kRowsPerPart;
  const Tensor partial =
      args.dweight.defined() ? Tensor::empty({parts, width}, Dtype::f32, device) : Tensor();
  const NormBwd p{rows, static_cast<int>(width), args.inv_rms.data<float>(),
                  partial.defined() ? partial.data<float>() : nullptr};
  const bool vectors = in_quads(
      {&args.residual, &args.weight, &args.dy, &args.dresidual_in, &args.dresidual, &args.dx});
  const std::size_t shared =
      (kThreads / kWarp + (partial.defined() ? static_cast<std::size_t>((width + 3) / 4 * 4) : 0)) *
      sizeof(float);
  if (rows > 0) {
    dispatch_storage("rms_norm_bwd", args.dy.dtype(), [&](auto type) {
      using Y = decltype(type);
      const auto launch = [&](auto residual_type) {
        using R = decltype(residual_type);
        dispatch_bool(vectors, [&](auto vector) {
          constexpr bool kVector = decltype(vector)::value;
          const auto kernel = rms_norm_bwd_kernel<Y, R, kVector>;
          allow_shared(reinterpret_cast<const void*>(kernel), shared);
          ADDER_LAUNCH((rms_norm_bwd_kernel<Y, R, kVector>), static_cast<int>(parts), kThreads,
                       shared, stream(device), p, read<R>(args.residual), args.weight.data<float>(),
                       read<Y>(args.dy), read<R>(args.dresidual_in), matrix<R>(args.dresidual),
                       matrix<BFloat16>(args.dx));
        });
      };
      if (args.residual.dtype() == args.dy.dtype()) return launch(Y{});
      launch(float{});
    });
  }
  if (partial.defined()) column_sum({partial, args.dweight});
}

}  // namespace adder::cuda
