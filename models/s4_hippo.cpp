// HiPPO matrices and their normal-plus-low-rank form, by Eigen's Hermitian eigen-decomposition.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <Eigen/Dense>
#include <cmath>
#include <complex>
#include <numbers>
#include <utility>

#include "models/s4_init.h"

namespace adder {
namespace {

using Complex = std::complex<double>;
using Eigen::MatrixXcd;
using Eigen::MatrixXd;
using Eigen::VectorXcd;
using Eigen::VectorXd;

struct Hippo {
  MatrixXd A;
  VectorXd B;
  MatrixXd P;  // (M, own rank): A + P P^T is skew but for a multiple of the identity
};

Hippo legs(std::int64_t M) {
  Hippo h{MatrixXd::Zero(M, M), VectorXd(M), MatrixXd(M, 1)};
  for (std::int64_t n = 0; n < M; ++n) {
    h.B(n) = std::sqrt(2.0 * static_cast<double>(n) + 1);
    h.P(n, 0) = std::sqrt(static_cast<double>(n) + 0.5);
    for (std::int64_t k = 0; k < n; ++k) h.A(n, k) = -h.B(n) * h.B(k);
    h.A(n, n) = -static_cast<double>(n + 1);
  }
  return h;
}

Hippo legt(std::int64_t M) {
  Hippo h{MatrixXd(M, M), VectorXd(M), MatrixXd::Zero(M, 2)};
  const auto root = [](std::int64_t n) { return std::sqrt(2.0 * static_cast<double>(n) + 1); };
  for (std::int64_t n = 0; n < M; ++n) {
    h.B(n) = root(n) / 2;
    h.P(n, n % 2 == 0 ? 1 : 0) = root(n) / std::numbers::sqrt2;
    for (std::int64_t k = 0; k < M; ++k) {
      const bool negative = n < k && (k - n) % 2 != 0;
      h.A(n, k) = (negative ? 0.5 : -0.5) * root(n) * root(k);
    }
  }
  return h;
}

Hippo fourier(std::int64_t M) {
  Hippo h{MatrixXd::Zero(M, M), VectorXd::Zero(M), MatrixXd(M, 1)};
  for (std::int64_t f = 0; f < M / 2; ++f) {
    h.A(2 * f, 2 * f + 1) = -std::numbers::pi * static_cast<double>(f);
    h.A(2 * f + 1, 2 * f) = std::numbers::pi * static_cast<double>(f);
    h.B(2 * f) = f == 0 ? 1 : std::numbers::sqrt2;
  }
  h.P.col(0) = h.B;
  h.A -= h.B * h.B.transpose();
  return h;
}

Hippo make(HippoMeasure measure, std::int64_t d_state) {
  if (d_state < 2 || d_state % 2 != 0) {
    throw ConfigError(str("hippo: d_state is ", d_state,
                          ", expected an even number: modes come in conjugate pairs"));
  }
  if (measure == HippoMeasure::legs) return legs(d_state);
  return measure == HippoMeasure::legt ? legt(d_state) : fourier(d_state);
}

void put(const Tensor& tensor, std::int64_t at, Complex value) {
  tensor.data<double>()[2 * at] = value.real();
  tensor.data<double>()[2 * at + 1] = value.imag();
}

}  // namespace

HippoSystem hippo_system(HippoMeasure measure, std::int64_t d_state) {
  const Hippo h = make(measure, d_state);
  const HippoSystem out{Tensor::empty({d_state, d_state}, Dtype::f64),
                        Tensor::empty({d_state}, Dtype::f64)};
  for (std::int64_t n = 0; n < d_state; ++n) {
    out.B.data<double>()[n] = h.B(n);
    for (std::int64_t k = 0; k < d_state; ++k) out.A.data<double>()[n * d_state + k] = h.A(n, k);
  }
  return out;
}

S4Nplr s4_nplr(HippoMeasure measure, std::int64_t d_state, std::int64_t rank) {
  const Hippo h = make(measure, d_state);
  if (rank < h.P.cols()) {
    throw ConfigError(
        str("s4_nplr: rank is ", rank, ", expected at least ", h.P.cols(), " for this measure"));
  }
  const std::int64_t N = d_state / 2;
  const MatrixXd S = h.A + h.P * h.P.transpose();
  const double decay = S.diagonal().mean();
  // The rest of S is skew, so -i S is Hermitian; taking its skew part keeps rounding out.
  const MatrixXcd hermitian = Complex(0, -0.5) * (S - S.transpose()).cast<Complex>();
  const Eigen::SelfAdjointEigenSolver<MatrixXcd> solver(hermitian);
  if (solver.info() != Eigen::Success) {
    throw NumericError(str("s4_nplr: the eigenvalues of a matrix of ", d_state, " rows"));
  }
  const S4Nplr out{Tensor::empty({N, 2}, Dtype::f64), Tensor::empty({N, 2}, Dtype::f64),
                   Tensor::zeros({rank, N, 2}, Dtype::f64)};
  for (std::int64_t n = 0; n < N; ++n) {
    double frequency = solver.eigenvalues()(n);
    VectorXcd v = solver.eigenvectors().col(n);
    if (std::abs(frequency) < 1e-9 * static_cast<double>(d_state)) {
      // A double eigenvalue 0: of its plane, the vector whose conjugate is the other one.
      frequency = 0;
      v.setZero();
      v(0) = std::numbers::sqrt2 / 2;
      v(1) = Complex(0, std::numbers::sqrt2 / 2);
    }
    Complex b = v.dot(h.B.cast<Complex>());  // the dot product conjugates v
    if (std::abs(b) > 1e-9) {
      v *= b / std::abs(b);
      b = std::abs(b);
    }
    put(out.A, n, {decay, frequency});
    put(out.B, n, b);
    for (std::int64_t r = 0; r < h.P.cols(); ++r) {
      put(out.P, r * N + n, v.dot(h.P.col(r).cast<Complex>()));
    }
  }
  return out;
}

}  // namespace adder
