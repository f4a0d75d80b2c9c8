#include "engine/kernels/optim.h"
#include "tests/engine/kernel_test.h"

using adder::AdamwArgs;
using adder::Dtype;
using adder::SgdArgs;
using adder::ShapeError;
using adder::Tensor;
using adder::test::error;
using adder::test::uniform;

namespace {
using Values = std::vector<double>;
}

TEST_CASE("AdamW follows its definition over several steps") {
  for (const Dtype dtype : adder::test::kReal) {
    for (const std::int64_t n : {1, 100, 40003}) {
      adder::test::with_threads([&] {
        AdamwArgs args{.value = uniform({n}, dtype, 1),
                       .grad = Tensor(),
                       .m = Tensor::zeros({n}, dtype),
                       .v = Tensor::zeros({n}, dtype),
                       .lr = 1e-2,
                       .beta1 = 0.9,
                       .beta2 = 0.99,
                       .epsilon = 1e-6,
                       .weight_decay = 0.1,
                       .grad_scale = 0.5};
        Values p = args.value.to_vector(), m(p.size()), v(p.size());
        for (args.step = 1; args.step <= 4; ++args.step) {
          args.grad = uniform({n}, dtype, static_cast<std::uint64_t>(10 + args.step), -1, 2);
          const Values grad = args.grad.to_vector();
          const auto t = static_cast<double>(args.step);
          for (std::size_t i = 0; i < p.size(); ++i) {
            const double g = 0.5 * grad[i];
            p[i] *= 1 - 1e-2 * 0.1;
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.99 * v[i] + 0.01 * g * g;
            p[i] -= 1e-2 / (1 - std::pow(0.9, t)) * m[i] /
                    (std::sqrt(v[i]) / std::sqrt(1 - std::pow(0.99, t)) + 1e-6);
          }
          adder::kernel::adamw_step({}, args);
          CHECK(error(args.value, p) <= adder::test::tolerance(dtype));
          CHECK(error(args.m, m) <= adder::test::tolerance(dtype));
          CHECK(error(args.v, v) <= adder::test::tolerance(dtype));
        }
      });
    }
  }
}

TEST_CASE("AdamW's first step is lr times the sign of the gradient") {
  const Tensor value = Tensor::zeros({3}, Dtype::f64);
  adder::kernel::adamw_step({}, {.value = value,
                                 .grad = Tensor::from({3}, Values{4, -1e-3, 0}),
                                 .m = Tensor::zeros({3}, Dtype::f64),
                                 .v = Tensor::zeros({3}, Dtype::f64),
                                 .lr = 0.5,
                                 .epsilon = 1e-12});
  CHECK(error(value, {-0.5, 0.5, 0}) <= 1e-8);
}

TEST_CASE("SGD with and without momentum") {
  for (const Dtype dtype : adder::test::kReal) {
    for (const double momentum : {0.0, 0.8}) {
      const std::int64_t n = 20011;
      SgdArgs args{.value = uniform({n}, dtype, 1),
                   .grad = Tensor(),
                   .lr = 0.1,
                   .momentum = momentum,
                   .weight_decay = 0.01,
                   .grad_scale = 2};
      // The buffer starts as rubbish: the first step must not read it.
      if (momentum != 0) args.momentum_buffer = adder::test::poisoned({n}, dtype);
      Values p = args.value.to_vector(), buffer(p.size());
      for (args.step = 1; args.step <= 3; ++args.step) {
        args.grad = uniform({n}, dtype, static_cast<std::uint64_t>(args.step));
        const Values grad = args.grad.to_vector();
        for (std::size_t i = 0; i < p.size(); ++i) {
          const double g = 2 * grad[i] + 0.01 * p[i];
          buffer[i] = args.step == 1 ? g : momentum * buffer[i] + g;
          p[i] -= 0.1 * (momentum == 0 ? g : buffer[i]);
        }
        adder::kernel::sgd_step({}, args);
        CHECK(error(args.value, p) <= adder::test::tolerance(dtype));
        if (momentum != 0) {
          CHECK(error(args.momentum_buffer, buffer) <= adder::test::tolerance(dtype));
        }
      }
    }
  }
}

TEST_CASE("sum of squares: large, strided, empty and non-finite") {
  for (const Dtype dtype : adder::test::kReal) {
    for (const std::int64_t n : {0, 1, 17, 300007}) {
      const Tensor x = uniform({n}, dtype, 1);
      double expected = 0;
      for (const double v : x.to_vector()) expected += v * v;
      double first = -1;
      adder::test::with_threads([&] {
        double sum = std::nan("");
        adder::kernel::sum_squares({}, {.x = x, .sum = &sum});
        CHECK(std::abs(sum - expected) <= 1e-12 * expected);
        if (first < 0) first = sum;
        CHECK(sum == first);
      });
    }
    const Tensor view = adder::test::spread(uniform({9, 5}, dtype, 2));  // NaN lies in between
    double expected = 0;
    for (const double v : view.to_vector()) expected += v * v;
    double sum = 0;
    adder::kernel::sum_squares({}, {.x = view, .sum = &sum});
    CHECK(std::abs(sum - expected) <= 1e-12 * expected);
    const Tensor big = Tensor::full({100}, 1e30, dtype);
    adder::kernel::sum_squares({}, {.x = big, .sum = &sum});
    CHECK(std::abs(sum / 1e62 - 1) <= 1e-6);  // float32 alone would overflow
    big.slice(0, 50, 51).fill(std::nan(""));
    adder::kernel::sum_squares({}, {.x = big, .sum = &sum});
    CHECK(std::isnan(sum));
    big.slice(0, 50, 51).fill(-std::numeric_limits<double>::infinity());
    adder::kernel::sum_squares({}, {.x = big, .sum = &sum});
    CHECK(std::isinf(sum));
  }
}

TEST_CASE("optimisers refuse what does not fit") {
  const Tensor a = Tensor::zeros({4});
  const Tensor b = Tensor::zeros({5});
  CHECK_THROWS_AS(adder::kernel::adamw_step({}, {.value = a, .grad = b, .m = a, .v = a}),
                  ShapeError);
  CHECK_THROWS_AS(adder::kernel::adamw_step({}, {.value = a, .grad = a, .m = a, .v = Tensor()}),
                  ShapeError);
  CHECK_THROWS_AS(
      adder::kernel::adamw_step({}, {.value = a, .grad = a, .m = a, .v = a.to(Dtype::f64)}),
      adder::DtypeError);
  CHECK_THROWS_AS(adder::kernel::adamw_step({}, {.value = a, .grad = a, .m = a, .v = a, .step = 0}),
                  adder::ConfigError);
  CHECK_THROWS_AS(adder::kernel::sgd_step({}, {.value = a, .grad = a, .momentum = 0.9}),
                  ShapeError);
  CHECK_THROWS_AS(
      adder::kernel::sgd_step({}, {.value = Tensor::zeros({2, 2}).transpose(0, 1), .grad = a}),
      ShapeError);
}
