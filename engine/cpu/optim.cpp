#include "engine/kernels/optim.h"

#include "engine/cpu/rows.h"

namespace adder::cpu {
namespace {

void check_contiguous(const char* place, const Tensor& value, const Tensor& other,
                      const char* what) {
  if (!other.defined()) throw ShapeError(str(place, ": ", what, " is undefined"));
  check_shape(place, what, other, value.shape());
  check_dtype(place, what, other, value.dtype());
  if (!other.is_contiguous()) {
    throw ShapeError(str(place, ": ", what, " ", other.shape(), " must be contiguous"));
  }
}

template <typename T>
void adamw(const AdamwArgs& args) {
  T* value = args.value.data<T>();
  const T* grad = args.grad.data<T>();
  T* first = args.m.data<T>();
  T* second = args.v.data<T>();
  const double correction1 = 1 - std::pow(args.beta1, static_cast<double>(args.step));
  const double correction2 = 1 - std::pow(args.beta2, static_cast<double>(args.step));
  const auto keep = static_cast<T>(1 - args.lr * args.weight_decay);
  const auto beta1 = static_cast<T>(args.beta1);
  const auto beta2 = static_cast<T>(args.beta2);
  const auto rest1 = static_cast<T>(1 - args.beta1);
  const auto rest2 = static_cast<T>(1 - args.beta2);
  const auto step_size = static_cast<T>(args.lr / correction1);
  const auto root2 = static_cast<T>(std::sqrt(correction2));
  const auto epsilon = static_cast<T>(args.epsilon);
  const auto scale = static_cast<T>(args.grad_scale);
  parallel_for(args.value.numel(), kElementGrain, [&](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      const T g = grad[i] * scale;
      const T m = beta1 * first[i] + rest1 * g;
      const T v = beta2 * second[i] + rest2 * g * g;
      first[i] = m;
      second[i] = v;
      value[i] = value[i] * keep - step_size * (m / (std::sqrt(v) / root2 + epsilon));
    }
  });
}

template <typename T>
void sgd(const SgdArgs& args) {
  T* value = args.value.data<T>();
  const T* grad = args.grad.data<T>();
  T* buffer = args.momentum != 0 ? args.momentum_buffer.data<T>() : nullptr;
  const auto lr = static_cast<T>(args.lr);
  const auto decay = static_cast<T>(args.weight_decay);
  const auto scale = static_cast<T>(args.grad_scale);
  // PyTorch starts the buffer with the gradient itself, whatever the memory held.
  const T momentum = static_cast<T>(args.momentum);
  const bool start = args.step <= 1;
  parallel_for(args.value.numel(), kElementGrain, [&](std::int64_t begin, std::int64_t end) {
    if (buffer == nullptr) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        value[i] -= lr * (grad[i] * scale + decay * value[i]);
      }
      return;
    }
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      const T g = grad[i] * scale + decay * value[i];
      const T velocity = start ? g : momentum * buffer[i] + g;
      buffer[i] = velocity;
      value[i] -= lr * velocity;
    }
  });
}

template <typename T>
double squares(const Tensor& tensor) {
  const Tensor dense = tensor.contiguous();
  const T* x = dense.data<T>();
  const std::int64_t n = dense.numel();
  const std::int64_t blocks = (n + kElementGrain - 1) / kElementGrain;
  std::vector<double> partial(static_cast<std::size_t>(blocks));
  parallel_for(blocks, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      constexpr int kSums = 16;  // independent, so that additions need not wait for each other
      double sums[kSums] = {};
      const T* from = x + block * kElementGrain;
      const std::int64_t count = std::min(kElementGrain, n - block * kElementGrain);
      for (std::int64_t i = 0; i + kSums <= count; i += kSums) {
        for (int j = 0; j < kSums; ++j) {
          const auto value = static_cast<double>(from[i + j]);
          sums[j] += value * value;
        }
      }
      double sum = 0;
      for (std::int64_t i = count / kSums * kSums; i < count; ++i) {
        sum += static_cast<double>(from[i]) * static_cast<double>(from[i]);
      }
      for (const double part : sums) sum += part;
      partial[static_cast<std::size_t>(block)] = sum;
    }
  });
  double total = 0;
  for (const double sum : partial) total += sum;
  return total;
}

}  // namespace

void adamw_step(const AdamwArgs& args) {
  check_contiguous("adamw_step", args.value, args.value, "value");
  check_contiguous("adamw_step", args.value, args.grad, "grad");
  check_contiguous("adamw_step", args.value, args.m, "m");
  check_contiguous("adamw_step", args.value, args.v, "v");
  if (args.step < 1) throw ConfigError(str("adamw_step: step is ", args.step, ", expected >= 1"));
  if (args.value.numel() == 0) return;
  dispatch_real("adamw_step", args.value.dtype(), [&](auto t) { adamw<decltype(t)>(args); });
}

void sgd_step(const SgdArgs& args) {
  check_contiguous("sgd_step", args.value, args.value, "value");
  check_contiguous("sgd_step", args.value, args.grad, "grad");
  if (args.momentum != 0) {
    check_contiguous("sgd_step", args.value, args.momentum_buffer, "momentum_buffer");
  }
  if (args.value.numel() == 0) return;
  dispatch_real("sgd_step", args.value.dtype(), [&](auto t) { sgd<decltype(t)>(args); });
}

void sum_squares(const SumSquaresArgs& args) {
  if (args.sum == nullptr) throw ShapeError("sum_squares: sum is null");
  *args.sum = 0;
  if (args.x.numel() == 0) return;
  dispatch_real("sum_squares", args.x.dtype(),
                [&](auto t) { *args.sum = squares<decltype(t)>(args.x); });
}

}  // namespace adder::cpu
