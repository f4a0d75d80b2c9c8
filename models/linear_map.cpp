#include "models/linear_map.h"

#include "engine/kernels/matmul.h"

namespace adder {

Var LinearMap::operator()(const Var& x, const ForwardContext& context) const {
  std::vector<LowRank> low_rank;
  low_rank.reserve(branches.size());
  for (const LoraBranch& branch : branches) {
    low_rank.push_back({.A = branch.A->var(),
                        .B = branch.B->var(),
                        .row_begin = branch.row_begin,
                        .scale = branch.scale,
                        .dropout = context.training ? branch.dropout : 0,
                        .seed = context.seed,
                        .stream = (context.micro_batch << kMicroBatchShift) + branch.site,
                        .stream_offset = context.stream_offset});
  }
  const Var added = bias && !bias_applied_later ? bias->var() : Var();
  return linear(x, weight->var(), added, low_rank);
}

Tensor LinearMap::merged_weight() const {
  const Tensor merged = weight->value().to(Dtype::f32).clone();
  for (const LoraBranch& branch : branches) {
    const std::int64_t rows = branch.B->value().dim(0);
    kernel::matmul(merged.device(),
                   {.a = branch.B->value(),
                    .b = branch.A->value(),
                    .c = merged.slice(0, branch.row_begin, branch.row_begin + rows),
                    .alpha = branch.scale,
                    .beta = 1});
  }
  return merged;
}

}  // namespace adder
