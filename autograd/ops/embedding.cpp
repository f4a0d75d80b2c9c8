#include "engine/kernels/embedding.h"

#include "autograd/op_cases.h"
#include "autograd/ops.h"

namespace adder {
namespace {

// Devices look ids up unchecked, so they are checked where they come from.
const Tensor& checked_ids(const Tensor& ids, std::int64_t vocabulary) {
  if (!ids.device().is_cpu()) return ids;
  const auto* id = ids.data<std::int32_t>();
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    if (id[i] < 0 || id[i] >= vocabulary) {
      throw ShapeError(str("embedding: id ", id[i], " at position ", i, ", the table has ",
                           vocabulary, " rows"));
    }
  }
  return ids;
}

}  // namespace

Var embedding(const Tensor& ids, const Var& table) {
  if (table.shape().rank() != 2) {
    throw ShapeError(str("embedding: table is ", table.shape(), ", expected (V, D)"));
  }
  // Weights stored in half precision are widened: the residual stream, which begins here, is
  // float32.
  const Dtype dtype = table.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  Shape shape = ids.shape();
  shape.push_back(table.dim(1));
  const Tensor flat = checked_ids(ids.reshape({-1}), table.dim(0)).to(table.value().device());
  const Tensor y = Tensor::empty({flat.dim(0), table.dim(1)}, dtype, table.value().device());
  kernel::embedding_fwd(y.device(), {flat, table.value(), y});
  if (!Tape::needs_grad({&table})) return Var(y.reshape(shape));
  const Var out = Var::leaf(y.reshape(shape));
  Tape::record("embedding", [flat, out_slot = out.slot(), t_slot = table.slot()] {
    const Tensor dy = out_slot->take();
    if (!dy.defined()) return;
    const bool add = t_slot->grad().defined() && t_slot->wants_dense();
    const Tensor dtable =
        add ? t_slot->grad() : Tensor::zeros(t_slot->shape(), t_slot->dtype(), dy.device());
    kernel::embedding_bwd(dy.device(), {flat, dy.flatten_rows(), dtable});
    if (!add) t_slot->accumulate(dtable);
  });
  return out;
}

std::vector<OpCase> embedding_cases() {
  const auto with_ids = [](Shape shape, const std::vector<std::int32_t>& ids) {
    const Tensor tensor = Tensor::from(shape, ids);
    return [tensor](const std::vector<Var>& in) -> std::vector<Var> {
      return {embedding(tensor, in[0])};
    };
  };
  return {{.op = "embedding",
           .name = "repeated ids",
           .inputs = {{"table", {6, 3}}},
           .run = with_ids({2, 4}, {0, 5, 5, 2, 5, 0, 1, 1})},
          {.op = "embedding",
           .name = "one id",
           .inputs = {{"table", {1, 4}}},
           .run = with_ids({1}, {0})}};
}

}  // namespace adder
