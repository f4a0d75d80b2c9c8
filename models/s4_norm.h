// The normalisation of an S4 block in the kinds of the official code, with the tensors of PyTorch's
// module of that kind.
#pragma once

#include <cstdint>
#include <string>

#include "autograd/ops.h"
#include "autograd/parameter.h"
#include "models/linear_map.h"
#include "models/model.h"

namespace adder {

struct S4Norm {
  static constexpr double kEpsilon = 1e-5;
  static constexpr double kMomentum = 0.1;

  // layer, layer_scalar (the official code's for channels before positions), batch, instance
  // (without weights, as the official code makes it), group (one group) or none.
  std::string kind = "none";
  ParameterPtr weight, bias;     // (H), or null; layer_scalar: s and m, (1)
  BufferPtr mean, var, batches;  // batch: running statistics (H), (H) and () int64; or null

  // x is (B, L, H). The batch's statistics are blended into the running ones in training, and those
  // are used otherwise; frozen, they are used in training too. `again`: the pass repeats one that
  // blended them. Throws ShapeError where a variance would be that of a single value.
  Var operator()(const Var& x, const ForwardContext& context, bool frozen, bool again) const;
  // Initial values: weight 1, bias 0, mean 0, variance 1.
  void reset() const;
  // Throws IoError, naming `place`, for a running variance below zero.
  void check_loaded(const std::string& place) const;
};

}  // namespace adder
