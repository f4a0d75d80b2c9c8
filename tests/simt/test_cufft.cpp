// The stand-in for cuFFT against sums written down from the definition.
#include <cmath>
#include <cufft.h>

#include "tests/simt/support.h"

using namespace simt_test;

namespace {

class Plan {
 public:
  Plan(int length, cufftType type, int batch) {
    REQUIRE_EQ(cufftPlanMany(&plan_, 1, &length, nullptr, 1, 0, nullptr, 1, 0, type, batch),
               CUFFT_SUCCESS);
  }
  ~Plan() { cufftDestroy(plan_); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  operator cufftHandle() const { return plan_; }

 private:
  cufftHandle plan_ = 0;
};

// Names of one precision, so that both take the same test.
struct Single {
  using Real = float;
  using Complex = cufftComplex;
  static constexpr cufftType kForward = CUFFT_R2C;
  static constexpr cufftType kInverse = CUFFT_C2R;
  static constexpr double kTolerance = 1e-6;
  static cufftResult forward(cufftHandle plan, Real* from, Complex* to) {
    return cufftExecR2C(plan, from, to);
  }
  static cufftResult inverse(cufftHandle plan, Complex* from, Real* to) {
    return cufftExecC2R(plan, from, to);
  }
};
struct Double {
  using Real = double;
  using Complex = cufftDoubleComplex;
  static constexpr cufftType kForward = CUFFT_D2Z;
  static constexpr cufftType kInverse = CUFFT_Z2D;
  static constexpr double kTolerance = 1e-13;
  static cufftResult forward(cufftHandle plan, Real* from, Complex* to) {
    return cufftExecD2Z(plan, from, to);
  }
  static cufftResult inverse(cufftHandle plan, Complex* from, Real* to) {
    return cufftExecZ2D(plan, from, to);
  }
};

template <typename P>
void check_transforms(int length) {
  CAPTURE(length);
  using Real = typename P::Real;
  const int batch = 2;
  const auto n = static_cast<std::size_t>(length);
  const std::size_t bins = n / 2 + 1;
  const std::vector<Real> x = numbers<Real>(n * batch, 5);
  const Buffer<Real> real(x);
  Buffer<typename P::Complex> complex(bins * batch);
  const Plan forward(length, P::kForward, batch);
  REQUIRE_EQ(P::forward(forward, real.get(), complex.get()), CUFFT_SUCCESS);
  std::vector<double> got;
  std::vector<double> expected;
  for (const auto& z : complex.read()) got.insert(got.end(), {double{z.x}, double{z.y}});
  for (std::size_t b = 0; b < batch; ++b) {
    for (std::size_t j = 0; j < bins; ++j) {
      double re = 0;
      double im = 0;
      for (std::size_t t = 0; t < n; ++t) {
        const double angle = -2 * std::acos(-1.0) * static_cast<double>(j * t) / length;
        re += static_cast<double>(x[b * n + t]) * std::cos(angle);
        im += static_cast<double>(x[b * n + t]) * std::sin(angle);
      }
      expected.insert(expected.end(), {re, im});
    }
  }
  CHECK_LT(relative_error(got, expected), P::kTolerance);
  // And back, after which the spectrum is gone.
  Buffer<Real> back(n * batch);
  const Plan inverse(length, P::kInverse, batch);
  REQUIRE_EQ(P::inverse(inverse, complex.get(), back.get()), CUFFT_SUCCESS);
  std::vector<double> scaled;
  for (const Real value : back.read()) scaled.push_back(static_cast<double>(value) / length);
  CHECK_LT(relative_error(scaled, x), P::kTolerance);
  for (const auto& z : complex.read()) CHECK(std::isnan(z.x));
}

}  // namespace

TEST_CASE("real transforms there and back, of even and odd lengths, in both precisions") {
  for (const int length : {1, 2, 3, 8, 15, 24}) {
    check_transforms<Single>(length);
    check_transforms<Double>(length);
  }
}

TEST_CASE("wrong arguments are refused as by cuFFT, and buffers that leave their memory found") {
  cufftHandle plan = 0;
  int length = 0;
  const auto make = [&](int rank, int batch) {
    return cufftPlanMany(&plan, rank, &length, nullptr, 1, 0, nullptr, 1, 0, CUFFT_R2C, batch);
  };
  CHECK_EQ(make(1, 1), CUFFT_INVALID_SIZE);
  length = 8;
  CHECK_EQ(make(1, 0), CUFFT_INVALID_SIZE);
  CHECK_EQ(make(2, 1), CUFFT_INVALID_VALUE);
  const Plan good(8, CUFFT_R2C, 2);
  Buffer<float> real(15);
  Buffer<cufftComplex> complex(10);
  CHECK_EQ(cufftExecC2R(good, complex.get(), real.get()), CUFFT_INVALID_TYPE);
  CHECK_EQ(cufftExecR2C(good + 1000, real.get(), complex.get()), CUFFT_INVALID_PLAN);
  CHECK_EQ(cufftDestroy(good + 1000), CUFFT_INVALID_PLAN);
  const std::string message =
      error_of([&] { (void)cufftExecR2C(good, real.get(), complex.get()); });
  CHECK_EQ(message, "cufft, 2 sequences of 8: a buffer leaves its device allocation");
}

TEST_CASE("transforms keep to the stream of the plan") {
  const Stream stream;
  const Plan plan(1, CUFFT_R2C, 1);
  REQUIRE_EQ(cufftSetStream(plan, stream), CUFFT_SUCCESS);
  const Buffer<float> real(std::vector<float>{3});
  const Buffer<cufftComplex> complex(std::vector<cufftComplex>{{0, 0}});
  simt::set_queued(true);
  CHECK_EQ(cufftExecR2C(plan, real.get(), complex.get()), CUFFT_SUCCESS);
  CHECK_EQ(complex.read()[0].x, 0.0F);
  must(cudaStreamSynchronize(stream));
  CHECK_EQ(complex.read()[0].x, 3.0F);
  simt::set_queued(false);
}
