#include "cufft.h"

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "tests/simt/internal.h"

namespace simt {
namespace {

struct FftPlan {
  int length = 0;
  int batch = 0;
  cufftType type = CUFFT_R2C;
  cudaStream_t stream = nullptr;

  std::size_t bins() const { return static_cast<std::size_t>(length / 2 + 1); }
};

std::map<cufftHandle, FftPlan>& plans() {
  static auto* instance = new std::map<cufftHandle, FftPlan>;
  return *instance;
}

// cos and sin of 2 pi k / length.
struct Circle {
  explicit Circle(int length) : cosine(length), sine(length) {
    for (int k = 0; k < length; ++k) {
      const double angle = 2 * 3.14159265358979323846 * k / length;
      cosine[static_cast<std::size_t>(k)] = std::cos(angle);
      sine[static_cast<std::size_t>(k)] = std::sin(angle);
    }
  }
  std::vector<double> cosine, sine;
};

template <typename Real, typename Complex>
void check_reach(const FftPlan& p, const Real* real, const Complex* complex) {
  const auto batch = static_cast<std::size_t>(p.batch);
  const auto length = static_cast<std::size_t>(p.length);
  if (!in_allocation(real, batch * length * sizeof(Real)) ||
      !in_allocation(complex, batch * p.bins() * sizeof(Complex))) {
    throw Error("cufft, " + std::to_string(p.batch) + " sequences of " + std::to_string(p.length) +
                ": a buffer leaves its device allocation");
  }
}

template <typename Real, typename Complex>
void forward(const FftPlan& p, const Real* input, Complex* output) {
  const DeviceAccess access;
  check_reach(p, input, output);
  const Circle circle(p.length);
  const auto length = static_cast<std::size_t>(p.length);
  for (int batch = 0; batch < p.batch; ++batch, input += length, output += p.bins()) {
    for (std::size_t j = 0; j < p.bins(); ++j) {
      double re = 0;
      double im = 0;
      for (std::size_t t = 0; t < length; ++t) {
        re += static_cast<double>(input[t]) * circle.cosine[j * t % length];
        im -= static_cast<double>(input[t]) * circle.sine[j * t % length];
      }
      output[j] = {static_cast<Real>(re), static_cast<Real>(im)};
    }
  }
}

// The imaginary parts of the first bin and, for an even length, the last are not read.
template <typename Real, typename Complex>
void inverse(const FftPlan& p, Complex* input, Real* output) {
  const DeviceAccess access;
  check_reach(p, output, input);
  const Circle circle(p.length);
  const auto length = static_cast<std::size_t>(p.length);
  const Real nan = std::numeric_limits<Real>::quiet_NaN();
  for (int batch = 0; batch < p.batch; ++batch, input += p.bins(), output += length) {
    for (std::size_t t = 0; t < length; ++t) {
      double sum = static_cast<double>(input[0].x);
      for (std::size_t j = 1; j < p.bins(); ++j) {
        const double re = static_cast<double>(input[j].x);
        const double im = static_cast<double>(input[j].y);
        if (2 * j == length) {
          sum += t % 2 == 0 ? re : -re;
        } else {
          sum += 2 * (re * circle.cosine[j * t % length] - im * circle.sine[j * t % length]);
        }
      }
      output[t] = static_cast<Real>(sum);
    }
    for (std::size_t j = 0; j < p.bins(); ++j) input[j] = {nan, nan};
  }
}

template <typename Work>
cufftResult execute(cufftHandle handle, cufftType type, const Work& work) {
  const std::lock_guard<std::recursive_mutex> lock(emulator_mutex());
  const auto found = plans().find(handle);
  if (found == plans().end()) return CUFFT_INVALID_PLAN;
  const FftPlan plan = found->second;
  if (plan.type != type) return CUFFT_INVALID_TYPE;
  const cudaError_t error = record_error(submit(plan.stream, [plan, work] { work(plan); }));
  return error == cudaSuccess ? CUFFT_SUCCESS : CUFFT_EXEC_FAILED;
}

}  // namespace
}  // namespace simt

cufftResult cufftPlanMany(cufftHandle* plan, int rank, int* n, int* inembed, int /*istride*/,
                          int /*idist*/, int* onembed, int /*ostride*/, int /*odist*/,
                          cufftType type, int batch) {
  const std::lock_guard<std::recursive_mutex> lock(simt::emulator_mutex());
  if (simt::device_count() == 0) return CUFFT_SETUP_FAILED;
  if (plan == nullptr || n == nullptr || rank != 1) return CUFFT_INVALID_VALUE;
  if (inembed != nullptr || onembed != nullptr) return CUFFT_INVALID_VALUE;
  if (*n < 1 || batch < 1) return CUFFT_INVALID_SIZE;
  static cufftHandle next = 1;
  *plan = next++;
  simt::plans()[*plan] = {*n, batch, type, nullptr};
  return CUFFT_SUCCESS;
}

cufftResult cufftSetStream(cufftHandle plan, cudaStream_t stream) {
  const std::lock_guard<std::recursive_mutex> lock(simt::emulator_mutex());
  const auto found = simt::plans().find(plan);
  if (found == simt::plans().end()) return CUFFT_INVALID_PLAN;
  found->second.stream = stream;
  return CUFFT_SUCCESS;
}

cufftResult cufftDestroy(cufftHandle plan) {
  const std::lock_guard<std::recursive_mutex> lock(simt::emulator_mutex());
  return simt::plans().erase(plan) == 1 ? CUFFT_SUCCESS : CUFFT_INVALID_PLAN;
}

cufftResult cufftExecR2C(cufftHandle plan, cufftReal* input, cufftComplex* output) {
  return simt::execute(plan, CUFFT_R2C,
                       [=](const simt::FftPlan& p) { simt::forward(p, input, output); });
}

cufftResult cufftExecD2Z(cufftHandle plan, cufftDoubleReal* input, cufftDoubleComplex* output) {
  return simt::execute(plan, CUFFT_D2Z,
                       [=](const simt::FftPlan& p) { simt::forward(p, input, output); });
}

cufftResult cufftExecC2R(cufftHandle plan, cufftComplex* input, cufftReal* output) {
  return simt::execute(plan, CUFFT_C2R,
                       [=](const simt::FftPlan& p) { simt::inverse(p, input, output); });
}

cufftResult cufftExecZ2D(cufftHandle plan, cufftDoubleComplex* input, cufftDoubleReal* output) {
  return simt::execute(plan, CUFFT_Z2D,
                       [=](const simt::FftPlan& p) { simt::inverse(p, input, output); });
}
