// The causal depth-wise convolution with SiLU. Lanes are channels; the forward pass streams whole
// rows, the backward pass takes tiles of steps so that its sums over time stay in registers.
#include <numeric>

#include "engine/cpu/scan_common.h"
#include "engine/kernels/conv.h"

namespace adder::cpu {
namespace {

constexpr std::int64_t kTile = 32;  // steps of a backward tile

// Weight and bias as (block, tap, lane), the bias last; zero where there is none.
template <typename T>
Scratch<T> taps(const Tensor& weight, const Tensor& bias) {
  constexpr std::int64_t width = kLanes<T>;
  const std::int64_t channels = weight.dim(0);
  const std::int64_t k = weight.dim(1);
  const std::int64_t blocks = (channels + width - 1) / width;
  Scratch<T> result(static_cast<std::size_t>(blocks * (k + 1) * width));
  const Rows<T> rows(weight);
  for (std::int64_t d = 0; d < channels; ++d) {
    T* to = result.data() + d / width * (k + 1) * width + d % width;
    for (std::int64_t j = 0; j < k; ++j) to[j * width] = rows.at(d)[j];
    if (bias.defined()) to[k * width] = bias.template data<T>()[d];
  }
  return result;
}

// The convolution at one step; `first` taps fall before the start. K > 0 fixes the tap count.
template <typename T, int K>
Vec<T> convolve(const T* tap, std::int64_t taps, const T* x, std::int64_t stride,
                std::int64_t first, std::int64_t lanes) {
  const std::int64_t k = K > 0 ? K : taps;
  Vec<T> c = load(tap + k * kLanes<T>);
  for (std::int64_t j = K > 0 ? 0 : first; j < k; ++j) {
    c = mul_add(load(tap + j * kLanes<T>), load(x + (j - k + 1) * stride, lanes), c);
  }
  return c;
}

template <typename T>
void forward(const CausalConvFwdArgs& args) {
  constexpr std::int64_t width = kLanes<T>;
  const std::int64_t length = args.x.dim(1);
  const std::int64_t channels = args.x.dim(2);
  const std::int64_t k = args.weight.dim(1);
  const Rows<T> x(args.x);
  const Rows<T> y(args.y);
  const Scratch<T> tap = taps<T>(args.weight, args.bias);
  parallel_for(args.x.dim(0) * length, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t t = row % length;
      const T* from = x.at(row / length, t);
      T* to = y.at(row / length, t);
      const std::int64_t first = std::max<std::int64_t>(0, k - 1 - t);
      const T* w = tap.data();
      std::int64_t d = 0;
      if (k == 4 && first == 0) {  // every published Mamba
        for (; d + width <= channels; d += width, w += (k + 1) * width) {
          store(to + d, silu(convolve<T, 4>(w, k, from + d, x.stride, first, width)));
        }
      }
      for (; d < channels; d += width, w += (k + 1) * width) {
        const std::int64_t lanes = std::min(width, channels - d);
        store(to + d, silu(convolve<T, 0>(w, k, from + d, x.stride, first, lanes)), lanes);
      }
    }
  });
}

template <typename T>
class Backward {
 public:
  explicit Backward(const CausalConvBwdArgs& args)
      : args_(args),
        x_(args.x),
        dy_(args.dy),
        dx_(args.dx),
        batch_(args.x.dim(0)),
        length_(args.x.dim(1)),
        channels_(args.x.dim(2)),
        k_(args.weight.dim(1)),
        blocks_((channels_ + kWidth - 1) / kWidth),
        taps_(taps<T>(args.weight, args.bias)),
        sums_(static_cast<std::size_t>(batch_ * blocks_ * (k_ + 1) * kWidth)) {}

  void run() {
    // Work items are (b, block); each owns its sums, which are added over b afterwards.
    parallel_for(batch_ * blocks_, 1, [&](std::int64_t begin, std::int64_t end) {
      while (begin < end) {
        const std::int64_t b = begin / blocks_;
        const std::int64_t stop = std::min(end, (b + 1) * blocks_);
        for (std::int64_t t0 = 0; t0 < length_; t0 += kTile) {
          for (std::int64_t item = begin; item < stop; ++item) {
            k_ == 4 ? tile<4>(b, item - b * blocks_, t0) : tile<0>(b, item - b * blocks_, t0);
          }
        }
        begin = stop;
      }
    });
    for (std::int64_t d = 0; d < channels_; ++d) {
      if (args_.dweight.defined()) {
        for (std::int64_t j = 0; j < k_; ++j) Rows<T>(args_.dweight).at(d)[j] = sum(d, j);
      }
      if (args_.dbias.defined()) args_.dbias.template data<T>()[d] = sum(d, k_);
    }
  }

 private:
  static constexpr std::int64_t kWidth = kLanes<T>;

  // The gradient of the convolution's output at step t.
  template <int K>
  Vec<T> slope(std::int64_t b, std::int64_t t, std::int64_t d, std::int64_t lanes) const {
    const T* w = taps_.data() + d * (k_ + 1);
    const std::int64_t first = std::max<std::int64_t>(0, k_ - 1 - t);
    const T* x = x_.at(b, t) + d;
    const Vec<T> c = first == 0 ? convolve<T, K>(w, k_, x, x_.stride, 0, lanes)
                                : convolve<T, 0>(w, k_, x, x_.stride, first, lanes);
    return load(dy_.at(b, t) + d, lanes) * silu_slope(c, sigmoid(c));
  }

  // Steps [t0, t0 + kTile) of one block. An input's gradient needs the slopes of the k - 1 steps
  // after it, which are computed again by the next tile.
  template <int K>
  void tile(std::int64_t b, std::int64_t block, std::int64_t t0) {
    const std::int64_t k = K > 0 ? K : k_;
    const std::int64_t d = block * kWidth;
    const std::int64_t lanes = std::min(kWidth, channels_ - d);
    const std::int64_t t1 = std::min(t0 + kTile, length_);
    const std::int64_t ahead = args_.dx.defined() ? k - 1 : 0;
    const T* w = taps_.data() + d * (k_ + 1);
    T* sums = sums_.data() + (b * blocks_ + block) * (k_ + 1) * kWidth;
    constexpr std::int64_t room = kTile + (K > 0 ? K : kMaxTaps) - 1;
    alignas(64) T slopes[room * kWidth];
    const std::int64_t stop = std::min(t1 + ahead, length_);
    for (std::int64_t t = t0; t < stop; ++t) {
      __builtin_prefetch(x_.at(b, t) + d + kWidth);
      __builtin_prefetch(dy_.at(b, t) + d + kWidth);
      store(slopes + (t - t0) * kWidth, slope<K>(b, t, d, lanes));
    }
    if (args_.dweight.defined()) {
      for (std::int64_t j = 0; j < k; ++j) {
        Vec<T> sum = load(sums + j * kWidth);
        for (std::int64_t t = std::max(t0, k - 1 - j); t < t1; ++t) {
          sum = mul_add(load(slopes + (t - t0) * kWidth),
                        load(x_.at(b, t - k + 1 + j) + d, lanes), sum);
        }
        store(sums + j * kWidth, sum);
      }
    }
    Vec<T> bias = load(sums + k * kWidth);
    for (std::int64_t t = t0; t < t1; ++t) bias += load(slopes + (t - t0) * kWidth);
    store(sums + k * kWidth, bias);
    if (!dx_) return;
    for (std::int64_t t = t0; t < t1; ++t) {
      Vec<T> dx{};
      const std::int64_t count = std::min(k, stop - t);  // steps that see this input
      for (std::int64_t i = 0; i < count; ++i) {
        dx = mul_add(load(w + (k - 1 - i) * kWidth), load(slopes + (t - t0 + i) * kWidth), dx);
      }
      store(dx_.at(b, t) + d, dx, lanes);
    }
  }

  T sum(std::int64_t d, std::int64_t j) const {
    T total = 0;
    for (std::int64_t b = 0; b < batch_; ++b) {
      const std::int64_t block = b * blocks_ + d / kWidth;
      total += sums_[static_cast<std::size_t>((block * (k_ + 1) + j) * kWidth + d % kWidth)];
    }
    return total;
  }

 public:
  static constexpr std::int64_t kMaxTaps = 64;  // bounds the tile's buffer on the stack

 private:
  const CausalConvBwdArgs& args_;
  Rows<T> x_, dy_, dx_;
  std::int64_t batch_, length_, channels_, k_, blocks_;
  Scratch<T> taps_;
  Scratch<T> sums_;  // (b, block, tap, lane), the bias as last tap
};

template <typename T>
void step(const CausalConvStepArgs& args) {
  constexpr std::int64_t width = kLanes<T>;
  const std::int64_t channels = args.x.dim(1);
  const std::int64_t k = args.weight.dim(1);
  const Rows<T> x(args.x);
  const Rows<T> y(args.y);
  const Rows<T> window(args.window);
  const Rows<T> weight(args.weight);
  const T* bias = args.bias.defined() ? args.bias.template data<T>() : nullptr;
  for (std::int64_t b = 0; b < args.x.dim(0); ++b) {
    for (std::int64_t d = 0; d < channels; d += width) {
      const std::int64_t lanes = std::min(width, channels - d);
      Vec<T> c = bias ? load(bias + d, lanes) : Vec<T>{};
      for (std::int64_t j = 0; j < k; ++j) {
        const Vec<T> input = load(j + 1 < k ? window.at(b, j + 1) + d : x.at(b) + d, lanes);
        store(window.at(b, j) + d, input, lanes);
        c = mul_add(gather(weight.at(d) + j, weight.batch_stride, lanes), input, c);
      }
      store(y.at(b) + d, silu(c), lanes);
    }
  }
}

}  // namespace

void causal_conv_silu_fwd(const CausalConvFwdArgs& args) {
  const char* place = "causal_conv_silu_fwd";
  check_rank(place, "x", args.x, 3);
  check_rank(place, "weight", args.weight, 2);
  const Shape extents = args.x.shape();
  const std::int64_t d = args.x.dim(2);
  check_arguments(place, {{"x", args.x, extents, true},
                          {"weight", args.weight, {d, args.weight.dim(1)}, true},
                          {"bias", args.bias, {d}, false},
                          {"y", args.y, extents, true}});
  dispatch_float(args.x.dtype(), [&](auto type) { forward<decltype(type)>(args); });
}

void causal_conv_silu_bwd(const CausalConvBwdArgs& args) {
  const char* place = "causal_conv_silu_bwd";
  check_rank(place, "x", args.x, 3);
  check_rank(place, "weight", args.weight, 2);
  const Shape extents = args.x.shape();
  const std::int64_t d = args.x.dim(2);
  const std::int64_t k = args.weight.dim(1);
  if (k > Backward<float>::kMaxTaps) {
    throw ShapeError(str(place, ": weight is ", args.weight.shape(), ", expected at most ",
                         Backward<float>::kMaxTaps, " taps"));
  }
  check_arguments(place, {{"x", args.x, extents, true},
                          {"weight", args.weight, {d, k}, true},
                          {"bias", args.bias, {d}, false},
                          {"dy", args.dy, extents, true},
                          {"dx", args.dx, extents, false},
                          {"dweight", args.dweight, {d, k}, false},
                          {"dbias", args.dbias, {d}, false}});
  dispatch_float(args.x.dtype(), [&](auto type) { Backward<decltype(type)>(args).run(); });
}

void causal_conv_silu_step(const CausalConvStepArgs& args) {
  const char* place = "causal_conv_silu_step";
  check_rank(place, "x", args.x, 2);
  check_rank(place, "weight", args.weight, 2);
  const std::int64_t b = args.x.dim(0);
  const std::int64_t d = args.x.dim(1);
  const std::int64_t k = args.weight.dim(1);
  check_arguments(place, {{"x", args.x, {b, d}, true},
                          {"weight", args.weight, {d, k}, true},
                          {"bias", args.bias, {d}, false},
                          {"window", args.window, {b, k, d}, true},
                          {"y", args.y, {b, d}, true}});
  dispatch_float(args.x.dtype(), [&](auto type) { step<decltype(type)>(args); });
}

}  // namespace adder::cpu
