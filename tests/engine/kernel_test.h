// Shared by the kernel tests: random tensors, poisoned outputs, and the error that decides.
#pragma once

#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <vector>

#include "engine/cpu/parallel.h"
#include "engine/random.h"
#include "engine/tensor.h"

namespace adder::test {

inline Tensor uniform(Shape shape, Dtype dtype, std::uint64_t seed, double low = -1,
                      double high = 1) {
  const Tensor tensor = Tensor::empty(shape, dtype);
  fill_uniform(tensor, low, high, seed, 0);
  return tensor;
}

// What a kernel must overwrite: anything it leaves alone, or reads, shows as NaN.
inline Tensor poisoned(Shape shape, Dtype dtype) {
  return Tensor::full(shape, std::numeric_limits<double>::quiet_NaN(), dtype);
}

// The same values in rows that are `gap` elements further apart.
inline Tensor spread(const Tensor& matrix, std::int64_t gap = 5) {
  const Tensor wide = poisoned({matrix.dim(0), matrix.dim(1) + gap}, matrix.dtype());
  const Tensor view = wide.slice(1, 2, 2 + matrix.dim(1));
  view.copy_from(matrix);
  return view;
}

// |actual - expected| / |expected| in the Euclidean norm; NaN if any entry is NaN.
inline double error(const std::vector<double>& actual, const std::vector<double>& expected) {
  if (actual.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}
inline double error(const Tensor& actual, const std::vector<double>& expected) {
  return error(actual.to_vector(), expected);
}

inline double tolerance(Dtype dtype) {
  return dtype == Dtype::f64 ? 1e-12 : 1e-6;
}

// Runs body under one thread and under several, so that both paths are covered.
template <typename Body>
void with_threads(const Body& body) {
  const int before = cpu::num_threads();
  for (const int threads : {1, 3}) {
    cpu::set_num_threads(threads);
    body();
  }
  cpu::set_num_threads(before);
}

inline const Dtype kReal[] = {Dtype::f32, Dtype::f64};

}  // namespace adder::test
