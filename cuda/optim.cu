// Optimiser updates over all trainable tensors in one launch, and the norm of all gradients in two.
//
// A table in device memory lists the tensors; a block finds the one it works on by bisection over
// the blocks that come before each of them, so that a hundred small matrices and one large one both
// fill the device. Everything is read and written once.
#include "cuda/math.h"
#include "cuda/runtime.h"
#include "engine/kernels/optim.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kPerBlock = 4 * kThreads;         // elements of an update
constexpr std::int64_t kSummedPerBlock = 32 * kThreads;  // and of the norm

struct Entry {
  float* value;
  const float* grad;
  float* first;
  float* second;
  const std::int64_t* positions;  // null: not a displacement
  const float* base;
  float* target;
  float scale;
  std::int64_t count;
  std::int64_t first_block;
};

// The last of the entries that begin at or before this block; entries without blocks are left out.
template <typename E>
__device__ const E& entry_of(const E* table, int entries, std::int64_t block) {
  int low = 0;
  int high = entries - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table[middle].first_block <= block) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return table[low];
}

struct Adamw {
  float keep, beta1, beta2, rest1, rest2, step_size, root2, epsilon;
};

struct Sgd {
  float lr, momentum, decay;
  bool start;
};

__device__ void follow(Adamw& p, const float* schedule) {
  p.keep = schedule[0];
  p.step_size = schedule[1];
  p.root2 = schedule[2];
}

__device__ void follow(Sgd& p, const float* schedule) {
  p.lr = schedule[0];
}

__device__ float updated(const Adamw& p, const Entry& e, std::int64_t i, float g) {
  const float m = p.beta1 * e.first[i] + p.rest1 * g;
  const float v = p.beta2 * e.second[i] + p.rest2 * g * g;
  e.first[i] = m;
  e.second[i] = v;
  return e.value[i] * p.keep - p.step_size * (m / (sqrtf(v) / p.root2 + p.epsilon));
}

__device__ float updated(const Sgd& p, const Entry& e, std::int64_t i, float g) {
  const float value = e.value[i];
  g += p.decay * value;
  if (e.first != nullptr) {
    if (!p.start) g += p.momentum * e.first[i];
    e.first[i] = g;
  }
  return value - p.lr * g;
}

// Rounded after the product, as Selection::apply does it: a resumed run then has the same weights.
__device__ float entry(float base, float value, float scale) {
  return __fadd_rn(base, __fmul_rn(value, scale));
}

// `schedule` and `clip` are null where the host's numbers hold.
template <typename Rule>
__global__ void __launch_bounds__(kThreads)
    update_kernel(Rule rule, const Entry* table, int entries, const float* schedule,
                  const double* clip, float grad_scale) {
  if (clip != nullptr) grad_scale = static_cast<float>(clip[1]);
  if (grad_scale != grad_scale) return;  // NaN
  if (schedule != nullptr) follow(rule, schedule);
  const Entry e = entry_of(table, entries, blockIdx.x);
  const std::int64_t begin = (blockIdx.x - e.first_block) * kPerBlock + threadIdx.x;
  for (int k = 0; k < kPerBlock / kThreads; ++k) {
    const std::int64_t i = begin + k * kThreads;
    if (i >= e.count) return;
    const float value = updated(rule, e, i, e.grad[i] * grad_scale);
    e.value[i] = value;
    if (e.positions != nullptr) e.target[e.positions[i]] = entry(e.base[i], value, e.scale);
  }
}

// Moves a table to the device; the sum of the blocks is what the launch needs.
template <typename E>
Tensor on_device(const std::vector<E>& table, Device device) {
  std::vector<std::uint8_t> bytes(table.size() * sizeof(E));
  std::memcpy(bytes.data(), table.data(), bytes.size());
  return Tensor::from({static_cast<std::int64_t>(bytes.size())}, bytes).to(device);
}

template <typename Rule>
void update(const char* place, const Rule& rule, const std::vector<OptimItem>& items,
            const Tensor& schedule, const Tensor& clip, double grad_scale) {
  std::vector<Entry> table;
  std::int64_t blocks = 0;
  for (const OptimItem& item : items) {
    if (item.value.dtype() != Dtype::f32) {
      throw DtypeError(
          str(place, ": ", dtype_name(item.value.dtype()), " on CUDA, expected float32"));
    }
    const std::int64_t count = item.value.numel();
    if (count == 0) continue;
    const bool moves = item.positions.defined();
    table.push_back({.value = item.value.data<float>(),
                     .grad = item.grad.data<float>(),
                     .first = item.first.defined() ? item.first.data<float>() : nullptr,
                     .second = item.second.defined() ? item.second.data<float>() : nullptr,
                     .positions = moves ? item.positions.data<std::int64_t>() : nullptr,
                     .base = moves ? item.base.data<float>() : nullptr,
                     .target = moves ? item.target.data<float>() : nullptr,
                     .scale = static_cast<float>(item.scale),
                     .count = count,
                     .first_block = blocks});
    blocks += blocks_for(count, kPerBlock);
  }
  if (table.empty()) return;
  const Device device = items.front().value.device();
  const Tensor entries = on_device(table, device);
  ADDER_LAUNCH((update_kernel<Rule>), static_cast<int>(blocks), kThreads, 0, stream(device), rule,
               reinterpret_cast<const Entry*>(entries.data<std::uint8_t>()),
               static_cast<int>(table.size()),
               schedule.defined() ? schedule.data<float>() : nullptr,
               clip.defined() ? clip.data<double>() : nullptr, static_cast<float>(grad_scale));
}

struct Summand {
  const float* x;
  std::int64_t count;
  std::int64_t first_block;
};

// The sum over a block's threads, in an order that depends on nothing; the first thread has it.
__device__ double sum_of_block(double sum, double* sums) {
  const int thread = static_cast<int>(threadIdx.x);
  sums[thread] = sum;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (thread < half) sums[thread] += sums[thread + half];
    __syncthreads();
  }
  return sums[0];
}

// Every block adds the squares of kSummedPerBlock elements of one tensor.
__global__ void __launch_bounds__(kThreads)
    sum_squares_kernel(const Summand* table, int entries, double* partial) {
  ADDER_SHARED(double, sums);
  const Summand e = entry_of(table, entries, blockIdx.x);
  const std::int64_t begin = (blockIdx.x - e.first_block) * kSummedPerBlock;
  const std::int64_t end = begin + kSummedPerBlock < e.count ? begin + kSummedPerBlock : e.count;
  double sum = 0;
  for (std::int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const auto value = static_cast<double>(e.x[i]);
    sum += value * value;
  }
  sum = sum_of_block(sum, sums);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    finish_norm_kernel(const double* partial, std::int64_t count, double max_norm, double* result) {
  ADDER_SHARED(double, sums);
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
  sum = sum_of_block(sum, sums);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sum);
  result[0] = norm;
  if (!(norm - norm == 0)) {
    result[1] = norm - norm;  // NaN
  } else {
    result[1] = max_norm == 0 ? 1.0 : fmin(1.0, max_norm / (norm + 1e-6));
  }
}

}  // namespace

void adamw_step(const AdamwArgs& args) {
  check_optim_items("adamw_step", args.items, 2, args.step, args.schedule, args.clip);
  const AdamwSchedule numbers =
      adamw_schedule(args.lr, args.beta1, args.beta2, args.weight_decay, args.step);
  const Adamw rule{.keep = static_cast<float>(numbers.keep),
                   .beta1 = static_cast<float>(args.beta1),
                   .beta2 = static_cast<float>(args.beta2),
                   .rest1 = static_cast<float>(1 - args.beta1),
                   .rest2 = static_cast<float>(1 - args.beta2),
                   .step_size = static_cast<float>(numbers.step_size),
                   .root2 = static_cast<float>(numbers.root2),
                   .epsilon = static_cast<float>(args.epsilon)};
  update("adamw_step", rule, args.items, args.schedule, args.clip, args.grad_scale);
}

void sgd_step(const SgdArgs& args) {
  check_optim_items("sgd_step", args.items, args.momentum != 0 ? 1 : 0, args.step, args.schedule,
                    args.clip);
  const Sgd rule{.lr = static_cast<float>(args.lr),
                 .momentum = static_cast<float>(args.momentum),
                 .decay = static_cast<float>(args.weight_decay),
                 .start = args.step <= 1};
  update("sgd_step", rule, args.items, args.schedule, args.clip, args.grad_scale);
}

void gradient_norm(const GradientNormArgs& args) {
  check_shape("gradient_norm", "result", args.result, {2});
  std::vector<Tensor> kept;  // until the launches are on their way
  std::vector<Summand> table;
  std::int64_t blocks = 0;
  for (const Tensor& grad : args.grads) {
    const std::int64_t count = grad.numel();
    if (count == 0) continue;
    kept.push_back(grad.to(Dtype::f32));
    table.push_back({kept.back().data<float>(), count, blocks});
    blocks += blocks_for(count, kSummedPerBlock);
  }
  const Device device = args.result.device();
  constexpr std::size_t kShared = kThreads * sizeof(double);
  const Tensor partial = Tensor::empty({std::max<std::int64_t>(blocks, 1)}, Dtype::f64, device);
  if (!table.empty()) {
    const Tensor entries = on_device(table, device);
    ADDER_LAUNCH(sum_squares_kernel, static_cast<int>(blocks), kThreads, kShared, stream(device),
                 reinterpret_cast<const Summand*>(entries.data<std::uint8_t>()),
                 static_cast<int>(table.size()), partial.data<double>());
  }
  ADDER_LAUNCH(finish_norm_kernel, 1, kThreads, kShared, stream(device), partial.data<double>(),
               blocks, args.max_norm, args.result.data<double>());
}

}  // namespace adder::cuda
