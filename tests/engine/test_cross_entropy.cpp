#include <algorithm>

#include "engine/kernels/embedding.h"
#include "tests/engine/kernel_test.h"

using adder::CrossEntropyArgs;
using adder::Dtype;
using adder::ShapeError;
using adder::Tensor;
using adder::test::error;
using adder::test::poisoned;
using adder::test::spread;
using adder::test::uniform;

namespace {

Tensor ids(const std::vector<std::int32_t>& values) {
  return Tensor::from({static_cast<std::int64_t>(values.size())}, values);
}

Tensor some_ids(std::int64_t rows, std::int64_t below) {
  adder::Random random(5);
  std::vector<std::int32_t> values;
  for (std::int64_t i = 0; i < rows; ++i) {
    values.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(below))));
  }
  return ids(values);
}

constexpr double kInf = std::numeric_limits<double>::infinity();

}  // namespace

TEST_CASE("cross_entropy against plain sums") {
  const std::int64_t cases[][2] = {{1, 1}, {1, 5}, {9, 16}, {4, 50}, {3, 1000}, {2, 50280}};
  for (const Dtype dtype : adder::test::kReal) {
    const double tolerance = adder::test::tolerance(dtype);
    for (const auto& [rows, V] : cases) {
      for (const bool strided : {false, true}) {
        INFO("rows " << rows << " V " << V << " " << adder::dtype_name(dtype) << strided);
        const Tensor logits = uniform({rows, V}, dtype, 1, -20, 20);
        const Tensor targets = some_ids(rows, V);
        std::vector<double> x = logits.to_vector(), losses, gradient, best;
        for (std::int64_t row = 0; row < rows; ++row) {
          const double* r = x.data() + row * V;
          const auto target = static_cast<std::int64_t>(targets.item(row));
          const std::int64_t top = std::max_element(r, r + V) - r;
          double sum = 0;
          for (std::int64_t i = 0; i < V; ++i) sum += std::exp(r[i] - r[top]);
          losses.push_back(std::log(sum) + r[top] - r[target]);
          best.push_back(static_cast<double>(top));
          for (std::int64_t i = 0; i < V; ++i) {
            gradient.push_back(0.25 * (std::exp(r[i] - r[top]) / sum - (i == target ? 1 : 0)));
          }
        }
        adder::test::with_threads([&] {
          CrossEntropyArgs args{.logits = strided ? spread(logits) : logits.clone(),
                                .targets = targets,
                                .losses = poisoned({rows}, Dtype::f64),
                                .argmax = Tensor::full({rows}, -1, Dtype::i32),
                                .scale = 0.25};
          adder::kernel::cross_entropy({}, args);
          CHECK(error(args.losses, losses) <= tolerance);
          CHECK(args.argmax.to_vector() == best);
          CHECK(args.logits.to_vector() == x);  // untouched
          args.write_gradient = true;
          args.argmax = Tensor();
          args.losses.fill(std::nan(""));
          adder::kernel::cross_entropy({}, args);
          CHECK(error(args.losses, losses) <= tolerance);
          CHECK(error(args.logits, gradient) <= tolerance);
        });
      }
    }
  }
}

TEST_CASE("cross_entropy of extreme logits") {
  for (const Dtype dtype : adder::test::kReal) {
    const Tensor logits = Tensor::full({3, 20}, -1e4, dtype);
    logits.select(0, 0).slice(0, 7, 8).fill(1e4);     // certain, and right
    logits.select(0, 1).slice(0, 7, 8).fill(1e4);     // certain, and wrong
    logits.select(0, 2).slice(0, 0, 19).fill(-kInf);  // classes ruled out
    const Tensor losses = poisoned({3}, Dtype::f64);
    const Tensor argmax = Tensor::full({3}, -1, Dtype::i32);
    CrossEntropyArgs args{.logits = logits,
                          .targets = ids({7, 8, 19}),
                          .losses = losses,
                          .argmax = argmax,
                          .write_gradient = true};
    adder::kernel::cross_entropy({}, args);
    CHECK(losses.to_vector() == std::vector<double>{0, 2e4, 0});
    CHECK(argmax.to_vector() == std::vector<double>{7, 7, 19});
    CHECK(logits.item(20 + 7) == 1);
    CHECK(logits.item(20 + 8) == -1);
    for (std::int64_t i = 0; i < 20; ++i) CHECK(logits.item(40 + i) == 0);
  }
}

TEST_CASE("cross_entropy shows NaN and picks the first of equal logits") {
  const Tensor logits = Tensor::full({2, 40}, 1);
  logits.select(0, 1).slice(0, 33, 34).fill(std::nan(""));
  const Tensor losses = Tensor::zeros({2}, Dtype::f64);
  const Tensor argmax = Tensor::full({2}, -1, Dtype::i32);
  adder::kernel::cross_entropy(
      {}, {.logits = logits, .targets = ids({3, 3}), .losses = losses, .argmax = argmax});
  CHECK(argmax.item(0) == 0);
  CHECK(std::abs(losses.item(0) - std::log(40)) <= 1e-6);
  CHECK(std::isnan(losses.item(1)));
}

TEST_CASE("cross_entropy names row and target out of range") {
  for (const std::int32_t bad : {-1, 5}) {
    const CrossEntropyArgs args{.logits = Tensor::zeros({3, 5}),
                                .targets = ids({0, bad, 1}),
                                .losses = Tensor::zeros({3}, Dtype::f64)};
    try {
      adder::kernel::cross_entropy({}, args);
      FAIL("no error");
    } catch (const ShapeError& e) {
      CHECK(std::string(e.what()).find("row 1") != std::string::npos);
      CHECK(std::string(e.what()).find(std::to_string(bad)) != std::string::npos);
    }
  }
  CHECK_THROWS_AS(adder::kernel::cross_entropy({}, {.logits = Tensor::zeros({3, 5}),
                                                    .targets = ids({0, 0}),
                                                    .losses = Tensor::zeros({3}, Dtype::f64)}),
                  ShapeError);
  CHECK_THROWS_AS(
      adder::kernel::cross_entropy(
          {}, {.logits = Tensor::zeros({1, 5}), .targets = ids({0}), .losses = Tensor::zeros({1})}),
      adder::DtypeError);
  adder::kernel::cross_entropy({}, {.logits = Tensor::zeros({0, 5}),
                                    .targets = ids({}),
                                    .losses = Tensor::zeros({0}, Dtype::f64)});
}

TEST_CASE("embedding looks rows up and widens 16-bit tables") {
  for (const Dtype dtype : adder::test::kReal) {
    for (const Dtype stored : {dtype, Dtype::bf16, Dtype::f16}) {
      for (const std::int64_t D : {1, 17, 64}) {
        const Tensor table = spread(uniform({11, D}, stored, 1));
        const Tensor index = ids({10, 0, 3, 3, 7});
        const Tensor y = spread(poisoned({5, D}, dtype));
        adder::kernel::embedding_fwd({}, {.ids = index, .table = table, .y = y});
        for (std::int64_t row = 0; row < 5; ++row) {
          const auto id = static_cast<std::int64_t>(index.item(row));
          CHECK(y.select(0, row).to_vector() == table.select(0, id).to_vector());
        }
      }
    }
  }
}

TEST_CASE("embedding_bwd accumulates repeated ids, alike for every thread count") {
  for (const Dtype dtype : adder::test::kReal) {
    for (const std::int64_t D : {1, 70, 300}) {
      const std::int64_t rows = 500, V = 13;
      const Tensor index = some_ids(rows, V);
      const Tensor dy = spread(uniform({rows, D}, dtype, 2));
      const Tensor start = uniform({V, D}, dtype, 3);
      std::vector<double> expected = start.to_vector();
      const std::vector<double> gradient = dy.to_vector();
      for (std::int64_t row = 0; row < rows; ++row) {
        const auto id = static_cast<std::int64_t>(index.item(row));
        for (std::int64_t d = 0; d < D; ++d) {
          expected[static_cast<std::size_t>(id * D + d)] +=
              gradient[static_cast<std::size_t>(row * D + d)];
        }
      }
      std::vector<double> first;
      adder::test::with_threads([&] {
        const Tensor dtable = spread(start);
        adder::kernel::embedding_bwd({}, {.ids = index, .dy = dy, .dtable = dtable});
        CHECK(error(dtable, expected) <= adder::test::tolerance(dtype));
        if (first.empty()) first = dtable.to_vector();
        CHECK(dtable.to_vector() == first);
      });
    }
  }
}

TEST_CASE("embedding names position and id out of range") {
  const Tensor table = Tensor::zeros({4, 2});
  for (const std::int32_t bad : {-2, 4}) {
    try {
      adder::kernel::embedding_fwd(
          {}, {.ids = ids({1, 2, bad}), .table = table, .y = Tensor::zeros({3, 2})});
      FAIL("no error");
    } catch (const ShapeError& e) {
      CHECK(std::string(e.what()).find("position 2") != std::string::npos);
      CHECK(std::string(e.what()).find(std::to_string(bad)) != std::string::npos);
    }
    CHECK_THROWS_AS(adder::kernel::embedding_bwd(
                        {}, {.ids = ids({bad}), .dy = Tensor::zeros({1, 2}), .dtable = table}),
                    ShapeError);
  }
  CHECK_THROWS_AS(adder::kernel::embedding_fwd(
                      {}, {.ids = ids({1}), .table = table, .y = Tensor::zeros({1, 3})}),
                  ShapeError);
  CHECK_THROWS_AS(
      adder::kernel::embedding_fwd(
          {}, {.ids = Tensor::zeros({1}, Dtype::i64), .table = table, .y = Tensor::zeros({1, 2})}),
      adder::DtypeError);
  adder::kernel::embedding_fwd({}, {.ids = ids({}), .table = table, .y = Tensor::zeros({0, 2})});
}
