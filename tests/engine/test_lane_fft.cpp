// Transforms of a vector of sequences at once: products of spectra are circular convolutions.
#include <doctest/doctest.h>
#include <vector>

#include "engine/cpu/lane_fft.h"
#include "engine/error.h"
#include "tests/engine/kernel_test.h"

using namespace adder;
using namespace adder::test;

namespace {

template <typename T>
void check_length(std::int64_t n, double tolerance) {
  CAPTURE(n);
  constexpr std::int64_t kWidth = cpu::kLanes<T>;
  const cpu::LaneFft<T> fft(n);
  REQUIRE(fft.size() == static_cast<std::size_t>(n * 2 * kWidth));
  const std::vector<double> a = uniform({n, 2, kWidth}, Dtype::f64, 1).to_vector();
  const std::vector<double> b = uniform({n, 2, kWidth}, Dtype::f64, 2).to_vector();
  cpu::Scratch<T> x(a.begin(), a.end());
  cpu::Scratch<T> y(b.begin(), b.end());
  fft.forward(x.data());
  fft.forward(y.data());
  cpu::Scratch<T> product(fft.size());
  const auto at = [](std::int64_t t, std::int64_t part, std::int64_t lane) {
    return static_cast<std::size_t>((t * 2 + part) * kWidth + lane);
  };
  for (std::int64_t j = 0; j < n; ++j) {
    for (std::int64_t i = 0; i < kWidth; ++i) {
      const std::size_t re = at(j, 0, i);
      const std::size_t im = at(j, 1, i);
      product[re] = x[re] * y[re] - x[im] * y[im];
      product[im] = x[re] * y[im] + x[im] * y[re];
    }
  }
  fft.inverse(product.data());
  std::vector<double> actual;
  std::vector<double> expected;
  for (std::int64_t t = 0; t < n; ++t) {
    for (std::int64_t i = 0; i < kWidth; ++i) {
      double re = 0;
      double im = 0;
      for (std::int64_t s = 0; s < n; ++s) {
        const std::int64_t rest = (t - s + n) % n;
        re += a[at(s, 0, i)] * b[at(rest, 0, i)] - a[at(s, 1, i)] * b[at(rest, 1, i)];
        im += a[at(s, 0, i)] * b[at(rest, 1, i)] + a[at(s, 1, i)] * b[at(rest, 0, i)];
      }
      expected.insert(expected.end(), {re, im});
      for (std::int64_t part = 0; part < 2; ++part) {
        actual.push_back(static_cast<double>(product[at(t, part, i)]) / static_cast<double>(n));
      }
    }
  }
  CHECK(error(actual, expected) <= tolerance);
  // A transform there and back is the sequence.
  fft.inverse(x.data());
  std::vector<double> back(x.begin(), x.end());
  for (double& value : back) value /= static_cast<double>(n);
  CHECK(error(back, a) <= tolerance);
}

}  // namespace

TEST_CASE("products of spectra are circular convolutions, for every kind of factor") {
  for (const std::int64_t n : {1, 2, 3, 4, 5, 6, 8, 9, 12, 15, 16, 25, 32, 60, 64, 90, 128, 200}) {
    check_length<float>(n, 1e-6);
    check_length<double>(n, 1e-14);
  }
}

TEST_CASE("other factors are refused") {
  CHECK_THROWS_AS(cpu::LaneFft<float>(14), ShapeError);
}
