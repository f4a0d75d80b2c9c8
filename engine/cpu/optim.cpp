#include "engine/kernels/optim.h"

#include "engine/cpu/rows.h"

namespace adder::cpu {
namespace {

// Clipping measured beside the gradients, or the caller's factor.
double factor_of(const Tensor& clip, double grad_scale) {
  return clip.defined() ? clip.data<double>()[1] : grad_scale;
}

// The working weights of a displacement. Two loops, so that the product is rounded before the sum
// and not fused with it.
template <typename T>
void write_entries(const OptimItem& item) {
  if (!item.positions.defined()) return;
  const T* value = item.value.data<T>();
  const T* base = item.base.data<T>();
  T* target = item.target.data<T>();
  const auto* position = item.positions.data<std::int64_t>();
  const std::int64_t count = item.value.numel();
  std::vector<T> moved(value, value + count);
  if (item.scale != 1) {
    for (T& entry : moved) entry *= static_cast<T>(item.scale);
  }
  for (std::int64_t i = 0; i < count; ++i) {
    target[position[i]] = base[i] + moved[static_cast<std::size_t>(i)];
  }
}

template <typename T>
void adamw(const AdamwArgs& args, const OptimItem& item, double grad_scale) {
  T* value = item.value.data<T>();
  const T* grad = item.grad.data<T>();
  T* first = item.first.data<T>();
  T* second = item.second.data<T>();
  const AdamwSchedule numbers =
      adamw_schedule(args.lr, args.beta1, args.beta2, args.weight_decay, args.step);
  const float* schedule = args.schedule.defined() ? args.schedule.data<float>() : nullptr;
  const auto scheduled = [&](int i, double otherwise) {
    return schedule != nullptr ? static_cast<T>(schedule[i]) : static_cast<T>(otherwise);
  };
  const T keep = scheduled(0, numbers.keep);
  const auto beta1 = static_cast<T>(args.beta1);
  const auto beta2 = static_cast<T>(args.beta2);
  const auto rest1 = static_cast<T>(1 - args.beta1);
  const auto rest2 = static_cast<T>(1 - args.beta2);
  const T step_size = scheduled(1, numbers.step_size);
  const T root2 = scheduled(2, numbers.root2);
  const auto epsilon = static_cast<T>(args.epsilon);
  const auto scale = static_cast<T>(grad_scale);
  parallel_for(item.value.numel(), kElementGrain, [&](std::int64_t begin, std::int64_t end) {
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
void sgd(const SgdArgs& args, const OptimItem& item, double grad_scale) {
  T* value = item.value.data<T>();
  const T* grad = item.grad.data<T>();
  T* buffer = args.momentum != 0 ? item.first.data<T>() : nullptr;
  const T lr = args.schedule.defined() ? static_cast<T>(*args.schedule.data<float>())
                                       : static_cast<T>(args.lr);
  const auto decay = static_cast<T>(args.weight_decay);
  const auto scale = static_cast<T>(grad_scale);
  // PyTorch starts the buffer with the gradient itself, whatever the memory held.
  const T momentum = static_cast<T>(args.momentum);
  const bool start = args.step <= 1;
  parallel_for(item.value.numel(), kElementGrain, [&](std::int64_t begin, std::int64_t end) {
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
  check_optim_items("adamw_step", args.items, 2, args.step, args.schedule, args.clip);
  const double scale = factor_of(args.clip, args.grad_scale);
  if (args.clip.defined() && std::isnan(scale)) return;
  for (const OptimItem& item : args.items) {
    if (item.value.numel() == 0) continue;
    dispatch_real("adamw_step", item.value.dtype(), [&](auto t) {
      adamw<decltype(t)>(args, item, scale);
      write_entries<decltype(t)>(item);
    });
  }
}

void sgd_step(const SgdArgs& args) {
  check_optim_items("sgd_step", args.items, args.momentum != 0 ? 1 : 0, args.step, args.schedule,
                    args.clip);
  const double scale = factor_of(args.clip, args.grad_scale);
  if (args.clip.defined() && std::isnan(scale)) return;
  for (const OptimItem& item : args.items) {
    if (item.value.numel() == 0) continue;
    dispatch_real("sgd_step", item.value.dtype(), [&](auto t) {
      sgd<decltype(t)>(args, item, scale);
      write_entries<decltype(t)>(item);
    });
  }
}

void gradient_norm(const GradientNormArgs& args) {
  double* result = vector<double>("gradient_norm", "result", args.result, 2);
  double total = 0;
  for (const Tensor& grad : args.grads) {
    if (grad.numel() == 0) continue;
    dispatch_real("gradient_norm", grad.dtype(),
                  [&](auto t) { total += squares<decltype(t)>(grad); });
  }
  const double norm = std::sqrt(total);
  result[0] = norm;
  result[1] = !std::isfinite(norm) ? std::numeric_limits<double>::quiet_NaN()
              : args.max_norm == 0 ? 1
                                   : std::min(1.0, args.max_norm / (norm + 1e-6));
}

}  // namespace adder::cpu
