// The forms of one S4 layer are one function: convolution, scan and steps agree in float32 at every
// length, forward and backward, and a scan may be cut anywhere.
#include <algorithm>
#include <cmath>
#include <complex>
#include <doctest/doctest.h>
#include <numbers>

#include "autograd/op_cases.h"
#include "autograd/s4_ops.h"
#include "engine/random.h"
#include "models/s4_dplr.h"
#include "models/s4_init.h"

using namespace adder;

namespace {

Tensor uniform(Shape shape, double low, double high, std::uint64_t stream) {
  const Tensor values = Tensor::empty(shape, Dtype::f32);
  fill_uniform(values, low, high, 21, stream);
  return values;
}

// A layer as it is initialised: dt from 1e-3 to 1e-1, A = -1/2 + i pi n, so slow and fast modes.
struct Layer {
  Layer(std::int64_t H, std::int64_t N)
      : A_real(Var::leaf(Tensor::full({H, N}, std::log(0.5)))),
        A_imag(Var::leaf(Tensor::empty({H, N}))),
        dt(Var::leaf(uniform({H}, std::log(1e-3), std::log(1e-1), 1))),
        C(Var::leaf(uniform({1, H, N, 2}, -1, 1, 2))),
        D(Var::leaf(uniform({1, H}, -1, 1, 3))) {
    for (std::int64_t i = 0; i < H * N; ++i) {
      A_imag.value().data<float>()[i] =
          static_cast<float>(std::numbers::pi * static_cast<double>(i % N));
    }
  }
  S4Modes modes() const { return s4_discretize({A_real, A_imag, dt, {}}, {}); }
  Var A_real, A_imag, dt, C, D;
};

Tensor steps(const S4Modes& modes, const Tensor& C, const Tensor& D, const Tensor& u,
             const Tensor& x) {
  const Tensor y = Tensor::empty({u.dim(0), C.dim(0), u.dim(1), u.dim(2)});
  const Tensor now = Tensor::empty({u.dim(0), C.dim(0), u.dim(1)});
  for (std::int64_t t = 0; t < u.dim(2); ++t) {
    kernel::s4_step({},
                    {u.select(2, t).contiguous(), modes.p.value(), modes.b.value(), C, D, x, now});
    y.select(3, t).copy_from(now);
  }
  return y;
}

}  // namespace

TEST_CASE("convolution, scan and steps agree within 1e-5 at every length") {
  const std::int64_t B = 2;
  const std::int64_t H = 5;
  const std::int64_t N = 8;
  for (const std::int64_t L : {1, 7, 8, 200, 1024, 16384}) {
    CAPTURE(L);
    const Layer layer(H, N);
    const Var u = Var::leaf(uniform({B, H, L}, -1, 1, 4));
    const Tensor w = uniform({B, 1, H, L}, -1, 1, 5);
    Tensor outputs[2];
    std::vector<Tensor> gradients[2];
    for (const bool scan : {false, true}) {
      Tape tape;
      const S4Modes modes = layer.modes();
      const Var y = scan ? s4_scan(u, modes, layer.C, layer.D).y
                         : s4_convolve(u, s4_kernel(modes, layer.C, L), layer.D);
      outputs[scan ? 1 : 0] = y.value();
      tape.backward(std::vector<Var>{y}, {w});
      for (const Var* v : {&u, &layer.C, &layer.A_real, &layer.A_imag, &layer.dt, &layer.D}) {
        gradients[scan ? 1 : 0].push_back(v->slot()->take());
      }
    }
    CHECK(relative_error(outputs[1], outputs[0]) <= 1e-5);
    for (std::size_t i = 0; i < gradients[0].size(); ++i) {
      CAPTURE(i);
      CHECK(relative_error(gradients[1][i], gradients[0][i]) <= 1e-5);
    }
    const Tensor x = Tensor::zeros({B, H, N, 2});
    const Tensor stepped = steps(layer.modes(), layer.C.value(), layer.D.value(), u.value(), x);
    CHECK(relative_error(stepped, outputs[0]) <= 1e-5);
    CHECK(relative_error(stepped, outputs[1]) <= 1e-5);
    const S4ScanResult whole = s4_scan(u.value(), layer.modes(), layer.C.value(), layer.D.value());
    CHECK(relative_error(x, whole.x_last.value()) <= 1e-5);
  }
}

TEST_CASE("the form that a shape takes is one of the two, whichever is faster for it") {
  const Device cpu;
  CHECK(s4_scan_is_faster(cpu, 8, 1024));
  CHECK_FALSE(s4_scan_is_faster(cpu, 16, 1024));
  CHECK(s4_scan_is_faster(cpu, 16, 8192));
  CHECK_FALSE(s4_scan_is_faster(cpu, 8, 16));
  CHECK_FALSE(s4_scan_is_faster({DeviceKind::cuda, 0}, 1, 1024));
  for (const std::int64_t N : {2, 12}) {
    for (const bool gradient : {false, true}) {
      CAPTURE(N);
      CAPTURE(gradient);
      const Layer layer(3, N);
      const Tensor values = uniform({2, 3, 40}, -1, 1, 4);
      const Tape tape;  // without one nothing needs a gradient
      const Var u = gradient ? Var::leaf(values) : Var(values);
      const S4Modes modes = layer.modes();
      const Var C = gradient ? layer.C : Var(layer.C.value());
      const Var D = gradient ? layer.D : Var(layer.D.value());
      const S4Modes taken =
          gradient ? modes : S4Modes{modes.log_q.value(), modes.p.value(), modes.b.value()};
      const Tensor y = s4_apply(u, taken, C, D).value();
      const Tensor scanned = s4_scan(u, taken, C, D).y.value();
      const Tensor convolved = s4_convolve(u, s4_kernel(taken, C, 40), D).value();
      const bool scan = s4_scan_is_faster(cpu, N, 40);
      CHECK(relative_error(y, scan ? scanned : convolved) == 0);
      CHECK(relative_error(y, scan ? convolved : scanned) <= 1e-5);
    }
  }
}

TEST_CASE("a scan that goes on from a state is the scan of the whole sequence") {
  const Layer layer(3, 4);
  const Tensor u = uniform({2, 3, 100}, -1, 1, 6);
  const S4Modes modes = layer.modes();
  const Tensor C = layer.C.value();
  const Tensor D = layer.D.value();
  const S4ScanResult whole = s4_scan(u, modes, C, D);
  for (const std::int64_t cut : {1, 31, 32, 33, 64, 99}) {
    CAPTURE(cut);
    const S4ScanResult first = s4_scan(u.slice(2, 0, cut), modes, C, D);
    const S4ScanResult rest = s4_scan(u.slice(2, cut, 100), modes, C, D, first.x_last);
    CHECK(relative_error(first.y.value(), whole.y.value().slice(3, 0, cut)) <= 1e-6);
    CHECK(relative_error(rest.y.value(), whole.y.value().slice(3, cut, 100)) <= 1e-6);
    CHECK(relative_error(rest.x_last.value(), whole.x_last.value()) <= 1e-6);
  }
}

TEST_CASE("phases of a thousand radians keep float32's accuracy") {
  // dt = 0.1, A_imag = 47 and l up to 1024: 4800 rad, decaying slowly enough to matter.
  const std::int64_t N = 16;
  const std::int64_t L = 1024;
  const Tensor A_real = Tensor::full({1, N}, std::log(0.01));
  const Tensor A_imag = Tensor::empty({1, N});
  for (std::int64_t n = 0; n < N; ++n) {
    A_imag.data<float>()[n] = static_cast<float>(std::numbers::pi * static_cast<double>(n));
  }
  const Tensor dt = Tensor::full({1}, std::log(0.1));
  const Tensor C = uniform({1, 1, N, 2}, -1, 1, 7);
  const auto kernel_in = [&](Dtype dtype) {
    const S4Modes modes = s4_discretize({A_real.to(dtype), A_imag.to(dtype), dt.to(dtype), {}}, {});
    return s4_kernel(modes, C.to(dtype), L).value();
  };
  const Tensor exact = kernel_in(Dtype::f64);
  CHECK(relative_error(kernel_in(Dtype::f32), exact) <= 1e-6);
  // The float64 one against the definition, in extended precision.
  long double worst = 0;
  for (const std::int64_t l : {0L, 1L, 63L, 64L, 1000L, 1023L}) {
    long double sum = 0;
    for (std::int64_t n = 0; n < N; ++n) {
      const long double step = std::exp(static_cast<long double>(dt.item()));
      const long double re = -std::exp(static_cast<long double>(A_real.item(n)));
      const long double im = A_imag.item(n);
      const std::complex<long double> A(re, im);
      const std::complex<long double> a = step * A;
      const std::complex<long double> c(C.item(2 * n), C.item(2 * n + 1));
      sum += 2 * (c * (std::exp(a) - 1.0L) / A * std::exp(a * static_cast<long double>(l))).real();
    }
    worst = std::max(worst, std::abs(sum - static_cast<long double>(exact.item(l))));
  }
  CHECK(static_cast<double>(worst) <= 1e-12);
}

TEST_CASE("the low-rank layer's kernel is its steps, from HiPPO's initial values") {
  const std::int64_t H = 2;
  for (const auto& [init, rank] :
       {std::pair{"legs", 1}, {"legt", 2}, {"fourier", 1}, {"legs", 3}, {"dplr-lin", 2}}) {
    for (const std::int64_t L : {1, 7, 8, 200, 1024}) {
      CAPTURE(init);
      CAPTURE(L);
      const S4Init start =
          s4_init({.init = init, .d_state = 8, .copies = H, .rank = rank, .P_scale = 0.3});
      const S4Options options{.method = S4Method::bilinear, .imag_sign = -1};
      const S4StateParameters state = s4_state_parameters(start, options, Dtype::f32);
      const S4DplrSystem system{
          state.A_real, state.A_imag, uniform({H}, std::log(1e-2), std::log(1e-1), 8),
          state.B,      state.P,      options};
      const Tensor C = uniform({1, H, 4, 2}, -1, 1, 9);
      // Stored for one length and doubled, as when sequences grow.
      Tensor stored = s4_dplr_store(system, C.to(Dtype::f64), L);
      stored = s4_dplr_double(system, stored, L).to(Dtype::f32);
      const Var K = s4_dplr_kernel({system.A_real, system.A_imag, system.dt, system.B, system.P},
                                   stored, options, 2 * L, L);
      const Tensor u = uniform({2, H, L}, -1, 1, 10);
      const Tensor y = s4_convolve(u, K, {}).value();
      S4DplrStepArgs step = s4_dplr_step_coefficients(system, C);
      step.s = Tensor::zeros({2, H, 4, 2});
      step.scratch = Tensor::empty({2, 2, H, 4, 2}, Dtype::f64);
      step.y = Tensor::empty({2, 1, H});
      const Tensor stepped = Tensor::empty(y.shape());
      for (std::int64_t t = 0; t < L; ++t) {
        step.u = u.select(2, t).contiguous();
        kernel::s4_dplr_step({}, step);
        stepped.select(3, t).copy_from(step.y);
      }
      CHECK(relative_error(stepped, y) <= 2e-5);
    }
  }
}

// Results beyond kStreamedBytes of engine/cpu/s4_conv.cpp go past the caches; the second length has
// tiles that lie across cache lines.
TEST_CASE("a large convolution is that of its parts") {
  for (const Shape& shape : {Shape{4, 32, 16384}, Shape{5, 1056, 400}}) {
    CAPTURE(shape);
    const Tensor u = uniform(shape, -1, 1, 30);
    const Tensor K = uniform({1, shape[1], shape[2]}, -1, 1, 31);
    const Tensor D = uniform({1, shape[1]}, -1, 1, 32);
    const auto both_passes = [&](const Tensor& inputs) {
      const Var x = Var::leaf(inputs);
      Tape tape;
      const Var y = s4_convolve(x, Var(K), Var(D));
      tape.backward(std::vector<Var>{y}, {y.value()});
      return std::make_pair(y.value(), x.grad());
    };
    const auto [y, du] = both_passes(u);
    for (std::int64_t b = 0; b < shape[0]; b += 2) {
      const std::int64_t end = std::min(b + 2, shape[0]);
      const auto [own_y, own_du] = both_passes(u.slice(0, b, end).contiguous());
      CHECK(relative_error(y.slice(0, b, end).contiguous(), own_y) == 0);
      CHECK(relative_error(du.slice(0, b, end).contiguous(), own_du) == 0);
    }
  }
}
