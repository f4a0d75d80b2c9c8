// StateMap: a state parameter of an S4 layer, one number per channel and state, as adapters see it:
// a matrix of rows and states with the low-rank branches attached to it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "autograd/ops.h"
#include "autograd/parameter.h"

namespace adder {

// value += scale U V, complex where the value is (last axis: real and imaginary part).
struct StateBranch {
  ParameterPtr U;  // (rows, r) or (rows, r, 2)
  ParameterPtr V;  // (r, states) or (r, states, 2)
  double scale = 1;
};

struct StateMap {
  std::string name;   // of the parameter: "layers.0.kernel.C"
  ParameterPtr base;  // (rows, states), (rows, states, 2): complex, or (M, rows / M, states, 2)
  std::vector<StateBranch> branches;
  std::string alias;  // another name that configurations may use for it, or empty

  bool is_complex() const { return base->value().rank() > 2; }
  std::int64_t states() const { return base->value().dim(is_complex() ? -2 : -1); }
  std::int64_t rows() const;
  // base + sum over the branches, in the shape of base.
  Var operator()() const;
  Tensor merged() const;  // the same as a new tensor, without a gradient
};

}  // namespace adder
