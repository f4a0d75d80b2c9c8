// Checks of kernel arguments that every device's column makes.
#pragma once

#include <initializer_list>

#include "engine/tensor.h"

namespace adder {

struct NamedTensor {
  // activation: computed per call, may be stored in 16 bits; weight: float32 beside those.
  enum class Kind : std::uint8_t { activation, weight };
  const char* name;
  const Tensor& tensor;
  Shape shape;
  bool required;
  Kind kind = Kind::activation;
  bool sequences = false;  // the last axis but one may be the dense one instead
};

// Throws ShapeError or DtypeError, naming `place` and the argument, unless every tensor that is
// defined has its shape, a dense last axis (or, for sequences, the one before), and the dtype of
// the first one (float32, float64 or bfloat16); weights are float32 where that is bfloat16.
void check_arguments(const char* place, std::initializer_list<NamedTensor> arguments);

// Throws ShapeError unless `tensor` is defined with this rank; the extents are then read from it.
void check_rank(const char* place, const char* name, const Tensor& tensor, int rank);

}  // namespace adder
