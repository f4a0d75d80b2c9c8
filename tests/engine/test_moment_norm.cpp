// moment_norm against sums written down plainly: shapes around parts and vectors, threads, running
// statistics, and what it refuses.
#include <cmath>

#include "engine/kernels/moment_norm.h"
#include "tests/engine/kernel_test.h"

using adder::Dtype;
using adder::MomentNormBwdArgs;
using adder::MomentNormFwdArgs;
using adder::Shape;
using adder::Tensor;
using adder::test::error;
using adder::test::poisoned;
using adder::test::uniform;

namespace {

using Values = std::vector<double>;

// Statistic of element (g, r, d).
std::int64_t statistic(const Shape& x, bool per_channel, std::int64_t i) {
  const std::int64_t group = i / (x[1] * x[2]);
  return per_channel ? group * x[2] + i % x[2] : group;
}

struct Expected {
  Values mean, var, y;
};
Expected forward(const Shape& shape, bool per_channel, const Values& x, const Values& w,
                 const Values& b, double epsilon) {
  const auto count = static_cast<std::size_t>(shape[0] * (per_channel ? shape[2] : 1));
  const auto n = static_cast<double>(x.size() / count);
  Expected e{Values(count, 0), Values(count, 0), Values(x.size())};
  const auto of = [&](std::size_t i) {
    return static_cast<std::size_t>(statistic(shape, per_channel, static_cast<std::int64_t>(i)));
  };
  for (std::size_t i = 0; i < x.size(); ++i) e.mean[of(i)] += x[i] / n;
  for (std::size_t i = 0; i < x.size(); ++i) e.var[of(i)] += std::pow(x[i] - e.mean[of(i)], 2) / n;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t c = i % static_cast<std::size_t>(shape[2]);
    e.y[i] = (x[i] - e.mean[of(i)]) / std::sqrt(e.var[of(i)] + epsilon) * w[c] + b[c];
  }
  return e;
}

}  // namespace

TEST_CASE("moment_norm against plain sums, to the same bits on any number of threads") {
  for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
    const double tolerance = dtype == Dtype::f32 ? 2e-6 : 1e-13;
    for (const Shape& shape : {Shape{1, 2, 3}, Shape{3, 64, 17}, Shape{2, 65, 70},
                               Shape{1, 513, 33}, Shape{40, 5, 8}, Shape{2, 3, 1}}) {
      for (const bool per_channel : {true, false}) {
        CAPTURE(shape.to_string());
        CAPTURE(per_channel);
        // Far from zero: squares that are not taken about the mean would be lost.
        const Tensor x = uniform(shape, dtype, 1, 99, 101);
        const Tensor w = uniform({shape[2]}, dtype, 2);
        const Tensor b = uniform({shape[2]}, dtype, 3);
        const Expected e =
            forward(shape, per_channel, x.to_vector(), w.to_vector(), b.to_vector(), 1e-3);
        MomentNormFwdArgs f{.x = x,
                            .weight = w,
                            .bias = b,
                            .epsilon = 1e-3,
                            .y = poisoned(shape, dtype),
                            .stats = poisoned({2, shape[0], per_channel ? shape[2] : 1}, dtype)};
        MomentNormBwdArgs g{.x = x,
                            .weight = w,
                            .stats = f.stats,
                            .dy = uniform(shape, dtype, 4),
                            .dx = poisoned(shape, dtype),
                            .dweight = poisoned({shape[2]}, dtype),
                            .dbias = poisoned({shape[2]}, dtype)};
        Values first;
        adder::test::with_threads([&] {
          adder::kernel::moment_norm_fwd({}, f);
          adder::kernel::moment_norm_bwd({}, g);
          // A float32 near 100 is known to 4e-6.
          CHECK(error(f.y, e.y) <= (dtype == Dtype::f32 ? 2e-5 : 1e-12));
          CHECK(error(f.stats.select(0, 0), e.mean) <= tolerance);
          Values all = f.y.to_vector();
          for (const Tensor& t : {f.stats, g.dx, g.dweight, g.dbias}) {
            const Values more = t.to_vector();
            all.insert(all.end(), more.begin(), more.end());
          }
          if (first.empty()) first = all;
          CHECK(all == first);
        });
      }
    }
  }
}

TEST_CASE("moment_norm blends running statistics and uses them") {
  const Tensor x = uniform({1, 130, 5}, Dtype::f32, 1, -1, 3);
  const Expected e = forward({1, 130, 5}, true, x.to_vector(), Values(5, 1), Values(5, 0), 0);
  MomentNormFwdArgs f{.x = x,
                      .y = poisoned({1, 130, 5}, Dtype::f32),
                      .stats = poisoned({2, 1, 5}, Dtype::f32),
                      .running_mean = Tensor::full({5}, 2),
                      .running_var = Tensor::full({5}, 3),
                      .batches = Tensor::full({}, 7, Dtype::i64),
                      .momentum = 0.25};
  adder::kernel::moment_norm_fwd({}, f);
  Values mean, var;
  for (std::size_t c = 0; c < 5; ++c) {
    mean.push_back(0.75 * 2 + 0.25 * e.mean[c]);
    var.push_back(0.75 * 3 + 0.25 * e.var[c] * 130 / 129);
  }
  CHECK(error(f.running_mean, mean) <= 1e-6);
  CHECK(error(f.running_var, var) <= 1e-6);
  CHECK(f.batches.item() == 8);
  f.use_running = true;
  f.epsilon = 0.5;
  const Values before = f.running_mean.to_vector();
  adder::kernel::moment_norm_fwd({}, f);
  Values y = x.to_vector();
  for (std::size_t i = 0; i < y.size(); ++i)
    y[i] = (y[i] - mean[i % 5]) / std::sqrt(var[i % 5] + 0.5);
  CHECK(error(f.y, y) <= 1e-6);
  CHECK(f.running_mean.to_vector() == before);
  CHECK(f.batches.item() == 8);
}

TEST_CASE("moment_norm refuses what does not fit") {
  const Tensor x = Tensor::zeros({2, 3, 4});
  const auto refused = [](MomentNormFwdArgs args, const char* message) {
    CHECK_THROWS_WITH_AS(adder::kernel::moment_norm_fwd({}, args), doctest::Contains(message),
                         adder::ShapeError);
  };
  MomentNormFwdArgs f{.x = x, .y = Tensor::zeros({2, 3, 4}), .stats = Tensor::zeros({2, 2, 4})};
  MomentNormFwdArgs g = f;
  g.stats = Tensor::zeros({2, 2, 3});
  refused(g, "stats is [2, 2, 3]");
  g = f;
  g.weight = Tensor::zeros({3});
  refused(g, "weight is [3], expected [4]");
  g = f;
  g.running_mean = g.running_var = Tensor::zeros({4});
  refused(g, "running statistics with 2 groups");
  g = f;
  g.x = Tensor::zeros({2, 4, 3}).transpose(1, 2);
  refused(g, "");
  g = f;
  g.x = Tensor::zeros({0, 3, 4});
  g.y = g.x;
  g.stats = Tensor::zeros({2, 0, 4});
  refused(g, "expected no empty extent");
}
