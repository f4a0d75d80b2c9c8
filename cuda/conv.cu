// The causal depth-wise convolution with SiLU. A thread owns four neighbouring channels, one access
// of 16 bytes in float32, and marches through a segment of kSegment steps with the inputs of the
// last K - 1 steps in registers, kAtOnce loads ahead: neighbouring threads read neighbouring
// channels, nothing goes through shared memory, and a segment re-reads K - 1 steps. Traffic per
// element: forward one read and one write, backward two reads and one write; that is the limit.
#include "cuda/math.h"
#include "cuda/runtime.h"
#include "cuda/strided.h"
#include "cuda/vector.h"
#include "engine/kernels/conv.h"
#include "engine/kernels/elementwise.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kSegment = 64;
constexpr int kAtOnce = 4;
constexpr int kMaxTaps = 8;

struct ConvShape {
  int length, channels, taps;
};

// Taps of four channels, right-aligned in K registers each: the unused ones are zero.
template <int K>
struct Taps {
  Quad<float> weight[K];
  Quad<float> bias;

  __device__ Taps(const float* w, const float* b, int channel, int count, int taps) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int j = k - (K - taps);
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        weight[k].v[v] = j >= 0 && v < count ? w[(channel + v) * taps + j] : 0.0F;
      }
    }
    bias = load_quad<false>(b + (b != nullptr ? channel : 0), b != nullptr ? count : 0);
  }
  // The convolution that ends with window[last].
  template <int kWindow>
  __device__ Quad<float> convolve(const Quad<float> (&window)[kWindow], int last) const {
    Quad<float> sum = bias;
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int v = 0; v < 4; ++v) sum.v[v] += weight[k].v[v] * window[last - (K - 1) + k].v[v];
    }
    return sum;
  }
};

// The steps t0 ... t0 + kAtOnce - 1, those outside [0, end) are zero.
template <bool kVector, typename T>
__device__ __forceinline__ void fetch(const T* at, int stride, int t0, int end, int count,
                                      Quad<T> (&to)[kAtOnce]) {
#pragma unroll
  for (int j = 0; j < kAtOnce; ++j) {
    const bool inside = t0 + j >= 0 && t0 + j < end;
    to[j] = load_quad<kVector>(at + static_cast<std::int64_t>(t0 + j) * stride, inside ? count : 0);
  }
}

// What came before the first step.
template <bool kVector, int K, typename T>
__device__ __forceinline__ void begin_window(const T* at, int stride, int begin, int count,
                                             Quad<float> (&window)[K - 1 + kAtOnce]) {
#pragma unroll
  for (int k = 0; k < K - 1; ++k) {
    const int t = begin - (K - 1) + k;
    window[k] =
        floats(load_quad<kVector>(at + static_cast<std::int64_t>(t) * stride, t >= 0 ? count : 0));
  }
}

template <int K>
__device__ __forceinline__ void shift(Quad<float> (&window)[K - 1 + kAtOnce]) {
#pragma unroll
  for (int k = 0; k < K - 1; ++k) window[k] = window[k + kAtOnce];
}

template <typename T, int K, bool kVector>
__global__ void __launch_bounds__(kThreads)
    causal_conv_silu_fwd_kernel(ConvShape s, Rows<const T> x, const float* weight,
                                const float* bias, Rows<T> y) {
  const int d = static_cast<int>(blockIdx.x * kThreads + threadIdx.x) * 4;
  if (d >= s.channels) return;
  const int count = s.channels - d < 4 ? s.channels - d : 4;
  const int begin = static_cast<int>(blockIdx.y) * kSegment;
  const int end = begin + kSegment < s.length ? begin + kSegment : s.length;
  const Taps<K> taps(weight, bias, d, count, s.taps);
  const T* const from = x.at(blockIdx.z) + d;
  const int from_stride = static_cast<int>(x.stride);
  T* const to = y.at(blockIdx.z) + d;
  const int to_stride = static_cast<int>(y.stride);
  Quad<float> window[K - 1 + kAtOnce];
  begin_window<kVector, K>(from, from_stride, begin, count, window);
#pragma unroll 1
  for (int t = begin; t < end; t += kAtOnce) {
    Quad<T> next[kAtOnce];
    fetch<kVector>(from, from_stride, t, end, count, next);
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      window[K - 1 + j] = floats(next[j]);
      Quad<float> c = taps.convolve(window, K - 1 + j);
#pragma unroll
      for (int v = 0; v < 4; ++v) c.v[v] = silu(c.v[v]);
      if (t + j < end) {
        store_quad<kVector>(to + static_cast<std::int64_t>(t + j) * to_stride, count,
                            stored<T>(c.v));
      }
    }
    shift<K>(window);
  }
}

// slope_t = dy_t silu'(c_t) for the steps of the segment and the K - 1 after it, which the next
// segment computes again; dx_{t - K + 1} = sum_k weight[k] slope_{t - k}.
// kWeights: also the parts of dweight and dbias, (segment of b, channel, taps + 1).
template <typename T, int K, bool kVector, bool kWeights>
__global__ void __launch_bounds__(kThreads)
    causal_conv_silu_bwd_kernel(ConvShape s, Rows<const T> x, const float* weight,
                                const float* bias, Rows<const T> dy, Rows<T> dx, float* partial) {
  const int d = static_cast<int>(blockIdx.x * kThreads + threadIdx.x) * 4;
  if (d >= s.channels) return;
  const int count = s.channels - d < 4 ? s.channels - d : 4;
  const int begin = static_cast<int>(blockIdx.y) * kSegment;
  const int end = begin + kSegment < s.length ? begin + kSegment : s.length;
  const Taps<K> taps(weight, bias, d, count, s.taps);
  const T* const x_at = x.at(blockIdx.z) + d;
  const T* const dy_at = dy.at(blockIdx.z) + d;
  const int x_stride = static_cast<int>(x.stride);
  const int dy_stride = static_cast<int>(dy.stride);
  T* const dx_at = dx.data != nullptr ? dx.at(blockIdx.z) + d : nullptr;
  const int dx_stride = static_cast<int>(dx.stride);
  Quad<float> window[K - 1 + kAtOnce];
  Quad<float> slopes[K - 1 + kAtOnce] = {};
  Quad<float> dweight[K] = {};
  Quad<float> dbias = {};
  begin_window<kVector, K>(x_at, x_stride, begin, count, window);
#pragma unroll 1
  for (int t0 = begin; t0 < end + K - 1; t0 += kAtOnce) {
    Quad<T> x_next[kAtOnce];
    Quad<T> dy_next[kAtOnce];
    fetch<kVector>(x_at, x_stride, t0, s.length, count, x_next);
    fetch<kVector>(dy_at, dy_stride, t0, s.length, count, dy_next);
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int t = t0 + j;
      window[K - 1 + j] = floats(x_next[j]);
      const Quad<float> arriving = floats(dy_next[j]);  // zero beyond the end
      const Quad<float> c = taps.convolve(window, K - 1 + j);
      Quad<float>& slope = slopes[K - 1 + j];
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        slope.v[v] = arriving.v[v] * silu_slope(c.v[v], sigmoid(c.v[v]));
      }
      if constexpr (kWeights) {
        if (t < end) {
#pragma unroll
          for (int v = 0; v < 4; ++v) {
#pragma unroll
            for (int k = 0; k < K; ++k) dweight[k].v[v] += slope.v[v] * window[j + k].v[v];
            dbias.v[v] += slope.v[v];
          }
        }
      }
      if (dx_at == nullptr || t - (K - 1) < begin || t - (K - 1) >= end) continue;
      Quad<float> sum = {};
#pragma unroll
      for (int k = 0; k < K; ++k) {
#pragma unroll
        for (int v = 0; v < 4; ++v) sum.v[v] += taps.weight[k].v[v] * slopes[K - 1 + j - k].v[v];
      }
      store_quad<kVector>(dx_at + static_cast<std::int64_t>(t - (K - 1)) * dx_stride, count,
                          stored<T>(sum.v));
    }
    shift<K>(window);
    shift<K>(slopes);
  }
  if constexpr (kWeights) {
    const std::int64_t part = static_cast<std::int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
    float* const out = partial + (part * s.channels + d) * (s.taps + 1);
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      if (v >= count) continue;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const int j = k - (K - s.taps);
        if (j >= 0) out[v * (s.taps + 1) + j] = dweight[k].v[v];
      }
      out[v * (s.taps + 1) + s.taps] = dbias.v[v];
    }
  }
}

// Adds the parts in their order. One thread per (channel, tap or bias).
__global__ void causal_conv_silu_weights_kernel(ConvShape s, const float* partial,
                                                std::int64_t parts, float* dweight,
                                                std::int64_t dweight_stride, float* dbias) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t width = static_cast<std::int64_t>(s.channels) * (s.taps + 1);
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

// Kernels count steps, channels and the distance of rows in 32 bits.
ConvShape conv_shape(const char* place, const Tensor& x, const Tensor& weight) {
  constexpr std::int64_t kMost = 1 << 29;
  if (x.dim(1) > kMost || x.dim(2) > kMost || x.stride(1) > kMost) {
    throw ShapeError(str(place, ": x is ", x.shape(), ", too large for CUDA"));
  }
  return {static_cast<int>(x.dim(1)), static_cast<int>(x.dim(2)), static_cast<int>(weight.dim(1))};
}

dim3 grid_of(std::int64_t batch, std::int64_t length, std::int64_t channels) {
  return dim3(static_cast<unsigned>(blocks_for(channels, 4 * kThreads)),
              static_cast<unsigned>(blocks_for(length, kSegment)), static_cast<unsigned>(batch));
}

}  // namespace

void causal_conv_silu_fwd(const CausalConvFwdArgs& args) {
  const char* place = "causal_conv_silu_fwd";
  const std::int64_t batch = args.x.dim(0);
  const ConvShape s = conv_shape(place, args.x, args.weight);
  check_weight(place, args.weight, args.bias, s.channels);
  check_shape(place, "y", args.y, args.x.shape());
  if (args.x.numel() == 0) return;
  dispatch_storage(place, args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    dispatch_taps(s.taps, [&](auto k) {
      dispatch_bool(in_quads({&args.x, &args.y}), [&](auto vector) {
        constexpr int K = decltype(k)::value;
        constexpr bool kVector = decltype(vector)::value;
        ADDER_LAUNCH((causal_conv_silu_fwd_kernel<T, K, kVector>),
                     grid_of(batch, s.length, s.channels), kThreads, 0, stream(args.x.device()), s,
                     read<T>(args.x), args.weight.data<float>(), optional(args.bias),
                     rows<T>(args.y));
      });
    });
  });
}

void causal_conv_silu_bwd(const CausalConvBwdArgs& args) {
  const char* place = "causal_conv_silu_bwd";
  const Device device = args.x.device();
  const std::int64_t batch = args.x.dim(0);
  const ConvShape s = conv_shape(place, args.x, args.weight);
  check_weight(place, args.weight, args.bias, s.channels);
  check_shape(place, "dy", args.dy, args.x.shape());
  if (args.dx.defined()) check_shape(place, "dx", args.dx, args.x.shape());
  const bool weights = args.dweight.defined() || args.dbias.defined();
  const dim3 grid = grid_of(batch, s.length, s.channels);
  const std::int64_t parts = batch * grid.y;
  const std::int64_t width = static_cast<std::int64_t>(s.channels) * (s.taps + 1);
  const Tensor partial = weights ? Tensor::empty({parts, width}, Dtype::f32, device) : Tensor();
  float* sums = weights ? partial.data<float>() : nullptr;
  if (args.x.numel() > 0) {
    dispatch_storage(place, args.x.dtype(), [&](auto type) {
      using T = decltype(type);
      dispatch_taps(s.taps, [&](auto k) {
        constexpr int K = decltype(k)::value;
        dispatch_bool(in_quads({&args.x, &args.dy, &args.dx}), [&](auto vector) {
          dispatch_bool(weights, [&](auto with_weights) {
            constexpr bool kVector = decltype(vector)::value;
            constexpr bool kWeights = decltype(with_weights)::value;
            ADDER_LAUNCH((causal_conv_silu_bwd_kernel<T, K, kVector, kWeights>), grid, kThreads, 0,
                         stream(device), s, read<T>(args.x), args.weight.data<float>(),
                         optional(args.bias), read<T>(args.dy), rows<T>(args.dx), sums);
          });
        });
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
  const ConvShape s{1, static_cast<int>(args.x.dim(1)), static_cast<int>(args.weight.dim(1))};
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
