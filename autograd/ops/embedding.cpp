#include "engine/kernels/embedding.h"

#include "autograd/op_cases.h"
#include "autograd/ops.h"

namespace adder {

Var embedding(const Tensor& ids, const Var& table) {
  if (table.shape().rank() != 2) {
    throw ShapeError(str("embedding: table is ", table.shape(), ", expected (V, D)"));
  }
  // Weights stored in half precision are widened: activations are float32.
  const Dtype dtype = table.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  Shape shape = ids.shape();
  shape.push_back(table.dim(1));
  const Tensor flat = ids.reshape({-1});
  const Tensor y = Tensor::empty({flat.dim(0), table.dim(1)}, dtype, table.value().device());
  kernel::embedding_fwd(y.device(), {flat, table.value(), y});
  if (!Tape::needs_grad({&table})) return Var(y.reshape(shape));
  const Var out = Var::leaf(y.reshape(shape));
  Tape::record("embedding", [flat, out_slot = out.slot(), t_slot = table.slot()] {
    const Tensor dy = out_slot->take();
    if (!dy.defined()) return;
    const bool add = t_slot->grad().defined() && t_slot->wants_dense();
    const Tensor dtable = add ? t_slot->grad() : Tensor::zeros(t_slot->shape(), t_slot->dtype());
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
