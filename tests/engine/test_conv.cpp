// The causal convolution with SiLU against its definition and against finite differences.
#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <random>
#include <vector>

#include "engine/cpu/parallel.h"
#include "engine/kernels/conv.h"

namespace adder {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
using Values = std::vector<double>;

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

double distance(const Values& a, const Values& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference) / (norm > 0 ? std::sqrt(norm) : 1.0);
}

// Poisoned with NaN; where strided, the middle of a wider tensor of NaN.
Tensor poisoned(const Shape& shape, Dtype dtype, bool strided = false) {
  if (!strided) return Tensor::full(shape, kNaN, dtype);
  Shape wide = shape;
  wide[shape.rank() - 1] += 5;
  return Tensor::full(wide, kNaN, dtype).slice(-1, 3, 3 + shape[shape.rank() - 1]);
}

struct Problem {
  Problem(std::int64_t b, std::int64_t l, std::int64_t d, std::int64_t k, bool bias, bool strided,
          Dtype dtype)
      : rng(11) {
    fwd.x = random({b, l, d}, dtype, strided);
    fwd.weight = random({d, k}, dtype, false);
    if (bias) fwd.bias = random({d}, dtype, false);
    fwd.y = poisoned({b, l, d}, dtype, strided);
    bwd.x = fwd.x, bwd.weight = fwd.weight, bwd.bias = fwd.bias;
    bwd.dy = random({b, l, d}, dtype, strided);
    bwd.dx = poisoned({b, l, d}, dtype, strided);
    bwd.dweight = poisoned({d, k}, dtype);
    bwd.dbias = poisoned({d}, dtype);
  }

  Tensor random(const Shape& shape, Dtype dtype, bool strided) {
    Values values(at(shape.numel()));
    std::uniform_real_distribution<double> draw(-2, 2);
    for (double& value : values) value = draw(rng);
    const Tensor tensor = poisoned(shape, dtype, strided);
    tensor.copy_from(Tensor::from(shape, values));
    return tensor;
  }

  std::mt19937 rng;
  CausalConvFwdArgs fwd;
  CausalConvBwdArgs bwd;
};

struct Reference {
  explicit Reference(const Problem& p) {
    const std::int64_t batch = p.fwd.x.dim(0), length = p.fwd.x.dim(1), channels = p.fwd.x.dim(2);
    const std::int64_t taps = p.fwd.weight.dim(1);
    const Values x = p.fwd.x.to_vector(), w = p.fwd.weight.to_vector(), dy = p.bwd.dy.to_vector();
    const Values bias = p.fwd.bias.defined() ? p.fwd.bias.to_vector() : Values(at(channels), 0.0);
    y = dx = Values(x.size(), 0.0);
    dweight = Values(w.size(), 0.0);
    dbias = Values(at(channels), 0.0);
    const auto row = [&](std::int64_t b, std::int64_t t, std::int64_t d) {
      return at((b * length + t) * channels + d);
    };
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t t = 0; t < length; ++t) {
        for (std::int64_t d = 0; d < channels; ++d) {
          double c = bias[at(d)];
          for (std::int64_t k = std::max<std::int64_t>(0, taps - 1 - t); k < taps; ++k) {
            c += w[at(d * taps + k)] * x[row(b, t - taps + 1 + k, d)];
          }
          const double s = 1 / (1 + std::exp(-c));
          y[row(b, t, d)] = c * s;
          const double dc = dy[row(b, t, d)] * s * (1 + c * (1 - s));
          dbias[at(d)] += dc;
          for (std::int64_t k = std::max<std::int64_t>(0, taps - 1 - t); k < taps; ++k) {
            dweight[at(d * taps + k)] += dc * x[row(b, t - taps + 1 + k, d)];
            dx[row(b, t - taps + 1 + k, d)] += dc * w[at(d * taps + k)];
          }
        }
      }
    }
  }
  Values y, dx, dweight, dbias;
};

void check_case(const Problem& p) {
  const bool exact = p.fwd.x.dtype() == Dtype::f64;
  const Reference r(p);
  kernel::causal_conv_silu_fwd({}, p.fwd);
  CHECK(distance(p.fwd.y.to_vector(), r.y) <= (exact ? 1e-13 : 1e-6));
  kernel::causal_conv_silu_bwd({}, p.bwd);
  CHECK(distance(p.bwd.dx.to_vector(), r.dx) <= (exact ? 1e-12 : 1e-5));
  CHECK(distance(p.bwd.dweight.to_vector(), r.dweight) <= (exact ? 1e-12 : 1e-5));
  CHECK(distance(p.bwd.dbias.to_vector(), r.dbias) <= (exact ? 1e-12 : 1e-5));
}

}  // namespace

TEST_CASE("causal_conv: equals the definition at all edge shapes") {
  unsigned variant = 0;
  for (const std::int64_t l : {1, 2, 3, 4, 31, 32, 33, 67}) {
    for (const std::int64_t d : {1, 3, 16, 17, 40}) {
      for (const std::int64_t k : {1, 2, 4, 7}) {
        ++variant;
        CAPTURE(l);
        CAPTURE(d);
        CAPTURE(k);
        for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
          check_case(
              Problem(1 + d % 3, l, d, k, (variant & 1) != 0, (variant / 2 & 1) != 0, dtype));
        }
      }
    }
  }
}

TEST_CASE("causal_conv: gradients equal central differences in float64") {
  const Problem p(2, 35, 3, 4, true, false, Dtype::f64);
  kernel::causal_conv_silu_bwd({}, p.bwd);
  const Values weight = p.bwd.dy.to_vector();
  const auto loss = [&] {
    kernel::causal_conv_silu_fwd({}, p.fwd);
    const Values y = p.fwd.y.to_vector();
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * weight[i];
    return sum;
  };
  const std::vector<std::pair<Tensor, Tensor>> pairs{
      {p.fwd.x, p.bwd.dx}, {p.fwd.weight, p.bwd.dweight}, {p.fwd.bias, p.bwd.dbias}};
  for (const auto& [input, grad] : pairs) {
    double* x = input.data<double>();
    Values estimate;
    for (std::int64_t i = 0; i < input.numel(); ++i) {
      const double kept = x[i];
      constexpr double kStep = 2e-5;
      x[i] = kept + kStep;
      const double above = loss();
      x[i] = kept - kStep;
      const double below = loss();
      x[i] = kept;
      estimate.push_back((above - below) / (2 * kStep));
    }
    CHECK(distance(grad.to_vector(), estimate) <= 1e-7);
  }
}

TEST_CASE("causal_conv: the single step continues the sequence") {
  for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
    for (const std::int64_t k : {1, 4}) {
      const Problem p(2, 9, 17, k, true, true, dtype);
      const Reference r(p);
      const Tensor window = Tensor::zeros({2, k, 17}, dtype);
      const Tensor y = poisoned({2, 9, 17}, dtype);
      for (std::int64_t t = 0; t < 9; ++t) {
        kernel::causal_conv_silu_step(
            {}, {p.fwd.x.select(1, t), p.fwd.weight, p.fwd.bias, window, y.select(1, t)});
      }
      CHECK(distance(y.to_vector(), r.y) <= (dtype == Dtype::f64 ? 1e-13 : 1e-6));
      CHECK(window.to_vector() == p.fwd.x.slice(1, 9 - k, 9).to_vector());
    }
  }
}

TEST_CASE("causal_conv: frozen parameters, threads and empty inputs") {
  const Problem p(2, 67, 40, 4, true, false, Dtype::f32);
  kernel::causal_conv_silu_bwd({}, p.bwd);
  for (const int threads : {1, 2, 3}) {
    cpu::set_num_threads(threads);
    CausalConvBwdArgs frozen = p.bwd;
    frozen.dweight = frozen.dbias = Tensor();
    frozen.dx = poisoned(p.fwd.x.shape(), Dtype::f32);
    kernel::causal_conv_silu_bwd({}, frozen);
    CHECK(frozen.dx.to_vector() == p.bwd.dx.to_vector());
    CausalConvBwdArgs only = p.bwd;
    only.dx = Tensor();
    only.dweight = poisoned({40, 4}, Dtype::f32);
    kernel::causal_conv_silu_bwd({}, only);
    CHECK(only.dweight.to_vector() == p.bwd.dweight.to_vector());
  }
  cpu::set_num_threads(0);
  const Problem none(2, 0, 3, 4, true, false, Dtype::f32);
  kernel::causal_conv_silu_fwd({}, none.fwd);
  kernel::causal_conv_silu_bwd({}, none.bwd);
  CHECK(none.bwd.dweight.to_vector() == Values(12, 0.0));
  CHECK(none.bwd.dbias.to_vector() == Values(3, 0.0));
}

TEST_CASE("causal_conv: misfits are named with both shapes") {
  const Problem p(2, 5, 3, 4, true, false, Dtype::f32);
  CausalConvFwdArgs bad = p.fwd;
  bad.weight = Tensor::zeros({4, 4});
  CHECK_THROWS_WITH_AS(kernel::causal_conv_silu_fwd({}, bad),
                       "causal_conv_silu_fwd: weight is [4, 4], expected [3, 4]", ShapeError);
  bad = p.fwd;
  bad.y = Tensor::zeros({2, 5, 3}, Dtype::f64);
  CHECK_THROWS_AS(kernel::causal_conv_silu_fwd({}, bad), DtypeError);
}

}  // namespace adder
