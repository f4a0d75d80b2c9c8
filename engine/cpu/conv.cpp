// The causal depth-wise convolution with SiLU. Lanes are channels; the forward pass streams whole
// rows, the backward pass takes tiles of steps so that its sums over time stay in registers.
#include "engine/kernels/conv.h"

#include "engine/cpu/scan_common.h"

namespace adder::cpu {
namespace {

constexpr std::int64_t kTile = 32;        // steps of a backward tile
constexpr std::int64_t kMaxTaps = 64;     // bounds what is kept on the stack
constexpr std::int64_t kStepAhead = 512;  // bytes of a row that one token's step fetches ahead

// Throws ShapeError when the kernel (channels, taps) has no tap or too many.
void check_taps(const char* place, const Tensor& weight) {
  check_rank(place, "weight", weight, 2);
  if (weight.dim(1) >= 1 && weight.dim(1) <= kMaxTaps) return;
  throw ShapeError(
      str(place, ": weight is ", weight.shape(), ", expected 1 to ", kMaxTaps, " taps"));
}

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

// The inputs of one step of one sequence, oldest first; those before the start point to zeros.
template <typename T>
struct Window {
  Window(const Rows<T>& x, std::int64_t b, std::int64_t t, std::int64_t k, const T* zeros) {
    for (std::int64_t j = 0; j < k; ++j) {
      rows[j] = t - k + 1 + j < 0 ? zeros : x.at(b, t - k + 1 + j);
    }
  }
  const T* rows[kMaxTaps];
};

// The convolution of one block at one step. K > 0 fixes the number of taps k.
template <int K, typename T>
Vec<T> convolve(const T* tap, std::int64_t k, const Window<T>& x, std::int64_t d,
                std::int64_t lanes) {
  if constexpr (K > 0) k = K;
  Vec<T> c = load(tap + k * kLanes<T>);
  for (std::int64_t j = 0; j < k; ++j) {
    c = mul_add(load(tap + j * kLanes<T>), load(x.rows[j] + d, lanes), c);
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
  const Scratch<T> zeros(static_cast<std::size_t>(channels));
  parallel_for(args.x.dim(0) * length, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const Window<T> window(x, row / length, row % length, k, zeros.data());
      T* to = y.at(row / length, row % length);
      const T* w = tap.data();
      std::int64_t d = 0;
      if (k == 4) {  // every published Mamba
        for (; d + width <= channels; d += width, w += (k + 1) * width) {
          store(to + d, silu(convolve<4>(w, k, window, d, width)));
        }
      }
      for (; d < channels; d += width, w += (k + 1) * width) {
        const std::int64_t lanes = std::min(width, channels - d);
        store(to + d, silu(convolve<0>(w, k, window, d, lanes)), lanes);
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
        zeros_(static_cast<std::size_t>(channels_)),
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
            run_tile(b, item - b * blocks_, t0);
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

  void run_tile(std::int64_t b, std::int64_t block, std::int64_t t0) {
    const bool frozen = !args_.dweight.defined() && !args_.dbias.defined();
    if (k_ == 4) return frozen ? tile<4, false>(b, block, t0) : tile<4, true>(b, block, t0);
    frozen ? tile<0, false>(b, block, t0) : tile<0, true>(b, block, t0);
  }

  // Steps [t0, t0 + kTile) of one block; kSums: with the gradients of weight and bias. An input's
  // gradient needs the slopes (the gradients of the convolution's output) of the k - 1 steps after
  // it, which the next tile computes again.
  template <int K, bool kSums>
  void tile(std::int64_t b, std::int64_t block, std::int64_t t0) {
    constexpr std::int64_t most = K > 0 ? K : kMaxTaps;
    const std::int64_t k = K > 0 ? K : k_;
    const std::int64_t d = block * kWidth;
    const std::int64_t lanes = std::min(kWidth, channels_ - d);
    const std::int64_t t1 = std::min(t0 + kTile, length_);
    const std::int64_t stop = dx_ ? std::min(t1 + k - 1, length_) : t1;
    const T* w = taps_.data() + d * (k + 1);
    T* totals = sums_.data() + (b * blocks_ + block) * (k + 1) * kWidth;
    alignas(64) T slopes[(kTile + most - 1) * kWidth];
    Vec<T> sums[most + 1];
    if (kSums) {
      for (std::int64_t j = 0; j <= k; ++j) sums[j] = load(totals + j * kWidth);
    }
    for (std::int64_t t = t0; t < stop; ++t) {
      const Window<T> window(x_, b, t, k, zeros_.data());
      const T* dy = dy_.at(b, t) + d;
      // The rows are far apart, which hides the next block's lines from the hardware prefetcher.
      __builtin_prefetch(x_.at(b, t) + d + kWidth);
      __builtin_prefetch(dy + kWidth);
      const Vec<T> c = convolve<K>(w, k, window, d, lanes);
      const Vec<T> slope = load(dy, lanes) * silu_slope(c, sigmoid(c));
      store(slopes + (t - t0) * kWidth, slope);
      if (!kSums || t >= t1) continue;
      for (std::int64_t j = 0; j < k; ++j) {
        sums[j] = mul_add(slope, load(window.rows[j] + d, lanes), sums[j]);
      }
      sums[k] += slope;
    }
    if (kSums) {
      for (std::int64_t j = 0; j <= k; ++j) store(totals + j * kWidth, sums[j]);
    }
    if (!dx_) return;
    // Past the end there are no slopes.
    const Vec<T> zero{};
    for (std::int64_t t = stop; t < t1 + k - 1; ++t) store(slopes + (t - t0) * kWidth, zero);
    for (std::int64_t t = t0; t < t1; ++t) {
      Vec<T> dx{};
      for (std::int64_t i = 0; i < k; ++i) {
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

  const CausalConvBwdArgs& args_;
  Rows<T> x_, dy_, dx_;
  std::int64_t batch_, length_, channels_, k_, blocks_;
  Scratch<T> zeros_;
  Scratch<T> taps_;
  Scratch<T> sums_;  // (b, block, tap, lane), the bias as last tap
};

// Weights of kLanes channels of four taps each, (channel, tap), as one vector per tap.
template <typename T, int... kLane, int... kHalf>
void transpose_taps(const T* from, Vec<T>* taps, std::integer_sequence<int, kLane...>,
                    std::integer_sequence<int, kHalf...>) {
  Vec<T> rows[4];
  for (int i = 0; i < 4; ++i) rows[i] = load(from + i * kLanes<T>);
  const auto pick = [&]<int kTap>(std::integral_constant<int, kTap>) {
    const auto low = __builtin_shufflevector(rows[0], rows[1], (4 * kHalf + kTap)...);
    const auto high = __builtin_shufflevector(rows[2], rows[3], (4 * kHalf + kTap)...);
    taps[kTap] = __builtin_shufflevector(low, high, kLane...);
  };
  pick(std::integral_constant<int, 0>{});
  pick(std::integral_constant<int, 1>{});
  pick(std::integral_constant<int, 2>{});
  pick(std::integral_constant<int, 3>{});
}

// The taps of `lanes` channels from d on, one vector per tap. Every published model has four.
template <typename T>
void load_taps(const Rows<T>& weight, std::int64_t d, std::int64_t k, std::int64_t lanes,
               Vec<T>* taps) {
  if (k == 4 && weight.batch_stride == 4 && lanes == kLanes<T>) {
    return transpose_taps(weight.at(d), taps, std::make_integer_sequence<int, kLanes<T>>{},
                          std::make_integer_sequence<int, kLanes<T> / 2>{});
  }
  for (std::int64_t j = 0; j < k; ++j) {
    taps[j] = gather(weight.at(d) + j, weight.batch_stride, lanes);
  }
}

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
  for (std::int64_t d = 0; d < channels; d += width) {
    const std::int64_t lanes = std::min(width, channels - d);
    // Since the last token the weights of all layers have passed through the caches.
    for (std::int64_t j = 0; j < k; ++j) {
      prefetch(window.at(0, j) + d, kStepAhead);
      prefetch(weight.at(d) + j * width, kStepAhead * k);
    }
    Vec<T> taps[kMaxTaps];
    load_taps(weight, d, k, lanes, taps);
    for (std::int64_t b = 0; b < args.x.dim(0); ++b) {
      Vec<T> c = bias ? load(bias + d, lanes) : Vec<T>{};
      for (std::int64_t j = 0; j < k; ++j) {
        const Vec<T> input = load(j + 1 < k ? window.at(b, j + 1) + d : x.at(b) + d, lanes);
        store(window.at(b, j) + d, input, lanes);
        c = mul_add(taps[j], input, c);
      }
      store(y.at(b) + d, silu(c), lanes);
    }
  }
}

}  // namespace

void causal_conv_silu_fwd(const CausalConvFwdArgs& args) {
  const char* place = "causal_conv_silu_fwd";
  check_rank(place, "x", args.x, 3);
  check_taps(place, args.weight);
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
  check_taps(place, args.weight);
  const Shape extents = args.x.shape();
  const std::int64_t d = args.x.dim(2);
  const std::int64_t k = args.weight.dim(1);
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
  check_taps(place, args.weight);
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
