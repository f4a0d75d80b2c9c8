// What tensors do with their own elements: copy with conversion, fill, add, scale. Any strides.
#pragma once

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

// to = from, converted; same shape and device.
struct CopyArgs {
  Tensor from, to;
};

struct FillArgs {
  Tensor x;
  double value = 0;
};

// x += other; same shape and floating dtype.
struct AddInPlaceArgs {
  Tensor other, x;
};

struct ScaleInPlaceArgs {
  Tensor x;
  double factor = 1;
};

ADDER_KERNEL(copy, CopyArgs);
ADDER_KERNEL(fill, FillArgs);
ADDER_KERNEL(add_in_place, AddInPlaceArgs);
ADDER_KERNEL(scale_in_place, ScaleInPlaceArgs);

}  // namespace adder
