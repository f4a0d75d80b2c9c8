#include "engine/kernels/arguments.h"

namespace adder {

void check_arguments(const char* place, std::initializer_list<NamedTensor> arguments) {
  const Dtype dtype = arguments.begin()->tensor.dtype();
  const bool known = dtype == Dtype::f32 || dtype == Dtype::f64 || dtype == Dtype::bf16;
  for (const auto& [name, tensor, shape, required, kind, sequences] : arguments) {
    if (!tensor.defined()) {
      if (required) throw ShapeError(str(place, ": ", name, " is undefined, expected ", shape));
      continue;
    }
    check_shape(place, name, tensor, shape);
    const bool widened = kind == NamedTensor::Kind::weight && dtype == Dtype::bf16;
    const Dtype expected = known ? (widened ? Dtype::f32 : dtype) : Dtype::f32;
    if (tensor.dtype() != expected) {
      throw DtypeError(str(place, ": ", name, " is ", dtype_name(tensor.dtype()), ", expected ",
                           dtype_name(expected), " beside ", dtype_name(dtype), " ",
                           arguments.begin()->name));
    }
    if (sequences && (tensor.dim(-2) == 1 || tensor.stride(-2) == 1)) continue;
    if (tensor.rank() > 0 && tensor.dim(-1) > 1 && tensor.stride(-1) != 1) {
      throw ShapeError(str(place, ": ", name, " ", shape, " has stride ", tensor.stride(-1),
                           " along its last axis, expected 1"));
    }
  }
}

void check_rank(const char* place, const char* name, const Tensor& tensor, int rank) {
  if (tensor.defined() && tensor.rank() == rank) return;
  throw ShapeError(str(place, ": ", name, " is ", tensor.defined() ? "" : "undefined ",
                       tensor.shape(), ", expected rank ", rank));
}

}  // namespace adder
