// The backward scan, from the last chunk to the first. With g_t the gradient of x_t in the form
// dL = Re(g_t dx_t): g_t = sum_m 2 C_m dy_{m,t} + q g_{t+1}, and du_t = Re(b g_t) + D dy_t. A
// mode's states are recomputed from the chunk's checkpoint; sums over a chunk's steps are added up
// in float64, those over sequences in an order that does not depend on the number of threads.
#include "engine/cpu/s4_scan.h"

namespace adder::cpu {
namespace {

template <typename T>
class Backward {
 public:
  explicit Backward(const S4ScanBwdArgs& args)
      : args_(args),
        shape_(args.u, args.C),
        terms_(4 + 2 * shape_.outputs),
        sums_(static_cast<std::size_t>(shape_.blocks * shape_.modes * terms_ * kWidth)),
        skip_sums_(static_cast<std::size_t>(shape_.blocks * shape_.outputs * kWidth)),
        u_(args.u),
        dy_(args.dy),
        du_(args.du),
        dx_last_(Pairs<T>::optional(args.dx_last)),
        dx0_(Pairs<T>::optional(args.dx0)),
        checkpoints_(args.checkpoints.data<T>()) {}

  void run() {
    parallel_for(shape_.blocks, 1, [&](std::int64_t begin, std::int64_t end) {
      S4Coefficients<T> coefficients(shape_, args_.p, args_.b, args_.C);
      Work work;
      work.dy.resize(static_cast<std::size_t>(shape_.outputs));
      work.carry.resize(static_cast<std::size_t>(shape_.modes));
      for (std::int64_t block = begin; block < end; ++block) {
        coefficients.fill(block);
        run_block(block, coefficients, work);
      }
    });
    parallel_for(shape_.channels, 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t h = begin; h < end; ++h) finish(h);
    });
  }

 private:
  static constexpr std::int64_t kWidth = kLanes<T>;

  struct Work {
    S4Tile<T> u, du;
    S4Tile<T> re, im;              // a mode's states after each step
    S4Tile<T> drive_re, drive_im;  // sum_m 2 C_m dy_m
    Scratch<S4Tile<T>> dy;
    Scratch<S4Lanes<T>> carry;  // q g_{t+1} of every mode
  };

  void run_block(std::int64_t block, const S4Coefficients<T>& coefficients, Work& work) {
    for (std::int64_t n = 0; n < shape_.modes; ++n) {
      S4Lanes<T>& carry = work.carry[static_cast<std::size_t>(n)];
      carry = {};
      if (!dx_last_) continue;
      shape_.for_each_lane(block, n, [&](std::int64_t i, std::int64_t, std::int64_t bhn) {
        carry.set(i, dx_last_.gradient(bhn));
      });
    }
    for (std::int64_t chunk = shape_.chunks - 1; chunk >= 0; --chunk) {
      const std::int64_t steps = shape_.steps(chunk);
      shape_.load_tile(u_, block, 0, chunk, work.u);
      for (std::int64_t t = 0; t < steps; ++t) store(work.du.at(t), Vec<T>{});
      for (std::int64_t m = 0; m < shape_.outputs; ++m) {
        S4Tile<T>& dy = work.dy[static_cast<std::size_t>(m)];
        shape_.load_tile(dy_, block, m, chunk, dy);
        const Vec<T> skip = skip_weights(shape_, args_.D, m, block);
        Vec<T> sum{};
        for (std::int64_t t = 0; t < steps; ++t) {
          const Vec<T> slope = load(dy.at(t));
          store(work.du.at(t), mul_add(skip, slope, load(work.du.at(t))));
          sum = mul_add(slope, load(work.u.at(t)), sum);
        }
        add(skip_sums_.data() + (block * shape_.outputs + m) * kWidth, sum);
      }
      for (std::int64_t n = 0; n < shape_.modes; ++n) {
        run_mode(block, chunk, n, coefficients, work);
      }
      if (du_) shape_.store_tile(work.du, block, 0, chunk, du_);
    }
    if (!dx0_) return;
    for (std::int64_t n = 0; n < shape_.modes; ++n) {
      shape_.for_each_lane(block, n, [&](std::int64_t i, std::int64_t, std::int64_t bhn) {
        dx0_.set_gradient(bhn, work.carry[static_cast<std::size_t>(n)].get(i));
      });
    }
  }

  void run_mode(std::int64_t block, std::int64_t chunk, std::int64_t n,
                const S4Coefficients<T>& coefficients, Work& work) {
    const std::int64_t steps = shape_.steps(chunk);
    const Vec<T> p_re = load(coefficients.p(n).re);
    const Vec<T> p_im = load(coefficients.p(n).im);
    const Vec<T> b_re = load(coefficients.b(n).re);
    const Vec<T> b_im = load(coefficients.b(n).im);
    const T* saved = checkpoints_ + shape_.checkpoint(block, chunk) + 2 * n * kWidth;
    double* sums = sums_.data() + (block * shape_.modes + n) * terms_ * kWidth;

    Vec<T> re = load(saved);
    Vec<T> im = load(saved + kWidth);
    for (std::int64_t t = 0; t < steps; ++t) {
      const Vec<T> u = load(work.u.at(t));
      const Vec<T> old_re = re;
      re = mul_add(b_re, u, mul_add(p_re, old_re, old_re - p_im * im));
      im = mul_add(b_im, u, mul_add(p_im, old_re, mul_add(p_re, im, im)));
      store(work.re.at(t), re);
      store(work.im.at(t), im);
    }
    for (std::int64_t m = 0; m < shape_.outputs; ++m) {
      const S4Tile<T>& dy = work.dy[static_cast<std::size_t>(m)];
      const Vec<T> c_re = load(coefficients.C2(m, n).re);
      const Vec<T> c_im = load(coefficients.C2(m, n).im);
      Vec<T> sum_re{};
      Vec<T> sum_im{};
      for (std::int64_t t = 0; t < steps; ++t) {
        const Vec<T> slope = load(dy.at(t));
        sum_re = mul_add(slope, load(work.re.at(t)), sum_re);
        sum_im = mul_add(slope, load(work.im.at(t)), sum_im);
        if (m == 0) {
          store(work.drive_re.at(t), Vec<T>(c_re * slope));
          store(work.drive_im.at(t), Vec<T>(c_im * slope));
        } else {
          store(work.drive_re.at(t), mul_add(c_re, slope, load(work.drive_re.at(t))));
          store(work.drive_im.at(t), mul_add(c_im, slope, load(work.drive_im.at(t))));
        }
      }
      add(sums + (4 + 2 * m) * kWidth, sum_re);
      add(sums + (5 + 2 * m) * kWidth, sum_im);
    }
    S4Lanes<T>& carry = work.carry[static_cast<std::size_t>(n)];
    Vec<T> g_re = load(carry.re);
    Vec<T> g_im = load(carry.im);
    Vec<T> dp_re{}, dp_im{}, db_re{}, db_im{};
    for (std::int64_t t = steps - 1; t >= 0; --t) {
      g_re += load(work.drive_re.at(t));
      g_im += load(work.drive_im.at(t));
      const Vec<T> before_re = load(t > 0 ? work.re.at(t - 1) : saved);
      const Vec<T> before_im = load(t > 0 ? work.im.at(t - 1) : saved + kWidth);
      const Vec<T> u = load(work.u.at(t));
      Vec<T> du = mul_add(b_re, g_re, load(work.du.at(t)));
      du -= b_im * g_im;
      store(work.du.at(t), du);
      dp_re = mul_add(g_re, before_re, dp_re);
      dp_re -= g_im * before_im;
      dp_im = mul_add(g_re, before_im, dp_im);
      dp_im = mul_add(g_im, before_re, dp_im);
      db_re = mul_add(g_re, u, db_re);
      db_im = mul_add(g_im, u, db_im);
      const Vec<T> old_re = g_re;
      g_re = mul_add(p_re, old_re, old_re - p_im * g_im);
      g_im = mul_add(p_im, old_re, mul_add(p_re, g_im, g_im));
    }
    store(carry.re, g_re);
    store(carry.im, g_im);
    add(sums, dp_re);
    add(sums + kWidth, dp_im);
    add(sums + 2 * kWidth, db_re);
    add(sums + 3 * kWidth, db_im);
  }

  static void add(double* sum, Vec<T> value) {
    T lanes[kWidth];
    store(lanes, value);
    for (std::int64_t i = 0; i < kWidth; ++i) sum[i] += static_cast<double>(lanes[i]);
  }

  // Adds up what the sequences of channel h contribute.
  void finish(std::int64_t h) const {
    const auto dp = Pairs<double>::optional(args_.dp);
    const auto db = Pairs<double>::optional(args_.db);
    const auto dC = Pairs<T>::optional(args_.dC);
    for (std::int64_t n = 0; n < shape_.modes; ++n) {
      const auto total = [&](std::int64_t term) {
        s4::Cx sum;
        for (std::int64_t row = h; row < shape_.rows; row += shape_.channels) {
          const double* at = sums_.data() +
                             ((row / kWidth * shape_.modes + n) * terms_ + term) * kWidth +
                             row % kWidth;
          sum = sum + s4::Cx{at[0], at[kWidth]};
        }
        return sum;
      };
      if (dp) dp.set_gradient(h * shape_.modes + n, total(0));
      if (db) db.set_gradient(h * shape_.modes + n, total(2));
      for (std::int64_t m = 0; dC && m < shape_.outputs; ++m) {
        dC.set_gradient((m * shape_.channels + h) * shape_.modes + n, 2.0 * total(4 + 2 * m));
      }
    }
    for (std::int64_t m = 0; args_.dD.defined() && m < shape_.outputs; ++m) {
      double sum = 0;
      for (std::int64_t row = h; row < shape_.rows; row += shape_.channels) {
        sum += skip_sums_[static_cast<std::size_t>((row / kWidth * shape_.outputs + m) * kWidth +
                                                   row % kWidth)];
      }
      args_.dD.data<T>()[m * args_.dD.stride(0) + h] = static_cast<T>(sum);
    }
  }

  const S4ScanBwdArgs& args_;
  S4ScanShape<T> shape_;
  std::int64_t terms_;         // of each mode: dp, db and the dC of every output, re and im
  Scratch<double> sums_;       // (block, mode, term, lane)
  Scratch<double> skip_sums_;  // (block, output, lane)
  Sequences<T> u_, dy_, du_;
  Pairs<T> dx_last_, dx0_;
  const T* checkpoints_;
};

}  // namespace

void s4_scan_bwd(const S4ScanBwdArgs& args) {
  check_s4("s4_scan_bwd", args);
  dispatch_real("s4_scan_bwd", args.u.dtype(), [&](auto t) { Backward<decltype(t)>(args).run(); });
}

}  // namespace adder::cpu
