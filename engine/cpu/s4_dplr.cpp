// The convolution kernel of a diagonal-plus-low-rank layer and its gradient. Vectors run along the
// nodes; per mode and node there are two reciprocals, of the mode and of its conjugate, which all
// sums g_xy share. They stay two fractions: brought to one denominator they would cancel.
#include "engine/kernels/s4_dplr.h"

#include <algorithm>
#include <array>
#include <complex>
#include <numbers>
#include <vector>

#include "engine/cpu/fft.h"
#include "engine/cpu/s4_common.h"
#include "engine/kernels/s4_dplr_math.h"

namespace adder::cpu {
namespace {

using s4::Cx;

constexpr std::int64_t kVec = kLanes<double>;

// Complex numbers of many nodes as two arrays.
struct Split {
  explicit Split(std::int64_t count)
      : re(static_cast<std::size_t>(count)), im(static_cast<std::size_t>(count)) {}
  Scratch<double> re, im;
};

struct VecCx {
  VecD re, im;
};
inline VecCx operator*(VecCx a, VecCx b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
inline VecCx reciprocal(VecCx a) {
  const VecD scale = broadcast(1.0) / (a.re * a.re + a.im * a.im);
  return {a.re * scale, -(a.im * scale)};
}

template <typename T>
class Dplr {
 public:
  template <typename Args>
  Dplr(const Args& args, const Tensor& K)
      : options_(args.options),
        shape_{args.C.dim(1), args.P.dim(1), args.P.dim(2), args.P.dim(0),
               args.C.dim(0), args.nodes,    K.dim(2)},
        padded_((shape_.bins() + kVec - 1) / kVec * kVec),
        a_(padded_),
        c_(padded_),
        A_real_(args.A_real.template data<T>()),
        A_imag_(args.A_imag.template data<T>()),
        dt_(args.dt.template data<T>()),
        B_(args.B),
        P_(args.P),
        C_(args.C) {
    for (std::int64_t j = 0; j < padded_; ++j) {
      const Cx w = root(std::min(j, shape_.bins() - 1));
      const auto i = static_cast<std::size_t>(j);
      a_.re[i] = 2 * (1 - w.re);
      a_.im[i] = -2 * w.im;
      c_.re[i] = 1 + w.re;
      c_.im[i] = w.im;
    }
  }

  void forward(const Tensor& K_tensor) const {
    const Sequences<T> K(K_tensor);
    check_values();
    parallel_for(shape_.channels, 1, [&](std::int64_t begin, std::int64_t end) {
      Split g(padded_ * shape_.sums());
      Fft fft(shape_.nodes);
      std::vector<std::complex<double>> spectrum(static_cast<std::size_t>(shape_.nodes));
      std::vector<std::complex<double>> values(spectrum.size());
      std::vector<Cx> node(static_cast<std::size_t>(shape_.sums()));
      std::vector<Cx> work(static_cast<std::size_t>(shape_.work()));
      std::vector<Cx> k(static_cast<std::size_t>(shape_.outputs * shape_.bins()));
      for (std::int64_t h = begin; h < end; ++h) {
        sum_fractions(h, g);
        for (std::int64_t j = 0; j < shape_.bins(); ++j) {
          load_node(g, j, node.data());
          const Cx half = half_of(j);
          const Cx* t = s4::woodbury_solution(shape_, half, node.data(), work.data());
          for (std::int64_t m = 0; m < shape_.outputs; ++m) {
            k[static_cast<std::size_t>(m * shape_.bins() + j)] =
                s4::woodbury_value(shape_, half, node.data(), t, m);
          }
        }
        for (std::int64_t m = 0; m < shape_.outputs; ++m) {
          // A real kernel has a spectrum that is its own mirrored conjugate.
          for (std::int64_t j = 0; j < shape_.nodes; ++j) {
            const bool mirrored = j >= shape_.bins();
            const Cx value =
                k[static_cast<std::size_t>(m * shape_.bins() + (mirrored ? shape_.nodes - j : j))];
            spectrum[static_cast<std::size_t>(j)] = {value.re, mirrored ? -value.im : value.im};
          }
          fft.inverse(spectrum.data(), values.data());
          T* out = K.at(m, h);
          for (std::int64_t l = 0; l < shape_.length; ++l) {
            out[l] = static_cast<T>(values[static_cast<std::size_t>(l)].real() /
                                    static_cast<double>(shape_.nodes));
          }
        }
      }
    });
  }

  void backward(const S4DplrKernelBwdArgs& args) const {
    const Sequences<T> dK(args.dK);
    const auto dC = Pairs<T>::optional(args.dC);
    const auto modes = static_cast<std::size_t>(shape_.channels * shape_.modes);
    const std::int64_t vectors = 1 + shape_.ranks;
    std::vector<Cx> g_A(modes);
    std::vector<double> g_dt(modes);
    std::vector<Cx> g_x(modes * static_cast<std::size_t>(vectors));  // of B, P_0 ...
    parallel_for(shape_.channels, 1, [&](std::int64_t begin, std::int64_t end) {
      Split g(padded_ * shape_.sums());
      Fft fft(shape_.nodes);
      std::vector<std::complex<double>> slope(static_cast<std::size_t>(shape_.nodes));
      std::vector<std::complex<double>> spectrum(slope.size() *
                                                 static_cast<std::size_t>(shape_.outputs));
      std::vector<Cx> node(static_cast<std::size_t>(shape_.sums()));
      std::vector<Cx> work(static_cast<std::size_t>(shape_.work()));
      std::vector<Cx> v(static_cast<std::size_t>(shape_.sums()));
      for (std::int64_t h = begin; h < end; ++h) {
        for (std::int64_t m = 0; m < shape_.outputs; ++m) {
          std::fill(slope.begin(), slope.end(), std::complex<double>{});
          std::copy_n(dK.at(m, h), shape_.length, slope.begin());
          fft.forward(slope.data(), spectrum.data() + m * shape_.nodes);
        }
        sum_fractions(h, g);
        for (std::int64_t j = 0; j < shape_.bins(); ++j) {
          load_node(g, j, node.data());
          // Nodes between the ends stand for their mirror images too.
          const bool single = j == 0 || 2 * j == shape_.nodes;
          const double weight = (single ? 1.0 : 2.0) / static_cast<double>(shape_.nodes);
          s4::woodbury_gradient(shape_, half_of(j), node.data(), work.data(), [&](std::int64_t m) {
            const std::complex<double> value =
                spectrum[static_cast<std::size_t>(m * shape_.nodes + j)];
            return Cx{weight * value.real(), -weight * value.imag()};
          });
          store_node(node.data(), j, g);
        }
        for (std::int64_t xy = 0; xy < shape_.sums(); ++xy) {
          for (std::int64_t j = shape_.bins(); j < padded_; ++j) {
            g.re[static_cast<std::size_t>(xy * padded_ + j)] = 0;
            g.im[static_cast<std::size_t>(xy * padded_ + j)] = 0;
          }
        }
        for (std::int64_t n = 0; n < shape_.modes; ++n) {
          const auto i = static_cast<std::size_t>(h * shape_.modes + n);
          const Cx g_a = mode_sums(h, n, g, v.data());
          const auto mode = mode_of(h, n);
          const s4::ModeGradient own = s4::dplr_gradient(
              mode, A(h, n), dt(h), g_a,
              [&](std::int64_t xy) { return v[static_cast<std::size_t>(xy)]; },
              g_x.data() + i * static_cast<std::size_t>(vectors),
              [&](std::int64_t m, Cx value) {
                if (dC) dC.set_gradient((m * shape_.channels + h) * shape_.modes + n, value);
              });
          g_A[i] = own.A;
          g_dt[i] = own.dt * options_.rate * s4::transform_slope(options_.dt, raw_dt(h));
        }
      }
    });
    T* dA_real = data_or_null<T>(args.dA_real);
    T* dA_imag = data_or_null<T>(args.dA_imag);
    const auto dB = Pairs<T>::optional(args.dB);
    const auto dP = Pairs<T>::optional(args.dP);
    const std::int64_t shared = shape_.copies * shape_.modes;
    for (std::int64_t i = 0; i < shared; ++i) {
      Cx sum_A;
      std::array<Cx, 1 + kS4MostRanks> sum_x{};
      for (std::int64_t j = i; j < shape_.channels * shape_.modes; j += shared) {
        sum_A = sum_A + g_A[static_cast<std::size_t>(j)];
        for (std::int64_t x = 0; x < vectors; ++x) {
          Cx& sum = sum_x[static_cast<std::size_t>(x)];
          sum = sum + g_x[static_cast<std::size_t>(j * vectors + x)];
        }
      }
      if (dA_real != nullptr) {
        dA_real[i] = static_cast<T>(-sum_A.re * s4::transform_slope(options_.real, A_real_[i]));
      }
      if (dA_imag != nullptr) {
        dA_imag[i] = static_cast<T>(-sum_A.im * options_.imag_sign *
                                    s4::transform_slope(options_.imag, A_imag_[i]));
      }
      if (dB) dB.set_gradient(i, sum_x[0]);
      for (std::int64_t r = 0; dP && r < shape_.ranks; ++r) {
        dP.set_gradient(r * shared + i, sum_x[static_cast<std::size_t>(1 + r)]);
      }
    }
    if (!args.ddt.defined()) return;
    T* ddt = args.ddt.data<T>();
    for (std::int64_t h = 0; h < shape_.channels; ++h) {
      double sum = 0;
      for (std::int64_t n = 0; n < shape_.modes; ++n) {
        sum += g_dt[static_cast<std::size_t>(h * shape_.modes + n)];
      }
      ddt[h] = static_cast<T>(sum);
    }
  }

 private:
  using Mode = s4::DplrMode<Pairs<T>>;

  Cx root(std::int64_t j) const {
    const double angle =
        -2 * std::numbers::pi * static_cast<double>(j) / static_cast<double>(shape_.nodes);
    return {std::cos(angle), std::sin(angle)};
  }
  Cx half_of(std::int64_t j) const {
    const auto i = static_cast<std::size_t>(j);
    return {0.5 * c_.re[i], 0.5 * c_.im[i]};
  }
  double raw_dt(std::int64_t h) const { return static_cast<double>(dt_[h]); }
  double dt(std::int64_t h) const { return options_.rate * s4::transform(options_.dt, raw_dt(h)); }
  Cx A(std::int64_t h, std::int64_t n) const {
    const std::int64_t at = h % shape_.copies * shape_.modes + n;
    return {-s4::transform(options_.real, A_real_[at]),
            options_.imag_sign * s4::transform(options_.imag, A_imag_[at])};
  }
  Mode mode_of(std::int64_t h, std::int64_t n) const {
    return {B_, P_, C_, shape_, h, n, s4::beyond_band(options_, A(h, n), dt(h))};
  }

  void check_values() const {
    for (std::int64_t h = 0; h < shape_.channels; ++h) {
      for (std::int64_t n = 0; n < shape_.modes; ++n) {
        const Cx a = A(h, n);
        if (!(a.re <= 0) || (a.re == 0 && a.im == 0) || !std::isfinite(a.re) ||
            !std::isfinite(a.im) || !(dt(h) > 0) || !std::isfinite(dt(h))) {
          throw NumericError(str("s4_dplr_kernel: mode ", n, " of channel ", h, " has A = ", a.re,
                                 " + ", a.im, "i, dt = ", dt(h),
                                 "; expected finite numbers, Re A <= 0, A not 0 and dt > 0"));
        }
      }
    }
  }

  // The reciprocals of a mode and of its conjugate at kVec nodes from j on.
  std::array<VecCx, 2> fractions(Cx alpha, std::int64_t j) const {
    const VecCx a{load(a_.re.data() + j), load(a_.im.data() + j)};
    const VecCx c{load(c_.re.data() + j), load(c_.im.data() + j)};
    const VecD re = broadcast(alpha.re);
    const VecD im = broadcast(alpha.im);
    return {reciprocal({a.re - (c.re * re - c.im * im), a.im - (c.re * im + c.im * re)}),
            reciprocal({a.re - (c.re * re + c.im * im), a.im - (c.im * re - c.re * im)})};
  }

  // g_xy = sum_n 2 (v r + conj(v) r') at every node, v = dt x y.
  void sum_fractions(std::int64_t h, Split& g) const {
    std::fill(g.re.begin(), g.re.end(), 0.0);
    std::fill(g.im.begin(), g.im.end(), 0.0);
    std::vector<Cx> v(static_cast<std::size_t>(shape_.sums()));
    for (std::int64_t n = 0; n < shape_.modes; ++n) {
      products(h, n, v.data());
      const Cx alpha = dt(h) * A(h, n);
      for (std::int64_t j = 0; j < padded_; j += kVec) {
        const auto [own, mirror] = fractions(alpha, j);
        const VecD even_re = own.re + mirror.re;
        const VecD even_im = own.im + mirror.im;
        const VecD odd_re = mirror.im - own.im;  // of i (r - r')
        const VecD odd_im = own.re - mirror.re;
        for (std::int64_t xy = 0; xy < shape_.sums(); ++xy) {
          const Cx value = v[static_cast<std::size_t>(xy)];
          const VecD re = broadcast(2 * value.re);
          const VecD im = broadcast(2 * value.im);
          double* to_re = g.re.data() + xy * padded_ + j;
          double* to_im = g.im.data() + xy * padded_ + j;
          store(to_re, mul_add(re, even_re, mul_add(im, odd_re, load(to_re))));
          store(to_im, mul_add(re, even_im, mul_add(im, odd_im, load(to_im))));
        }
      }
    }
  }

  void products(std::int64_t h, std::int64_t n, Cx* v) const {
    const Mode mode = mode_of(h, n);
    for (std::int64_t x = 0; x <= shape_.ranks; ++x) {
      for (std::int64_t y = 0; y < shape_.columns(); ++y) {
        v[shape_.at(x, y)] = dt(h) * (mode.x(x) * mode.y(y));
      }
    }
  }

  // From the gradients of the g_xy: those of v_xy into `v_out`, and that of dt A.
  Cx mode_sums(std::int64_t h, std::int64_t n, const Split& g, Cx* v_out) const {
    std::vector<Cx> v(static_cast<std::size_t>(shape_.sums()));
    products(h, n, v.data());
    const Cx alpha = dt(h) * A(h, n);
    Scratch<VecCx> sums(v.size(), VecCx{});
    VecCx rate{};
    for (std::int64_t j = 0; j < padded_; j += kVec) {
      const auto [own, mirror] = fractions(alpha, j);
      VecCx along{};    // sum of kappa v
      VecCx against{};  // sum of kappa conj(v)
      for (std::int64_t xy = 0; xy < shape_.sums(); ++xy) {
        const VecCx kappa{load(g.re.data() + xy * padded_ + j),
                          load(g.im.data() + xy * padded_ + j)};
        const VecCx first = kappa * own;
        const VecCx second = kappa * mirror;
        VecCx& sum = sums[static_cast<std::size_t>(xy)];
        sum.re += first.re + second.re;
        sum.im += first.im - second.im;
        const Cx value = v[static_cast<std::size_t>(xy)];
        const VecD re = broadcast(value.re);
        const VecD im = broadcast(value.im);
        along.re += kappa.re * re - kappa.im * im;
        along.im += kappa.re * im + kappa.im * re;
        against.re += kappa.re * re + kappa.im * im;
        against.im += kappa.im * re - kappa.re * im;
      }
      const VecCx c{load(c_.re.data() + j), load(c_.im.data() + j)};
      const VecCx first = along * c * own * own;
      const VecCx second = against * c * mirror * mirror;
      rate.re += first.re + second.re;
      rate.im += first.im - second.im;
    }
    for (std::size_t xy = 0; xy < sums.size(); ++xy) {
      v_out[xy] = {2 * sum_lanes<double>(sums[xy].re), 2 * sum_lanes<double>(sums[xy].im)};
    }
    return {2 * sum_lanes<double>(rate.re), 2 * sum_lanes<double>(rate.im)};
  }

  void load_node(const Split& g, std::int64_t j, Cx* node) const {
    for (std::int64_t xy = 0; xy < shape_.sums(); ++xy) {
      const auto i = static_cast<std::size_t>(xy * padded_ + j);
      node[xy] = {g.re[i], g.im[i]};
    }
  }
  void store_node(const Cx* node, std::int64_t j, Split& g) const {
    for (std::int64_t xy = 0; xy < shape_.sums(); ++xy) {
      const auto i = static_cast<std::size_t>(xy * padded_ + j);
      g.re[i] = node[xy].re;
      g.im[i] = node[xy].im;
    }
  }

  S4Options options_;
  s4::DplrShape shape_;
  std::int64_t padded_;  // nodes 0 ... n / 2, in whole vectors
  Split a_, c_;          // 2 (1 - w) and 1 + w
  const T* A_real_;
  const T* A_imag_;
  const T* dt_;
  Pairs<T> B_, P_, C_;
};

}  // namespace

void s4_dplr_kernel_fwd(const S4DplrKernelFwdArgs& args) {
  check_s4_dplr("s4_dplr_kernel_fwd", args);
  dispatch_real("s4_dplr_kernel_fwd", args.C.dtype(),
                [&](auto t) { Dplr<decltype(t)>(args, args.K).forward(args.K); });
}

void s4_dplr_kernel_bwd(const S4DplrKernelBwdArgs& args) {
  check_s4_dplr("s4_dplr_kernel_bwd", args);
  dispatch_real("s4_dplr_kernel_bwd", args.C.dtype(),
                [&](auto t) { Dplr<decltype(t)>(args, args.dK).backward(args); });
}

}  // namespace adder::cpu
