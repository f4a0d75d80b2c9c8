#include "models/s4_init.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>
#include <utility>
#include <vector>

#include "engine/random.h"

namespace adder {
namespace {

using Complex = std::complex<double>;

void put(const Tensor& tensor, std::int64_t at, Complex value) {
  tensor.data<double>()[2 * at] = value.real();
  tensor.data<double>()[2 * at + 1] = value.imag();
}
Complex get(const Tensor& tensor, std::int64_t at) {
  return {tensor.data<double>()[2 * at], tensor.data<double>()[2 * at + 1]};
}

void check(const S4InitOptions& o) {
  if (o.d_state < 2 || o.d_state % 2 != 0) {
    throw ConfigError(str("s4_init: d_state is ", o.d_state,
                          ", expected an even number: modes come in conjugate pairs"));
  }
  if (o.copies < 1 || o.rank < 1) {
    throw ConfigError(
        str("s4_init: ", o.copies, " copies and rank ", o.rank, ", expected at least 1 each"));
  }
  if (!(o.real_scale >= 0) || !(o.imag_scale >= 0) || !std::isfinite(o.B_scale) ||
      !std::isfinite(o.P_scale)) {
    throw ConfigError(str("s4_init: scales ", o.real_scale, ", ", o.imag_scale, ", ", o.B_scale,
                          ", ", o.P_scale,
                          " of real part, imaginary part, B and P; expected "
                          "finite numbers, the first two not negative"));
  }
}

// Random numbers of one part of the initial values.
class Draws {
 public:
  Draws(const S4InitOptions& options, std::uint64_t part) : seed_(options.seed), part_(part) {}
  std::vector<double> uniform(std::int64_t count) { return draw(count, false); }
  std::vector<double> normal(std::int64_t count) { return draw(count, true); }

 private:
  std::vector<double> draw(std::int64_t count, bool normal) {
    const Tensor values = Tensor::empty({count}, Dtype::f64);
    const std::uint64_t stream = part_ * 8 + next_++;
    if (normal) {
      fill_normal(values, 0, 1, seed_, stream);
    } else {
      fill_uniform(values, 0, 1, seed_, stream);
    }
    return values.to_vector();
  }
  std::uint64_t seed_, part_;
  std::uint64_t next_ = 0;
};

// The imaginary part of -A from the number (or draw) n of a mode.
double imaginary_part(const std::string& name, double n, double M) {
  constexpr double kPi = std::numbers::pi;
  if (name == "lin") return kPi * n;
  if (name == "inv") return M / kPi * (M / (2 * n + 1) - 1);
  if (name == "inv2") return M / kPi * (M / (n + 1) - 1);
  if (name == "quad") return (1 + 2 * n) * (1 + 2 * n) / kPi;
  throw ConfigError(str("s4_init: \"", name,
                        "\" is not a diagonal initialisation; expected lin, "
                        "inv, inv2, quad, legs, real or random"));
}

Complex input_weight(const std::string& name, std::int64_t n, double M, Complex draw) {
  if (name == "constant") return 1;
  if (name == "random") return draw;
  if (name == "alternating") return n % 2 == 0 ? 1 : -1;
  const double angle = 2 * std::numbers::pi / M * static_cast<double>(n);
  if (name == "unit-cw") return std::polar(1.0, -angle);
  if (name == "unit-ccw") return std::polar(1.0, angle);
  throw ConfigError(str("s4_init: B_init is \"", name,
                        "\", expected constant, random, alternating, unit-cw or unit-ccw"));
}

// A standard complex normal number: variance 1/2 for each part.
Complex complex_normal(const std::vector<double>& draws, std::int64_t at) {
  const auto i = static_cast<std::size_t>(2 * at);
  return std::numbers::sqrt2 / 2 * Complex(draws[i], draws[i + 1]);
}

// Copies [first, first + count) of one direct initialisation.
void fill_direct(const S4InitOptions& o, std::string name, bool low_rank, std::int64_t first,
                 std::int64_t count, const S4Init& out) {
  if (name == "hippo") name = "legs";
  if (name == "rand") name = "random";
  const std::int64_t N = o.d_state / 2;
  const auto M = static_cast<double>(o.d_state);
  Draws draws(o, static_cast<std::uint64_t>(first));
  const std::vector<double> real = draws.uniform(count * N);
  const std::vector<double> imag = draws.uniform(count * N);
  const std::vector<double> log_imag = draws.normal(count * N);
  const std::vector<double> b = draws.normal(2 * count * N);
  const std::vector<double> p = draws.normal(2 * o.rank * count * N);
  S4Nplr legs;
  if (name == "legs") legs = s4_nplr(HippoMeasure::legs, o.d_state, 1);
  for (std::int64_t s = 0; s < count; ++s) {
    double size = 0;
    for (std::int64_t n = 0; n < N; ++n) {
      const auto i = static_cast<std::size_t>(s * N + n);
      double decay = o.real_random ? real[i] : 0.5;
      double frequency = o.imag_random ? M / 2 * imag[i] : static_cast<double>(n);
      if (name == "legs") {
        frequency = -get(legs.A, n).imag();
      } else if (name == "random") {
        frequency = std::exp(log_imag[i]);
      } else if (name == "real") {
        frequency = 0;
        decay = o.real_random ? M / 2 * real[i] : static_cast<double>(n + 1);
      } else {
        frequency = imaginary_part(name, frequency, M);
      }
      const Complex A(-o.real_scale * decay, -o.imag_scale * frequency);
      const Complex B = name == "legs" ? get(legs.B, n)
                                       : input_weight(o.B_init, n, M, complex_normal(b, s * N + n));
      put(out.A, (first + s) * N + n, A);
      put(out.B, (first + s) * N + n, o.B_scale * B);
      size += 2 * std::norm(o.B_scale * B / A);
      for (std::int64_t r = 0; low_rank && r < o.rank; ++r) {
        put(out.P, (r * o.copies + first + s) * N + n,
            o.P_scale * complex_normal(p, (r * count + s) * N + n));
      }
    }
    for (std::int64_t n = 0; o.normalize && n < N; ++n) {
      const std::int64_t at = (first + s) * N + n;
      put(out.B, at, get(out.B, at) / std::sqrt(size));
    }
  }
}

void fill_hippo(const S4InitOptions& o, HippoMeasure measure, std::int64_t first,
                std::int64_t count, const S4Init& out) {
  const std::int64_t N = o.d_state / 2;
  const S4Nplr nplr = s4_nplr(measure, o.d_state, o.rank);
  for (std::int64_t s = first; s < first + count; ++s) {
    for (std::int64_t n = 0; n < N; ++n) {
      put(out.A, s * N + n, get(nplr.A, n));
      put(out.B, s * N + n, get(nplr.B, n));
      for (std::int64_t r = 0; r < o.rank; ++r) {
        put(out.P, (r * o.copies + s) * N + n, get(nplr.P, r * N + n));
      }
    }
  }
}

}  // namespace

S4Init s4_init(const S4InitOptions& o) {
  check(o);
  const std::int64_t N = o.d_state / 2;
  const S4Init out{Tensor::zeros({o.copies, N, 2}, Dtype::f64),
                   Tensor::zeros({o.copies, N, 2}, Dtype::f64),
                   Tensor::zeros({o.rank, o.copies, N, 2}, Dtype::f64)};
  std::vector<std::string> parts = {o.init};
  if (o.init == "hippo") parts = {"legs", "fourier"};
  if (o.init == "diag") parts = {"diag-inv", "diag-lin"};
  if (o.init == "all") parts = {"legs", "fourier", "diag-inv", "diag-lin"};
  const auto kinds = static_cast<std::int64_t>(parts.size());
  if (o.copies % kinds != 0) {
    throw ConfigError(str("s4_init: ", o.copies, " copies cannot be shared equally by the ", kinds,
                          " parts of \"", o.init, "\""));
  }
  const std::int64_t count = o.copies / kinds;
  for (std::int64_t i = 0; i < kinds; ++i) {
    const std::string& part = parts[static_cast<std::size_t>(i)];
    if (part == "legs") {
      fill_hippo(o, HippoMeasure::legs, i * count, count, out);
    } else if (part == "legt") {
      fill_hippo(o, HippoMeasure::legt, i * count, count, out);
    } else if (part == "fourier" || part == "fout") {
      fill_hippo(o, HippoMeasure::fourier, i * count, count, out);
    } else if (part == "dplr") {
      fill_direct(o, "legs", true, i * count, count, out);
    } else if (part.starts_with("diag-") || part.starts_with("dplr-")) {
      fill_direct(o, part.substr(5), part.starts_with("dplr-"), i * count, count, out);
    } else {
      throw ConfigError(str("s4_init: \"", part,
                            "\" is not an initialisation; expected legs, legt, "
                            "fourier, diag-X, dplr-X, hippo, diag or all"));
    }
  }
  return out;
}

double s4_inverse_transform(S4Transform transform, double value) {
  value = std::max(value, 1e-4);
  switch (transform) {
    case S4Transform::exp:
      return std::log(value);
    case S4Transform::relu:
      return value;
    case S4Transform::sigmoid:
      return std::log(value / (1 - value));
    case S4Transform::softplus:
      return value > 20 ? value : std::log(std::expm1(value));
    case S4Transform::none:
      return value;
  }
  return value;
}

S4StateParameters s4_state_parameters(const S4Init& init, const S4Options& options, Dtype dtype) {
  const Shape shape{init.A.dim(0), init.A.dim(1)};
  const Tensor real = Tensor::empty(shape, Dtype::f64);
  const Tensor imag = Tensor::empty(shape, Dtype::f64);
  for (std::int64_t i = 0; i < real.numel(); ++i) {
    const Complex A = get(init.A, i);
    real.data<double>()[i] = s4_inverse_transform(options.real, -A.real());
    imag.data<double>()[i] = s4_inverse_transform(options.imag, -A.imag());
  }
  return {real.to(dtype), imag.to(dtype), init.B.to(dtype), init.P.to(dtype)};
}

}  // namespace adder
