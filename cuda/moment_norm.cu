// BatchNorm, InstanceNorm and GroupNorm. A block of 32 columns and kLanes rows takes a part of
// kRowsPerPart rows: a thread owns a column of every kLanes-th row and keeps its values, so that a
// part is read once for mean and squares. Parts are merged in float64 in a second launch (Chan et
// al. 1979), channels of a group in a third, and a last one writes the result. Traffic per element:
// forward 2 reads and 1 write, backward 4 and 1.
#include "cuda/math.h"
#include "cuda/runtime.h"
#include "cuda/strided.h"
#include "engine/kernels/moment_norm.h"

namespace adder::cuda {
namespace {

constexpr int kLanes = 8;
constexpr int kThreads = kWarp * kLanes;
constexpr int kRowsPerThread = 16;
constexpr int kRowsPerPart = kLanes * kRowsPerThread;

struct Extent {
  std::int64_t groups, rows;
  std::int64_t parts;  // of each group
  int channels;
  int column_blocks;  // of 32
  bool per_channel;

  __host__ __device__ std::int64_t statistics() const {
    return groups * (per_channel ? channels : 1);
  }
  __device__ std::int64_t statistic(std::int64_t group, int channel) const {
    return per_channel ? group * channels + channel : group;
  }
  std::int64_t blocks() const { return groups * parts * column_blocks; }
};

// What one thread of a part's block works on.
struct Place {
  std::int64_t part, group, row;  // part and row count through all groups
  int rows;                       // of the part
  int channel, lane;

  __device__ explicit Place(const Extent& e)
      : part(blockIdx.x / e.column_blocks),
        group(part / e.parts),
        channel(static_cast<int>(blockIdx.x % e.column_blocks) * kWarp +
                static_cast<int>(threadIdx.x) % kWarp),
        lane(static_cast<int>(threadIdx.x) / kWarp) {
    const std::int64_t first = part % e.parts * kRowsPerPart;
    row = group * e.rows + first;
    rows = static_cast<int>(e.rows - first < kRowsPerPart ? e.rows - first : kRowsPerPart);
  }
  __device__ bool inside(const Extent& e, int i) const {
    return channel < e.channels && lane + i * kLanes < rows;
  }
  __device__ std::int64_t at(const Extent& e, int i) const {
    return (row + lane + i * kLanes) * e.channels + channel;
  }
};

// The sum over a block's lanes for each of its 32 columns, in every thread; scratch holds kThreads.
template <typename T>
__device__ T lanes_total(T value, T* scratch) {
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();  // scratch may still be read from the call before
  scratch[thread] = value;
  __syncthreads();
  T total = 0;
#pragma unroll
  for (int i = 0; i < kLanes; ++i) total += scratch[i * kWarp + thread % kWarp];
  return total;
}

// The sum over a block of kThreads threads, in every thread; scratch holds kThreads.
__device__ double block_total(double value, double* scratch) {
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  scratch[thread] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (thread < half) scratch[thread] += scratch[thread + half];
    __syncthreads();
  }
  return scratch[0];
}

// partial (groups, parts, 2, D): means, and squares about them.
__global__ void __launch_bounds__(kThreads)
    moment_parts_kernel(Extent e, const float* x, float* partial) {
  ADDER_SHARED(float, scratch);
  const Place p(e);
  float values[kRowsPerThread];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    values[i] = p.inside(e, i) ? x[p.at(e, i)] : 0.0F;
    sum += values[i];
  }
  const float mean = lanes_total(sum, scratch) / static_cast<float>(p.rows);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    const float distance = p.inside(e, i) ? values[i] - mean : 0.0F;
    squares += distance * distance;
  }
  squares = lanes_total(squares, scratch);
  if (p.lane != 0 || p.channel >= e.channels) return;
  float* to = partial + p.part * 2 * e.channels + p.channel;
  to[0] = mean;
  to[e.channels] = squares;
}

// moments (groups, 2, D): those of a group's channels. One block for 32 channels of a group.
__global__ void __launch_bounds__(kThreads)
    moment_merge_kernel(Extent e, const float* partial, double* moments) {
  ADDER_SHARED(double, scratch);
  const std::int64_t group = blockIdx.x / e.column_blocks;
  const int channel = static_cast<int>(blockIdx.x % e.column_blocks) * kWarp +
                      static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t first = static_cast<int>(threadIdx.x) / kWarp;
  const std::int64_t parts = channel < e.channels ? e.parts : 0;
  const float* from = partial + group * e.parts * 2 * e.channels + channel;
  const auto rows = [&](std::int64_t part) {
    const std::int64_t left = e.rows - part * kRowsPerPart;
    return static_cast<double>(left < kRowsPerPart ? left : kRowsPerPart);
  };
  double sum = 0;
  for (std::int64_t part = first; part < parts; part += kLanes) {
    sum += rows(part) * static_cast<double>(from[part * 2 * e.channels]);
  }
  const double mean = lanes_total(sum, scratch) / static_cast<double>(e.rows);
  double squares = 0;
  for (std::int64_t part = first; part < parts; part += kLanes) {
    const double distance = static_cast<double>(from[part * 2 * e.channels]) - mean;
    squares +=
        static_cast<double>(from[(part * 2 + 1) * e.channels]) + rows(part) * distance * distance;
  }
  squares = lanes_total(squares, scratch);
  if (first != 0 || channel >= e.channels) return;
  double* to = moments + group * 2 * e.channels + channel;
  to[0] = mean;
  to[e.channels] = squares;
}

struct Finish {
  double epsilon, momentum;
  float* stats;                       // (2, statistics)
  float *running_mean, *running_var;  // or null
  unsigned long long* batches;        // or null
  bool use_running;
};

__device__ void write_statistic(const Extent& e, const Finish& f, std::int64_t at, double mean,
                                double variance) {
  f.stats[at] = static_cast<float>(mean);
  f.stats[e.statistics() + at] = static_cast<float>(1.0 / sqrt(variance + f.epsilon));
}

// A thread writes the statistic of a channel, and blends it in.
__global__ void channel_statistics_kernel(Extent e, const double* moments, Finish f) {
  const std::int64_t index = global_index();
  if (index >= e.groups * e.channels) return;
  if (f.use_running) {
    write_statistic(e, f, index, static_cast<double>(f.running_mean[index]),
                    static_cast<double>(f.running_var[index]));
    return;
  }
  const double* from = moments + index / e.channels * 2 * e.channels + index % e.channels;
  const auto count = static_cast<double>(e.rows);
  write_statistic(e, f, index, from[0], from[e.channels] / count);
  if (f.running_mean == nullptr) return;
  const auto blend = [&](float& running, double value) {
    running =
        static_cast<float>((1 - f.momentum) * static_cast<double>(running) + f.momentum * value);
  };
  blend(f.running_mean[index], from[0]);
  blend(f.running_var[index], from[e.channels] / (count - 1));
  if (index == 0 && f.batches != nullptr) *f.batches += 1;
}

// A block merges the channels of one group.
__global__ void __launch_bounds__(kThreads)
    group_statistics_kernel(Extent e, const double* moments, Finish f) {
  ADDER_SHARED(double, scratch);
  const double* mean = moments + static_cast<std::int64_t>(blockIdx.x) * 2 * e.channels;
  const double* squares = mean + e.channels;
  double sum = 0;
  for (int c = static_cast<int>(threadIdx.x); c < e.channels; c += kThreads) sum += mean[c];
  const double all = block_total(sum, scratch) / e.channels;
  sum = 0;
  for (int c = static_cast<int>(threadIdx.x); c < e.channels; c += kThreads) {
    const double distance = mean[c] - all;
    sum += squares[c] + static_cast<double>(e.rows) * distance * distance;
  }
  sum = block_total(sum, scratch);
  if (threadIdx.x != 0) return;
  write_statistic(e, f, blockIdx.x, all, sum / (static_cast<double>(e.rows) * e.channels));
}

// weight and bias may be null.
__global__ void __launch_bounds__(kThreads)
    moment_apply_kernel(Extent e, const float* x, const float* weight, const float* bias,
                        const float* stats, float* y) {
  const Place p(e);
  if (p.channel >= e.channels) return;
  const std::int64_t statistic = e.statistic(p.group, p.channel);
  const float mean = stats[statistic];
  const float inverse = stats[e.statistics() + statistic];
  const float scale = weight != nullptr ? inverse * weight[p.channel] : inverse;
  const float shift = bias != nullptr ? bias[p.channel] : 0.0F;
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    if (p.inside(e, i)) y[p.at(e, i)] = (x[p.at(e, i)] - mean) * scale + shift;
  }
}

// partial (groups, parts, 2, D): sums of dy, and of dy x^.
__global__ void __launch_bounds__(kThreads)
    moment_sums_kernel(Extent e, const float* x, const float* dy, const float* stats,
                       float* partial) {
  ADDER_SHARED(float, scratch);
  const Place p(e);
  const std::int64_t statistic = e.statistic(p.group, p.channel < e.channels ? p.channel : 0);
  const float mean = stats[statistic];
  const float inverse = stats[e.statistics() + statistic];
  float plain = 0;
  float scaled = 0;
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    if (!p.inside(e, i)) continue;
    const float g = dy[p.at(e, i)];
    plain += g;
    scaled += g * (x[p.at(e, i)] - mean);
  }
  plain = lanes_total(plain, scratch);
  scaled = lanes_total(scaled, scratch) * inverse;
  if (p.lane != 0 || p.channel >= e.channels) return;
  float* to = partial + p.part * 2 * e.channels + p.channel;
  to[0] = plain;
  to[e.channels] = scaled;
}

// out (width) of group g: the sum of the `rows` rows of in (groups, rows, stride), in float64.
template <typename In, typename Out>
__global__ void __launch_bounds__(kThreads)
    add_rows_kernel(const In* in, std::int64_t rows, int width, std::int64_t stride, Out* out) {
  ADDER_SHARED(double, scratch);
  const int blocks = (width + kWarp - 1) / kWarp;
  const std::int64_t group = blockIdx.x / blocks;
  const int column =
      static_cast<int>(blockIdx.x % blocks) * kWarp + static_cast<int>(threadIdx.x) % kWarp;
  const int first = static_cast<int>(threadIdx.x) / kWarp;
  double sum = 0;
  for (std::int64_t row = first; row < rows && column < width; row += kLanes) {
    sum += static_cast<double>(in[(group * rows + row) * stride + column]);
  }
  sum = lanes_total(sum, scratch);
  if (first == 0 && column < width) out[group * width + column] = static_cast<Out>(sum);
}

// means (2, statistics) of g = dy weight and of g x^, from sums (groups, 2, D). A block for each
// group and each of the two.
__global__ void __launch_bounds__(kThreads)
    gradient_means_kernel(Extent e, const double* sums, const float* weight, float* means) {
  ADDER_SHARED(double, scratch);
  const std::int64_t group = blockIdx.x / 2;
  const std::int64_t which = blockIdx.x % 2;
  const double* from = sums + static_cast<std::int64_t>(blockIdx.x) * e.channels;
  float* to = means + which * e.statistics() + e.statistic(group, 0);
  double sum = 0;
  for (int c = static_cast<int>(threadIdx.x); c < e.channels; c += kThreads) {
    const double g = weight != nullptr ? static_cast<double>(weight[c]) * from[c] : from[c];
    sum += g;
    if (e.per_channel) to[c] = static_cast<float>(g / static_cast<double>(e.rows));
  }
  if (e.per_channel) return;
  sum = block_total(sum, scratch);
  if (threadIdx.x == 0) {
    *to = static_cast<float>(sum / (static_cast<double>(e.rows) * e.channels));
  }
}

// means is null for given statistics.
__global__ void __launch_bounds__(kThreads)
    moment_bwd_kernel(Extent e, const float* x, const float* weight, const float* stats,
                      const float* dy, const float* means, float* dx) {
  const Place p(e);
  if (p.channel >= e.channels) return;
  const std::int64_t statistic = e.statistic(p.group, p.channel);
  const float mean = stats[statistic];
  const float inverse = stats[e.statistics() + statistic];
  const float scale = weight != nullptr ? weight[p.channel] : 1.0F;
  const float mean_g = means != nullptr ? means[statistic] : 0.0F;
  const float mean_gx = means != nullptr ? means[e.statistics() + statistic] : 0.0F;
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    if (!p.inside(e, i)) continue;
    const float normal = (x[p.at(e, i)] - mean) * inverse;
    dx[p.at(e, i)] = inverse * (dy[p.at(e, i)] * scale - mean_g - normal * mean_gx);
  }
}

Extent extent(const MomentExtent& of) {
  return {of.groups,
          of.rows,
          (of.rows + kRowsPerPart - 1) / kRowsPerPart,
          static_cast<int>(of.channels),
          blocks_for(of.channels, kWarp),
          of.per_channel};
}

template <typename T = float>
T* pointer(const Tensor& tensor) {
  return tensor.defined() ? tensor.data<T>() : nullptr;
}

void own_statistics(const MomentNormFwdArgs& args, const Extent& e, const Finish& finish) {
  const Device device = args.x.device();
  const Tensor partial = Tensor::empty({e.groups, e.parts, 2, e.channels}, Dtype::f32, device);
  const Tensor moments = Tensor::empty({e.groups, 2, e.channels}, Dtype::f64, device);
  ADDER_LAUNCH(moment_parts_kernel, static_cast<int>(e.blocks()), kThreads,
               kThreads * sizeof(float), stream(device), e, args.x.data<float>(),
               partial.data<float>());
  ADDER_LAUNCH(moment_merge_kernel, static_cast<int>(e.groups) * e.column_blocks, kThreads,
               kThreads * sizeof(double), stream(device), e, partial.data<float>(),
               moments.data<double>());
  // With one channel the two kinds are the same, and running statistics ask for this one.
  if (e.per_channel || e.channels == 1) {
    ADDER_LAUNCH(channel_statistics_kernel, blocks_for(e.groups * e.channels, kThreads), kThreads,
                 0, stream(device), e, moments.data<double>(), finish);
  } else {
    ADDER_LAUNCH(group_statistics_kernel, static_cast<int>(e.groups), kThreads,
                 kThreads * sizeof(double), stream(device), e, moments.data<double>(), finish);
  }
}

}  // namespace

void moment_norm_fwd(const MomentNormFwdArgs& args) {
  const Extent e = extent(check_moment_norm(args));
  const Device device = args.x.device();
  const Finish finish{args.epsilon,
                      args.momentum,
                      args.stats.data<float>(),
                      pointer(args.running_mean),
                      pointer(args.running_var),
                      reinterpret_cast<unsigned long long*>(pointer<std::int64_t>(args.batches)),
                      args.use_running};
  if (args.use_running) {
    ADDER_LAUNCH(channel_statistics_kernel, blocks_for(e.channels, kThreads), kThreads, 0,
                 stream(device), e, static_cast<const double*>(nullptr), finish);
  } else {
    own_statistics(args, e, finish);
  }
  ADDER_LAUNCH(moment_apply_kernel, static_cast<int>(e.blocks()), kThreads, 0, stream(device), e,
               args.x.data<float>(), pointer(args.weight), pointer(args.bias),
               args.stats.data<float>(), args.y.data<float>());
}

void moment_norm_bwd(const MomentNormBwdArgs& args) {
  const Extent e = extent(check_moment_norm(args));
  const Device device = args.x.device();
  const float* x = args.x.data<float>();
  const float* dy = args.dy.data<float>();
  const float* stats = args.stats.data<float>();
  Tensor means;
  if (args.dweight.defined() || args.dbias.defined() || !args.given_stats) {
    const Tensor partial = Tensor::empty({e.groups, e.parts, 2, e.channels}, Dtype::f32, device);
    const Tensor sums = Tensor::empty({e.groups, 2, e.channels}, Dtype::f64, device);
    const std::size_t shared = kThreads * sizeof(double);
    ADDER_LAUNCH(moment_sums_kernel, static_cast<int>(e.blocks()), kThreads,
                 kThreads * sizeof(float), stream(device), e, x, dy, stats, partial.data<float>());
    ADDER_LAUNCH((add_rows_kernel<float, double>),
                 static_cast<int>(e.groups) * blocks_for(2 * e.channels, kWarp), kThreads, shared,
                 stream(device), partial.data<float>(), e.parts, 2 * e.channels, 2 * e.channels,
                 sums.data<double>());
    const auto over_groups = [&](const Tensor& out, int which) {
      if (!out.defined()) return;
      ADDER_LAUNCH((add_rows_kernel<double, float>), e.column_blocks, kThreads, shared,
                   stream(device), sums.data<double>() + which * e.channels, e.groups, e.channels,
                   2 * e.channels, out.data<float>());
    };
    over_groups(args.dbias, 0);
    over_groups(args.dweight, 1);
    if (!args.given_stats && args.dx.defined()) {
      means = Tensor::empty({2, e.statistics()}, Dtype::f32, device);
      ADDER_LAUNCH(gradient_means_kernel, static_cast<int>(2 * e.groups), kThreads, shared,
                   stream(device), e, sums.data<double>(), pointer(args.weight),
                   means.data<float>());
    }
  }
  if (!args.dx.defined()) return;
  ADDER_LAUNCH(moment_bwd_kernel, static_cast<int>(e.blocks()), kThreads, 0, stream(device), e, x,
               pointer(args.weight), stats, dy, pointer(means), args.dx.data<float>());
}

}  // namespace adder::cuda
