// Embedding lookup and the loss at the other end of the model.
#pragma once

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

// y[i] = table[ids[i]]; throws ShapeError naming position and id when an id is out of range.
struct EmbeddingFwdArgs {
  Tensor ids;    // (rows) int32
  Tensor table;  // (V, D); bf16/f16 is widened
  Tensor y;      // (rows, D), written
};

struct EmbeddingBwdArgs {
  Tensor ids;     // (rows) int32
  Tensor dy;      // (rows, D)
  Tensor dtable;  // (V, D), accumulated into, in a fixed order
};

ADDER_KERNEL(embedding_fwd, EmbeddingFwdArgs);
ADDER_KERNEL(embedding_bwd, EmbeddingBwdArgs);

// Softmax cross entropy of one chunk of rows.
struct CrossEntropyArgs {
  Tensor logits;    // (rows, V); overwritten by scale * (softmax - one_hot) when write_gradient
  Tensor targets;   // (rows) int32, each in [0, V)
  Tensor losses;    // (rows) float64, written: -log softmax[target]
  Tensor argmax{};  // (rows) int32, written, or undefined
  bool write_gradient = false;
  double scale = 1;
  // (rows, V), receives the gradient instead, and logits are scratch; may be bfloat16 beside
  // float32 logits. Undefined: none.
  Tensor gradient{};
};

ADDER_KERNEL(cross_entropy, CrossEntropyArgs);

// Squared differences of rows.
struct SquareErrorArgs {
  Tensor y, target;   // (rows, D), one type
  Tensor losses;      // (rows) float64, written: sum over D of (y - target)^2
  Tensor gradient{};  // (rows, D), written: scale * 2 (y - target); undefined: none
  double scale = 1;
};

ADDER_KERNEL(square_error, SquareErrorArgs);

// What is left of a batch's positions, on the device: sums = {sum of the losses, in a fixed order;
// number of positions whose argmax is the target} and loss = factor * the former.
struct LossSumsArgs {
  Tensor losses;           // (rows) float64
  Tensor argmax, targets;  // (rows) int32, or both undefined: nothing is right
  Tensor sums;             // (2) float64, written
  Tensor loss;             // (1), written
  double factor = 1;
};

ADDER_KERNEL(loss_sums, LossSumsArgs);

}  // namespace adder
