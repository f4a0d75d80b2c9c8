// What the rules of SDT_S4 rank channels and states by.
#include <cmath>
#include <complex>
#include <numbers>

#include "engine/error.h"
#include "engine/random.h"
#include "peft/sdt_s4_selection.h"

namespace adder {
namespace {

std::vector<double> values_of(const Tensor& tensor) {
  return tensor.defined() ? tensor.to_vector() : std::vector<double>{};
}

// A layer's values on the host.
struct Values {
  explicit Values(const S4Tensors& tensors)
      : log_dt(values_of(tensors.log_dt)),
        log_A_real(values_of(tensors.log_A_real)),
        A_imag(values_of(tensors.A_imag)),
        C(values_of(tensors.C)),
        B(values_of(tensors.B)) {}

  // The Euclidean norm over the kernels of what `magnitude` makes of C at entry i of (H, N).
  template <typename Magnitude>
  double over_kernels(std::size_t i, const Magnitude& magnitude) const {
    double norm = 0;
    for (std::size_t at = 2 * i; at < C.size(); at += 2 * A_imag.size()) {
      norm = std::hypot(norm, static_cast<double>(magnitude(C[at], C[at + 1])));
    }
    return norm;
  }
  std::complex<double> B_at(std::size_t i) const { return {B[2 * i], B[2 * i + 1]}; }
  double B_magnitude(std::size_t i) const {
    return B.empty() ? 1 : std::hypot(B[2 * i], B[2 * i + 1]);
  }

  std::vector<double> log_dt, log_A_real, A_imag, C, B;
};

S4Scores scores_for(const Tensor& states) {
  S4Scores scores;
  scores.channels = states.dim(0);
  scores.states = states.dim(1);
  for (std::vector<double>* of_channels : {&scores.select_channels, &scores.update_channels}) {
    of_channels->resize(static_cast<std::size_t>(scores.channels));
  }
  for (std::vector<double>* of_states : {&scores.select_states, &scores.update_states}) {
    of_states->resize(static_cast<std::size_t>(scores.channels * scores.states));
  }
  return scores;
}

// The norm over the states, in T's arithmetic.
template <typename T>
std::vector<double> norms(const std::vector<double>& states, std::int64_t channels) {
  const std::size_t count = states.size() / static_cast<std::size_t>(channels);
  std::vector<double> sums;
  for (std::size_t i = 0; i < states.size(); i += count) {
    T sum = 0;
    for (std::size_t n = 0; n < count; ++n) {
      const T value = static_cast<T>(states[i + n]);
      sum += value * value;
    }
    sums.push_back(std::sqrt(sum));
  }
  return sums;
}

// (exp(dt A) - 1) / A, also where A is 0 or so small that the difference would cancel.
std::complex<double> hold(std::complex<double> A, double dt) {
  const std::complex<double> a = dt * A;
  if (std::abs(a) < 1e-3) return dt * (1.0 + a / 2.0 * (1.0 + a / 3.0 * (1.0 + a / 4.0)));
  return (std::exp(a) - 1.0) / A;
}

// |b| and |q| of a mode with B = 1.
struct Magnitudes {
  double b = 0;
  double q = 0;
};
Magnitudes discretised(std::complex<double> A, double dt, S4Method method) {
  if (method == S4Method::zoh) return {std::abs(hold(A, dt)), std::exp(dt * A.real())};
  const std::complex<double> half = dt / 2 * A;
  return {dt / std::abs(1.0 - half), std::abs((1.0 + half) / (1.0 - half))};
}

// Whether the layer leaves a mode out for its frequency; see S4Options.
bool silenced(double A_imag, double dt, const S4Options& options) {
  return options.bandlimit > 0 && dt * std::abs(A_imag) / std::numbers::pi >= options.bandlimit;
}

template <typename T>
S4Scores compat_scores_in(const S4Tensors& now, const S4Tensors& before, std::int64_t power,
                          const S4Options& options) {
  S4Scores scores = scores_for(now.log_A_real);
  const Values v(now);
  const Values v0(before);
  for (std::size_t i = 0; i < v.A_imag.size(); ++i) {
    const T dt = std::exp(static_cast<T>(v.log_dt[i / static_cast<std::size_t>(scores.states)]));
    const T real = -std::exp(static_cast<T>(v.log_A_real[i]));
    const T alpha = real + static_cast<T>(options.imag_sign * v.A_imag[i]);
    const T factor = std::exp(alpha * dt);
    const T late = std::pow(factor, static_cast<T>(power));
    const auto part = [&](double c) { return static_cast<T>(c) * (factor - 1) / alpha * late; };
    scores.select_states[i] = v.over_kernels(i, [&](double re, double im) {
      if (v.B.empty()) return std::hypot(part(re), part(im));
      const std::complex<double> weight = std::complex<double>(re, im) * v.B_at(i);
      return std::hypot(part(weight.real()), part(weight.imag()));
    });
    if (silenced(v.A_imag[i], dt, options)) scores.select_states[i] = 0;
    const T sum = real - std::exp(static_cast<T>(v0.log_A_real[i]));
    const T difference = static_cast<T>(v.A_imag[i]) - static_cast<T>(v0.A_imag[i]);
    scores.update_states[i] = std::sqrt(sum * sum + difference * difference);
  }
  scores.select_channels = norms<T>(scores.select_states, scores.channels);
  scores.update_channels = norms<T>(scores.update_states, scores.channels);
  return scores;
}

double towards_zero(double value, double by) {
  return std::copysign(std::max(std::abs(value) - by, 0.0), value);
}

}  // namespace

S4Scores displacement_scores(const S4Tensors& now, const S4Tensors& before, std::int64_t power,
                             const S4Options& options) {
  S4Scores scores = scores_for(now.log_A_real);
  const Values v(now);
  const Values v0(before);
  for (std::size_t i = 0; i < v.A_imag.size(); ++i) {
    const double dt = std::exp(v.log_dt[i / static_cast<std::size_t>(scores.states)]);
    const std::complex<double> A(-std::exp(v.log_A_real[i]), v.A_imag[i]);
    const std::complex<double> A0(-std::exp(v0.log_A_real[i]), v0.A_imag[i]);
    const Magnitudes of_mode = discretised(A, dt, options.method);
    const double strength =
        v.over_kernels(i, [](double re, double im) { return std::hypot(re, im); });
    scores.select_states[i] =
        strength * v.B_magnitude(i) * of_mode.b * std::pow(of_mode.q, static_cast<double>(power));
    if (silenced(v.A_imag[i], dt, options)) scores.select_states[i] = 0;
    scores.update_states[i] = std::abs(A - A0);
  }
  scores.select_channels = norms<double>(scores.select_states, scores.channels);
  scores.update_channels = norms<double>(scores.update_states, scores.channels);
  return scores;
}

S4Scores compat_scores(const S4Tensors& now, const S4Tensors& before, std::int64_t power,
                       const S4Options& options) {
  return now.C.dtype() == Dtype::f64 ? compat_scores_in<double>(now, before, power, options)
                                     : compat_scores_in<float>(now, before, power, options);
}

S4Scores gradient_scores(const S4Tensors& gradients, const Tensor& output) {
  S4Scores scores = scores_for(gradients.log_A_real);
  const Values g(gradients);
  const std::vector<double> weight = output.defined() ? output.to_vector() : std::vector<double>{};
  const auto H = static_cast<std::size_t>(scores.channels);
  const auto N = static_cast<std::size_t>(scores.states);
  for (std::size_t h = 0; h < H; ++h) {
    double sum = 0;
    for (std::size_t i = h * N; i < (h + 1) * N; ++i) {
      double squares = g.log_A_real[i] * g.log_A_real[i] + g.A_imag[i] * g.A_imag[i];
      for (std::size_t at = 2 * i; at < g.C.size(); at += 2 * H * N) {
        squares += g.C[at] * g.C[at] + g.C[at + 1] * g.C[at + 1];
      }
      scores.update_states[i] = std::sqrt(squares);
      sum += squares;
    }
    // Rows hold a multiple of H values, so every H-th one from h on.
    for (std::size_t at = h; at < weight.size(); at += H) sum += weight[at] * weight[at];
    scores.update_channels[h] = std::sqrt(sum);
  }
  scores.select_states = scores.update_states;
  scores.select_channels = scores.update_channels;
  return scores;
}

S4Scores random_scores(std::int64_t channels, std::int64_t states, std::uint64_t seed,
                       std::uint64_t stream) {
  S4Scores scores;
  scores.channels = channels;
  scores.states = states;
  Random random(seed, stream);
  for (std::int64_t i = 0; i < channels; ++i) scores.select_channels.push_back(random.uniform());
  for (std::int64_t i = 0; i < channels * states; ++i) {
    scores.select_states.push_back(random.uniform());
  }
  scores.update_channels = scores.select_channels;
  scores.update_states = scores.select_states;
  return scores;
}

S4Scores soft_scores(const S4Tensors& now, const S4Tensors& before, double threshold) {
  S4Scores scores = scores_for(now.log_A_real);
  const Values v(now);
  const Values v0(before);
  for (std::size_t i = 0; i < v.A_imag.size(); ++i) {
    const double strength = v.over_kernels(i, [&](double re, double im) {
      return std::hypot(towards_zero(re, threshold), towards_zero(im, threshold));
    });
    scores.select_states[i] =
        strength * v.B_magnitude(i) * std::hypot(std::exp(v.log_A_real[i]), v.A_imag[i]);
    scores.update_states[i] =
        std::hypot(towards_zero(v.log_A_real[i] - v0.log_A_real[i], threshold),
                   towards_zero(v.A_imag[i] - v0.A_imag[i], threshold));
  }
  scores.select_channels = norms<double>(scores.select_states, scores.channels);
  scores.update_channels = norms<double>(scores.update_states, scores.channels);
  return scores;
}

}  // namespace adder
