// Low-rank branches of linear maps under dropout: y += scale dropout(x) A^T B^T. Nothing of x's
// size is written on a device: masks are drawn again wherever they act.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

// Which elements of a branch's input are kept: those that DropoutArgs would keep.
struct BranchDropout {
  double p = 0;
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
  Tensor stream_offset{};  // (1) int64 or undefined: added to stream, read where it lies
};

// s = alpha dropout(x) A^T. All four structs: x, A, s, ds, dx have one type; rows may be apart.
struct LowRankReduceArgs {
  Tensor x;  // (rows, K)
  Tensor A;  // (r, K)
  Tensor s;  // (rows, r), written
  double alpha = 1;
  BranchDropout dropout;
};

// dA = ds^T dropout(x), of the same masks.
struct LowRankDaArgs {
  Tensor ds;  // (rows, r)
  Tensor x;   // (rows, K)
  Tensor dA;  // (r, K), contiguous, overwritten; may be float32 beside bfloat16
  BranchDropout dropout;
};

// dx += dropout(ds A), of the same masks.
struct LowRankDxArgs {
  Tensor ds;  // (rows, r)
  Tensor A;   // (r, K)
  Tensor dx;  // (rows, K), read and written
  BranchDropout dropout;
};

// [W | B of each branch], zeros in the rows that a branch leaves alone.
struct LowRankJoinArgs {
  Tensor W;                             // (out, K)
  std::vector<Tensor> B;                // (rows_i, r_i) each, of joined's type
  std::vector<std::int64_t> row_begin;  // where rows_i begin among W's
  Tensor joined;  // (out, K + sum of r_i), written; W is converted to its type
};

ADDER_KERNEL(low_rank_reduce, LowRankReduceArgs);
ADDER_KERNEL(low_rank_da, LowRankDaArgs);
ADDER_KERNEL(low_rank_dx, LowRankDxArgs);
ADDER_KERNEL(low_rank_join, LowRankJoinArgs);

}  // namespace adder
