#include <functional>

#include "engine/kernels/elementwise.h"
#include "tests/engine/kernel_test.h"

using adder::BinaryOp;
using adder::DropoutArgs;
using adder::Dtype;
using adder::Shape;
using adder::ShapeError;
using adder::Tensor;
using adder::UnaryOp;
using adder::test::error;
using adder::test::poisoned;
using adder::test::spread;
using adder::test::uniform;

namespace {

using Values = std::vector<double>;

struct Unary {
  UnaryOp op;
  std::function<double(double)> f, slope;
};

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

const Unary kUnary[] = {
    {UnaryOp::silu, [](double x) { return x * sigmoid(x); },
     [](double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }},
    {UnaryOp::softplus, [](double x) { return std::log1p(std::exp(x)); },
     [](double x) { return sigmoid(x); }},
    {UnaryOp::exp, [](double x) { return std::exp(x); }, [](double x) { return std::exp(x); }},
    {UnaryOp::square, [](double x) { return x * x; }, [](double x) { return 2 * x; }},
    {UnaryOp::scale, [](double x) { return -1.5 * x; }, [](double) { return -1.5; }},
    {UnaryOp::sigmoid, sigmoid, [](double x) { return sigmoid(x) * (1 - sigmoid(x)); }},
    {UnaryOp::tanh, [](double x) { return std::tanh(x); },
     [](double x) { return 1 / (std::cosh(x) * std::cosh(x)); }},
};

const Shape kShapes[] = {{}, {1}, {37}, {5, 1}, {3, 64}, {2, 3, 21}, {2, 0, 3}, {300, 130}};

Tensor strided(const Tensor& t, bool on) {
  if (!on || t.rank() < 2) return t;
  Shape wide = t.shape();
  wide[t.rank() - 1] += 3;
  const Tensor view = Tensor::full(wide, 77, t.dtype()).slice(-1, 1, 1 + t.dim(-1));
  view.copy_from(t);
  return view;
}

Values map(const Values& x, const std::function<double(double)>& f) {
  Values y;
  for (const double v : x) y.push_back(f(v));
  return y;
}

}  // namespace

TEST_CASE("unary maps and their gradients") {
  for (const Dtype dtype : adder::test::kReal) {
    const double tolerance = adder::test::tolerance(dtype);
    for (const Unary& unary : kUnary) {
      for (const Shape& shape : kShapes) {
        for (const bool apart : {false, true}) {
          INFO("op " << static_cast<int>(unary.op) << " " << shape.to_string() << " "
                     << adder::dtype_name(dtype) << apart);
          const Tensor x = strided(uniform(shape, dtype, 1, -8, 8), apart);
          const Tensor dy = strided(uniform(shape, dtype, 2), apart);
          const Values x64 = x.to_vector(), dy64 = dy.to_vector();
          adder::test::with_threads([&] {
            const Tensor y = strided(poisoned(shape, dtype), apart);
            adder::kernel::unary_fwd({}, {.op = unary.op, .x = x, .y = y, .parameter = -1.5});
            CHECK(error(y, map(x64, unary.f)) <= tolerance);
            const Tensor dx = poisoned(shape, dtype);
            adder::kernel::unary_bwd(
                {}, {.op = unary.op, .x = x, .dy = dy, .dx = dx, .parameter = -1.5});
            Values expected = map(x64, unary.slope);
            for (std::size_t i = 0; i < expected.size(); ++i) expected[i] *= dy64[i];
            CHECK(error(dx, expected) <= tolerance);
          });
          const Tensor place = x.clone();
          adder::kernel::unary_fwd({}, {.op = unary.op, .x = place, .y = place, .parameter = -1.5});
          CHECK(error(place, map(x64, unary.f)) <= tolerance);
        }
      }
    }
  }
}

TEST_CASE("unary maps far out") {
  const std::vector<float> far{-200, -90, 0, 30, 88, 200};
  const Tensor x = Tensor::from({6}, far);
  const Tensor y = Tensor::zeros({6});
  const auto apply = [&](UnaryOp op) {
    adder::kernel::unary_fwd({}, {.op = op, .x = x, .y = y});
    return y.to_vector();
  };
  const Values softplus = apply(UnaryOp::softplus);
  CHECK(softplus[0] == 0);
  CHECK(std::abs(softplus[2] - std::log(2)) <= 1e-7);
  CHECK(softplus[5] == 200);
  const Values silu = apply(UnaryOp::silu);
  CHECK(std::abs(silu[0]) <= 1e-30);
  CHECK(silu[5] == 200);
  const Values sigmoid = apply(UnaryOp::sigmoid);
  CHECK(sigmoid[0] <= 1e-30);
  CHECK(sigmoid[5] == 1);
  const Values exponential = apply(UnaryOp::exp);
  CHECK(exponential[0] == 0);
  CHECK(exponential[2] == 1);
  CHECK(std::isinf(exponential[5]));
  CHECK(apply(UnaryOp::tanh)[0] == -1);
}

TEST_CASE("binary maps") {
  for (const Dtype dtype : adder::test::kReal) {
    for (const Shape& shape : kShapes) {
      const Tensor a = uniform(shape, dtype, 1);
      const Tensor b = strided(uniform(shape, dtype, 2), true);
      const Values a64 = a.to_vector(), b64 = b.to_vector();
      for (const BinaryOp op : {BinaryOp::add, BinaryOp::sub, BinaryOp::mul}) {
        const Tensor y = strided(poisoned(shape, dtype), true);
        adder::kernel::binary({}, {.op = op, .a = a, .b = b, .y = y});
        Values expected;
        for (std::size_t i = 0; i < a64.size(); ++i) {
          expected.push_back(op == BinaryOp::add   ? a64[i] + b64[i]
                             : op == BinaryOp::sub ? a64[i] - b64[i]
                                                   : a64[i] * b64[i]);
        }
        CHECK(error(y, expected) <= adder::test::tolerance(dtype));
      }
    }
  }
  const Tensor a = Tensor::zeros({2, 3});
  CHECK_THROWS_AS(
      adder::kernel::binary({}, {.op = BinaryOp::add, .a = a, .b = Tensor::zeros({3, 2}), .y = a}),
      ShapeError);
  CHECK_THROWS_AS(
      adder::kernel::binary({}, {.op = BinaryOp::add, .a = a, .b = a.to(Dtype::f64), .y = a}),
      adder::DtypeError);
  CHECK_THROWS_AS(
      adder::kernel::binary(
          {}, {.op = BinaryOp::add, .a = a, .b = Tensor::zeros({3, 2}).transpose(0, 1), .y = a}),
      ShapeError);
  CHECK_THROWS_AS(adder::kernel::unary_fwd({}, {.op = UnaryOp::silu, .x = a, .y = Tensor()}),
                  ShapeError);
  const Tensor i = Tensor::zeros({2}, Dtype::i32);
  CHECK_THROWS_AS(adder::kernel::unary_fwd({}, {.op = UnaryOp::silu, .x = i, .y = i}),
                  adder::DtypeError);
}

TEST_CASE("bias and column sums are each other's transpose") {
  const std::int64_t cases[][2] = {{1, 1}, {1, 40}, {9, 1}, {300, 37}, {4100, 70}, {0, 5}};
  for (const Dtype dtype : adder::test::kReal) {
    for (const auto& [rows, D] : cases) {
      INFO("rows " << rows << " D " << D);
      const Tensor x = spread(uniform({rows, D}, dtype, 1, -0.5, 1));
      const Tensor bias = uniform({D}, dtype, 2);
      Values added = x.to_vector(), sums(static_cast<std::size_t>(D)), first;
      const Values bias64 = bias.to_vector();
      for (std::size_t i = 0; i < added.size(); ++i) {
        sums[i % sums.size()] += added[i];
        added[i] += bias64[i % sums.size()];
      }
      adder::test::with_threads([&] {
        const Tensor out = poisoned({D}, dtype);
        adder::kernel::column_sum({}, {.x = x, .out = out});
        CHECK(error(out, sums) <= adder::test::tolerance(dtype));
        if (first.empty()) first = out.to_vector();
        CHECK(out.to_vector() == first);
        const Tensor y = spread(x.clone());
        adder::kernel::add_bias({}, {.bias = bias, .y = y});
        CHECK(error(y, added) <= adder::test::tolerance(dtype));
      });
    }
  }
  CHECK_THROWS_AS(
      adder::kernel::add_bias({}, {.bias = Tensor::zeros({2}), .y = Tensor::zeros({2, 3})}),
      ShapeError);
  CHECK_THROWS_AS(
      adder::kernel::column_sum({}, {.x = Tensor::zeros({2, 3}), .out = Tensor::zeros({2})}),
      ShapeError);
}

TEST_CASE("column sums of few columns and many rows") {
  const std::int64_t columns[] = {1, 2, 3, 5, 6, 7, 8, 10, 13, 15, 16, 17, 24, 31, 33, 48, 64, 100};
  for (const Dtype dtype : adder::test::kReal) {
    for (const std::int64_t D : columns) {
      for (const std::int64_t rows : {0, 1, 7, 63, 129, 1001, 20011}) {
        INFO("rows " << rows << " D " << D << " " << adder::dtype_name(dtype));
        const Tensor dense = uniform({rows, D}, dtype, 3, -0.4, 1);
        Values sums(static_cast<std::size_t>(D)), first;
        const Values x64 = dense.to_vector();
        for (std::size_t i = 0; i < x64.size(); ++i) sums[i % sums.size()] += x64[i];
        adder::test::with_threads([&] {
          const Tensor out = poisoned({D}, dtype);
          adder::kernel::column_sum({}, {.x = dense, .out = out});
          CHECK(error(out, sums) <= (dtype == Dtype::f64 ? 1e-13 : 2e-7));
          if (first.empty()) first = out.to_vector();
          CHECK(out.to_vector() == first);
          const Tensor apart = poisoned({D}, dtype);
          adder::kernel::column_sum({}, {.x = spread(dense), .out = apart});
          CHECK(error(apart, sums) <= adder::test::tolerance(dtype));
        });
      }
    }
  }
}

// Seven million ones and a few large numbers: float32 alone would stop counting at 2^24 in one
// accumulator, and lose the ones beside the large.
TEST_CASE("long sums are accumulated in more than float32") {
  const std::int64_t n = 7000001;
  const Tensor x = Tensor::full({n, 1}, 1);
  double expected = static_cast<double>(n);
  for (const std::int64_t at : {std::int64_t{0}, std::int64_t{3500000}, n - 1}) {
    x.data<float>()[at] = 1e7F;
    expected += 1e7 - 1;
  }
  const Tensor out = poisoned({1}, Dtype::f32);
  adder::kernel::column_sum({}, {.x = x, .out = out});
  CHECK(error(out, {expected}) <= 1e-7);
  x.data<float>()[77] = std::nanf("");
  adder::kernel::column_sum({}, {.x = x, .out = out});
  CHECK(std::isnan(out.to_vector()[0]));
}

TEST_CASE("dropout keeps exactly the elements its rule names") {
  for (const Dtype dtype : adder::test::kReal) {
    for (const std::int64_t n : {1, 63, 64, 65, 10007}) {
      const Tensor x = uniform({n}, dtype, 4);
      const double p = 0.3;
      Values expected = x.to_vector();
      std::int64_t kept = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        const std::uint32_t word = adder::philox(
            99, 12, static_cast<std::uint64_t>(i) / 4)[static_cast<std::size_t>(i % 4)];
        const bool keep = static_cast<double>(word) >= p * 4294967296.0;
        kept += keep ? 1 : 0;
        expected[static_cast<std::size_t>(i)] *= keep ? 1 / (1 - p) : 0;
      }
      if (n > 10000)
        CHECK(std::abs(static_cast<double>(kept) / static_cast<double>(n) - 0.7) <= 0.02);
      adder::test::with_threads([&] {
        const Tensor y = poisoned({n}, dtype);
        DropoutArgs args{.x = x, .y = y, .p = p, .seed = 99, .stream = 12};
        adder::kernel::dropout({}, args);
        CHECK(error(y, expected) <= adder::test::tolerance(dtype));
        const Tensor place = x.clone();
        args.x = args.y = place;
        adder::kernel::dropout({}, args);
        CHECK(place.to_vector() == y.to_vector());
        args.x = x;
        args.stream = 2;
        args.stream_offset = Tensor::from({1}, std::vector<std::int64_t>{10});
        adder::kernel::dropout({}, args);
        CHECK(place.to_vector() == y.to_vector());
      });
    }
  }
}

TEST_CASE("dropout at its ends") {
  const Tensor x = Tensor::full({100}, 2);
  const Tensor y = poisoned({100}, Dtype::f32);
  adder::kernel::dropout({}, {.x = x, .y = y, .p = 0});
  CHECK(y.to_vector() == x.to_vector());
  adder::kernel::dropout({}, {.x = x, .y = y, .p = 1});
  CHECK(y.to_vector() == Values(100, 0));
  const Tensor none = Tensor::empty({0, 3});
  adder::kernel::dropout({}, {.x = none, .y = none, .p = 0.5});
  CHECK_THROWS_AS(adder::kernel::dropout({}, {.x = x, .y = y, .p = 1.5}), adder::ConfigError);
  CHECK_THROWS_AS(adder::kernel::dropout({}, {.x = x, .y = y, .p = std::nan("")}),
                  adder::ConfigError);
  CHECK_THROWS_AS(adder::kernel::dropout({}, {.x = x, .y = Tensor::empty({99})}), ShapeError);
}
