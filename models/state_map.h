// StateMap: a state parameter of an S4 layer, one number per channel and state, as adapters see it:
// its value with the low-rank branches attached to it.
#pragma once

#include <string>
#include <vector>

#include "autograd/ops.h"
#include "autograd/parameter.h"

namespace adder {

// value += scale U V, complex where the value is (last axis: real and imaginary part).
struct StateBranch {
  ParameterPtr U;  // (channels, r) or (channels, r, 2)
  ParameterPtr V;  // (r, states) or (r, states, 2)
  double scale = 1;
};

struct StateMap {
  std::string name;   // of the parameter: "layers.0.kernel.C"
  ParameterPtr base;  // (channels, states), or (channels, states, 2): complex
  std::vector<StateBranch> branches;

  bool is_complex() const { return base->value().rank() == 3; }
  // base + sum over the branches.
  Var operator()() const;
  Tensor merged() const;  // the same as a new tensor, without a gradient
};

}  // namespace adder
