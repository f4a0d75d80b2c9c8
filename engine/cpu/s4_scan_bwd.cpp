// The backward scan, from the last chunk to the first, without the states. y is linear in its
// sources: the slope dy of each output, through 2 C, and that of the last state, through 1. For
// each source g_t = dy_t + q g_{t+1} is the gradient of x_t over its factor, in the form
// dL = Re(g dx). Instead of x_{t-1}, whose product with g_t is the gradient of q, the derivative
// h_t = g_{t+1} + q h_{t+1} of g by q meets u_t; h starts anew in each chunk, whose checkpoint x
// stands for the earlier steps:
//   sum_t g_t x_{t-1} = b sum_t h_t u_t + h x,   sum_t dy_t x_t = b sum_t g_t u_t + q g_0 x_0.
// Sums over a few chunks' steps are added up in float64, those over sequences in an order that does
// not depend on the number of threads.
#include <algorithm>

#include "engine/cpu/s4_scan.h"

namespace adder::cpu {
namespace {

constexpr int kGroup = 2;  // modes at a time: as many as the registers hold
constexpr std::int64_t kTerms = 6;
constexpr std::int64_t kChunkTerms = 4;  // those that every chunk adds to
constexpr std::int64_t kSumChunks = 8;   // between two additions in float64

template <typename T>
class Backward {
 public:
  explicit Backward(const S4ScanBwdArgs& args)
      : args_(args),
        shape_(args.u, args.C),
        sources_(shape_.outputs + (args.dx_last.defined() ? 1 : 0)),
        sums_(
            Tensor::empty({shape_.blocks, shape_.modes * sources_ * kTerms * kWidth}, Dtype::f64)),
        skip_sums_(Tensor::empty({shape_.blocks, shape_.outputs * kWidth}, Dtype::f64)),
        u_(args.u),
        dy_(args.dy),
        du_(args.du),
        dx_last_(Pairs<T>::optional(args.dx_last)),
        dx0_(Pairs<T>::optional(args.dx0)),
        checkpoints_(args.checkpoints.data<T>()) {}

  void run() {
    parallel_shares(shape_.blocks, [&](std::int64_t begin, std::int64_t end) {
      S4Coefficients<T> coefficients(shape_, args_.p, args_.b, args_.C);
      Work work;
      work.dy.resize(static_cast<std::size_t>(sources_));
      work.carry.resize(static_cast<std::size_t>(sources_ * shape_.modes));
      work.sums.resize(work.carry.size() * kChunkTerms * kWidth);
      std::fill_n(work.one.re, kWidth, T{1});
      for (std::int64_t block = begin; block < end; ++block) {
        coefficients.fill(block);
        run_block(block, coefficients, work);
      }
      streamed();
    });
    parallel_for(shape_.modes, 1, [&](std::int64_t begin, std::int64_t end) {
      Scratch<double> totals(static_cast<std::size_t>(sources_ * kTerms * shape_.channels));
      for (std::int64_t n = begin; n < end; ++n) finish(n, totals);
    });
    finish_skip();
  }

 private:
  static constexpr std::int64_t kWidth = kLanes<T>;

  struct Work {
    S4Tile<T> u, du;
    Scratch<S4Tile<T>> dy;      // of each source; the last state's stays 0
    Scratch<S4Lanes<T>> carry;  // q g_{t+1} of every source and mode
    Scratch<T> sums;            // of the chunks since the last flush, of each mode and source
    S4Lanes<T> one;
    S4Lanes<T>& carry_of(const S4ScanShape<T>& shape, std::int64_t source, std::int64_t n) {
      return carry[static_cast<std::size_t>(source * shape.modes + n)];
    }
    T* sums_of(std::int64_t number) { return sums.data() + number * kChunkTerms * kWidth; }
  };

  // The factor through which a source reaches the state.
  const S4Lanes<T>& factor(const S4Coefficients<T>& coefficients, const Work& work,
                           std::int64_t source, std::int64_t n) const {
    return source < shape_.outputs ? coefficients.C2(source, n) : work.one;
  }
  double* skip_sums_of(std::int64_t block, std::int64_t m) const {
    return skip_sums_.data<double>() + (block * shape_.outputs + m) * kWidth;
  }
  double* sums_of(std::int64_t block, std::int64_t n, std::int64_t source) const {
    return sums_.data<double>() +
           ((block * shape_.modes + n) * sources_ + source) * kTerms * kWidth;
  }

  void run_block(std::int64_t block, const S4Coefficients<T>& coefficients, Work& work) {
    std::fill(work.carry.begin(), work.carry.end(), S4Lanes<T>{});
    std::fill_n(sums_of(block, 0, 0), sums_.dim(1), 0.0);
    std::fill_n(skip_sums_of(block, 0), skip_sums_.dim(1), 0.0);
    for (std::int64_t n = 0; dx_last_ && n < shape_.modes; ++n) {
      S4Lanes<T>& carry = work.carry_of(shape_, shape_.outputs, n);
      shape_.for_each_lane(block, n, [&](std::int64_t i, std::int64_t, std::int64_t bhn) {
        carry.set(i, dx_last_.gradient(bhn));
      });
    }
    for (std::int64_t chunk = shape_.chunks - 1; chunk >= 0; --chunk) {
      if (chunk > 0) shape_.prefetch_checkpoint(checkpoints_, block, chunk - 1);
      load_chunk(block, chunk, work);
      for (std::int64_t source = 0; source < sources_; ++source) {
        std::int64_t n = 0;
        for (; n + kGroup <= shape_.modes; n += kGroup) {
          sweep<kGroup>(block, chunk, source, n, coefficients, work);
        }
        for (; n < shape_.modes; ++n) sweep<1>(block, chunk, source, n, coefficients, work);
      }
      if (chunk % kSumChunks == 0) flush(block, work);
      if (du_) shape_.store_tile(work.du, block, 0, chunk, -1, du_);
    }
    for (std::int64_t n = 0; n < shape_.modes; ++n) start_block(block, n, coefficients, work);
  }

  // Loads the chunk's inputs and slopes and passes by the modes.
  void load_chunk(std::int64_t block, std::int64_t chunk, Work& work) {
    const std::int64_t steps = shape_.steps(chunk);
    shape_.load_tile(u_, block, 0, chunk, -1, work.u);
    for (std::int64_t t = 0; t < steps; ++t) store(work.du.at(t), Vec<T>{});
    for (std::int64_t m = 0; m < shape_.outputs; ++m) {
      S4Tile<T>& dy = work.dy[static_cast<std::size_t>(m)];
      shape_.load_tile(dy_, block, m, chunk, -1, dy);
      const Vec<T> skip = skip_weights(shape_, args_.D, m, block);
      Vec<T> sum{};
      for (std::int64_t t = 0; t < steps; ++t) {
        const Vec<T> slope = load(dy.at(t));
        store(work.du.at(t), mul_add(skip, slope, load(work.du.at(t))));
        sum = mul_add(slope, load(work.u.at(t)), sum);
      }
      add(skip_sums_of(block, m), sum);
    }
  }

  // One source through the chunk, for modes [n, n + G).
  template <int G>
  void sweep(std::int64_t block, std::int64_t chunk, std::int64_t source, std::int64_t n,
             const S4Coefficients<T>& coefficients, Work& work) {
    // w = b c takes g to du.
    Vec<T> p_re[G], p_im[G], w_re[G], w_im[G], g_re[G], g_im[G];
    Vec<T> h_re[G] = {}, h_im[G] = {}, gu_re[G] = {}, gu_im[G] = {}, hu_re[G] = {}, hu_im[G] = {};
    for (int k = 0; k < G; ++k) {
      const S4Lanes<T>& b = coefficients.b(n + k);
      const S4Lanes<T>& c = factor(coefficients, work, source, n + k);
      const S4Lanes<T>& carry = work.carry_of(shape_, source, n + k);
      p_re[k] = load(coefficients.p(n + k).re);
      p_im[k] = load(coefficients.p(n + k).im);
      w_re[k] = load(b.re) * load(c.re) - load(b.im) * load(c.im);
      w_im[k] = load(b.re) * load(c.im) + load(b.im) * load(c.re);
      g_re[k] = load(carry.re);
      g_im[k] = load(carry.im);
    }
    const S4Tile<T>& dy = work.dy[static_cast<std::size_t>(source)];
    for (std::int64_t t = shape_.steps(chunk) - 1; t >= 0; --t) {
      const Vec<T> u = load(work.u.at(t));
      const Vec<T> slope = load(dy.at(t));
      Vec<T> du = load(work.du.at(t));
      for (int k = 0; k < G; ++k) {
        const Vec<T> now_re = g_re[k] + slope;
        const Vec<T> now_im = g_im[k];
        gu_re[k] = mul_add(now_re, u, gu_re[k]);
        gu_im[k] = mul_add(now_im, u, gu_im[k]);
        hu_re[k] = mul_add(h_re[k], u, hu_re[k]);
        hu_im[k] = mul_add(h_im[k], u, hu_im[k]);
        du = mul_add(w_re[k], now_re, du);
        du -= w_im[k] * now_im;
        const Vec<T> next_re = now_re + h_re[k] - p_im[k] * h_im[k];
        h_im[k] = mul_add(p_im[k], h_re[k], mul_add(p_re[k], h_im[k], now_im + h_im[k]));
        h_re[k] = mul_add(p_re[k], h_re[k], next_re);
        g_re[k] = mul_add(p_re[k], now_re, now_re - p_im[k] * now_im);
        g_im[k] = mul_add(p_im[k], now_re, mul_add(p_re[k], now_im, now_im));
      }
      store(work.du.at(t), du);
    }
    for (int k = 0; k < G; ++k) {
      S4Lanes<T>& carry = work.carry_of(shape_, source, n + k);
      store(carry.re, g_re[k]);
      store(carry.im, g_im[k]);
      const Vec<T> b_re = load(coefficients.b(n + k).re);
      const Vec<T> b_im = load(coefficients.b(n + k).im);
      const T* saved = checkpoints_ + shape_.checkpoint(block, chunk) + 2 * (n + k) * kWidth;
      const Vec<T> x_re = load(saved);
      const Vec<T> x_im = load(saved + kWidth);
      T* sums = work.sums_of((n + k) * sources_ + source);
      add(sums, gu_re[k]);
      add(sums + kWidth, gu_im[k]);
      add(sums + 2 * kWidth, b_re * hu_re[k] - b_im * hu_im[k] + (h_re[k] * x_re - h_im[k] * x_im));
      add(sums + 3 * kWidth, b_re * hu_im[k] + b_im * hu_re[k] + (h_re[k] * x_im + h_im[k] * x_re));
    }
  }

  // What the initial state has to do with C, and its gradient.
  void start_block(std::int64_t block, std::int64_t n, const S4Coefficients<T>& coefficients,
                   Work& work) {
    const T* saved = checkpoints_ + shape_.checkpoint(block, 0) + 2 * n * kWidth;
    const Vec<T> x_re = load(saved);
    const Vec<T> x_im = load(saved + kWidth);
    for (std::int64_t source = 0; source < shape_.outputs; ++source) {
      const Vec<T> g_re = load(work.carry_of(shape_, source, n).re);
      const Vec<T> g_im = load(work.carry_of(shape_, source, n).im);
      double* sums = sums_of(block, n, source);
      add(sums + 4 * kWidth, g_re * x_re - g_im * x_im);
      add(sums + 5 * kWidth, g_re * x_im + g_im * x_re);
    }
    if (!dx0_) return;
    shape_.for_each_lane(block, n, [&](std::int64_t i, std::int64_t, std::int64_t bhn) {
      s4::Cx sum;
      for (std::int64_t source = 0; source < sources_; ++source) {
        sum = sum + factor(coefficients, work, source, n).get(i) *
                        work.carry_of(shape_, source, n).get(i);
      }
      dx0_.set_gradient(bhn, sum);
    });
  }

  // Adds the chunks' sums to those in float64.
  void flush(std::int64_t block, Work& work) {
    for (std::int64_t i = 0; i < shape_.modes * sources_; ++i) {
      double* sums = sums_of(block, i / sources_, i % sources_);
      for (std::int64_t k = 0; k < kChunkTerms; ++k) {
        add(sums + k * kWidth, load(work.sums_of(i) + k * kWidth));
      }
    }
    std::fill(work.sums.begin(), work.sums.end(), T{0});
  }
  static void add(T* sum, Vec<T> value) requires(!std::is_same_v<T, double>) {
    store(sum, load(sum) + value);
  }
  static void add(double* sum, Vec<T> value) {
    T lanes[kWidth];
    store(lanes, value);
    for (std::int64_t i = 0; i < kWidth; ++i) sum[i] += static_cast<double>(lanes[i]);
  }

  // totals[h] = the sum of a block's lanes over the sequences of channel h, block after block.
  // `sums` points to the first block's, the next one's are `stride` further on.
  void add_channels(const double* sums, std::int64_t stride, double* totals) const {
    std::fill_n(totals, shape_.channels, 0.0);
    std::int64_t h = 0;
    for (std::int64_t block = 0; block < shape_.blocks; ++block, sums += stride) {
      const std::int64_t lanes = shape_.lanes(block);
      for (std::int64_t i = 0; i < lanes;) {
        const std::int64_t run = std::min(lanes - i, shape_.channels - h);
        for (std::int64_t k = 0; k < run; ++k) totals[h + k] += sums[i + k];
        i += run;
        h = h + run < shape_.channels ? h + run : 0;
      }
    }
  }

  // The gradients of mode n, from what all sequences contribute.
  void finish(std::int64_t n, Scratch<double>& totals) const {
    const Pairs<double> b(args_.b);
    const Pairs<T> C(args_.C);
    const auto dp = Pairs<double>::optional(args_.dp);
    const auto db = Pairs<double>::optional(args_.db);
    const auto dC = Pairs<T>::optional(args_.dC);
    const std::int64_t channels = shape_.channels;
    for (std::int64_t source = 0; source < sources_; ++source) {
      for (std::int64_t k = 0; k < kTerms; ++k) {
        add_channels(sums_of(0, n, source) + k * kWidth, sums_.dim(1),
                     totals.data() + (source * kTerms + k) * channels);
      }
    }
    for (std::int64_t h = 0; h < channels; ++h) {
      const std::int64_t hn = h * shape_.modes + n;
      s4::Cx p_slope, b_slope;
      for (std::int64_t source = 0; source < sources_; ++source) {
        const auto term = [&](std::int64_t k) {
          return totals[static_cast<std::size_t>((source * kTerms + k) * channels + h)];
        };
        const s4::Cx gu{term(0), term(1)};
        s4::Cx c{1.0, 0.0};
        if (source < shape_.outputs) {
          const std::int64_t mhn = source * channels * shape_.modes + hn;
          c = 2.0 * C[mhn];
          if (dC) dC.set_gradient(mhn, 2.0 * (b[hn] * gu + s4::Cx{term(4), term(5)}));
        }
        p_slope = p_slope + c * s4::Cx{term(2), term(3)};
        b_slope = b_slope + c * gu;
      }
      if (dp) dp.set_gradient(hn, p_slope);
      if (db) db.set_gradient(hn, b_slope);
    }
  }
  void finish_skip() const {
    if (!args_.dD.defined()) return;
    Scratch<double> totals(static_cast<std::size_t>(shape_.channels));
    for (std::int64_t m = 0; m < shape_.outputs; ++m) {
      add_channels(skip_sums_of(0, m), skip_sums_.dim(1), totals.data());
      T* dD = args_.dD.data<T>() + m * args_.dD.stride(0);
      for (std::int64_t h = 0; h < shape_.channels; ++h) {
        dD[h] = static_cast<T>(totals[static_cast<std::size_t>(h)]);
      }
    }
  }

  const S4ScanBwdArgs& args_;
  S4ScanShape<T> shape_;
  std::int64_t sources_;
  // (block, mode, source, term, lane). The terms, re and im: sum g u, sum g_t x_{t-1}, q g_0 x_0.
  Tensor sums_;
  Tensor skip_sums_;  // (block, output, lane)
  Sequences<T> u_, dy_;
  Outputs<T> du_;
  Pairs<T> dx_last_, dx0_;
  const T* checkpoints_;
};

}  // namespace

void s4_scan_bwd(const S4ScanBwdArgs& args) {
  check_s4("s4_scan_bwd", args);
  dispatch_real("s4_scan_bwd", args.u.dtype(), [&](auto t) { Backward<decltype(t)>(args).run(); });
}

}  // namespace adder::cpu
