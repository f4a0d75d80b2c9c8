#include "engine/kernels/optim.h"
#include "tests/engine/kernel_test.h"

using adder::AdamwArgs;
using adder::Dtype;
using adder::OptimItem;
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
        AdamwArgs args{.items = {{.value = uniform({n}, dtype, 1),
                                  .grad = Tensor(),
                                  .first = Tensor::zeros({n}, dtype),
                                  .second = Tensor::zeros({n}, dtype)}},
                       .lr = 1e-2,
                       .beta1 = 0.9,
                       .beta2 = 0.99,
                       .epsilon = 1e-6,
                       .weight_decay = 0.1,
                       .grad_scale = 0.5};
        OptimItem& item = args.items.front();
        Values p = item.value.to_vector(), m(p.size()), v(p.size());
        for (args.step = 1; args.step <= 4; ++args.step) {
          item.grad = uniform({n}, dtype, static_cast<std::uint64_t>(10 + args.step), -1, 2);
          const Values grad = item.grad.to_vector();
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
          CHECK(error(item.value, p) <= adder::test::tolerance(dtype));
          CHECK(error(item.first, m) <= adder::test::tolerance(dtype));
          CHECK(error(item.second, v) <= adder::test::tolerance(dtype));
        }
      });
    }
  }
}

TEST_CASE("AdamW's first step is lr times the sign of the gradient") {
  const Tensor value = Tensor::zeros({3}, Dtype::f64);
  adder::kernel::adamw_step({}, {.items = {{.value = value,
                                            .grad = Tensor::from({3}, Values{4, -1e-3, 0}),
                                            .first = Tensor::zeros({3}, Dtype::f64),
                                            .second = Tensor::zeros({3}, Dtype::f64)}},
                                 .lr = 0.5,
                                 .epsilon = 1e-12});
  CHECK(error(value, {-0.5, 0.5, 0}) <= 1e-8);
}

TEST_CASE("an update's schedule may lie in memory") {
  const auto run = [](const Tensor& schedule, bool sgd) {
    const Tensor value = uniform({300}, Dtype::f32, 1);
    const std::vector<OptimItem> items{{.value = value,
                                        .grad = uniform({300}, Dtype::f32, 2),
                                        .first = uniform({300}, Dtype::f32, 3),
                                        .second = uniform({300}, Dtype::f32, 4, 0)}};
    const double lr = schedule.defined() ? 77 : 0.03;
    if (sgd) {
      adder::kernel::sgd_step(
          {}, {.items = items, .lr = lr, .momentum = 0.9, .step = 5, .schedule = schedule});
    } else {
      adder::kernel::adamw_step({}, {.items = items,
                                     .lr = lr,
                                     .weight_decay = 0.1,
                                     .step = schedule.defined() ? 1 : 5,
                                     .schedule = schedule});
    }
    return value.to_vector();
  };
  const adder::AdamwSchedule numbers = adder::adamw_schedule(0.03, 0.9, 0.999, 0.1, 5);
  const Tensor adamw =
      Tensor::from({3}, Values{numbers.keep, numbers.step_size, numbers.root2}).to(Dtype::f32);
  const std::vector<double> expected = run(Tensor(), false);
  CHECK(std::isfinite(expected[0]));
  CHECK(run(adamw, false) == expected);
  CHECK(run(Tensor::from({3}, Values{0.03, 0, 0}).to(Dtype::f32), true) == run(Tensor(), true));
  CHECK_THROWS_AS(run(Tensor::zeros({2}), false), ShapeError);
}

TEST_CASE("SGD with and without momentum") {
  for (const Dtype dtype : adder::test::kReal) {
    for (const double momentum : {0.0, 0.8}) {
      const std::int64_t n = 20011;
      SgdArgs args{.items = {{.value = uniform({n}, dtype, 1), .grad = Tensor()}},
                   .lr = 0.1,
                   .momentum = momentum,
                   .weight_decay = 0.01,
                   .grad_scale = 2};
      // The buffer starts as rubbish: the first step must not read it.
      OptimItem& item = args.items.front();
      if (momentum != 0) item.first = adder::test::poisoned({n}, dtype);
      Values p = item.value.to_vector(), buffer(p.size());
      for (args.step = 1; args.step <= 3; ++args.step) {
        item.grad = uniform({n}, dtype, static_cast<std::uint64_t>(args.step));
        const Values grad = item.grad.to_vector();
        for (std::size_t i = 0; i < p.size(); ++i) {
          const double g = 2 * grad[i] + 0.01 * p[i];
          buffer[i] = args.step == 1 ? g : momentum * buffer[i] + g;
          p[i] -= 0.1 * (momentum == 0 ? g : buffer[i]);
        }
        adder::kernel::sgd_step({}, args);
        CHECK(error(item.value, p) <= adder::test::tolerance(dtype));
        if (momentum != 0) {
          CHECK(error(item.first, buffer) <= adder::test::tolerance(dtype));
        }
      }
    }
  }
}

TEST_CASE("a displacement moves its entries of the working weights and no others") {
  for (const Dtype dtype : adder::test::kReal) {
    for (const double scale : {1.0, 0.3}) {
      const Tensor target = uniform({4, 5}, dtype, 1);
      const Values before = target.to_vector();
      const Tensor base = Tensor::from({3}, Values{before[17], before[2], before[9]}).to(dtype);
      const Tensor delta = uniform({3}, dtype, 2);
      const Tensor plain = delta.clone();
      const Tensor grad = uniform({3}, dtype, 3);
      const auto zeros = [&] { return Tensor::zeros({3}, dtype); };
      adder::kernel::adamw_step(
          {}, {.items = {{.value = delta,
                          .grad = grad,
                          .first = zeros(),
                          .second = zeros(),
                          .positions = Tensor::from({3}, std::vector<std::int64_t>{17, 2, 9}),
                          .base = base,
                          .target = target,
                          .scale = scale}},
               .lr = 0.1});
      adder::kernel::adamw_step(
          {}, {.items = {{.value = plain, .grad = grad, .first = zeros(), .second = zeros()}},
               .lr = 0.1});
      const Values moved = delta.to_vector();
      CHECK(moved == plain.to_vector());
      Values expected = before;
      expected[17] += scale * moved[0];
      expected[2] += scale * moved[1];
      expected[9] += scale * moved[2];
      CHECK(error(target, expected) <= adder::test::tolerance(dtype));
      const Values after = target.to_vector();
      for (const std::size_t i : {0U, 1U, 3U, 8U, 10U, 16U, 18U, 19U}) CHECK(after[i] == before[i]);
    }
  }
}

TEST_CASE("the norm of all gradients: large, strided, empty, absent and non-finite") {
  for (const Dtype dtype : adder::test::kReal) {
    for (const std::int64_t n : {0, 1, 17, 300007}) {
      const Tensor x = uniform({n}, dtype, 1);
      const Tensor view = adder::test::spread(uniform({9, 5}, dtype, 2));  // NaN lies in between
      double expected = 0;
      for (const double v : x.to_vector()) expected += v * v;
      for (const double v : view.to_vector()) expected += v * v;
      expected = std::sqrt(expected);
      double first = -1;
      adder::test::with_threads([&] {
        const Tensor result = adder::test::poisoned({2}, Dtype::f64);
        adder::kernel::gradient_norm(
            {}, {.grads = {x, view, Tensor::empty({0}, dtype)}, .max_norm = 0.1, .result = result});
        const double norm = result.item(0);
        CHECK(std::abs(norm - expected) <= 1e-12 * expected);
        CHECK(std::abs(result.item(1) - 0.1 / (norm + 1e-6)) <= 1e-15);
        if (first < 0) first = norm;
        CHECK(norm == first);
      });
    }
    const Tensor result = adder::test::poisoned({2}, Dtype::f64);
    const auto norm_of = [&](std::vector<Tensor> grads, double max_norm) {
      adder::kernel::gradient_norm(
          {}, {.grads = std::move(grads), .max_norm = max_norm, .result = result});
      return result.item(0);
    };
    CHECK(norm_of({}, 1) == 0);
    CHECK(result.item(1) == 1);
    const Tensor big = Tensor::full({100}, 1e30, dtype);
    CHECK(std::abs(norm_of({big}, 0) / 1e31 - 1) <= 1e-6);  // float32 alone would overflow
    CHECK(result.item(1) == 1);
    big.slice(0, 50, 51).fill(std::nan(""));
    CHECK(std::isnan(norm_of({big}, 0)));
    CHECK(std::isnan(result.item(1)));
    big.slice(0, 50, 51).fill(-std::numeric_limits<double>::infinity());
    CHECK(std::isinf(norm_of({big}, 1)));
    CHECK(std::isnan(result.item(1)));
  }
}

TEST_CASE("a gradient that is not finite changes nothing") {
  const Tensor value = uniform({50}, Dtype::f32, 1);
  const Tensor grad = uniform({50}, Dtype::f32, 2);
  const Tensor first = uniform({50}, Dtype::f32, 3);
  const Tensor second = uniform({50}, Dtype::f32, 4);
  const std::vector<Values> before{value.to_vector(), first.to_vector(), second.to_vector()};
  const std::vector<OptimItem> items{
      {.value = value, .grad = grad, .first = first, .second = second}};
  const Tensor clip = Tensor::empty({2}, Dtype::f64);
  const auto now = [&] {
    return std::vector<Values>{value.to_vector(), first.to_vector(), second.to_vector()};
  };
  grad.slice(0, 3, 4).fill(std::nan(""));
  adder::kernel::gradient_norm({}, {.grads = {grad}, .max_norm = 1, .result = clip});
  adder::kernel::adamw_step({}, {.items = items, .lr = 0.1, .clip = clip});
  adder::kernel::sgd_step({}, {.items = items, .lr = 0.1, .momentum = 0.9, .clip = clip});
  CHECK(now() == before);
  grad.slice(0, 3, 4).fill(1);
  adder::kernel::gradient_norm({}, {.grads = {grad}, .max_norm = 1, .result = clip});
  adder::kernel::adamw_step({}, {.items = items, .lr = 0.1, .clip = clip});
  CHECK(now() != before);
}

TEST_CASE("optimisers refuse what does not fit") {
  const Tensor a = Tensor::zeros({4});
  const Tensor b = Tensor::zeros({5});
  const auto adamw = [](OptimItem item, std::int64_t step = 1) {
    adder::kernel::adamw_step({}, {.items = {std::move(item)}, .step = step});
  };
  CHECK_THROWS_AS(adamw({.value = a, .grad = b, .first = a, .second = a}), ShapeError);
  CHECK_THROWS_AS(adamw({.value = a, .grad = a, .first = a}), ShapeError);
  CHECK_THROWS_AS(adamw({.value = a, .grad = a, .first = a, .second = a.to(Dtype::f64)}),
                  adder::DtypeError);
  CHECK_THROWS_AS(adamw({.value = a, .grad = a, .first = a, .second = a}, 0), adder::ConfigError);
  CHECK_THROWS_AS(adamw({.value = a,
                         .grad = a,
                         .first = a,
                         .second = a,
                         .positions = Tensor::zeros({3}, Dtype::i64),
                         .base = a,
                         .target = b}),
                  ShapeError);
  CHECK_THROWS_AS(
      adder::kernel::sgd_step({}, {.items = {{.value = a, .grad = a}}, .momentum = 0.9}),
      ShapeError);
  const Tensor turned = Tensor::zeros({2, 2}).transpose(0, 1);
  CHECK_THROWS_AS(adder::kernel::sgd_step({}, {.items = {{.value = turned, .grad = a}}}),
                  ShapeError);
}
