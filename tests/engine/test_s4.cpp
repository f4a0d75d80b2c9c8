// The S4 kernels: against plain loops, on strided tensors, with outputs left out, on any number of
// threads, and what they refuse.
#include <algorithm>
#include <complex>
#include <doctest/doctest.h>
#include <string>
#include <vector>

#include "engine/kernels/s4.h"
#include "engine/kernels/s4_dplr.h"
#include "tests/engine/kernel_test.h"

using namespace adder;
using namespace adder::test;

namespace {

using Complex = std::complex<double>;

struct Extents {
  std::int64_t B, H, L, N, M;
};
// Batches, channels and modes below, at and beyond a vector's lanes.
const Extents kExtents[] = {{2, 3, 9, 2, 1},  {1, 1, 1, 1, 1},   {3, 7, 70, 5, 2}, {5, 4, 33, 3, 1},
                            {5, 3, 70, 7, 2}, {70, 1, 64, 9, 1}, {4, 2, 5, 17, 1}};

// Slow and fast modes as a discretisation gives them.
struct Modes {
  Modes(std::int64_t H, std::int64_t N)
      : log_q(Tensor::empty({H, N, 2}, Dtype::f64)),
        p(Tensor::empty({H, N, 2}, Dtype::f64)),
        b(Tensor::empty({H, N, 2}, Dtype::f64)) {
    S4DiscretizeFwdArgs args;
    args.A_real = uniform({H, N}, Dtype::f64, 1, -2, 0.5);
    args.A_imag = uniform({H, N}, Dtype::f64, 2, 0, 12);
    args.dt = uniform({H}, Dtype::f64, 3, -4, -1);
    args.log_q = log_q, args.p = p, args.b = b;
    kernel::s4_discretize_fwd({}, args);
  }
  Complex q(std::int64_t i) const { return std::exp(at(log_q, i)); }
  static Complex at(const Tensor& pairs, std::int64_t i) {
    return {pairs.item(2 * i), pairs.item(2 * i + 1)};
  }
  Tensor log_q, p, b;
};

// A layer's inputs, and the slopes and kernel that its gradients are taken with.
struct Inputs {
  Inputs(const Extents& e, Dtype dtype)
      : u(uniform({e.B, e.H, e.L}, dtype, 4)),
        C(uniform({e.M, e.H, e.N, 2}, dtype, 5)),
        D(uniform({e.M, e.H}, dtype, 6)),
        x0(uniform({e.B, e.H, e.N, 2}, dtype, 7)),
        dy(uniform({e.B, e.M, e.H, e.L}, dtype, 8)),
        K(uniform({e.M, e.H, e.L}, dtype, 9)) {}
  S4ScanFwdArgs scan(const Modes& modes) const {
    S4ScanFwdArgs args;
    args.u = u, args.p = modes.p, args.b = modes.b, args.C = C, args.D = D;
    return args;
  }
  Tensor u, C, D, x0, dy, K;
};

// The same values in a tensor whose last axis is part of a wider one.
Tensor widened(const Tensor& tensor) {
  Shape shape = tensor.shape();
  const std::int64_t last = shape[shape.rank() - 1];
  shape[shape.rank() - 1] = last + 5;
  const Tensor wide = poisoned(shape, tensor.dtype());
  const Tensor view = wide.slice(-1, 3, 3 + last);
  view.copy_from(tensor);
  return view;
}

// y (B, M, H, L) by the definition, from x0 or 0.
std::vector<double> recurrence(const Extents& e, const Modes& modes, const Tensor& u,
                               const Tensor& C, const Tensor& D, const Tensor& x0) {
  std::vector<double> y(static_cast<std::size_t>(e.B * e.M * e.H * e.L));
  for (std::int64_t b = 0; b < e.B; ++b) {
    for (std::int64_t h = 0; h < e.H; ++h) {
      for (std::int64_t n = 0; n < e.N; ++n) {
        const std::int64_t hn = h * e.N + n;
        Complex x = x0.defined() ? Modes::at(x0, b * e.H * e.N + hn) : 0;
        for (std::int64_t t = 0; t < e.L; ++t) {
          const double input = u.item((b * e.H + h) * e.L + t);
          x = modes.q(hn) * x + Modes::at(modes.b, hn) * input;
          for (std::int64_t m = 0; m < e.M; ++m) {
            const std::int64_t row = (b * e.M + m) * e.H + h;
            double& out = y[static_cast<std::size_t>(row * e.L + t)];
            if (n == 0) out = D.defined() ? D.item(m * e.H + h) * input : 0;
            out += 2 * (Modes::at(C, m * e.H * e.N + hn) * x).real();
          }
        }
      }
    }
  }
  return y;
}

double bound(Dtype dtype) {
  return dtype == Dtype::f64 ? 1e-12 : 3e-6;
}

}  // namespace

TEST_CASE("scan, steps and convolution are the recurrence, on strided tensors and any threads") {
  for (const Extents& e : kExtents) {
    for (const Dtype dtype : kReal) {
      CAPTURE(e.L);
      CAPTURE(dtype_name(dtype));
      const Modes modes(e.H, e.N);
      const Inputs in(e, dtype);
      const std::vector<double> expected = recurrence(e, modes, in.u, in.C, in.D, in.x0);
      const std::vector<double> from_zero = recurrence(e, modes, in.u, in.C, in.D, {});
      const Shape out{e.B, e.M, e.H, e.L};
      with_threads([&] {
        S4ScanFwdArgs scan = in.scan(modes);
        scan.u = widened(in.u);
        scan.x0 = in.x0, scan.y = widened(poisoned(out, dtype));
        scan.x_last = poisoned(in.x0.shape(), dtype);
        kernel::s4_scan_fwd({}, scan);
        CHECK(error(scan.y, expected) <= bound(dtype));

        const Tensor K = widened(poisoned({e.M, e.H, e.L}, dtype));
        kernel::s4_kernel_fwd({}, {modes.log_q, modes.b, in.C, K});
        const Tensor y = widened(poisoned(out, dtype));
        kernel::s4_conv_fwd({}, {widened(in.u), K, in.D, false, y});
        CHECK(error(y, from_zero) <= bound(dtype));

        const Tensor x = in.x0.clone();
        const Tensor stepped = poisoned(out, dtype);
        for (std::int64_t t = 0; t < e.L; ++t) {
          const Tensor now = poisoned({e.B, e.M, e.H}, dtype);
          kernel::s4_step({},
                          {in.u.select(2, t).contiguous(), modes.p, modes.b, in.C, in.D, x, now});
          stepped.select(3, t).copy_from(now);
        }
        CHECK(error(stepped, expected) <= bound(dtype));
        CHECK(error(x, scan.x_last.to_vector()) <= bound(dtype));
      });
    }
  }
}

TEST_CASE("gradients do not depend on threads, strides or which of them are asked for") {
  for (const Extents& e : {Extents{3, 5, 37, 3, 2}, Extents{67, 3, 37, 7, 2}}) {
    for (const Dtype dtype : kReal) {
      const Modes modes(e.H, e.N);
      const Inputs in(e, dtype);
      S4ScanFwdArgs scan = in.scan(modes);
      scan.y = poisoned(in.dy.shape(), dtype);
      scan.checkpoints = poisoned({s4_scan_checkpoint_numel(e.B, e.H, e.L, e.N)}, dtype);
      kernel::s4_scan_fwd({}, scan);
      struct Results {
        std::vector<std::vector<double>> values;
      };
      const auto run = [&](bool strided, int only) {
        const auto out = [&](int number, Shape shape, Dtype type) {
          if (only >= 0 && only != number) return Tensor();
          const Tensor fresh = poisoned(shape, type);
          const bool sequences = number == 0 || number == 6 || number == 7;
          return strided && sequences ? widened(fresh) : fresh;
        };
        S4ScanBwdArgs back;
        back.u = strided ? widened(in.u) : in.u;
        back.p = modes.p, back.b = modes.b, back.C = in.C, back.D = in.D;
        back.checkpoints = scan.checkpoints;
        back.dy = strided ? widened(in.dy) : in.dy;
        back.du = out(0, in.u.shape(), dtype);
        back.dp = out(1, modes.p.shape(), Dtype::f64);
        back.db = out(2, modes.b.shape(), Dtype::f64);
        back.dC = out(3, in.C.shape(), dtype);
        back.dD = out(4, in.D.shape(), dtype);
        back.dx0 = out(5, {e.B, e.H, e.N, 2}, dtype);
        kernel::s4_scan_bwd({}, back);
        S4ConvBwdArgs conv{back.u,
                           in.K,
                           in.D,
                           false,
                           back.dy,
                           out(6, in.u.shape(), dtype),
                           out(7, in.K.shape(), dtype),
                           out(8, in.D.shape(), dtype)};
        kernel::s4_conv_bwd({}, conv);
        const S4KernelBwdArgs kernels{modes.log_q,
                                      modes.b,
                                      in.C,
                                      in.K,
                                      out(9, modes.p.shape(), Dtype::f64),
                                      out(10, modes.p.shape(), Dtype::f64),
                                      out(11, in.C.shape(), dtype)};
        kernel::s4_kernel_bwd({}, kernels);
        Results results;
        const Tensor* outputs[] = {&back.du, &back.dp,        &back.db,    &back.dC,
                                   &back.dD, &back.dx0,       &conv.du,    &conv.dK,
                                   &conv.dD, &kernels.dlog_q, &kernels.db, &kernels.dC};
        for (const Tensor* t : outputs) {
          results.values.push_back(t->defined() ? t->to_vector() : std::vector<double>());
        }
        return results;
      };
      const Results all = run(false, -1);
      for (const auto& values : all.values) {
        for (const double value : values) REQUIRE(std::isfinite(value));
      }
      with_threads([&] {
        for (const bool strided : {false, true}) CHECK(run(strided, -1).values == all.values);
        for (int only = 0; only < 12; ++only) {
          CAPTURE(only);
          const auto i = static_cast<std::size_t>(only);
          CHECK(run(false, only).values[i] == all.values[i]);
        }
      });
      CHECK(error(all.values[8], all.values[4]) <= bound(dtype));
    }
  }
}

namespace {

// The same values with the last axis but one side by side in memory, as in (B, L, H).
Tensor channels_side_by_side(const Tensor& tensor) {
  const Tensor view = poisoned(tensor.transpose(-1, -2).shape(), tensor.dtype()).transpose(-1, -2);
  view.copy_from(tensor);
  return view;
}

}  // namespace

TEST_CASE("sequences with their channels side by side give the same bits") {
  // Channels beside a vector's lanes, and outputs so large that they go past the caches.
  for (const Extents& e : {Extents{3, 18, 70, 5, 2}, Extents{2, 32, 33, 2, 1},
                           Extents{1, 1, 9, 2, 1}, Extents{64, 32, 1024, 1, 1}}) {
    for (const Dtype dtype : kReal) {
      CAPTURE(e.H);
      CAPTURE(dtype_name(dtype));
      const Modes modes(e.H, e.N);
      const Inputs in(e, dtype);
      const auto run = [&](const auto& place) {
        std::vector<std::vector<double>> values;
        const auto out = [&](const Tensor& like) { return place(poisoned(like.shape(), dtype)); };
        const S4ConvFwdArgs conv{place(in.u), in.K, in.D, false, out(in.dy)};
        kernel::s4_conv_fwd({}, conv);
        const S4ConvBwdArgs conv_back{conv.u,       in.K,      in.D,         false,
                                      place(in.dy), out(in.u), in.K.clone(), in.D.clone()};
        kernel::s4_conv_bwd({}, conv_back);
        S4ScanFwdArgs scan = in.scan(modes);
        scan.u = conv.u;
        scan.y = out(in.dy);
        scan.checkpoints = poisoned({s4_scan_checkpoint_numel(e.B, e.H, e.L, e.N)}, dtype);
        kernel::s4_scan_fwd({}, scan);
        S4ScanBwdArgs back;
        back.u = scan.u, back.p = scan.p, back.b = scan.b, back.C = in.C, back.D = in.D;
        back.checkpoints = scan.checkpoints, back.dy = conv_back.dy;
        back.du = out(in.u), back.dp = modes.p.clone(), back.dC = in.C.clone(),
        back.dD = in.D.clone();
        kernel::s4_scan_bwd({}, back);
        for (const Tensor& t : {conv.y, conv_back.du, conv_back.dK, conv_back.dD, scan.y, back.du,
                                back.dp, back.dC, back.dD}) {
          values.push_back(t.to_vector());
        }
        return values;
      };
      const auto expected = run([](const Tensor& t) { return t; });
      for (const auto& values : expected) {
        CHECK(std::all_of(values.begin(), values.end(), [](double x) { return std::isfinite(x); }));
      }
      CHECK(run(channels_side_by_side) == expected);
    }
  }
}

TEST_CASE("two directions: the second kernel looks strictly ahead") {
  const Extents e{2, 2, 11, 1, 1};
  for (const Dtype dtype : kReal) {
    const Tensor u = uniform({e.B, e.H, e.L}, dtype, 4);
    const Tensor K = uniform({2, e.H, e.L}, dtype, 5);
    const Tensor y = poisoned({e.B, 1, e.H, e.L}, dtype);
    kernel::s4_conv_fwd({}, {u, K, {}, true, y});
    std::vector<double> expected;
    for (std::int64_t row = 0; row < e.B * e.H; ++row) {
      const std::int64_t h = row % e.H;
      for (std::int64_t t = 0; t < e.L; ++t) {
        double sum = 0;
        for (std::int64_t l = 0; l < e.L; ++l) {
          if (l <= t) sum += K.item(h * e.L + l) * u.item(row * e.L + t - l);
          if (t + 1 + l < e.L) sum += K.item((e.H + h) * e.L + l) * u.item(row * e.L + t + 1 + l);
        }
        expected.push_back(sum);
      }
    }
    CHECK(error(y, expected) <= bound(dtype));
  }
}

TEST_CASE("the transform length is smooth and at least twice the sequence") {
  for (std::int64_t length = 1; length < 300; ++length) {
    const std::int64_t n = s4_fft_length(length);
    CHECK(n >= 2 * length);
    CHECK(n <= 2 * length + 2 * length / 3 + 1);
  }
  CHECK(s4_fft_length(200) == 400);
  CHECK(s4_fft_length(1024) == 2048);
  CHECK(s4_fft_length(7) == 15);
}

namespace {

S4DiscretizeFwdArgs discretization(double A_real, double A_imag, double dt) {
  S4DiscretizeFwdArgs args;
  args.A_real = Tensor::full({1, 2}, A_real);
  args.A_imag = Tensor::full({1, 2}, A_imag);
  args.dt = Tensor::full({2}, dt);
  args.options.real = S4Transform::none;
  args.options.dt = S4Transform::none;
  args.log_q = Tensor::empty({2, 2, 2}, Dtype::f64);
  args.p = args.log_q.clone();
  args.b = args.log_q.clone();
  return args;
}

}  // namespace

TEST_CASE("a mode without decay and frequency integrates its input") {
  const S4DiscretizeFwdArgs args = discretization(0, 0, 0.25);
  kernel::s4_discretize_fwd({}, args);
  CHECK(args.p.to_vector() == std::vector<double>(8, 0.0));
  CHECK(args.b.item(0) == 0.25);
  CHECK(args.b.item(1) == 0);
}

TEST_CASE("what would grow or is not a number is refused with its numbers") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK_THROWS_WITH_AS(kernel::s4_discretize_fwd({}, discretization(-0.5, 1, 0.1)),
                       doctest::Contains("mode 0 of channel 0 has Re A = 0.5"), NumericError);
  CHECK_THROWS_WITH_AS(kernel::s4_discretize_fwd({}, discretization(0.5, nan, 0.1)),
                       doctest::Contains("expected finite numbers"), NumericError);
  CHECK_THROWS_WITH_AS(kernel::s4_discretize_fwd({}, discretization(infinity, 1, 0.1)),
                       doctest::Contains("expected finite numbers"), NumericError);
  CHECK_THROWS_WITH_AS(kernel::s4_discretize_fwd({}, discretization(0.5, 1, 0)),
                       doctest::Contains("dt = 0, expected more than 0"), NumericError);
  S4DiscretizeFwdArgs args = discretization(0.5, 1, 0.1);
  args.options.rate = -1;
  CHECK_THROWS_WITH_AS(kernel::s4_discretize_fwd({}, args), doctest::Contains("rate is -1"),
                       ConfigError);
  args = discretization(0.5, 1, 0.1);
  args.options.method = S4Method::dss;
  CHECK_THROWS_WITH_AS(kernel::s4_discretize_fwd({}, args), doctest::Contains("length of dss is 0"),
                       ShapeError);
}

TEST_CASE("wrong shapes and types are refused with both") {
  S4DiscretizeFwdArgs args = discretization(0.5, 1, 0.1);
  args.A_imag = Tensor::full({1, 3}, 1);
  CHECK_THROWS_WITH_AS(kernel::s4_discretize_fwd({}, args),
                       doctest::Contains("A_imag is [1, 3], expected [1, 2]"), ShapeError);
  args = discretization(0.5, 1, 0.1);
  args.A_real = Tensor::full({3, 2}, 1);
  CHECK_THROWS_WITH_AS(kernel::s4_discretize_fwd({}, args),
                       doctest::Contains("3 copies, which do not divide the 2 channels"),
                       ShapeError);
  args = discretization(0.5, 1, 0.1);
  args.b = Tensor::empty({2, 2, 2});
  CHECK_THROWS_WITH_AS(kernel::s4_discretize_fwd({}, args),
                       doctest::Contains("b is float32, expected float64"), DtypeError);

  const Modes modes(2, 3);
  const Tensor C = Tensor::zeros({1, 2, 3, 2});
  CHECK_THROWS_WITH_AS(
      kernel::s4_kernel_fwd({}, {modes.log_q, modes.b, C, Tensor::empty({1, 2, 0})}),
      doctest::Contains("the length is 0"), ShapeError);
  CHECK_THROWS_WITH_AS(kernel::s4_kernel_fwd({}, {modes.log_q, modes.b, Tensor::zeros({1, 2, 3, 3}),
                                                  Tensor::empty({1, 2, 4})}),
                       doctest::Contains("expected a last axis of 2"), ShapeError);
  CHECK_THROWS_WITH_AS(kernel::s4_kernel_fwd({}, {modes.log_q, modes.b, Tensor::zeros({1, 2, 4, 2}),
                                                  Tensor::empty({1, 2, 4})}),
                       doctest::Contains("log_q is [2, 3, 2], expected [2, 4, 2]"), ShapeError);
  CHECK_THROWS_WITH_AS(kernel::s4_conv_fwd({}, {Tensor::zeros({1, 2, 0}),
                                                Tensor::zeros({1, 2, 0}),
                                                {},
                                                false,
                                                Tensor::zeros({1, 1, 2, 0})}),
                       doctest::Contains("the length is 0"), ShapeError);
  CHECK_THROWS_WITH_AS(kernel::s4_conv_fwd({}, {Tensor::zeros({1, 2, 4}),
                                                Tensor::zeros({3, 2, 4}),
                                                {},
                                                true,
                                                Tensor::zeros({1, 1, 2, 4})}),
                       doctest::Contains("even first extent"), ShapeError);
  S4ScanFwdArgs scan;
  scan.u = Tensor::zeros({1, 2, 4}), scan.p = modes.p, scan.b = modes.b, scan.C = C;
  scan.y = Tensor::zeros({1, 1, 2, 4}), scan.x0 = Tensor::zeros({1, 2, 2, 2});
  CHECK_THROWS_WITH_AS(kernel::s4_scan_fwd({}, scan),
                       doctest::Contains("x0 is [1, 2, 2, 2], expected [1, 2, 3, 2]"), ShapeError);
  scan.x0 = Tensor();
  scan.checkpoints = Tensor::zeros({3});
  CHECK_THROWS_WITH_AS(kernel::s4_scan_fwd({}, scan), doctest::Contains("checkpoints is"),
                       ShapeError);

  S4DplrKernelFwdArgs dplr;
  dplr.A_real = dplr.A_imag = Tensor::full({2, 3}, 0.5);
  dplr.dt = Tensor::full({2}, -2);
  dplr.B = Tensor::zeros({2, 3, 2});
  dplr.P = Tensor::zeros({1, 2, 3, 2});
  dplr.C = C;
  dplr.options.method = S4Method::bilinear;
  dplr.nodes = 4;
  dplr.K = Tensor::zeros({1, 2, 5});
  CHECK_THROWS_WITH_AS(kernel::s4_dplr_kernel_fwd({}, dplr),
                       doctest::Contains("the length is 5, expected 1 to 4"), ShapeError);
  dplr.K = Tensor::zeros({1, 2, 4});
  dplr.P = Tensor::zeros({9, 2, 3, 2});
  CHECK_THROWS_WITH_AS(kernel::s4_dplr_kernel_fwd({}, dplr),
                       doctest::Contains("rank 9, expected 1 to 8"), ShapeError);
  dplr.P = Tensor::zeros({1, 2, 3, 2});
  dplr.options.method = S4Method::zoh;
  CHECK_THROWS_WITH_AS(kernel::s4_dplr_kernel_fwd({}, dplr), doctest::Contains("bilinear"),
                       ConfigError);
  dplr.options.method = S4Method::bilinear;
  dplr.options.real = S4Transform::none;
  dplr.A_real = Tensor::full({2, 3}, -0.5);
  CHECK_THROWS_WITH_AS(kernel::s4_dplr_kernel_fwd({}, dplr), doctest::Contains("A = 0.5"),
                       NumericError);
}
