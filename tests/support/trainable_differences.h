// Gradients of trainables against difference quotients.
#pragma once

#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <vector>

#include "autograd/optim.h"

namespace adder::test {

// Checks the gradients that float64 trainables hold against five-point differences of loss(), at
// about `entries` entries of each, within 1e-7. Values are as before afterwards.
template <typename Loss>
void check_differences(const std::vector<Trainable>& trainables, std::int64_t entries,
                       const Loss& loss) {
  for (const Trainable& trainable : trainables) {
    CAPTURE(trainable.name);
    double difference = 0;
    double size = 0;
    const Tensor gradient = trainable.grad();
    const std::int64_t count = trainable.value.numel();
    for (std::int64_t i = 0; i < count; i += std::max<std::int64_t>(1, count / entries)) {
      double& entry = trainable.value.data<double>()[i];
      const double x = entry;
      const auto at = [&](double value) {
        entry = value;
        trainable.apply();
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
}

}  // namespace adder::test
