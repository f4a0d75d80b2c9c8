// Gradients of parameters and trainables against difference quotients.
#pragma once

#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <vector>

#include "autograd/optim.h"
#include "autograd/parameter.h"

namespace adder::test {

// Checks a float64 gradient against five-point differences of loss(), at about `entries` entries of
// the value, within 1e-7. The value is as before afterwards.
template <typename Loss>
void check_differences(const Tensor& value, const Tensor& gradient, std::int64_t entries,
                       const Loss& loss) {
  double difference = 0;
  double size = 0;
  const std::int64_t count = value.numel();
  for (std::int64_t i = 0; i < count; i += std::max<std::int64_t>(1, count / entries)) {
    double& entry = value.data<double>()[i];
    const double x = entry;
    const auto at = [&](double near) {
      entry = near;
      return loss();
    };
    const double h = 2.5e-4;
    const double numeric =
        (at(x - 2 * h) - 8 * at(x - h) + 8 * at(x + h) - at(x + 2 * h)) / (12 * h);
    at(x);
    const double error = numeric - gradient.item(i);
    difference += error * error;
    size += numeric * numeric;
  }
  CHECK(std::sqrt(difference) <= 1e-7 * std::max(std::sqrt(size), 1e-3));
}

// The same for the gradients that they hold.
template <typename Loss>
void check_differences(const std::vector<Trainable>& trainables, std::int64_t entries,
                       const Loss& loss) {
  for (const Trainable& trainable : trainables) {
    CAPTURE(trainable.name);
    check_differences(trainable.value, trainable.grad(), entries, [&] {
      trainable.apply();
      return loss();
    });
  }
}
template <typename Loss>
void check_differences(const std::vector<ParameterPtr>& parameters, std::int64_t entries,
                       const Loss& loss) {
  for (const ParameterPtr& parameter : parameters) {
    CAPTURE(parameter->name());
    check_differences(parameter->value(), parameter->var().grad(), entries, loss);
  }
}

}  // namespace adder::test
