#include "models/s4_dplr.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <Eigen/Dense>
#include <complex>
#include <utility>

#include "engine/kernels/s4_math.h"

namespace adder {
namespace {

using Complex = std::complex<double>;
using Eigen::MatrixXcd;
using Eigen::VectorXcd;

Tensor host(const Tensor& tensor) {
  return tensor.to(Device{}).to(Dtype::f64).contiguous();
}

Complex get(const Tensor& tensor, std::int64_t at) {
  return {tensor.data<double>()[2 * at], tensor.data<double>()[2 * at + 1]};
}
void put(const Tensor& tensor, std::int64_t at, Complex value) {
  tensor.data<double>()[2 * at] = value.real();
  tensor.data<double>()[2 * at + 1] = value.imag();
}

// A layer on the host, with its transforms applied.
class System {
 public:
  System(const char* place, const S4DplrSystem& system)
      : options_(system.options),
        A_real_(host(system.A_real)),
        A_imag_(host(system.A_imag)),
        dt_(host(system.dt)),
        B_(host(system.B)),
        P_(host(system.P)) {
    if (A_real_.rank() != 2 || P_.rank() != 4 || dt_.rank() < 1) {
      throw ShapeError(str(place, ": A_real is ", A_real_.shape(), ", P is ", P_.shape(),
                           ", dt is ", dt_.shape(), "; expected (S, N), (R, S, N, 2), (H)"));
    }
    copies_ = A_real_.dim(0);
    modes_ = A_real_.dim(1);
    check_shape(place, "A_imag", A_imag_, A_real_.shape());
    check_shape(place, "B", B_, {copies_, modes_, 2});
    check_shape(place, "P", P_, {P_.dim(0), copies_, modes_, 2});
    if (dt_.numel() != dt_.dim(0) || copies_ < 1 || dt_.dim(0) % copies_ != 0) {
      throw ShapeError(str(place, ": dt is ", dt_.shape(), ", expected (H) or (H, 1) with ",
                           copies_, " dividing H"));
    }
  }

  std::int64_t channels() const { return dt_.dim(0); }
  std::int64_t modes() const { return modes_; }
  std::int64_t ranks() const { return P_.dim(0); }
  double dt(std::int64_t h) const { return s4::transform(options_.dt, dt_.data<double>()[h]); }
  Complex A(std::int64_t h, std::int64_t n) const {
    const std::int64_t at = copy(h, n);
    return {-s4::transform(options_.real, A_real_.data<double>()[at]),
            options_.imag_sign * s4::transform(options_.imag, A_imag_.data<double>()[at])};
  }
  Complex B(std::int64_t h, std::int64_t n) const { return get(B_, copy(h, n)); }
  Complex P(std::int64_t r, std::int64_t h, std::int64_t n) const {
    return get(P_, r * copies_ * modes_ + copy(h, n));
  }

  // The state matrix of a channel on modes and conjugates, discretised: Ad and Bd.
  std::pair<MatrixXcd, VectorXcd> discretize(std::int64_t h) const {
    const std::int64_t N = modes_;
    MatrixXcd A_full = MatrixXcd::Zero(2 * N, 2 * N);
    MatrixXcd P_full(2 * N, ranks());
    VectorXcd B_full(2 * N);
    for (std::int64_t n = 0; n < N; ++n) {
      A_full(n, n) = A(h, n);
      A_full(N + n, N + n) = std::conj(A(h, n));
      B_full(n) = B(h, n);
      B_full(N + n) = std::conj(B(h, n));
      for (std::int64_t r = 0; r < ranks(); ++r) {
        P_full(n, r) = P(r, h, n);
        P_full(N + n, r) = std::conj(P(r, h, n));
      }
    }
    A_full -= P_full * P_full.adjoint();
    const MatrixXcd identity = MatrixXcd::Identity(2 * N, 2 * N);
    const Eigen::PartialPivLU<MatrixXcd> below(identity - dt(h) / 2 * A_full);
    return {below.solve(identity + dt(h) / 2 * A_full), below.solve(dt(h) * B_full)};
  }

 private:
  std::int64_t copy(std::int64_t h, std::int64_t n) const { return h % copies_ * modes_ + n; }

  S4Options options_;
  Tensor A_real_, A_imag_, dt_, B_, P_;
  std::int64_t copies_ = 0;
  std::int64_t modes_ = 0;
};

MatrixXcd power(MatrixXcd base, std::int64_t exponent) {
  MatrixXcd result = MatrixXcd::Identity(base.rows(), base.cols());
  for (; exponent > 0; exponent /= 2) {
    if (exponent % 2 != 0) result = result * base;
    if (exponent > 1) base = base * base;
  }
  return result;
}

// Applies f(Ad^length, C on modes and conjugates) to every C of every channel.
template <typename F>
Tensor map_outputs(const char* place, const S4DplrSystem& described, const Tensor& C,
                   std::int64_t length, const F& f) {
  const System system(place, described);
  const std::int64_t H = system.channels();
  const std::int64_t N = system.modes();
  if (length < 1) throw ShapeError(str(place, ": the length is ", length, ", expected 1 or more"));
  if (C.rank() != 4) {
    throw ShapeError(str(place, ": C is ", C.shape(), ", expected (M, ", H, ", ", N, ", 2)"));
  }
  check_shape(place, "C", C, {C.dim(0), H, N, 2});
  const Tensor values = host(C);
  const Tensor out = Tensor::empty(values.shape(), Dtype::f64);
  for (std::int64_t h = 0; h < H; ++h) {
    const MatrixXcd across = power(system.discretize(h).first, length).transpose();
    for (std::int64_t m = 0; m < C.dim(0); ++m) {
      VectorXcd c(2 * N);
      for (std::int64_t n = 0; n < N; ++n) {
        c(n) = get(values, (m * H + h) * N + n);
        c(N + n) = std::conj(c(n));
      }
      const VectorXcd mapped = f(across, c);
      for (std::int64_t n = 0; n < N; ++n) put(out, (m * H + h) * N + n, mapped(n));
    }
  }
  return out.to(C.dtype()).to(C.device());
}

}  // namespace

Tensor s4_dplr_store(const S4DplrSystem& system, const Tensor& C, std::int64_t length) {
  return map_outputs(
      "s4_dplr_store", system, C, length,
      [](const MatrixXcd& across, const VectorXcd& c) -> VectorXcd { return c - across * c; });
}

Tensor s4_dplr_double(const S4DplrSystem& system, const Tensor& stored, std::int64_t length) {
  return map_outputs(
      "s4_dplr_double", system, stored, length,
      [](const MatrixXcd& across, const VectorXcd& c) -> VectorXcd { return c + across * c; });
}

Tensor s4_dplr_restore(const S4DplrSystem& system, const Tensor& stored, std::int64_t length) {
  return map_outputs(
      "s4_dplr_restore", system, stored, length,
      [length](const MatrixXcd& across, const VectorXcd& c) -> VectorXcd {
        const auto size = across.rows();
        const VectorXcd solved =
            Eigen::PartialPivLU<MatrixXcd>(MatrixXcd::Identity(size, size) - across).solve(c);
        if (!solved.allFinite()) {
          throw NumericError(
              str("s4_dplr_restore: after ", length, " steps the state has not decayed"));
        }
        return solved;
      });
}

S4DplrDense s4_dplr_dense(const S4DplrSystem& described, std::int64_t channel) {
  const System system("s4_dplr_dense", described);
  if (channel < 0 || channel >= system.channels()) {
    throw ShapeError(str("s4_dplr_dense: channel ", channel, " of ", system.channels()));
  }
  const auto [A, B] = system.discretize(channel);
  const std::int64_t size = 2 * system.modes();
  const S4DplrDense out{Tensor::empty({size, size, 2}, Dtype::f64),
                        Tensor::empty({size, 2}, Dtype::f64)};
  for (std::int64_t i = 0; i < size; ++i) {
    put(out.B, i, B(i));
    for (std::int64_t k = 0; k < size; ++k) put(out.A, i * size + k, A(i, k));
  }
  return out;
}

S4DplrStepArgs s4_dplr_step_coefficients(const S4DplrSystem& described, const Tensor& C) {
  const System system("s4_dplr_step_coefficients", described);
  const std::int64_t H = system.channels();
  const std::int64_t N = system.modes();
  const std::int64_t R = system.ranks();
  if (C.rank() != 4) {
    throw ShapeError(
        str("s4_dplr_step_coefficients: C is ", C.shape(), ", expected (M, ", H, ", ", N, ", 2)"));
  }
  check_shape("s4_dplr_step_coefficients", "C", C, {C.dim(0), H, N, 2});
  const auto modes = [&] { return Tensor::empty({H, N, 2}, Dtype::f64); };
  const auto ranks = [&] { return Tensor::empty({R, H, N, 2}, Dtype::f64); };
  const Tensor E = modes();
  const Tensor F = modes();
  const Tensor B = modes();
  const Tensor P = ranks();
  const Tensor W = ranks();
  for (std::int64_t h = 0; h < H; ++h) {
    const double twice = 2 / system.dt(h);
    for (std::int64_t n = 0; n < N; ++n) {
      put(E, h * N + n, twice + system.A(h, n));
      put(F, h * N + n, 1.0 / (twice - system.A(h, n)));
      put(B, h * N + n, system.B(h, n));
      for (std::int64_t r = 0; r < R; ++r) put(P, (r * H + h) * N + n, system.P(r, h, n));
    }
    // I + Q F P over modes and conjugates is real.
    Eigen::MatrixXd inner = Eigen::MatrixXd::Identity(R, R);
    for (std::int64_t q = 0; q < R; ++q) {
      for (std::int64_t r = 0; r < R; ++r) {
        for (std::int64_t n = 0; n < N; ++n) {
          inner(q, r) +=
              2 * (std::conj(system.P(q, h, n)) * get(F, h * N + n) * system.P(r, h, n)).real();
        }
      }
    }
    const Eigen::MatrixXd inverse = inner.inverse();
    for (std::int64_t r = 0; r < R; ++r) {
      for (std::int64_t n = 0; n < N; ++n) {
        Complex sum = 0;
        for (std::int64_t q = 0; q < R; ++q) {
          sum += inverse(r, q) * std::conj(system.P(q, h, n)) * get(F, h * N + n);
        }
        put(W, (r * H + h) * N + n, sum);
      }
    }
  }
  const Device device = C.device();
  S4DplrStepArgs args;
  args.E = E.to(device);
  args.F = F.to(device);
  args.B = B.to(device);
  args.P = P.to(device);
  args.W = W.to(device);
  args.C = C.to(Dtype::f64).contiguous();
  return args;
}

}  // namespace adder
