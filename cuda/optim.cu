// Optimiser updates: one thread per element, everything read and written once.
#include "cuda/math.h"
#include "cuda/runtime.h"
#include "engine/kernels/optim.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPartials = 256;

struct Adamw {
  float keep, beta1, beta2, rest1, rest2, step_size, root2, epsilon, grad_scale;
};

__global__ void adamw_step_kernel(Adamw p, float* value, const float* grad, float* first,
                                  float* second, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const float g = grad[i] * p.grad_scale;
  const float m = p.beta1 * first[i] + p.rest1 * g;
  const float v = p.beta2 * second[i] + p.rest2 * g * g;
  first[i] = m;
  second[i] = v;
  value[i] = value[i] * p.keep - p.step_size * (m / (sqrtf(v) / p.root2 + p.epsilon));
}

struct Sgd {
  float lr, momentum, decay, grad_scale;
  bool start;
};

__global__ void sgd_step_kernel(Sgd p, float* value, const float* grad, float* buffer,
                                std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  float g = grad[i] * p.grad_scale + p.decay * value[i];
  if (buffer != nullptr) {
    if (!p.start) g += p.momentum * buffer[i];
    buffer[i] = g;
  }
  value[i] -= p.lr * g;
}

// Block p adds the elements p * kThreads + thread + k * gridDim * kThreads in float64; the host
// adds the blocks in their order.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    sum_squares_kernel(const T* x, std::int64_t count, double* partial) {
  ADDER_SHARED(double, sums);
  double sum = 0;
  const auto thread = static_cast<int>(threadIdx.x);
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + thread; i < count;
       i += static_cast<std::int64_t>(gridDim.x) * kThreads) {
    const auto value = static_cast<double>(to_float(x[i]));
    sum += value * value;
  }
  sums[thread] = sum;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (thread < half) sums[thread] += sums[thread + half];
    __syncthreads();
  }
  if (thread == 0) partial[blockIdx.x] = sums[0];
}

void check_same(const char* place, const Tensor& value, const Tensor& other, const char* what) {
  check_shape(place, what, other, value.shape());
  if (!other.is_contiguous()) {
    throw ShapeError(str(place, ": ", what, " ", other.shape(), " must be contiguous"));
  }
}

}  // namespace

void adamw_step(const AdamwArgs& args) {
  check_same("adamw_step", args.value, args.value, "value");
  check_same("adamw_step", args.value, args.grad, "grad");
  check_same("adamw_step", args.value, args.m, "m");
  check_same("adamw_step", args.value, args.v, "v");
  if (args.step < 1) throw ConfigError(str("adamw_step: step is ", args.step, ", expected >= 1"));
  const std::int64_t count = args.value.numel();
  if (count == 0) return;
  const double correction1 = 1 - std::pow(args.beta1, static_cast<double>(args.step));
  const double correction2 = 1 - std::pow(args.beta2, static_cast<double>(args.step));
  const Adamw p{.keep = static_cast<float>(1 - args.lr * args.weight_decay),
                .beta1 = static_cast<float>(args.beta1),
                .beta2 = static_cast<float>(args.beta2),
                .rest1 = static_cast<float>(1 - args.beta1),
                .rest2 = static_cast<float>(1 - args.beta2),
                .step_size = static_cast<float>(args.lr / correction1),
                .root2 = static_cast<float>(std::sqrt(correction2)),
                .epsilon = static_cast<float>(args.epsilon),
                .grad_scale = static_cast<float>(args.grad_scale)};
  ADDER_LAUNCH(adamw_step_kernel, blocks_for(count, kThreads), kThreads, 0,
               stream(args.value.device()), p, args.value.data<float>(), args.grad.data<float>(),
               args.m.data<float>(), args.v.data<float>(), count);
}

void sgd_step(const SgdArgs& args) {
  check_same("sgd_step", args.value, args.value, "value");
  check_same("sgd_step", args.value, args.grad, "grad");
  if (args.momentum != 0) check_same("sgd_step", args.value, args.momentum_buffer, "momentum");
  const std::int64_t count = args.value.numel();
  if (count == 0) return;
  const Sgd p{.lr = static_cast<float>(args.lr),
              .momentum = static_cast<float>(args.momentum),
              .decay = static_cast<float>(args.weight_decay),
              .grad_scale = static_cast<float>(args.grad_scale),
              .start = args.step <= 1};
  ADDER_LAUNCH(sgd_step_kernel, blocks_for(count, kThreads), kThreads, 0,
               stream(args.value.device()), p, args.value.data<float>(), args.grad.data<float>(),
               args.momentum != 0 ? args.momentum_buffer.data<float>() : nullptr, count);
}

void sum_squares(const SumSquaresArgs& args) {
  if (args.sum == nullptr) throw ShapeError("sum_squares: sum is null");
  *args.sum = 0;
  const std::int64_t count = args.x.numel();
  if (count == 0) return;
  const Tensor dense = args.x.contiguous();
  const int blocks = std::min(kPartials, blocks_for(count, kThreads));
  const Tensor partial = Tensor::empty({blocks}, Dtype::f64, dense.device());
  dispatch_storage("sum_squares", dense.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((sum_squares_kernel<T>), blocks, kThreads, kThreads * sizeof(double),
                 stream(dense.device()), dense.data<T>(), count, partial.data<double>());
  });
  for (const double part : partial.to_vector()) *args.sum += part;
}

}  // namespace adder::cuda
