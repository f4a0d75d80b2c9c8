// The discretisation of one mode of a diagonal state space model and its derivative, in float64,
// for the kernels of the host and of the device, and for what prepares them.
#pragma once

#include <cmath>
#include <cstdint>

#include "engine/dtype.h"
#include "engine/kernels/s4.h"

namespace adder::s4 {

// std::complex is not for device code, and its product looks for infinities.
struct Cx {
  double re = 0, im = 0;
};
ADDER_HOST_DEVICE inline Cx operator+(Cx a, Cx b) {
  return {a.re + b.re, a.im + b.im};
}
ADDER_HOST_DEVICE inline Cx operator-(Cx a, Cx b) {
  return {a.re - b.re, a.im - b.im};
}
ADDER_HOST_DEVICE inline Cx operator*(Cx a, Cx b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
ADDER_HOST_DEVICE inline Cx operator*(double s, Cx a) {
  return {s * a.re, s * a.im};
}
ADDER_HOST_DEVICE inline Cx conj(Cx a) {
  return {a.re, -a.im};
}
ADDER_HOST_DEVICE inline double norm(Cx a) {
  return a.re * a.re + a.im * a.im;
}
ADDER_HOST_DEVICE inline Cx operator/(Cx a, Cx b) {
  const double scale = 1.0 / norm(b);
  return scale * (a * conj(b));
}
// (cos x, sin x), the phase reduced in float64. On the device by way of half turns, whose reduction
// needs no memory, at a cost of 2e-16 |x|.
ADDER_HOST_DEVICE inline Cx unit(double x) {
#ifdef __CUDA_ARCH__
  Cx value;
  ::sincospi(0.31830988618379067 * x, &value.im, &value.re);
  return value;
#else
  return {std::cos(x), std::sin(x)};
#endif
}
ADDER_HOST_DEVICE inline Cx exp(Cx z) {
  return std::exp(z.re) * unit(z.im);
}
// e^z - 1 without the cancellation near 0, from half the angle: cos y = 1 - 2 sin^2(y/2).
ADDER_HOST_DEVICE inline Cx expm1(Cx z) {
  const Cx half = unit(0.5 * z.im);
  const double radius = std::expm1(z.re);
  const double versine = 2.0 * half.im * half.im;
  return {radius * (1.0 - versine) - versine, (radius + 1.0) * (2.0 * half.im * half.re)};
}
// (e^z - 1) / z from z and p = e^z - 1.
ADDER_HOST_DEVICE inline Cx phi1(Cx z, Cx p) {
  return norm(z) < 1e-16 ? Cx{1.0 + 0.5 * z.re, 0.5 * z.im} : p / z;
}
// (k + 1) / (k + 2)!
struct Phi1SlopeSeries {
  static constexpr int kTerms = 16;  // enough for |z| <= 1/2
  double term[kTerms] = {};
  constexpr Phi1SlopeSeries() {
    double factorial = 2;
    for (int k = 0; k < kTerms; ++k) {
      term[k] = (k + 1) / factorial;
      factorial *= k + 3;
    }
  }
};
// The derivative of phi1 by z: sum of z^k (k + 1) / (k + 2)!, which the closed form cancels near 0.
ADDER_HOST_DEVICE inline Cx phi1_slope(Cx z, Cx p) {
  if (norm(z) < 0.25) {
    // Clenshaw's recurrence: with real coefficients, real numbers do up to the last step.
    constexpr Phi1SlopeSeries kSeries;
    const double twice = 2.0 * z.re;
    const double square = norm(z);
    double now = kSeries.term[Phi1SlopeSeries::kTerms - 1];
    double before = 0;
    for (int k = Phi1SlopeSeries::kTerms - 2; k >= 1; --k) {
      const double next = (kSeries.term[k] - square * before) + twice * now;
      before = now;
      now = next;
    }
    return {kSeries.term[0] + z.re * now - square * before, z.im * now};
  }
  return (p + Cx{1, 0} - phi1(z, p)) / z;
}

ADDER_HOST_DEVICE inline double transform(S4Transform kind, double x) {
  switch (kind) {
    case S4Transform::exp:
      return std::exp(x);
    case S4Transform::relu:
      return (x > 0 ? x : 0) + 1e-4;
    case S4Transform::sigmoid:
      return 1.0 / (1.0 + std::exp(-x));
    case S4Transform::softplus:
      return x > 20 ? x : std::log1p(std::exp(x));
    default:
      return x;
  }
}
ADDER_HOST_DEVICE inline double transform_slope(S4Transform kind, double x) {
  switch (kind) {
    case S4Transform::exp:
      return std::exp(x);
    case S4Transform::relu:
      return x > 0 ? 1 : 0;
    case S4Transform::sigmoid: {
      const double s = 1.0 / (1.0 + std::exp(-x));
      return s * (1 - s);
    }
    case S4Transform::softplus:
      return x > 20 ? 1.0 : 1.0 / (1.0 + std::exp(-x));
    default:
      return 1;
  }
}

// dt includes the rate, which the band's limit does not know of.
ADDER_HOST_DEVICE inline bool beyond_band(const S4Options& options, Cx A, double dt) {
  constexpr double kPi = 3.14159265358979323846;
  return options.bandlimit > 0 && dt / options.rate * std::fabs(A.im) >= kPi * options.bandlimit;
}

// What x_t = q x_{t-1} + phi B u_t needs of one mode.
struct Mode {
  Cx log_q;
  Cx p;  // q - 1
  Cx phi;
};

// Mode A with step dt. dss has no recurrence, and phi holds the half that makes up for the 2 in
// K_l = 2 Re(...), which dss does not have.
ADDER_HOST_DEVICE inline Mode discretize(S4Method method, Cx A, double dt, double length) {
  const Cx a = dt * A;
  if (method == S4Method::bilinear) {
    const Cx below{1.0 - 0.5 * a.re, -0.5 * a.im};
    double rate = 0.5 * std::log1p(2.0 * a.re / norm(below));
    if (rate < -1e3) rate = -1e3;  // q = 0: e^(0 rate) must still be 1
    return {{rate, std::atan2(a.im, 1.0 - 0.25 * norm(a))}, a / below, Cx{dt, 0} / below};
  }
  const Cx p = expm1(a);
  if (method == S4Method::zoh) return {a, p, dt * phi1(a, p)};
  const Cx x = expm1(length * a) * A;
  return {a, p, (0.5 / (norm(x) + 1e-7)) * (p * conj(x))};
}

// Derivatives are of a real loss and in the form dL = Re(g dz) for a complex z: products of
// complex derivatives are then plain products. A tensor of (re, im) pairs holds conj(g).
struct ModeGradient {
  Cx A;
  double dt = 0;
};

ADDER_HOST_DEVICE inline ModeGradient discretize_gradient(S4Method method, Cx A, double dt,
                                                          double length, Cx g_log_q, Cx g_p,
                                                          Cx g_phi) {
  const Cx a = dt * A;
  Cx g_a;            // of a = dt A, beside which phi has its own dependence on dt and A
  ModeGradient own;  // that dependence
  if (method == S4Method::bilinear) {
    const Cx below{1.0 - 0.5 * a.re, -0.5 * a.im};
    const Cx above{1.0 + 0.5 * a.re, 0.5 * a.im};
    const Cx inverse = Cx{1, 0} / below;
    g_a = g_log_q / (below * above) + (g_p + (0.5 * dt) * g_phi) * inverse * inverse;
    own.dt = (g_phi * inverse).re;
  } else {
    const Cx p = expm1(a);
    const Cx q = p + Cx{1, 0};
    g_a = g_log_q + g_p * q;
    if (method == S4Method::zoh) {
      g_a = g_a + dt * (g_phi * phi1_slope(a, p));
      own.dt = (g_phi * phi1(a, p)).re;
    } else {
      // phi = (q - 1) conj(x) / (2 m), m = |x|^2 + 1e-7, x = (q^length - 1) A.
      const Cx decayed = expm1(length * a);
      const Cx x = decayed * A;
      const double m = norm(x) + 1e-7;
      g_a = g_a + (0.5 / m) * (g_phi * q * conj(x));
      const Cx g = 0.5 * (g_phi * p);
      const Cx g_x = (-1.0 / (m * m)) * (g * conj(x) * conj(x)) + (1e-7 / (m * m)) * conj(g);
      g_a = g_a + length * (g_x * A * (decayed + Cx{1, 0}));
      own.A = g_x * decayed;
    }
  }
  return {dt * g_a + own.A, (g_a * A).re + own.dt};
}

}  // namespace adder::s4
