// LinearMap: a weight matrix of a model as adapters see it, with named slices of its output rows
// and the low-rank branches attached to it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "autograd/ops.h"
#include "autograd/parameter.h"

namespace adder {

// What a forward pass needs to know besides its inputs.
struct ForwardContext {
  bool training = false;          // dropout acts
  std::uint64_t seed = 0;         // of the dropout masks
  std::uint64_t micro_batch = 0;  // each forward pass of a run has its own masks
  bool recompute = false;         // keep only layer inputs and run layers again in backward
  // (1) int64 on the device, micro_batch << kMicroBatchShift, where that is to be read there: in a
  // recorded step, which is replayed for other batches. micro_batch is 0 then.
  Tensor stream_offset{};
};
inline constexpr int kMicroBatchShift = 20;  // dropout's stream: above it the pass, below the site

// Rows [begin, end) of a map's output under a name of their own: "in_proj_x", "x_proj_B", …
struct LinearSlice {
  std::string name;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

struct LoraBranch {
  ParameterPtr A;  // (r, in)
  ParameterPtr B;  // (rows, r)
  std::int64_t row_begin = 0;
  double scale = 1;  // lora_alpha / r
  double dropout = 0;
  std::uint64_t site = 0;  // distinct for every branch of a model
};

struct LinearMap {
  std::string name;     // of the module: "backbone.layers.0.mixer.in_proj"
  ParameterPtr weight;  // (out, in)
  ParameterPtr bias;    // (out), or null
  // The bias is added further on (dt_proj's goes into the scan, before the softplus).
  bool bias_applied_later = false;
  std::vector<LinearSlice> slices;
  std::vector<LoraBranch> branches;

  Var operator()(const Var& x, const ForwardContext& context) const;
  // The weight with every branch folded in: W + sum scale B A, float32, a new tensor.
  Tensor merged_weight() const;
};

}  // namespace adder
