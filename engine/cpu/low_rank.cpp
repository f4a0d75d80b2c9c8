// Products on this device are a library's, which takes what dropout has written.
#include "engine/kernels/low_rank.h"

#include "engine/kernels/elementwise.h"
#include "engine/kernels/matmul.h"

namespace adder::cpu {
namespace {

Tensor dropped(const Tensor& x, const BranchDropout& d) {
  if (d.p == 0) return x;
  const Tensor y = Tensor::empty(x.shape(), x.dtype());
  dropout({x.contiguous(), y, d.p, d.seed, d.stream, d.stream_offset});
  return y;
}

}  // namespace

void low_rank_reduce(const LowRankReduceArgs& args) {
  matmul({.a = dropped(args.x, args.dropout),
          .b = args.A,
          .c = args.s,
          .trans_b = true,
          .alpha = args.alpha});
}

void low_rank_da(const LowRankDaArgs& args) {
  matmul({.a = args.ds, .b = dropped(args.x, args.dropout), .c = args.dA, .trans_a = true});
}

void low_rank_dx(const LowRankDxArgs& args) {
  if (args.dropout.p == 0) return matmul({.a = args.ds, .b = args.A, .c = args.dx, .beta = 1});
  const Tensor through = Tensor::empty(args.dx.shape(), args.dx.dtype());
  matmul({.a = args.ds, .b = args.A, .c = through});
  args.dx.add_(dropped(through, args.dropout));
}

void low_rank_join(const LowRankJoinArgs& args) {
  std::int64_t at = args.W.dim(1);
  args.joined.slice(1, 0, at).copy_from(args.W);
  for (std::size_t i = 0; i < args.B.size(); ++i) {
    const Tensor& B = args.B[i];
    const Tensor columns = args.joined.slice(1, at, at + B.dim(1));
    columns.fill(0);
    columns.slice(0, args.row_begin[i], args.row_begin[i] + B.dim(0)).copy_from(B);
    at += B.dim(1);
  }
}

}  // namespace adder::cpu
