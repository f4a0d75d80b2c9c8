// Numbers of golden JSON files as tensors.
#pragma once

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>
#include <vector>

#include "engine/tensor.h"

namespace adder::test {

// Appends the numbers of nested lists, in order.
inline void flatten(const nlohmann::json& value, std::vector<double>& to) {
  if (value.is_number()) {
    to.push_back(value.get<double>());
  } else {
    for (const nlohmann::json& each : value) flatten(each, to);
  }
}

// Requires as many numbers as the shape holds.
inline Tensor tensor(const nlohmann::json& value, Shape shape, Dtype dtype) {
  std::vector<double> values;
  flatten(value, values);
  REQUIRE(static_cast<std::int64_t>(values.size()) == shape.numel());
  return Tensor::from(shape, values).to(dtype);
}

}  // namespace adder::test
