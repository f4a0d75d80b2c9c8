// Element-wise maps, dropout and reductions over dense rows.
#pragma once

#include <cstdint>

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

enum class UnaryOp : std::uint8_t {
  silu,
  softplus,
  exp,
  square,
  scale,
  sigmoid,
  tanh,
  relu,
  gelu,  // x Phi(x), by the error function
  elu    // x, and e^x - 1 below zero
};
enum class BinaryOp : std::uint8_t { add, sub, mul };

// y = f(x); parameter is the factor of UnaryOp::scale. Same shape, any strides of the rows.
struct UnaryFwdArgs {
  UnaryOp op;
  Tensor x, y;
  double parameter = 1;
};

// dx = dy * f'(x).
struct UnaryBwdArgs {
  UnaryOp op;
  Tensor x, dy, dx;
  double parameter = 1;
};

// y = a (op) b, same shapes.
struct BinaryArgs {
  BinaryOp op;
  Tensor a, b, y;
};

// y += bias broadcast over the rows of y (rows, D).
struct AddBiasArgs {
  Tensor bias;  // (D), float32 beside bfloat16 y
  Tensor y;     // (rows, D), rows may be strided
};

// out[d] = sum over rows of x[row, d], in a fixed order.
struct ColumnSumArgs {
  Tensor x;    // (rows, D), rows may be strided
  Tensor out;  // (D), overwritten; may be float32 beside bfloat16 x
};

// y = x * mask / (1 - p): the mask is a function of (seed, stream, element index) alone, so that
// the backward pass and a recomputation draw the same one. Applied to dy it gives the gradient.
struct DropoutArgs {
  Tensor x, y;  // same shape; may be the same tensor
  double p = 0;
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
  Tensor stream_offset{};  // (1) int64 or undefined: added to stream, read where it lies
};

ADDER_KERNEL(unary_fwd, UnaryFwdArgs);
ADDER_KERNEL(unary_bwd, UnaryBwdArgs);
ADDER_KERNEL(binary, BinaryArgs);
ADDER_KERNEL(add_bias, AddBiasArgs);
ADDER_KERNEL(column_sum, ColumnSumArgs);
ADDER_KERNEL(dropout, DropoutArgs);

}  // namespace adder
