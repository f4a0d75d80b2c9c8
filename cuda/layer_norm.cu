// LayerNorm. A warp owns a row, lane i its columns i, i + 32, ...; the row is read three times,
// from the caches but for the first. Weight gradients: a thread owns a column of kRowsPerPart rows,
// and a second launch adds the parts. Traffic per element: forward 1 read and 1 write, backward 4
// and 1.
#include "cuda/math.h"
#include "cuda/runtime.h"
#include "cuda/strided.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/norm.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kRowsPerPart = 64;

struct Extent {
  std::int64_t rows;
  int width;
};

template <typename T>
__global__ void layer_norm_fwd_kernel(Extent e, Matrix<const T> x, const float* weight,
                                      const float* bias, float epsilon, Matrix<T> y, float* stats) {
  const std::int64_t row = global_index() / kWarp;
  if (row >= e.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const auto width = static_cast<float>(e.width);
  float sum = 0;
  for (int i = lane; i < e.width; i += kWarp) sum += to_float(x(row)[i]);
  const float mean = lane_sum<kWarp>(sum) / width;
  float squares = 0;
  for (int i = lane; i < e.width; i += kWarp) {
    const float d = to_float(x(row)[i]) - mean;
    squares += d * d;
  }
  const float inverse = 1.0F / sqrtf(lane_sum<kWarp>(squares) / width + epsilon);
  if (lane == 0) {
    stats[2 * row] = mean;
    stats[2 * row + 1] = inverse;
  }
  for (int i = lane; i < e.width; i += kWarp) {
    const float normal = (to_float(x(row)[i]) - mean) * inverse;
    y(row)[i] = from_float<T>(normal * weight[i] + bias[i]);
  }
}

template <typename T>
__global__ void layer_norm_bwd_kernel(Extent e, Matrix<const T> x, const float* weight,
                                      const float* stats, Matrix<const T> dy, Matrix<T> dx) {
  const std::int64_t row = global_index() / kWarp;
  if (row >= e.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float mean = stats[2 * row];
  const float inverse = stats[2 * row + 1];
  float sum = 0;
  float dot = 0;
  for (int i = lane; i < e.width; i += kWarp) {
    const float g = to_float(dy(row)[i]) * weight[i];
    sum += g;
    dot += g * (to_float(x(row)[i]) - mean) * inverse;
  }
  const float mean_g = lane_sum<kWarp>(sum) / static_cast<float>(e.width);
  const float mean_dot = lane_sum<kWarp>(dot) / static_cast<float>(e.width);
  for (int i = lane; i < e.width; i += kWarp) {
    const float normal = (to_float(x(row)[i]) - mean) * inverse;
    const float g = to_float(dy(row)[i]) * weight[i];
    dx(row)[i] = from_float<T>(inverse * (g - mean_g - normal * mean_dot));
  }
}

// partial is (parts, 2, width): the sums of dy x^, then of dy.
template <typename T>
__global__ void layer_norm_weights_kernel(Extent e, Matrix<const T> x, const float* stats,
                                          Matrix<const T> dy, float* partial) {
  const std::int64_t column = global_index();
  if (column >= e.width) return;
  const std::int64_t begin = blockIdx.y * kRowsPerPart;
  const std::int64_t end = begin + kRowsPerPart < e.rows ? begin + kRowsPerPart : e.rows;
  float scaled = 0;
  float plain = 0;
  for (std::int64_t row = begin; row < end; ++row) {
    const float grad = to_float(dy(row)[column]);
    scaled += grad * (to_float(x(row)[column]) - stats[2 * row]) * stats[2 * row + 1];
    plain += grad;
  }
  float* out = partial + blockIdx.y * 2 * static_cast<std::int64_t>(e.width) + column;
  out[0] = scaled;
  out[e.width] = plain;
}

template <typename T>
Matrix<const T> read(const Tensor& tensor) {
  return {tensor.data<T>(), tensor.stride(0)};
}

void check(const char* place, const Tensor& x, const Tensor& weight, const Tensor& stats,
           const Tensor& other) {
  if (!x.defined() || x.rank() != 2 || x.dim(1) < 1) {
    throw ShapeError(str(place, ": x is ", x.shape(), ", expected [rows, D]"));
  }
  check_dense_rows(place, x);
  check_dense_rows(place, other);
  check_shape(place, "weight", weight, {x.dim(1)});
  check_shape(place, "stats", stats, {x.dim(0), 2});
  check_shape(place, "y", other, x.shape());
}

}  // namespace

void layer_norm_fwd(const LayerNormFwdArgs& args) {
  check("layer_norm_fwd", args.x, args.weight, args.stats, args.y);
  check_shape("layer_norm_fwd", "bias", args.bias, {args.x.dim(1)});
  const Extent e{args.x.dim(0), static_cast<int>(args.x.dim(1))};
  if (e.rows == 0) return;
  dispatch_storage("layer_norm_fwd", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((layer_norm_fwd_kernel<T>), blocks_for(e.rows * kWarp, kThreads), kThreads, 0,
                 stream(args.x.device()), e, read<T>(args.x), args.weight.data<float>(),
                 args.bias.data<float>(), static_cast<float>(args.epsilon), matrix<T>(args.y),
                 args.stats.data<float>());
  });
}

void layer_norm_bwd(const LayerNormBwdArgs& args) {
  check("layer_norm_bwd", args.x, args.weight, args.stats, args.dy);
  const Extent e{args.x.dim(0), static_cast<int>(args.x.dim(1))};
  const Device device = args.x.device();
  if (args.dx.defined()) {
    check_dense_rows("layer_norm_bwd", args.dx);
    check_shape("layer_norm_bwd", "dx", args.dx, args.x.shape());
  }
  const std::int64_t parts = std::max<std::int64_t>(1, (e.rows + kRowsPerPart - 1) / kRowsPerPart);
  const bool weights = args.dweight.defined() || args.dbias.defined();
  const Tensor partial =
      weights ? Tensor::empty({parts, 2, e.width}, Dtype::f32, device) : Tensor();
  dispatch_storage("layer_norm_bwd", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    if (args.dx.defined() && e.rows > 0) {
      ADDER_LAUNCH((layer_norm_bwd_kernel<T>), blocks_for(e.rows * kWarp, kThreads), kThreads, 0,
                   stream(device), e, read<T>(args.x), args.weight.data<float>(),
                   args.stats.data<float>(), read<T>(args.dy), matrix<T>(args.dx));
    }
    if (!weights) return;
    const dim3 grid(static_cast<unsigned>(blocks_for(e.width, kThreads)),
                    static_cast<unsigned>(parts));
    ADDER_LAUNCH((layer_norm_weights_kernel<T>), grid, kThreads, 0, stream(device), e,
                 read<T>(args.x), args.stats.data<float>(), read<T>(args.dy),
                 partial.data<float>());
  });
  if (args.dweight.defined()) column_sum({partial.select(1, 0), args.dweight});
  if (args.dbias.defined()) column_sum({partial.select(1, 1), args.dbias});
}

}  // namespace adder::cuda
