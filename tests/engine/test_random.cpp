#include <map>
#include <set>

#include "engine/cpu/philox.h"
#include "tests/engine/kernel_test.h"

using adder::Dtype;
using adder::philox;
using adder::Random;
using adder::Tensor;

namespace {
using Words = std::array<std::uint32_t, 4>;
}

TEST_CASE("philox gives the published words") {
  // The 128-bit counter is (index, stream), least significant word first; the key is the seed.
  CHECK(philox(0, 0, 0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  const std::uint64_t ones = ~std::uint64_t{0};
  CHECK(philox(ones, ones, ones) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox(0x299f31d0a4093822U, 0x0370734413198a2eU, 0x85a308d3243f6a88U) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("the vectorised words are the same, across the carry too") {
  for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{0xfffffff8U}}) {
    std::uint32_t words[adder::cpu::kPhiloxWords];
    adder::cpu::philox_words(0x0123456789abcdefU, 0xfedcba9876543210U, first, words);
    for (std::uint64_t i = 0; i < adder::cpu::kPhiloxWords; ++i) {
      REQUIRE(words[i] == philox(0x0123456789abcdefU, 0xfedcba9876543210U, first + i / 4)[i % 4]);
    }
  }
}

TEST_CASE("a position restores the stream exactly") {
  Random random(42, 7);
  for (int i = 0; i < 5; ++i) random.next_u32();
  random.normal();
  random.below(10);
  const std::uint64_t position = random.position();
  const std::vector<double> expected{random.uniform(), random.normal(),
                                     static_cast<double>(random.next_u32()), random.uniform()};
  Random again(42, 7);
  again.set_position(position);
  CHECK(std::vector<double>{again.uniform(), again.normal(), static_cast<double>(again.next_u32()),
                            again.uniform()} == expected);
  Random other(42, 8);
  other.set_position(position);
  CHECK(other.uniform() != expected[0]);
}

TEST_CASE("moments of the sequential draws") {
  Random random(3);
  const int n = 20000;
  double sum = 0, squares = 0, uniforms = 0, fourth = 0;
  std::map<std::uint64_t, int> counts;
  for (int i = 0; i < n; ++i) {
    const double u = random.uniform();
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
    uniforms += u;
    const double z = random.normal();
    sum += z;
    squares += z * z;
    fourth += z * z * z * z;
    ++counts[random.below(7)];
  }
  CHECK(std::abs(uniforms / n - 0.5) <= 0.01);
  CHECK(std::abs(sum / n) <= 0.03);
  CHECK(std::abs(squares / n - 1) <= 0.04);
  CHECK(std::abs(fourth / n - 3) <= 0.3);
  CHECK(counts.size() == 7);
  for (const auto& [value, count] : counts)
    CHECK(std::abs(count - n / 7.0) <= 5 * std::sqrt(n / 7.0));
  CHECK(random.below(1) == 0);
  CHECK_THROWS_AS(random.below(0), adder::ConfigError);
}

TEST_CASE("fills do not depend on the thread count, dtype or length") {
  for (const bool normal : {false, true}) {
    const auto fill = [&](const Tensor& t) {
      return normal ? adder::fill_normal(t, 1, 2, 11, 5) : adder::fill_uniform(t, -1, 3, 11, 5);
    };
    const Tensor reference = Tensor::empty({10001}, Dtype::f64);
    fill(reference);
    adder::test::with_threads([&] {
      const Tensor t = adder::test::poisoned({10001}, Dtype::f32);
      fill(t);
      CHECK(t.to_vector() == reference.to(Dtype::f32).to_vector());
      const Tensor odd = adder::test::poisoned({77}, Dtype::f64);
      fill(odd);
      CHECK(odd.to_vector() == reference.slice(0, 0, 77).to_vector());
    });
  }
}

TEST_CASE("distribution of the fills") {
  const std::int64_t n = 200000;
  const Tensor t = Tensor::empty({n}, Dtype::f64);
  adder::fill_normal(t, 0.5, 2, 1, 2);
  double mean = 0, variance = 0, pairs = 0;
  const std::vector<double> z = t.to_vector();
  for (const double v : z) mean += v / static_cast<double>(n);
  for (const double v : z) variance += (v - mean) * (v - mean) / static_cast<double>(n);
  for (std::size_t i = 0; i + 1 < z.size(); i += 2) pairs += (z[i] - mean) * (z[i + 1] - mean);
  CHECK(std::abs(mean - 0.5) <= 0.02);
  CHECK(std::abs(variance - 4) <= 0.06);
  CHECK(std::abs(pairs / (static_cast<double>(n) / 2)) <= 0.06);  // the two of a pair: uncorrelated
  adder::fill_uniform(t, 2, 3, 1, 2);
  double low = 10, high = -10, sum = 0;
  for (const double v : t.to_vector()) {
    low = std::min(low, v);
    high = std::max(high, v);
    sum += v;
  }
  CHECK(low >= 2);
  CHECK(low <= 2.001);
  CHECK(high < 3);
  CHECK(high >= 2.999);
  CHECK(std::abs(sum / static_cast<double>(n) - 2.5) <= 0.005);
}

TEST_CASE("fills refuse what they cannot fill") {
  CHECK_THROWS_AS(adder::fill_uniform(Tensor::empty({2}, Dtype::i32), 0, 1, 0, 0),
                  adder::DtypeError);
  CHECK_THROWS_AS(adder::fill_normal(Tensor::empty({2, 3}).transpose(0, 1), 0, 1, 0, 0),
                  adder::ShapeError);
  adder::fill_normal(Tensor::empty({0}), 0, 1, 0, 0);
}
