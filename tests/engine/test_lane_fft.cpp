// Transforms of a vector of sequences at once: products of spectra are circular convolutions.
#include <algorithm>
#include <doctest/doctest.h>
#include <limits>
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

// The forms for sequences that fill at most half of a transform, against the whole transforms.
template <typename T>
void check_half(std::int64_t n, std::int64_t used, double tolerance) {
  CAPTURE(n);
  CAPTURE(used);
  constexpr std::int64_t kElement = 2 * cpu::kLanes<T>;
  const cpu::LaneFft<T> fft(n);
  const std::vector<double> values = uniform({used, kElement}, Dtype::f64, 3).to_vector();
  const cpu::Scratch<T> from(values.begin(), values.end());
  const auto load = [&](std::int64_t t, std::int64_t count, T* to) {
    REQUIRE(count >= 1);
    REQUIRE(count <= cpu::LaneFft<T>::kTile);
    REQUIRE(t + count <= used);
    std::copy_n(from.data() + t * kElement, count * kElement, to);
  };
  std::vector<double> kept(static_cast<std::size_t>(used * kElement));
  const auto store = [&](std::int64_t t, std::int64_t count, const T* x) {
    REQUIRE(t + count <= used);
    std::copy_n(x, count * kElement, kept.data() + t * kElement);
  };
  const auto scaled = [](std::vector<double> x, double factor) {
    for (double& value : x) value *= factor;
    return x;
  };

  cpu::Scratch<T> whole(fft.size(), T{0});
  std::copy(from.begin(), from.end(), whole.begin());
  fft.forward(whole.data());
  cpu::Scratch<T> padded(fft.size(), std::numeric_limits<T>::quiet_NaN());
  fft.padded_forward(used, load, padded.data());
  const std::vector<double> spectrum(padded.begin(), padded.end());
  CHECK(error(spectrum, std::vector<double>(whole.begin(), whole.end())) <= tolerance);
  fft.halved_inverse(padded.data(), used, store);
  CHECK(error(scaled(kept, 1 / static_cast<double>(n)), values) <= tolerance);

  // Every element of the spectrum is changed once.
  std::fill(padded.begin(), padded.end(), std::numeric_limits<T>::quiet_NaN());
  std::fill(kept.begin(), kept.end(), std::numeric_limits<double>::quiet_NaN());
  const auto negate = [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t i = first * kElement; i < (first + count) * kElement; ++i) {
      padded[static_cast<std::size_t>(i)] *= -1;
    }
  };
  fft.through(used, load, negate, used, store, padded.data());
  CHECK(error(scaled(kept, -1 / static_cast<double>(n)), values) <= tolerance);
}

}  // namespace

TEST_CASE("padded and halved transforms are the whole ones") {
  for (const std::int64_t n : {2, 3, 4, 5, 6, 8, 9, 16, 24, 25, 30, 32, 64, 128, 400, 2048}) {
    for (const std::int64_t used : {std::int64_t{1}, n / 3, n / 2}) {
      if (used < 1) continue;
      check_half<float>(n, used, 1e-6);
      check_half<double>(n, used, 1e-14);
    }
  }
}

TEST_CASE("products of spectra are circular convolutions, for every kind of factor") {
  for (const std::int64_t n : {1, 2, 3, 4, 5, 6, 8, 9, 12, 15, 16, 25, 32, 60, 64, 90, 128, 200}) {
    check_length<float>(n, 1e-6);
    check_length<double>(n, 1e-14);
  }
}

TEST_CASE("other factors are refused") {
  CHECK_THROWS_AS(cpu::LaneFft<float>(14), ShapeError);
}
