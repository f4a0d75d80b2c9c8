// The forward scan: a block of sequences goes chunk by chunk through its modes, a few at a time,
// while the chunk's inputs and outputs stay in L1. Without an initial state the states are kept
// over b, x = b z with z += p z + u, which saves a product in each step.
#include "engine/cpu/s4_scan.h"

namespace adder::cpu {
namespace {

constexpr int kGroup = 4;

template <typename T>
class Forward {
 public:
  explicit Forward(const S4ScanFwdArgs& args)
      : args_(args),
        shape_(args.u, args.C),
        u_(args.u),
        y_(args.y),
        x0_(Pairs<T>::optional(args.x0)),
        x_last_(Pairs<T>::optional(args.x_last)),
        checkpoints_(data_or_null<T>(args.checkpoints)) {}

  void run() const {
    parallel_shares(shape_.blocks, [&](std::int64_t begin, std::int64_t end) {
      S4Coefficients<T> coefficients(shape_, args_.p, args_.b, args_.C);
      Scratch<S4Lanes<T>> x(static_cast<std::size_t>(shape_.modes));
      for (std::int64_t block = begin; block < end; ++block) {
        coefficients.fill(block);
        for (std::int64_t m = 0; m < shape_.outputs; ++m) {
          x0_ ? run_block<false>(block, m, coefficients, x)
              : run_block<true>(block, m, coefficients, x);
        }
      }
      streamed();
    });
  }

 private:
  // The states are the same for every output; the first one saves them.
  template <bool kOverB>
  void run_block(std::int64_t block, std::int64_t m, const S4Coefficients<T>& coefficients,
                 Scratch<S4Lanes<T>>& x) const {
    for (std::int64_t n = 0; n < shape_.modes; ++n) {
      S4Lanes<T>& state = x[static_cast<std::size_t>(n)];
      state = {};
      if (!x0_) continue;
      shape_.for_each_lane(block, n, [&](std::int64_t i, std::int64_t, std::int64_t bhn) {
        state.set(i, x0_[bhn]);
      });
    }
    const Vec<T> skip = skip_weights(shape_, args_.D, m, block);
    S4Tile<T> u;
    S4Tile<T> y;
    for (std::int64_t chunk = 0; chunk < shape_.chunks; ++chunk) {
      const std::int64_t steps = shape_.steps(chunk);
      if (checkpoints_ != nullptr && m == 0) {
        T* saved = checkpoints_ + shape_.checkpoint(block, chunk);
        for (std::int64_t n = 0; n < shape_.modes; ++n) {
          const S4Lanes<T> state = true_state<kOverB>(coefficients, n, x);
          store(saved + 2 * n * kLanes<T>, load(state.re));
          store(saved + (2 * n + 1) * kLanes<T>, load(state.im));
        }
      }
      shape_.load_tile(u_, block, 0, chunk, 1, u);
      for (std::int64_t t = 0; t < steps; ++t) store(y.at(t), Vec<T>(skip * load(u.at(t))));
      std::int64_t n = 0;
      for (; n + kGroup <= shape_.modes; n += kGroup) {
        advance<kGroup, kOverB>(coefficients, m, n, u, steps, x.data() + n, y);
      }
      for (; n < shape_.modes; ++n)
        advance<1, kOverB>(coefficients, m, n, u, steps, x.data() + n, y);
      shape_.store_tile(y, block, m, chunk, 1, y_);
    }
    if (!x_last_ || m > 0) return;
    for (std::int64_t n = 0; n < shape_.modes; ++n) {
      const S4Lanes<T> state = true_state<kOverB>(coefficients, n, x);
      shape_.for_each_lane(block, n, [&](std::int64_t i, std::int64_t, std::int64_t bhn) {
        x_last_.set(bhn, state.get(i));
      });
    }
  }

  template <bool kOverB>
  static S4Lanes<T> true_state(const S4Coefficients<T>& coefficients, std::int64_t n,
                               const Scratch<S4Lanes<T>>& x) {
    const S4Lanes<T>& state = x[static_cast<std::size_t>(n)];
    return kOverB ? product(coefficients.b(n), state) : state;
  }

  template <int G, bool kOverB>
  static void advance(const S4Coefficients<T>& coefficients, std::int64_t m, std::int64_t n,
                      const S4Tile<T>& u_tile, std::int64_t steps, S4Lanes<T>* x,
                      S4Tile<T>& y_tile) {
    Vec<T> p_re[G], p_im[G], b_re[G], b_im[G], c_re[G], c_im[G], re[G], im[G];
    for (int g = 0; g < G; ++g) {
      const S4Lanes<T>& b = coefficients.b(n + g);
      const S4Lanes<T>& c = coefficients.C2(m, n + g);
      const S4Lanes<T> out = kOverB ? product(b, c) : c;
      p_re[g] = load(coefficients.p(n + g).re);
      p_im[g] = load(coefficients.p(n + g).im);
      b_re[g] = load(b.re);
      b_im[g] = load(b.im);
      c_re[g] = load(out.re);
      c_im[g] = load(out.im);
      re[g] = load(x[g].re);
      im[g] = load(x[g].im);
    }
    for (std::int64_t t = 0; t < steps; ++t) {
      const Vec<T> u = load(u_tile.at(t));
      Vec<T> y = load(y_tile.at(t));
      for (int g = 0; g < G; ++g) {
        const Vec<T> old_re = re[g];
        const Vec<T> kept_re = old_re - p_im[g] * im[g];
        const Vec<T> kept_im = mul_add(p_im[g], old_re, mul_add(p_re[g], im[g], im[g]));
        if constexpr (kOverB) {
          re[g] = mul_add(p_re[g], old_re, kept_re + u);
          im[g] = kept_im;
        } else {
          re[g] = mul_add(b_re[g], u, mul_add(p_re[g], old_re, kept_re));
          im[g] = mul_add(b_im[g], u, kept_im);
        }
        y = mul_add(c_re[g], re[g], y);
        y -= c_im[g] * im[g];
      }
      store(y_tile.at(t), y);
    }
    for (int g = 0; g < G; ++g) {
      store(x[g].re, re[g]);
      store(x[g].im, im[g]);
    }
  }

  const S4ScanFwdArgs& args_;
  S4ScanShape<T> shape_;
  Sequences<T> u_;
  Outputs<T> y_;
  Pairs<T> x0_, x_last_;
  T* checkpoints_;
};

}  // namespace

void s4_scan_fwd(const S4ScanFwdArgs& args) {
  check_s4("s4_scan_fwd", args);
  dispatch_real("s4_scan_fwd", args.u.dtype(), [&](auto t) { Forward<decltype(t)>(args).run(); });
}

}  // namespace adder::cpu
