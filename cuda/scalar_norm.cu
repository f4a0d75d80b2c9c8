// LayerNorm with one scale and one shift for all channels. A warp owns a row, lane i its columns i,
// i + 32, ...; the row is read three times, from the caches but for the first. Traffic per element:
// forward 1 read and 1 write, backward 2 and 1.
#include "cuda/math.h"
#include "cuda/runtime.h"
#include "cuda/strided.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/scalar_norm.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;

struct Extent {
  std::int64_t rows;
  int width;
};

__global__ void scalar_norm_fwd_kernel(Extent e, Matrix<const float> x, const float* scale,
                                       const float* shift, Matrix<float> y, float* stats) {
  const std::int64_t row = global_index() / kWarp;
  if (row >= e.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const auto width = static_cast<float>(e.width);
  float sum = 0;
  for (int i = lane; i < e.width; i += kWarp) sum += x(row)[i];
  const float mean = lane_sum<kWarp>(sum) / width;
  float squares = 0;
  for (int i = lane; i < e.width; i += kWarp) {
    const float distance = x(row)[i] - mean;
    squares += distance * distance;
  }
  const float inverse = 1.0F / sqrtf(lane_sum<kWarp>(squares) / width);
  if (lane == 0) {
    stats[2 * row] = mean;
    stats[2 * row + 1] = inverse;
  }
  const float factor = *scale * inverse;
  for (int i = lane; i < e.width; i += kWarp) y(row)[i] = (x(row)[i] - mean + *shift) * factor;
}

// parts (rows, 2): what each row adds to the gradients of scale and shift.
__global__ void scalar_norm_bwd_kernel(Extent e, Matrix<const float> x, const float* scale,
                                       const float* shift, const float* stats,
                                       Matrix<const float> dy, Matrix<float> dx, float* parts) {
  const std::int64_t row = global_index() / kWarp;
  if (row >= e.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float mean = stats[2 * row];
  const float inverse = stats[2 * row + 1];
  float plain = 0;
  float scaled = 0;
  for (int i = lane; i < e.width; i += kWarp) {
    const float g = dy(row)[i];
    plain += g;
    scaled += g * (x(row)[i] - mean) * inverse;
  }
  const float sum = lane_sum<kWarp>(plain);
  const float dot = lane_sum<kWarp>(scaled) + *shift * inverse * sum;
  const float factor = *scale * inverse;
  if (lane == 0) {
    parts[2 * row] = dot;
    parts[2 * row + 1] = factor * sum;
  }
  if (dx.data == nullptr) return;
  const float mean_g = sum / static_cast<float>(e.width);
  const float mean_gx = dot / static_cast<float>(e.width);
  for (int i = lane; i < e.width; i += kWarp) {
    const float normal = (x(row)[i] - mean) * inverse;
    dx(row)[i] = factor * (dy(row)[i] - mean_g - normal * mean_gx);
  }
}

Matrix<const float> read(const Tensor& tensor) {
  return {tensor.data<float>(), tensor.stride(0)};
}

Extent check(const char* place, const Tensor& x, const Tensor& scale, const Tensor& shift,
             const Tensor& stats, const Tensor& other) {
  if (!x.defined() || x.rank() != 2 || x.dim(1) < 1) {
    throw ShapeError(str(place, ": x is ", x.shape(), ", expected [rows, D]"));
  }
  check_dense_rows(place, x);
  check_dense_rows(place, other);
  check_shape(place, "scale", scale, {1});
  check_shape(place, "shift", shift, {1});
  check_shape(place, "stats", stats, {x.dim(0), 2});
  check_shape(place, "y", other, x.shape());
  return {x.dim(0), static_cast<int>(x.dim(1))};
}

}  // namespace

void scalar_norm_fwd(const ScalarNormFwdArgs& args) {
  const Extent e = check("scalar_norm_fwd", args.x, args.scale, args.shift, args.stats, args.y);
  if (e.rows == 0) return;
  ADDER_LAUNCH(scalar_norm_fwd_kernel, blocks_for(e.rows * kWarp, kThreads), kThreads, 0,
               stream(args.x.device()), e, read(args.x), args.scale.data<float>(),
               args.shift.data<float>(), matrix<float>(args.y), args.stats.data<float>());
}

void scalar_norm_bwd(const ScalarNormBwdArgs& args) {
  const Extent e = check("scalar_norm_bwd", args.x, args.scale, args.shift, args.stats, args.dy);
  const Device device = args.x.device();
  if (args.dx.defined()) {
    check_dense_rows("scalar_norm_bwd", args.dx);
    check_shape("scalar_norm_bwd", "dx", args.dx, args.x.shape());
  }
  const Tensor parts = Tensor::empty({e.rows, 2}, Dtype::f32, device);
  if (e.rows > 0) {
    ADDER_LAUNCH(scalar_norm_bwd_kernel, blocks_for(e.rows * kWarp, kThreads), kThreads, 0,
                 stream(device), e, read(args.x), args.scale.data<float>(),
                 args.shift.data<float>(), args.stats.data<float>(), read(args.dy),
                 matrix<float>(args.dx), parts.data<float>());
  }
  if (args.dscale.defined()) column_sum({parts.slice(1, 0, 1), args.dscale});
  if (args.dshift.defined()) column_sum({parts.slice(1, 1, 2), args.dshift});
}

}  // namespace adder::cuda
