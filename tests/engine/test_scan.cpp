// The selective scan against a straightforward double loop and against finite differences.
#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <random>
#include <vector>

#include "engine/cpu/parallel.h"
#include "engine/kernels/scan.h"

namespace adder {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
using Values = std::vector<double>;

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

// |a - b| / |b| over all elements; NaN when anything is NaN.
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
double distance(const Tensor& a, const Values& b) {
  return distance(a.to_vector(), b);
}

struct Case {
  std::int64_t b, l, d, n;
  bool z = true, bias = true, h0 = true, strided = false;
};

// A tensor full of NaN, or a slice of a wider one whose margins must stay untouched.
Tensor poisoned(const Shape& shape, Dtype dtype, bool strided) {
  if (!strided) return Tensor::full(shape, kNaN, dtype);
  Shape wide = shape;
  wide[shape.rank() - 1] += 5;
  return Tensor::full(wide, kNaN, dtype).slice(-1, 3, 3 + shape[shape.rank() - 1]);
}

struct Problem {
  Problem(const Case& c, Dtype dtype, std::uint32_t seed = 7) : extents(c), type(dtype), rng(seed) {
    const Shape bld{c.b, c.l, c.d};
    const Shape bln{c.b, c.l, c.n};
    const Shape bdn{c.b, c.d, c.n};
    fwd.u = random(bld, -1, 1, c.strided);
    fwd.dt = random(bld, -6, 3, c.strided);
    for (std::int64_t i = 0; i < c.b * c.l * c.d; i += 29) {  // beyond softplus' threshold
      poke(fwd.dt, i, 22 + static_cast<double>(i % 5));
    }
    fwd.A_log = random({c.d, c.n}, std::log(1e-3), std::log(16.0), false);
    fwd.B = random(bln, -1, 1, c.strided);
    fwd.C = random(bln, -1, 1, c.strided);
    fwd.D = random({c.d}, -1, 1, false);
    if (c.z) fwd.z = random(bld, -3, 3, c.strided);
    if (c.bias) fwd.dt_bias = random({c.d}, -1, 1, false);
    if (c.h0) fwd.h0 = random(bdn, -1, 1, false);
    fwd.out = poisoned(bld, dtype, c.strided);
    fwd.h_last = poisoned(bdn, dtype, false);
    fwd.checkpoints = poisoned({scan_checkpoint_numel(c.b, c.l, c.d, c.n)}, dtype, false);
    dout = random(bld, -1, 1, c.strided);
  }

  Tensor random(const Shape& shape, double low, double high, bool strided) {
    Tensor tensor = poisoned(shape, type, strided);
    std::uniform_real_distribution<double> draw(low, high);
    Values values(at(shape.numel()));
    for (double& value : values) value = draw(rng);
    tensor.copy_from(Tensor::from(shape, values));
    return tensor;
  }

  // Writes element i of the row-major order.
  static void poke(const Tensor& tensor, std::int64_t i, double value) {
    Tensor element = tensor;
    for (int axis = 0; axis < tensor.rank(); ++axis) {
      std::int64_t inner = 1;
      for (int k = axis + 1; k < tensor.rank(); ++k) inner *= tensor.dim(k);
      element = element.slice(axis, i / inner, i / inner + 1);
      i %= inner;
    }
    element.fill(value);
  }

  // Arguments of the backward pass with every gradient asked for and poisoned.
  SelectiveScanBwdArgs backward() const {
    const Case& c = extents;
    const Shape bld{c.b, c.l, c.d};
    const Shape bln{c.b, c.l, c.n};
    SelectiveScanBwdArgs a;
    a.u = fwd.u, a.dt = fwd.dt, a.A_log = fwd.A_log, a.B = fwd.B, a.C = fwd.C, a.D = fwd.D;
    a.z = fwd.z, a.dt_bias = fwd.dt_bias, a.checkpoints = fwd.checkpoints, a.dout = dout;
    a.du = poisoned(bld, type, c.strided);
    a.ddt = poisoned(bld, type, c.strided);
    a.dA_log = poisoned({c.d, c.n}, type, false);
    a.dB = poisoned(bln, type, c.strided);
    a.dC = poisoned(bln, type, c.strided);
    a.dD = poisoned({c.d}, type, false);
    if (c.z) a.dz = poisoned(bld, type, c.strided);
    a.ddt_bias = poisoned({c.d}, type, false);
    a.dh0 = poisoned({c.b, c.d, c.n}, type, false);
    return a;
  }

  Case extents;
  Dtype type;
  std::mt19937 rng;
  SelectiveScanFwdArgs fwd;
  Tensor dout;
};

// The definition, element by element, and its reverse sweep with every state kept.
struct Reference {
  explicit Reference(const Problem& p)
      : c(p.extents),
        u(p.fwd.u.to_vector()),
        dt(p.fwd.dt.to_vector()),
        A_log(p.fwd.A_log.to_vector()),
        B(p.fwd.B.to_vector()),
        C(p.fwd.C.to_vector()),
        D(p.fwd.D.to_vector()),
        dout(p.dout.to_vector()) {
    if (c.z) z = p.fwd.z.to_vector();
    bias = c.bias ? p.fwd.dt_bias.to_vector() : Values(at(c.d), 0.0);
    h0 = c.h0 ? p.fwd.h0.to_vector() : Values(at(c.b * c.d * c.n), 0.0);
    out = du = ddt = dz = Values(u.size(), 0.0);
    dB = dC = Values(B.size(), 0.0);
    dA = Values(A_log.size(), 0.0);
    dD = dbias = Values(D.size(), 0.0);
    h_last = dh0 = h0;
    for (std::int64_t b = 0; b < c.b; ++b) {
      for (std::int64_t d = 0; d < c.d; ++d) channel(b, d);
    }
  }

  void channel(std::int64_t b, std::int64_t d) {
    Values delta(at(c.l)), slope(at(c.l)), y(at(c.l)), d_delta(at(c.l)), dy(at(c.l));
    for (std::int64_t t = 0; t < c.l; ++t) {
      const auto i = at((b * c.l + t) * c.d + d);
      const double x = dt[i] + bias[at(d)];
      delta[at(t)] = x > 20 ? x : std::log1p(std::exp(x));
      slope[at(t)] = x > 20 ? 1 : 1 / (1 + std::exp(-x));
      const double s = c.z ? 1 / (1 + std::exp(-z[i])) : 1;
      dy[at(t)] = dout[i] * (c.z ? z[i] * s : 1);
      y[at(t)] = D[at(d)] * u[i];
      dD[at(d)] += dy[at(t)] * u[i];
      du[i] = dy[at(t)] * D[at(d)];
    }
    for (std::int64_t n = 0; n < c.n; ++n) {
      const double A = -std::exp(A_log[at(d * c.n + n)]);
      const auto state = at((b * c.d + d) * c.n + n);
      Values h(at(c.l + 1), h0[state]);
      for (std::int64_t t = 0; t < c.l; ++t) {
        const auto i = at((b * c.l + t) * c.d + d);
        const auto j = at((b * c.l + t) * c.n + n);
        h[at(t + 1)] = std::exp(delta[at(t)] * A) * h[at(t)] + delta[at(t)] * B[j] * u[i];
        y[at(t)] += C[j] * h[at(t + 1)];
      }
      h_last[state] = h.back();
      double carry = 0;
      for (std::int64_t t = c.l - 1; t >= 0; --t) {
        const auto i = at((b * c.l + t) * c.d + d);
        const auto j = at((b * c.l + t) * c.n + n);
        const double decay = std::exp(delta[at(t)] * A);
        const double dh = C[j] * dy[at(t)] + carry;
        dC[j] += dy[at(t)] * h[at(t + 1)];
        dB[j] += dh * delta[at(t)] * u[i];
        du[i] += dh * delta[at(t)] * B[j];
        d_delta[at(t)] += dh * (B[j] * u[i] + decay * A * h[at(t)]);
        dA[at(d * c.n + n)] += dh * decay * delta[at(t)] * h[at(t)] * A;
        carry = decay * dh;
      }
      dh0[state] = carry;
    }
    for (std::int64_t t = 0; t < c.l; ++t) {
      const auto i = at((b * c.l + t) * c.d + d);
      const double s = c.z ? 1 / (1 + std::exp(-z[i])) : 1;
      out[i] = y[at(t)] * (c.z ? z[i] * s : 1);
      if (c.z) dz[i] = dout[i] * y[at(t)] * s * (1 + z[i] * (1 - s));
      ddt[i] = d_delta[at(t)] * slope[at(t)];
      dbias[at(d)] += ddt[i];
    }
  }

  Case c;
  Values u, dt, A_log, B, C, D, dout, z, bias, h0;
  Values out, h_last, du, ddt, dA, dB, dC, dD, dz, dbias, dh0;
};

// The margins of a slice of a wider tensor must still be NaN.
void check_margins(const Tensor& view) {
  if (view.rank() < 2 || view.is_contiguous()) return;
  const std::int64_t rows = view.numel() / view.dim(-1);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t offset =
        row / view.dim(1) * view.stride(0) + row % view.dim(1) * view.stride(1);
    for (const std::int64_t i : {std::int64_t{-1}, view.dim(-1)}) {
      const double value = view.dtype() == Dtype::f64
                               ? view.data<double>()[offset + i]
                               : static_cast<double>(view.data<float>()[offset + i]);
      REQUIRE(std::isnan(value));
    }
  }
}

void check_case(const Case& c, Dtype dtype) {
  CAPTURE(c.b);
  CAPTURE(c.l);
  CAPTURE(c.d);
  CAPTURE(c.n);
  CAPTURE(c.z);
  CAPTURE(c.strided);
  const Problem p(c, dtype);
  const Reference r(p);
  const double forward = dtype == Dtype::f64 ? 1e-12 : 2e-6;
  const double gradient = dtype == Dtype::f64 ? 1e-12 : 1e-5;
  kernel::selective_scan_fwd({}, p.fwd);
  CHECK(distance(p.fwd.out, r.out) <= forward);
  CHECK(distance(p.fwd.h_last, r.h_last) <= forward);
  check_margins(p.fwd.out);
  const SelectiveScanBwdArgs a = p.backward();
  kernel::selective_scan_bwd({}, a);
  CHECK(distance(a.du, r.du) <= gradient);
  CHECK(distance(a.ddt, r.ddt) <= gradient);
  CHECK(distance(a.dA_log, r.dA) <= gradient);
  CHECK(distance(a.dB, r.dB) <= gradient);
  CHECK(distance(a.dC, r.dC) <= gradient);
  CHECK(distance(a.dD, r.dD) <= gradient);
  if (c.z) CHECK(distance(a.dz, r.dz) <= gradient);
  CHECK(distance(a.ddt_bias, r.dbias) <= gradient);
  CHECK(distance(a.dh0, r.dh0) <= gradient);
  for (const Tensor* t : {&a.du, &a.ddt, &a.dB, &a.dC}) check_margins(*t);
}

std::vector<Tensor> gradients(const SelectiveScanBwdArgs& a) {
  return {a.du, a.ddt, a.dA_log, a.dB, a.dC, a.dD, a.dz, a.ddt_bias, a.dh0};
}

}  // namespace

TEST_CASE("selective_scan: equals the definition at all edge shapes") {
  unsigned variant = 0;
  for (const std::int64_t l : {1, 2, 31, 32, 33, 67, 200}) {
    for (const std::int64_t d : {1, 3, 16, 17, 40}) {
      for (const std::int64_t n : {1, 2, 5, 16, 33}) {
        variant += 5;  // odd, so that all sixteen combinations come up
        const Case c{1 + (d % 2) * (n % 3),
                     l,
                     d,
                     n,
                     (variant & 1) != 0,
                     (variant & 2) != 0,
                     (variant & 4) != 0,
                     (variant & 8) != 0};
        check_case(c, Dtype::f32);
        check_case(c, Dtype::f64);
      }
    }
  }
}

TEST_CASE("selective_scan: gradients equal central differences in float64") {
  for (const bool gated : {true, false}) {
    const Problem p({2, 35, 3, 5, gated, true, true, false}, Dtype::f64);
    kernel::selective_scan_fwd({}, p.fwd);
    const SelectiveScanBwdArgs a = p.backward();
    kernel::selective_scan_bwd({}, a);
    const Values weight = p.dout.to_vector();
    const auto loss = [&] {
      kernel::selective_scan_fwd({}, p.fwd);
      const Values out = p.fwd.out.to_vector();
      double sum = 0;
      for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * weight[i];
      return sum;
    };
    const std::vector<Tensor> inputs{p.fwd.u, p.fwd.dt, p.fwd.A_log,   p.fwd.B, p.fwd.C,
                                     p.fwd.D, p.fwd.z,  p.fwd.dt_bias, p.fwd.h0};
    const std::vector<Tensor> grads = gradients(a);
    for (std::size_t k = 0; k < inputs.size(); ++k) {
      if (!inputs[k].defined()) continue;
      CAPTURE(k);
      double* x = inputs[k].data<double>();
      Values estimate;
      for (std::int64_t i = 0; i < inputs[k].numel(); ++i) {
        const double kept = x[i];
        constexpr double kStep = 2e-5;
        x[i] = kept + kStep;
        const double above = loss();
        x[i] = kept - kStep;
        const double below = loss();
        x[i] = kept;
        estimate.push_back((above - below) / (2 * kStep));
      }
      CHECK(distance(grads[k], estimate) <= 1e-7);
    }
  }
}

TEST_CASE("selective_scan: the single step continues the forward pass") {
  for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
    for (const std::int64_t n : {1, 5, 16, 33}) {
      for (const bool optional : {true, false}) {
        const Case c{2, 6, 17, n, optional, optional, true, optional};
        const Problem p(c, dtype);
        const Reference r(p);
        const Tensor h = p.fwd.h0.clone();
        const Tensor out = Tensor::full({c.b, c.l, c.d}, kNaN, dtype);
        for (std::int64_t t = 0; t < c.l; ++t) {
          SelectiveScanStepArgs s;
          s.u = p.fwd.u.select(1, t), s.dt = p.fwd.dt.select(1, t), s.A_log = p.fwd.A_log;
          s.B = p.fwd.B.select(1, t), s.C = p.fwd.C.select(1, t), s.D = p.fwd.D;
          if (c.z) s.z = p.fwd.z.select(1, t);
          s.dt_bias = p.fwd.dt_bias, s.h = h, s.out = out.select(1, t);
          kernel::selective_scan_step({}, s);
        }
        CHECK(distance(out, r.out) <= (dtype == Dtype::f64 ? 1e-12 : 2e-6));
        CHECK(distance(h, r.h_last) <= (dtype == Dtype::f64 ? 1e-12 : 2e-6));
      }
    }
  }
}

TEST_CASE("selective_scan: chosen channels of dA_log equal the dense rows") {
  const Problem p({2, 40, 40, 5, true, true, false, false}, Dtype::f32);
  kernel::selective_scan_fwd({}, p.fwd);
  const SelectiveScanBwdArgs dense = p.backward();
  kernel::selective_scan_bwd({}, dense);
  for (const std::vector<std::int32_t>& channels :
       {std::vector<std::int32_t>{0, 15, 16, 39}, {33}, {}}) {
    SelectiveScanBwdArgs some = p.backward();
    const auto rows = static_cast<std::int64_t>(channels.size());
    some.dA_channels = Tensor::from({rows}, channels);
    some.dA_log = Tensor::full({rows, 5}, kNaN);
    kernel::selective_scan_bwd({}, some);
    for (std::int64_t i = 0; i < rows; ++i) {
      CHECK(some.dA_log.select(0, i).to_vector() ==
            dense.dA_log.select(0, channels[at(i)]).to_vector());
    }
    CHECK(some.ddt.to_vector() == dense.ddt.to_vector());
  }
}

TEST_CASE("selective_scan: gradients that nobody asks for change nothing else") {
  const Problem p({2, 40, 17, 5, true, true, false, false}, Dtype::f32);
  kernel::selective_scan_fwd({}, p.fwd);
  const SelectiveScanBwdArgs all = p.backward();
  kernel::selective_scan_bwd({}, all);
  SelectiveScanBwdArgs few = p.backward();
  few.dA_log = few.dB = few.dC = few.dD = few.dz = few.ddt_bias = few.dh0 = few.ddt = Tensor();
  kernel::selective_scan_bwd({}, few);
  CHECK(few.du.to_vector() == all.du.to_vector());
  few = p.backward();
  few.du = few.dB = Tensor();
  kernel::selective_scan_bwd({}, few);
  CHECK(few.dC.to_vector() == all.dC.to_vector());
}

TEST_CASE("selective_scan: thread counts agree, and each repeats itself to the bit") {
  for (const std::int64_t batch : {1, 2, 3}) {
    const Problem p({batch, 67, 40, 16, true, true, true, false}, Dtype::f32);
    std::vector<Values> first;
    for (const int threads : {1, 2, 3}) {
      cpu::set_num_threads(threads);
      std::vector<Values> repeat;
      for (int run = 0; run < 2; ++run) {
        std::vector<Values> results;
        kernel::selective_scan_fwd({}, p.fwd);
        const SelectiveScanBwdArgs a = p.backward();
        kernel::selective_scan_bwd({}, a);
        results.push_back(p.fwd.out.to_vector());
        for (const Tensor& grad : gradients(a)) results.push_back(grad.to_vector());
        if (run == 1) CHECK(results == repeat);
        repeat = results;
      }
      if (first.empty()) first = repeat;
      for (std::size_t i = 0; i < first.size(); ++i) CHECK(distance(repeat[i], first[i]) <= 1e-6);
    }
  }
  cpu::set_num_threads(0);
}

TEST_CASE("selective_scan: nothing to scan leaves zero gradients") {
  for (const Case& c : {Case{0, 5, 3, 2}, Case{2, 0, 3, 2}, Case{0, 0, 3, 2}}) {
    const Problem p(c, Dtype::f32);
    kernel::selective_scan_fwd({}, p.fwd);
    CHECK(p.fwd.h_last.to_vector() == p.fwd.h0.to_vector());
    const SelectiveScanBwdArgs a = p.backward();
    kernel::selective_scan_bwd({}, a);
    CHECK(a.dA_log.to_vector() == Values(6, 0.0));
    CHECK(a.dD.to_vector() == Values(3, 0.0));
    CHECK(a.ddt_bias.to_vector() == Values(3, 0.0));
    CHECK(a.dh0.to_vector() == Values(at(c.b * 6), 0.0));
  }
}

TEST_CASE("selective_scan: misfits are named with both shapes") {
  const Problem p({2, 5, 3, 4}, Dtype::f32);
  SelectiveScanFwdArgs bad = p.fwd;
  bad.dt = Tensor::zeros({2, 5, 8});
  CHECK_THROWS_WITH_AS(kernel::selective_scan_fwd({}, bad),
                       "selective_scan_fwd: dt is [2, 5, 8], expected [2, 5, 3]", ShapeError);
  bad = p.fwd;
  bad.B = bad.B.to(Dtype::f64);
  CHECK_THROWS_AS(kernel::selective_scan_fwd({}, bad), DtypeError);
  bad = p.fwd;
  bad.D = Tensor();
  CHECK_THROWS_AS(kernel::selective_scan_fwd({}, bad), ShapeError);
  bad = p.fwd;
  bad.u = Tensor::zeros({2, 3, 5}).transpose(1, 2);
  CHECK_THROWS_AS(kernel::selective_scan_fwd({}, bad), ShapeError);
  bad = p.fwd;
  bad.checkpoints = Tensor::zeros({7});
  CHECK_THROWS_AS(kernel::selective_scan_fwd({}, bad), ShapeError);
  SelectiveScanBwdArgs a = p.backward();
  a.dA_channels = Tensor::from({2}, std::vector<std::int32_t>{2, 1});
  CHECK_THROWS_AS(kernel::selective_scan_bwd({}, a), ShapeError);
}

}  // namespace adder
