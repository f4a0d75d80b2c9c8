// Element-wise maps, bias, column sums and dropout: bound by memory, one read and one write per
// element (two reads for binary maps).
#include "cuda/math.h"
#include "cuda/philox.h"
#include "cuda/runtime.h"
#include "cuda/strided.h"
#include "engine/kernels/elementwise.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float sigmoid_slope(float x) {
  const float e = fast_exp(-fabsf(x));  // s (1 - s) would cancel for large x
  return e / ((1.0F + e) * (1.0F + e));
}

__device__ float normal_cdf(float x) {
  return 0.5F * erfcf(-0.70710678F * x);
}

__device__ float apply(UnaryOp op, float x, float parameter) {
  switch (op) {
    case UnaryOp::silu:
      return silu(x);
    case UnaryOp::softplus:
      return softplus(x);
    case UnaryOp::exp:
      return expf(x);
    case UnaryOp::square:
      return x * x;
    case UnaryOp::scale:
      return x * parameter;
    case UnaryOp::sigmoid:
      return sigmoid(x);
    case UnaryOp::tanh:
      return tanhf(x);
    case UnaryOp::relu:
      return x < 0 ? 0.0F : x;
    case UnaryOp::gelu:
      return x * normal_cdf(x);
    case UnaryOp::elu:
      return x > 0 ? x : expm1f(x);
  }
  return 0;
}

__device__ float slope(UnaryOp op, float x, float parameter) {
  switch (op) {
    case UnaryOp::silu:
      return silu_slope(x, sigmoid(x));
    case UnaryOp::softplus:
      return softplus_slope(x);
    case UnaryOp::exp:
      return expf(x);
    case UnaryOp::square:
      return x + x;
    case UnaryOp::scale:
      return parameter;
    case UnaryOp::sigmoid:
      return sigmoid_slope(x);
    case UnaryOp::tanh:
      return 4.0F * sigmoid_slope(x + x);
    case UnaryOp::relu:
      return x > 0 ? 1.0F : 0.0F;
    case UnaryOp::gelu:
      return normal_cdf(x) + x * 0.39894228F * fast_exp(-0.5F * x * x);
    case UnaryOp::elu:
      return x > 0 ? 1.0F : expf(x);
  }
  return 0;
}

template <typename T>
__global__ void unary_fwd_kernel(UnaryOp op, const T* x, Strided x_at, T* y, Strided y_at,
                                 float parameter, std::int64_t count) {
  const std::int64_t i = global_index();
  if (i >= count) return;
  y[y_at.offset(i)] = from_float<T>(apply(op, to_float(x[x_at.offset(i)]), parameter));
}

template <typename T>
__global__ void unary_bwd_kernel(UnaryOp op, const T* x, Strided x_at, const T* dy, Strided dy_at,
                                 T* dx, Strided dx_at, float parameter, std::int64_t count) {
  const std::int64_t i = global_index();
  if (i >= count) return;
  const float derivative = slope(op, to_float(x[x_at.offset(i)]), parameter);
  dx[dx_at.offset(i)] = from_float<T>(to_float(dy[dy_at.offset(i)]) * derivative);
}

template <typename T>
__global__ void binary_kernel(BinaryOp op, const T* a, Strided a_at, const T* b, Strided b_at, T* y,
                              Strided y_at, std::int64_t count) {
  const std::int64_t i = global_index();
  if (i >= count) return;
  const float left = to_float(a[a_at.offset(i)]);
  const float right = to_float(b[b_at.offset(i)]);
  const float result = op == BinaryOp::add   ? left + right
                       : op == BinaryOp::sub ? left - right
                                             : left * right;
  y[y_at.offset(i)] = from_float<T>(result);
}

template <typename T>
__global__ void add_bias_kernel(const float* bias, Matrix<T> y, std::int64_t rows,
                                std::int64_t width) {
  const std::int64_t i = global_index();
  if (i >= rows * width) return;
  T& target = y(i / width)[i % width];
  target = from_float<T>(to_float(target) + bias[i % width]);
}

// Columns are threads; a block sums the rows [p per_part, (p + 1) per_part) of its columns, and a
// second launch the parts: the order depends on the shape alone.
template <typename From, typename To>
__global__ void column_sum_kernel(Matrix<const From> x, std::int64_t rows, std::int64_t width,
                                  std::int64_t per_part, To* out) {
  const std::int64_t column = global_index();
  if (column >= width) return;
  const std::int64_t begin = blockIdx.y * per_part;
  const std::int64_t end = begin + per_part < rows ? begin + per_part : rows;
  float sum = 0;
  for (std::int64_t row = begin; row < end; ++row) sum += to_float(x(row)[column]);
  out[blockIdx.y * width + column] = from_float<To>(sum);
}

// Element i is kept if word i % 4 of counter i / 4 reaches p 2^32: a thread draws one counter for
// four elements, and the CPU the same ones.
template <typename T>
__global__ void dropout_kernel(const T* x, T* y, std::int64_t count, std::uint32_t threshold,
                               float factor, std::uint64_t seed, std::uint64_t stream_id,
                               const std::int64_t* stream_offset) {
  const std::int64_t counter = global_index();
  if (counter * 4 >= count) return;
  if (stream_offset != nullptr) stream_id += static_cast<std::uint64_t>(*stream_offset);
  std::uint32_t words[4];
  philox(seed, stream_id, static_cast<std::uint64_t>(counter), words);
  for (int j = 0; j < 4; ++j) {
    const std::int64_t i = counter * 4 + j;
    if (i >= count) return;
    y[i] = from_float<T>(words[j] >= threshold ? to_float(x[i]) * factor : 0.0F);
  }
}

void check_same(const char* place, const Tensor& a, const Tensor& b) {
  check_shape(place, "tensor", b, a.shape());
  if (a.dtype() != b.dtype()) {
    throw DtypeError(str(place, ": ", dtype_name(b.dtype()), ", expected ", dtype_name(a.dtype())));
  }
}

}  // namespace

void unary_fwd(const UnaryFwdArgs& args) {
  check_same("unary_fwd", args.x, args.y);
  const std::int64_t count = args.x.numel();
  if (count == 0) return;
  dispatch_storage("unary_fwd", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((unary_fwd_kernel<T>), blocks_for(count, kThreads), kThreads, 0,
                 stream(args.x.device()), args.op, args.x.data<T>(), strided(args.x),
                 args.y.data<T>(), strided(args.y), static_cast<float>(args.parameter), count);
  });
}

void unary_bwd(const UnaryBwdArgs& args) {
  check_same("unary_bwd", args.x, args.dy);
  check_same("unary_bwd", args.x, args.dx);
  const std::int64_t count = args.x.numel();
  if (count == 0) return;
  dispatch_storage("unary_bwd", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((unary_bwd_kernel<T>), blocks_for(count, kThreads), kThreads, 0,
                 stream(args.x.device()), args.op, args.x.data<T>(), strided(args.x),
                 args.dy.data<T>(), strided(args.dy), args.dx.data<T>(), strided(args.dx),
                 static_cast<float>(args.parameter), count);
  });
}

void binary(const BinaryArgs& args) {
  check_same("binary", args.a, args.b);
  check_same("binary", args.a, args.y);
  const std::int64_t count = args.a.numel();
  if (count == 0) return;
  dispatch_storage("binary", args.a.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((binary_kernel<T>), blocks_for(count, kThreads), kThreads, 0,
                 stream(args.a.device()), args.op, args.a.data<T>(), strided(args.a),
                 args.b.data<T>(), strided(args.b), args.y.data<T>(), strided(args.y), count);
  });
}

void add_bias(const AddBiasArgs& args) {
  check_dense_rows("add_bias", args.y);
  check_shape("add_bias", "bias", args.bias, {args.y.dim(1)});
  const std::int64_t count = args.y.numel();
  if (count == 0) return;
  dispatch_storage("add_bias", args.y.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((add_bias_kernel<T>), blocks_for(count, kThreads), kThreads, 0,
                 stream(args.y.device()), args.bias.data<float>(), matrix<T>(args.y), args.y.dim(0),
                 args.y.dim(1));
  });
}

void column_sum(const ColumnSumArgs& args) {
  check_dense_rows("column_sum", args.x);
  check_shape("column_sum", "out", args.out, {args.x.dim(1)});
  const Device device = args.x.device();
  const std::int64_t rows = args.x.dim(0);
  const std::int64_t width = args.x.dim(1);
  if (width == 0) return;
  constexpr std::int64_t kPerPart = 64;
  const std::int64_t parts = std::max<std::int64_t>(1, (rows + kPerPart - 1) / kPerPart);
  const Tensor partial = Tensor::empty({parts, width}, Dtype::f32, device);
  const dim3 grid(static_cast<unsigned>(blocks_for(width, kThreads)), static_cast<unsigned>(parts));
  dispatch_storage("column_sum", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    const Matrix<const T> x{args.x.data<T>(), args.x.stride(0)};
    ADDER_LAUNCH((column_sum_kernel<T, float>), grid, kThreads, 0, stream(device), x, rows, width,
                 kPerPart, partial.data<float>());
  });
  dispatch_storage("column_sum: out", args.out.dtype(), [&](auto type) {
    using T = decltype(type);
    const Matrix<const float> sums{partial.data<float>(), width};
    ADDER_LAUNCH((column_sum_kernel<float, T>), dim3(grid.x, 1), kThreads, 0, stream(device), sums,
                 parts, width, parts, args.out.data<T>());
  });
}

void dropout(const DropoutArgs& args) {
  check_same("dropout", args.x, args.y);
  if (!(args.p >= 0 && args.p <= 1)) {
    throw ConfigError(str("dropout: p is ", args.p, ", expected [0, 1]"));
  }
  const std::int64_t count = args.x.numel();
  if (count == 0) return;
  if (!args.x.is_contiguous() || !args.y.is_contiguous()) {
    throw ShapeError(str("dropout: x and y ", args.x.shape(), " must be contiguous"));
  }
  if (args.p == 1) return args.y.fill(0);  // 2^32 is no 32-bit threshold, and 1 / (1 - p) no number
  const auto threshold = static_cast<std::uint32_t>(std::ceil(args.p * 4294967296.0));
  dispatch_storage("dropout", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((dropout_kernel<T>), blocks_for((count + 3) / 4, kThreads), kThreads, 0,
                 stream(args.x.device()), args.x.data<T>(), args.y.data<T>(), count, threshold,
                 static_cast<float>(1.0 / (1.0 - args.p)), args.seed, args.stream,
                 args.stream_offset.defined() ? args.stream_offset.data<std::int64_t>() : nullptr);
  });
}

}  // namespace adder::cuda
