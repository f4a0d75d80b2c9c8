// The vector functions against the C library in double precision, over their whole range.
#include <cmath>
#include <doctest/doctest.h>
#include <limits>

#include "engine/cpu/simd.h"

namespace adder {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Applies a function of vectors to one number: every lane must agree.
template <typename F>
float apply(const F& f, float x) {
  float lanes[cpu::kLanes<float>];
  cpu::store(lanes, f(cpu::broadcast(x)));
  return lanes[cpu::kLanes<float> - 1];
}

// The largest relative error at evenly spaced points; infinite when a result is NaN.
template <typename F, typename G>
double worst_error(const F& f, const G& exact, double low, double high) {
  double worst = 0;
  constexpr int kPoints = 100003;
  for (int i = 0; i < kPoints; ++i) {
    const auto x = static_cast<float>(low + (high - low) * i / kPoints);
    const double expected = exact(static_cast<double>(x));
    const double error = std::abs(static_cast<double>(apply(f, x)) - expected);
    if (!(error <= worst * std::abs(expected))) worst = error / std::abs(expected);
    if (std::isnan(worst)) return static_cast<double>(kInfinity);
  }
  return worst;
}

const auto kExp2 = [](cpu::VecF x) { return cpu::exp2(x); };
const auto kExp = [](cpu::VecF x) { return cpu::exp(x); };
const auto kSoftplus = [](cpu::VecF x) { return cpu::softplus(x); };
const auto kSigmoid = [](cpu::VecF x) { return cpu::sigmoid(x); };
const auto kSilu = [](cpu::VecF x) { return cpu::silu(x); };

}  // namespace

TEST_CASE("simd: float functions are accurate in their whole range") {
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  const auto softplus = [](double x) { return x > 20 ? x : std::log1p(std::exp(x)); };
  CHECK(worst_error(
            kExp2, [](double x) { return std::exp2(x); }, -125.9, 127.4) <= 1.2e-7);
  CHECK(worst_error(
            kExp2, [](double x) { return std::exp2(x); }, -1e-3, 1e-3) <= 6e-8);
  CHECK(worst_error(
            kExp, [](double x) { return std::exp(x); }, -87.0, 88.7) <= 1.3e-7);
  CHECK(worst_error(kSoftplus, softplus, -86.0, 30.0) <= 3e-7);
  CHECK(worst_error(kSigmoid, sigmoid, -86.0, 40.0) <= 2e-7);
  CHECK(worst_error(
            kSilu, [&](double x) { return x * sigmoid(x); }, -86.0, 40.0) <= 2.5e-7);
}

TEST_CASE("simd: limits of the float functions") {
  CHECK(apply(kExp2, 0.0F) == 1.0F);
  CHECK(apply(kExp, 0.0F) == 1.0F);
  for (const float x : {-150.0F, -1e30F, -kInfinity}) {
    CHECK(apply(kExp2, x) == 0.0F);
    CHECK(apply(kExp, x) == 0.0F);
    CHECK(apply(kSoftplus, x) == 0.0F);
    CHECK(apply(kSigmoid, x) == 0.0F);
  }
  for (const float x : {128.0F, 1e30F, kInfinity}) {
    CHECK(apply(kExp2, x) == kInfinity);
    CHECK(apply(kExp, x) == kInfinity);
    CHECK(apply(kSoftplus, x) == x);
    CHECK(apply(kSigmoid, x) == 1.0F);
  }
  const float nan = std::bit_cast<float>(0x7FC12345U);  // with a payload, which must not leak
  CHECK(std::isnan(apply(kExp2, nan)));
  CHECK(std::isnan(apply(kExp, nan)));
  CHECK(std::isnan(apply(kSoftplus, nan)));
  CHECK(std::isnan(apply(kSilu, nan)));
}

TEST_CASE("simd: partial loads and stores touch only their lanes") {
  constexpr int kWidth = cpu::kLanes<float>;
  float memory[kWidth];
  for (int count = 0; count <= kWidth; ++count) {
    for (int i = 0; i < kWidth; ++i) memory[i] = static_cast<float>(i + 1);
    const cpu::VecF v = cpu::load(memory, count);
    for (int i = 0; i < kWidth; ++i) CHECK(v[i] == (i < count ? memory[i] : 0.0F));
    cpu::store(memory, cpu::broadcast(-1.0F), count);
    for (int i = 0; i < kWidth; ++i) CHECK((memory[i] == -1.0F) == (i < count));
    CHECK(cpu::sum_lanes<float>(v) == static_cast<float>(count * (count + 1) / 2));
  }
}

}  // namespace adder
