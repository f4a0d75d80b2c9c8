// What the tests of the CUDA column share: the device (a GPU, or the emulator), inputs drawn once
// in float64, and poisoned outputs. Without a device every test passes and says so.
#pragma once

#include <cstdlib>
#include <doctest/doctest.h>
#include <limits>
#include <string>

#include "autograd/op_cases.h"
#include "engine/device_runtime.h"
#include "engine/random.h"

namespace adder::test {

inline constexpr Device kCuda{DeviceKind::cuda, 0};

inline bool has_device() {
  const DeviceRuntime* runtime = cuda_runtime();
  if (runtime != nullptr && runtime->count() > 0) return true;
  // scripts/gpu_check sets it: where a device has to be, its absence is a failure.
  if (std::getenv("ADDER_DEVICE_REQUIRED") != nullptr) FAIL_CHECK("no CUDA device");
  MESSAGE("skipped: no CUDA device");
  return false;
}

// A tensor on the device and its float64 twin on the CPU, both of the same numbers.
struct Twin {
  Tensor device, exact;
};

// Uniform in [low, high), rounded to `dtype` first so that both sides start from the same numbers.
inline Twin draw(Shape shape, double low, double high, Dtype dtype, std::uint64_t seed) {
  const Tensor values = Tensor::empty(shape, Dtype::f64);
  fill_uniform(values, low, high, seed, 0);
  const Tensor rounded = values.to(dtype);
  return {rounded.to(kCuda), rounded.to(Dtype::f64)};
}

inline Twin poisoned(Shape shape, Dtype dtype) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  return {Tensor::full(shape, nan, dtype, kCuda), Tensor::full(shape, nan, Dtype::f64)};
}

// NaN fails: the comparison is of the form !(error <= tolerance).
inline void check_close(const std::string& what, const Twin& twin, double tolerance) {
  const double error = relative_error(twin.device, twin.exact);
  CAPTURE(what);
  CHECK(error <= tolerance);
}

}  // namespace adder::test
