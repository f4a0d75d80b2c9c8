// The causal depth-wise convolution with SiLU. A thread owns one channel and marches through a
// segment of kSegment steps with the last K inputs in registers: neighbouring threads read
// neighbouring channels, nothing goes through shared memory, and a segment re-reads K - 1 steps.
// Traffic per element: forward one read and one write, backward two reads and one write.
#include "cuda/math.h"
#include "cuda/runtime.h"
#include "cuda/strided.h"
#include "engine/kernels/conv.h"
#include "engine/kernels/elementwise.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr std::int64_t kSegment = 64;
constexpr int kMaxTaps = 8;

struct ConvShape {
  std::int64_t length, channels;
  int taps;
};

// Taps of one channel, right-aligned in K registers: the unused ones are zero.
template <int K>
struct Taps {
  float weight[K];
  float bias;

  __device__ Taps(const float* w, const float* b, std::int64_t channel, int taps) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int j = k - (K - taps);
      weight[k] = j >= 0 ? w[channel * taps + j] : 0.0F;
    }
    bias = b != nullptr ? b[channel] : 0.0F;
  }
  __device__ float convolve(const float (&window)[K]) const {
    float sum = bias;
#pragma unroll
    for (int k = 0; k < K; ++k) sum += weight[k] * window[k];
    return sum;
  }
};

template <int K>
__device__ void push(float (&window)[K], float value) {
#pragma unroll
  for (int k = 0; k + 1 < K; ++k) window[k] = window[k + 1];
  window[K - 1] = value;
}

template <typename T, int K>
__global__ void __launch_bounds__(kThreads)
    causal_conv_silu_fwd_kernel(ConvShape s, Rows<const T> x, const float* weight,
                                const float* bias, Rows<T> y) {
  const std::int64_t d = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (d >= s.channels) return;
  const std::int64_t b = blockIdx.z;
  const std::int64_t begin = blockIdx.y * kSegment;
  const std::int64_t end = begin + kSegment < s.length ? begin + kSegment : s.length;
  const Taps<K> taps(weight, bias, d, s.taps);
  float window[K] = {};
  for (std::int64_t t = begin - (K - 1); t < begin; ++t) {
    push(window, t >= 0 ? to_float(x.at(b, t)[d]) : 0.0F);
  }
  for (std::int64_t t = begin; t < end; ++t) {
    push(window, to_float(x.at(b, t)[d]));
    y.at(b, t)[d] = from_float<T>(silu(taps.convolve(window)));
  }
}

// Marches backwards: slope_t = dy_t silu'(c_t) for the steps of the segment and the K - 1 after it,
// which the next segment computes again; dx_t = sum_k weight[k] slope_{t + K - 1 - k}.
// kWeights: also the parts of dweight and dbias, (segment of b, channel, taps + 1).
template <typename T, int K, bool kWeights>
__global__ void __launch_bounds__(kThreads)
    causal_conv_silu_bwd_kernel(ConvShape s, Rows<const T> x, const float* weight,
                                const float* bias, Rows<const T> dy, Rows<T> dx, float* partial) {
  const std::int64_t d = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (d >= s.channels) return;
  const std::int64_t b = blockIdx.z;
  const std::int64_t begin = blockIdx.y * kSegment;
  const std::int64_t end = begin + kSegment < s.length ? begin + kSegment : s.length;
  const std::int64_t last = end + K - 1 < s.length ? end + K - 1 : s.length;
  const Taps<K> taps(weight, bias, d, s.taps);
  float slopes[K] = {};  // slope_t ... slope_{t + K - 1}
  float dweight[K] = {};
  float dbias = 0;
  float window[K];  // x_{t - K + 1} ... x_t
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const std::int64_t t = last - K + k;
    window[k] = t >= 0 && t < s.length ? to_float(x.at(b, t)[d]) : 0.0F;
  }
  for (std::int64_t t = last - 1; t >= begin; --t) {
    const float c = taps.convolve(window);
    const float slope = to_float(dy.at(b, t)[d]) * silu_slope(c, sigmoid(c));
#pragma unroll
    for (int k = K - 1; k > 0; --k) slopes[k] = slopes[k - 1];
    slopes[0] = slope;
    if (t < end) {
      if constexpr (kWeights) {
#pragma unroll
        for (int k = 0; k < K; ++k) dweight[k] += slope * window[k];
        dbias += slope;
      }
      if (dx.data != nullptr) {
        float sum = 0;
#pragma unroll
        for (int k = 0; k < K; ++k) sum += taps.weight[k] * slopes[K - 1 - k];
        dx.at(b, t)[d] = from_float<T>(sum);
      }
    }
#pragma unroll
    for (int k = K - 1; k > 0; --k) window[k] = window[k - 1];
    window[0] = t - K >= 0 ? to_float(x.at(b, t - K)[d]) : 0.0F;
  }
  if constexpr (kWeights) {
    const std::int64_t part = b * gridDim.y + blockIdx.y;
    float* out = partial + (part * s.channels + d) * (s.taps + 1);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int j = k - (K - s.taps);
      if (j >= 0) out[j] = dweight[k];
    }
    out[s.taps] = dbias;
  }
}

// Adds the parts in their order. One thread per (channel, tap or bias).
__global__ void causal_conv_silu_weights_kernel(ConvShape s, const float* partial,
                                                std::int64_t parts, float* dweight,
                                                std::int64_t dweight_stride, float* dbias) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t width = s.channels * (s.taps + 1);
  if (i >= width) return;
  float sum = 0;
  for (std::int64_t part = 0; part < parts; ++part) sum += partial[part * width + i];
  const std::int64_t d = i / (s.taps + 1);
  const std::int64_t k = i % (s.taps + 1);
  if (k == s.taps) {
    if (dbias != nullptr) dbias[d] = sum;
  } else if (dweight != nullptr) {
    dweight[d * dweight_stride + k] = sum;
  }
}

template <typename T>
__global__ void causal_conv_silu_step_kernel(ConvShape s, Rows<const T> x, const float* weight,
                                             const float* bias, Rows<T> window, Rows<T> y) {
  const std::int64_t d = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (d >= s.channels) return;
  const std::int64_t b = blockIdx.y;
  float sum = bias != nullptr ? bias[d] : 0.0F;
  for (int k = 0; k < s.taps; ++k) {
    const T input = k + 1 < s.taps ? window.at(b, k + 1)[d] : x.at(b)[d];
    window.at(b, k)[d] = input;
    sum += weight[d * s.taps + k] * to_float(input);
  }
  y.at(b)[d] = from_float<T>(silu(sum));
}

template <typename T>
Rows<const T> read(const Tensor& tensor) {
  const Rows<T> r = rows<T>(tensor);
  return {r.data, r.batch_stride, r.stride};
}

const float* optional(const Tensor& tensor) {
  return tensor.defined() ? tensor.data<float>() : nullptr;
}

void check_weight(const char* place, const Tensor& weight, const Tensor& bias, std::int64_t d) {
  if (weight.rank() != 2 || weight.dim(0) != d || !weight.is_contiguous() || weight.dim(1) < 1 ||
      weight.dim(1) > kMaxTaps) {
    throw ShapeError(str(place, ": weight is ", weight.shape(), ", expected ", Shape{d, kMaxTaps},
                         " with 1 to ", kMaxTaps, " taps, contiguous"));
  }
  if (bias.defined()) check_shape(place, "bias", bias, {d});
}

// Calls f with the number of registers for the taps: 4 fits every published model.
template <typename F>
void dispatch_taps(int taps, const F& f) {
  if (taps <= 4) return f(std::integral_constant<int, 4>{});
  f(std::integral_constant<int, kMaxTaps>{});
}

dim3 grid_of(std::int64_t batch, std::int64_t length, std::int64_t channels) {
  return dim3(static_cast<unsigned>(blocks_for(channels, kThreads)),
              static_cast<unsigned>(blocks_for(length, kSegment)), static_cast<unsigned>(batch));
}

}  // namespace

void causal_conv_silu_fwd(const CausalConvFwdArgs& args) {
  const char* place = "causal_conv_silu_fwd";
  const std::int64_t batch = args.x.dim(0);
  const ConvShape s{args.x.dim(1), args.x.dim(2), static_cast<int>(args.weight.dim(1))};
  check_weight(place, args.weight, args.bias, s.channels);
  check_shape(place, "y", args.y, args.x.shape());
  if (args.x.numel() == 0) return;
  dispatch_storage(place, args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    dispatch_taps(s.taps, [&](auto k) {
      constexpr int K = decltype(k)::value;
      ADDER_LAUNCH((causal_conv_silu_fwd_kernel<T, K>), grid_of(batch, s.length, s.channels),
                   kThreads, 0, stream(args.x.device()), s, read<T>(args.x),
                   args.weight.data<float>(), optional(args.bias), rows<T>(args.y));
    });
  });
}

void causal_conv_silu_bwd(const CausalConvBwdArgs& args) {
  const char* place = "causal_conv_silu_bwd";
  const Device device = args.x.device();
  const std::int64_t batch = args.x.dim(0);
  const ConvShape s{args.x.dim(1), args.x.dim(2), static_cast<int>(args.weight.dim(1))};
  check_weight(place, args.weight, args.bias, s.channels);
  check_shape(place, "dy", args.dy, args.x.shape());
  if (args.dx.defined()) check_shape(place, "dx", args.dx, args.x.shape());
  const bool weights = args.dweight.defined() || args.dbias.defined();
  const dim3 grid = grid_of(batch, s.length, s.channels);
  const std::int64_t parts = batch * grid.y;
  const std::int64_t width = s.channels * (s.taps + 1);
  const Tensor partial = weights ? Tensor::empty({parts, width}, Dtype::f32, device) : Tensor();
  float* sums = weights ? partial.data<float>() : nullptr;
  if (args.x.numel() > 0) {
    dispatch_storage(place, args.x.dtype(), [&](auto type) {
      using T = decltype(type);
      dispatch_taps(s.taps, [&](auto k) {
        constexpr int K = decltype(k)::value;
        const auto launch = [&](auto with_weights) {
          constexpr bool kWeights = decltype(with_weights)::value;
          ADDER_LAUNCH((causal_conv_silu_bwd_kernel<T, K, kWeights>), grid, kThreads, 0,
                       stream(device), s, read<T>(args.x), args.weight.data<float>(),
                       optional(args.bias), read<T>(args.dy), rows<T>(args.dx), sums);
        };
        weights ? launch(std::true_type{}) : launch(std::false_type{});
      });
    });
  }
  if (!weights) return;
  ADDER_LAUNCH(causal_conv_silu_weights_kernel, blocks_for(width, kThreads), kThreads, 0,
               stream(device), s, sums, args.x.numel() > 0 ? parts : 0,
               args.dweight.defined() ? args.dweight.data<float>() : nullptr,
               args.dweight.defined() ? args.dweight.stride(0) : 0,
               args.dbias.defined() ? args.dbias.data<float>() : nullptr);
}

void causal_conv_silu_step(const CausalConvStepArgs& args) {
  const char* place = "causal_conv_silu_step";
  const ConvShape s{1, args.x.dim(1), static_cast<int>(args.weight.dim(1))};
  check_weight(place, args.weight, args.bias, s.channels);
  check_shape(place, "window", args.window, {args.x.dim(0), args.weight.dim(1), s.channels});
  check_shape(place, "y", args.y, args.x.shape());
  if (args.x.numel() == 0) return;
  const dim3 grid(static_cast<unsigned>(blocks_for(s.channels, kThreads)),
                  static_cast<unsigned>(args.x.dim(0)));
  dispatch_storage(place, args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((causal_conv_silu_step_kernel<T>), grid, kThreads, 0, stream(args.x.device()), s,
                 read<T>(args.x), args.weight.data<float>(), optional(args.bias),
                 rows<T>(args.window), rows<T>(args.y));
  });
}

}  // namespace adder::cuda
