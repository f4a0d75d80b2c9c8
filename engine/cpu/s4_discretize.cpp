// From an S4 layer's parameters to the recurrence of its modes; all of it in float64, since there
// are only H N modes.
#include <atomic>
#include <cmath>
#include <vector>

#include "engine/cpu/s4_common.h"

namespace adder::cpu {
namespace {

using s4::Cx;

template <typename T>
class Discretization {
 public:
  template <typename Args>
  explicit Discretization(const Args& args)
      : options_(args.options),
        channels_(args.dt.dim(0)),
        copies_(args.A_real.dim(0)),
        modes_(args.A_real.dim(1)),
        dt_columns_(args.dt.rank() == 2 ? args.dt.dim(1) : 1),
        A_real_(args.A_real.template data<T>()),
        A_imag_(args.A_imag.template data<T>()),
        dt_(args.dt.template data<T>()),
        B_(Pairs<T>::optional(args.B)) {}

  void forward(const S4DiscretizeFwdArgs& args) const {
    const Pairs<double> log_q(args.log_q);
    const Pairs<double> p(args.p);
    const Pairs<double> b(args.b);
    std::atomic<bool> valid = true;
    parallel_for(channels_, 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t h = begin; h < end; ++h) {
        double step = 0;
        for (std::int64_t n = 0; n < modes_; ++n) {
          const std::int64_t at = h * modes_ + n;
          if (n % shared() == 0) step = dt(h, n);
          const Cx a = A(h, n);
          const Cx input = B(h, n);
          if (!is_valid(a, step, input)) valid = false;
          const s4::Mode mode = s4::discretize(options_.method, a, step, length());
          log_q.set(at, mode.log_q);
          p.set(at, mode.p);
          b.set(at, s4::beyond_band(options_, a, step) ? Cx{} : input * mode.phi);
        }
      }
    });
    if (!valid) refuse_invalid();
  }

  void backward(const S4DiscretizeBwdArgs& args) const {
    const auto dlog_q = Pairs<double>::optional(args.dlog_q);
    const auto dp = Pairs<double>::optional(args.dp);
    const auto db = Pairs<double>::optional(args.db);
    T* dA_real = data_or_null<T>(args.dA_real);
    T* dA_imag = data_or_null<T>(args.dA_imag);
    const auto dB = Pairs<T>::optional(args.dB);
    std::vector<double> steps(static_cast<std::size_t>(channels_ * dt_columns_));
    for (std::size_t i = 0; i < steps.size(); ++i) {
      steps[i] = step_of(static_cast<std::int64_t>(i));
    }
    std::vector<double> g_dt(static_cast<std::size_t>(channels_ * modes_));
    parallel_for(copies_ * modes_, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t n = i % modes_;
        const Cx a = A(i / modes_, n);
        const Cx input = B(i / modes_, n);
        Cx sum_A;
        Cx sum_B;
        for (std::int64_t h = i / modes_; h < channels_; h += copies_) {
          const std::int64_t at = h * modes_ + n;
          const double step = steps[static_cast<std::size_t>(at / shared())];
          const Cx g_b = s4::beyond_band(options_, a, step) ? Cx{} : db.gradient(at);
          const auto g = s4::discretize_gradient(options_.method, a, step, length(),
                                                 dlog_q.gradient(at), dp.gradient(at), g_b * input);
          sum_A = sum_A + g.A;
          if (dB) sum_B = sum_B + g_b * s4::discretize(options_.method, a, step, length()).phi;
          g_dt[static_cast<std::size_t>(at)] = g.dt;
        }
        if (dA_real != nullptr) {
          dA_real[i] = static_cast<T>(-sum_A.re * s4::transform_slope(options_.real, A_real_[i]));
        }
        if (dA_imag != nullptr) {
          dA_imag[i] = static_cast<T>(-sum_A.im * options_.imag_sign *
                                      s4::transform_slope(options_.imag, A_imag_[i]));
        }
        if (dB) dB.set_gradient(i, sum_B);
      }
    });
    if (!args.ddt.defined()) return;
    T* ddt = args.ddt.data<T>();
    for (std::int64_t i = 0; i < channels_ * dt_columns_; ++i) {
      double sum = 0;
      for (std::int64_t k = 0; k < shared(); ++k)
        sum += g_dt[static_cast<std::size_t>(i * shared() + k)];
      ddt[i] = static_cast<T>(sum * options_.rate * s4::transform_slope(options_.dt, dt_[i]));
    }
  }

 private:
  std::int64_t copy(std::int64_t h, std::int64_t n) const { return h % copies_ * modes_ + n; }
  std::int64_t shared() const { return modes_ / dt_columns_; }  // modes for each step
  double step_of(std::int64_t i) const {
    return options_.rate * s4::transform(options_.dt, dt_[i]);
  }
  double dt(std::int64_t h, std::int64_t n) const { return step_of((h * modes_ + n) / shared()); }
  Cx A(std::int64_t h, std::int64_t n) const {
    const std::int64_t at = copy(h, n);
    return {-s4::transform(options_.real, A_real_[at]),
            options_.imag_sign * s4::transform(options_.imag, A_imag_[at])};
  }
  Cx B(std::int64_t h, std::int64_t n) const { return B_ ? B_[copy(h, n)] : Cx{1, 0}; }
  double length() const { return static_cast<double>(options_.length); }

  static bool is_valid(Cx a, double step, Cx b) {
    return std::isfinite(a.re) && std::isfinite(a.im) && std::isfinite(step) &&
           std::isfinite(b.re) && std::isfinite(b.im) && a.re <= 0 && step > 0;
  }
  // Throws for the first mode that is not valid.
  void refuse_invalid() const {
    for (std::int64_t h = 0; h < channels_; ++h) {
      for (std::int64_t n = 0; n < modes_; ++n) {
        const Cx a = A(h, n);
        const double step = dt(h, n);
        const Cx b = B(h, n);
        if (is_valid(a, step, b)) continue;
        if (!std::isfinite(a.re) || !std::isfinite(a.im) || !std::isfinite(step) ||
            !std::isfinite(b.re) || !std::isfinite(b.im)) {
          throw NumericError(str("s4_discretize: mode ", n, " of channel ", h, " has A = ", a.re,
                                 " + ", a.im, "i, dt = ", step, ", B = ", b.re, " + ", b.im,
                                 "i, expected finite numbers"));
        }
        if (a.re > 0) {
          throw NumericError(str("s4_discretize: mode ", n, " of channel ", h, " has Re A = ", a.re,
                                 ", expected 0 or less: its state would grow without bound"));
        }
        throw NumericError(str("s4_discretize: mode ", n, " of channel ", h, " has dt = ", step,
                               ", expected more than 0"));
      }
    }
  }

  S4Options options_;
  std::int64_t channels_, copies_, modes_, dt_columns_;
  const T* A_real_;
  const T* A_imag_;
  const T* dt_;
  Pairs<T> B_;
};

}  // namespace

void s4_discretize_fwd(const S4DiscretizeFwdArgs& args) {
  check_s4("s4_discretize_fwd", args);
  dispatch_real("s4_discretize_fwd", args.A_real.dtype(),
                [&](auto t) { Discretization<decltype(t)>(args).forward(args); });
}

void s4_discretize_bwd(const S4DiscretizeBwdArgs& args) {
  check_s4("s4_discretize_bwd", args);
  dispatch_real("s4_discretize_bwd", args.A_real.dtype(),
                [&](auto t) { Discretization<decltype(t)>(args).backward(args); });
}

}  // namespace adder::cpu
