// Initial values: the HiPPO matrices from their modes, the direct diagonals from their formulas.
#include <algorithm>
#include <cmath>
#include <complex>
#include <doctest/doctest.h>
#include <numbers>
#include <string>
#include <vector>

#include "models/s4_init.h"

using namespace adder;

namespace {

using Complex = std::complex<double>;
constexpr double kPi = std::numbers::pi;

Complex at(const Tensor& pairs, std::int64_t i) {
  return {pairs.item(2 * i), pairs.item(2 * i + 1)};
}

// B^T (s - A)^-1 B of the HiPPO matrix itself, by elimination.
Complex transfer_of_matrix(const HippoSystem& hippo, Complex s) {
  const std::int64_t M = hippo.B.dim(0);
  std::vector<std::vector<Complex>> rows(static_cast<std::size_t>(M));
  for (std::int64_t i = 0; i < M; ++i) {
    for (std::int64_t k = 0; k < M; ++k) {
      rows[static_cast<std::size_t>(i)].push_back((i == k ? s : 0.0) - hippo.A.item(i * M + k));
    }
    rows[static_cast<std::size_t>(i)].emplace_back(hippo.B.item(i));
  }
  const auto n = static_cast<std::size_t>(M);
  for (std::size_t c = 0; c < n; ++c) {
    for (std::size_t r = c + 1; r < n; ++r) {
      if (std::abs(rows[r][c]) > std::abs(rows[c][c])) std::swap(rows[r], rows[c]);
    }
    for (std::size_t r = 0; r < n; ++r) {
      if (r == c) continue;
      const Complex factor = rows[r][c] / rows[c][c];
      for (std::size_t k = c; k <= n; ++k) rows[r][k] -= factor * rows[c][k];
    }
  }
  Complex sum = 0;
  for (std::size_t i = 0; i < n; ++i)
    sum += hippo.B.item(static_cast<std::int64_t>(i)) * rows[i][n] / rows[i][i];
  return sum;
}

// The same from modes, conjugates and low rank.
Complex transfer_of_modes(const S4Nplr& nplr, Complex s) {
  const std::int64_t N = nplr.A.dim(0);
  const std::int64_t R = nplr.P.dim(0);
  const auto size = static_cast<std::size_t>(2 * N);
  const auto entry = [&](const Tensor& t, std::int64_t first, std::size_t i) {
    const auto n = static_cast<std::int64_t>(i);
    return n < N ? at(t, first + n) : std::conj(at(t, first + n - N));
  };
  std::vector<std::vector<Complex>> rows(size, std::vector<Complex>(size + 1));
  for (std::size_t i = 0; i < size; ++i) {
    for (std::size_t k = 0; k < size; ++k) {
      rows[i][k] = i == k ? s - entry(nplr.A, 0, i) : 0;
      for (std::int64_t r = 0; r < R; ++r) {
        rows[i][k] += entry(nplr.P, r * N, i) * std::conj(entry(nplr.P, r * N, k));
      }
    }
    rows[i][size] = entry(nplr.B, 0, i);
  }
  for (std::size_t c = 0; c < size; ++c) {
    for (std::size_t r = 0; r < size; ++r) {
      if (r == c) continue;
      const Complex factor = rows[r][c] / rows[c][c];
      for (std::size_t k = c; k <= size; ++k) rows[r][k] -= factor * rows[c][k];
    }
  }
  Complex sum = 0;
  for (std::size_t i = 0; i < size; ++i) {
    sum += std::conj(entry(nplr.B, 0, i)) * rows[i][size] / rows[i][i];
  }
  return sum;
}

}  // namespace

TEST_CASE("modes with low rank have the HiPPO matrix's transfer function") {
  for (const auto& [measure, rank] : {std::pair{HippoMeasure::legs, 1},
                                      {HippoMeasure::legt, 2},
                                      {HippoMeasure::fourier, 1},
                                      {HippoMeasure::legs, 2}}) {
    for (const std::int64_t M : {2, 4, 16, 64}) {
      CAPTURE(static_cast<int>(measure));
      CAPTURE(M);
      const S4Nplr nplr = s4_nplr(measure, M, rank);
      CHECK(nplr.A.dim(0) == M / 2);
      for (const Complex s : {Complex(1, 0), Complex(0.5, 3), Complex(2, -20)}) {
        const Complex expected = transfer_of_matrix(hippo_system(measure, M), s);
        CHECK(std::abs(transfer_of_modes(nplr, s) - expected) <= 1e-9 * std::abs(expected));
      }
      for (std::int64_t n = 0; n + 1 < M / 2; ++n) {
        CHECK(at(nplr.A, n).imag() < at(nplr.A, n + 1).imag());
      }
      CHECK(at(nplr.A, M / 2 - 1).imag() <= 0);
    }
  }
  // Rows beyond the measure's own rank are zero.
  CHECK(s4_nplr(HippoMeasure::legs, 8, 3).P.slice(0, 1, 3).to_vector() ==
        std::vector<double>(16, 0.0));
}

TEST_CASE("the direct diagonals follow their formulas") {
  const double M = 8;
  const auto check = [&](const char* init, auto frequency) {
    CAPTURE(init);
    const S4Init start = s4_init({.init = init, .d_state = 8, .copies = 2});
    for (std::int64_t i = 0; i < 8; ++i) {
      const auto n = static_cast<double>(i % 4);
      CHECK(at(start.A, i).real() == doctest::Approx(-0.5));
      CHECK(at(start.A, i).imag() == doctest::Approx(-frequency(n)).epsilon(1e-12));
      const bool low_rank = std::string(init).starts_with("dplr");
      CHECK((start.P.item(2 * i) != 0) == low_rank);
    }
  };
  check("diag-lin", [](double n) { return kPi * n; });
  check("diag-inv", [&](double n) { return M / kPi * (M / (2 * n + 1) - 1); });
  check("diag-inv2", [&](double n) { return M / kPi * (M / (n + 1) - 1); });
  check("diag-quad", [](double n) { return (2 * n + 1) * (2 * n + 1) / kPi; });
  const S4Nplr legs = s4_nplr(HippoMeasure::legs, 8, 1);
  check("diag-legs", [&](double n) { return -at(legs.A, static_cast<std::int64_t>(n)).imag(); });
  check("dplr-hippo", [&](double n) { return -at(legs.A, static_cast<std::int64_t>(n)).imag(); });

  const S4Init real = s4_init({.init = "diag-real", .d_state = 8});
  for (std::int64_t n = 0; n < 4; ++n) {
    CHECK(at(real.A, n) == Complex(-static_cast<double>(n + 1), 0));
  }
  const S4Init random = s4_init({.init = "diag-random", .d_state = 64, .copies = 4, .seed = 3});
  double mean = 0;
  for (std::int64_t i = 0; i < 128; ++i) mean += std::log(-at(random.A, i).imag()) / 128;
  CHECK(std::abs(mean) <= 0.4);  // normal with deviation 1 / sqrt(128)
  CHECK(at(random.A, 0) != at(random.A, 32));
  const S4Init again = s4_init({.init = "diag-random", .d_state = 64, .copies = 4, .seed = 3});
  CHECK(random.A.to_vector() == again.A.to_vector());
}

TEST_CASE("scales, weights of the input and their normalisation") {
  const S4Init scaled = s4_init({.init = "diag-lin",
                                 .d_state = 8,
                                 .real_scale = 3,
                                 .imag_scale = 0.5,
                                 .B_init = "alternating",
                                 .B_scale = 2});
  CHECK(at(scaled.A, 3) == Complex(-1.5, -1.5 * kPi));
  CHECK(at(scaled.B, 2) == Complex(2, 0));
  CHECK(at(scaled.B, 3) == Complex(-2, 0));
  const S4Init turned = s4_init({.init = "diag-lin", .d_state = 8, .B_init = "unit-cw"});
  CHECK(std::abs(at(turned.B, 2) - Complex(0, -1)) <= 1e-12);
  const S4Init other = s4_init({.init = "diag-lin", .d_state = 8, .B_init = "unit-ccw"});
  CHECK(std::abs(at(other.B, 2) - Complex(0, 1)) <= 1e-12);
  const S4Init normal =
      s4_init({.init = "diag-inv", .d_state = 8, .B_init = "random", .normalize = true});
  double size = 0;
  for (std::int64_t n = 0; n < 4; ++n) size += 2 * std::norm(at(normal.B, n) / at(normal.A, n));
  CHECK(size == doctest::Approx(1).epsilon(1e-12));
  const S4Init low_rank = s4_init({.init = "dplr-lin", .d_state = 8, .rank = 2, .P_scale = 5});
  CHECK(std::abs(at(low_rank.P, 0)) > 0);
  for (const char* option : {"real", "imag"}) {
    const bool is_real = option[0] == 'r';
    const S4Init drawn = s4_init(
        {.init = "diag-lin", .d_state = 64, .real_random = is_real, .imag_random = !is_real});
    double least = 1e9;
    double most = 0;
    for (std::int64_t n = 0; n < 32; ++n) {
      const double value = is_real ? -at(drawn.A, n).real() : -at(drawn.A, n).imag() / kPi;
      least = std::min(least, value);
      most = std::max(most, value);
    }
    CHECK(least >= 0);
    CHECK(most <= (is_real ? 1 : 32));
    CHECK(most > (is_real ? 0.7 : 22));
  }
}

TEST_CASE("combinations share the copies in order") {
  const S4Init all = s4_init({.init = "all", .d_state = 8, .copies = 8, .rank = 1});
  const S4Nplr legs = s4_nplr(HippoMeasure::legs, 8, 1);
  const S4Nplr fourier = s4_nplr(HippoMeasure::fourier, 8, 1);
  const S4Init inv = s4_init({.init = "diag-inv", .d_state = 8});
  const S4Init lin = s4_init({.init = "diag-lin", .d_state = 8});
  const Tensor* parts[] = {&legs.A, &fourier.A, &inv.A, &lin.A};
  for (std::int64_t copy = 0; copy < 8; ++copy) {
    for (std::int64_t n = 0; n < 4; ++n) {
      CHECK(at(all.A, copy * 4 + n) == at(*parts[copy / 2], n));
    }
  }
  CHECK(s4_init({.init = "hippo", .d_state = 8, .copies = 2}).A.slice(0, 1, 2).to_vector() ==
        fourier.A.to_vector());
}

TEST_CASE("parameters give the initial matrices back through their transforms, but for the clamp") {
  const S4Init start = s4_init({.init = "fourier", .d_state = 8, .copies = 2});
  for (const S4Transform real :
       {S4Transform::exp, S4Transform::softplus, S4Transform::none, S4Transform::relu}) {
    const S4Options options{.method = S4Method::bilinear, .real = real, .imag_sign = -1};
    const S4StateParameters parameters = s4_state_parameters(start, options, Dtype::f64);
    const Tensor modes = Tensor::empty({2, 4, 2}, Dtype::f64);
    const Tensor p = modes.clone();
    S4DiscretizeFwdArgs args{.A_real = parameters.A_real,
                             .A_imag = parameters.A_imag,
                             .dt = Tensor::full({2}, std::log(0.1), Dtype::f64),
                             .B = {},
                             .options = options,
                             .log_q = modes,
                             .p = p,
                             .b = modes.clone()};
    args.options.method = S4Method::zoh;
    kernel::s4_discretize_fwd({}, args);
    for (std::int64_t i = 0; i < 8; ++i) {
      const Complex A = at(modes, i) / 0.1;
      const double floor = real == S4Transform::relu ? 2e-4 : 1e-4;
      CHECK(A.real() == doctest::Approx(-floor).epsilon(1e-9));  // of 0
      const double frequency = std::max(-at(start.A, i).imag(), 1e-4);
      CHECK(A.imag() == doctest::Approx(-frequency).epsilon(1e-9));
    }
    CHECK(parameters.P.shape() == Shape{1, 2, 4, 2});
  }
}

TEST_CASE("what cannot be made is refused with its numbers") {
  CHECK_THROWS_WITH_AS(s4_init({.d_state = 7}),
                       doctest::Contains("d_state is 7, expected an even number"), ConfigError);
  CHECK_THROWS_WITH_AS(s4_nplr(HippoMeasure::legs, 0, 1), doctest::Contains("d_state is 0"),
                       ConfigError);
  CHECK_THROWS_WITH_AS(s4_nplr(HippoMeasure::legt, 8, 1),
                       doctest::Contains("rank is 1, expected at least 2"), ConfigError);
  CHECK_THROWS_WITH_AS(s4_init({.init = "all", .d_state = 8, .copies = 6}),
                       doctest::Contains("6 copies"), ConfigError);
  CHECK_THROWS_WITH_AS(s4_init({.init = "diag-log", .d_state = 8}), doctest::Contains("\"log\""),
                       ConfigError);
  CHECK_THROWS_WITH_AS(s4_init({.init = "lags", .d_state = 8}), doctest::Contains("\"lags\""),
                       ConfigError);
  CHECK_THROWS_WITH_AS(s4_init({.init = "diag-lin", .d_state = 8, .B_init = "ones"}),
                       doctest::Contains("\"ones\""), ConfigError);
  CHECK_THROWS_AS(s4_init({.init = "diag-lin", .d_state = 8, .real_scale = -1}), ConfigError);
}
