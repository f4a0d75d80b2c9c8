#include "autograd/op_cases.h"
#include "autograd/ops.h"
#include "engine/kernels/norm.h"

namespace adder {

Var layer_norm(const Var& x, const Var& weight, const Var& bias, double epsilon) {
  const Tensor rows = x.value().flatten_rows();
  const Device device = rows.device();
  const Tensor y = Tensor::empty(rows.shape(), rows.dtype(), device);
  const Tensor stats = Tensor::empty({rows.dim(0), 2}, weight.dtype(), device);
  kernel::layer_norm_fwd(device, {rows, weight.value(), bias.value(), epsilon, y, stats});
  const Tensor shaped = y.reshape(x.shape());
  if (!Tape::needs_grad({&x, &weight, &bias})) return Var(shaped);
  const Var out = Var::leaf(shaped);
  Tape::record("layer_norm", [rows, w = weight.value(), stats, device, out_slot = out.slot(),
                              x_slot = x.slot(), w_slot = weight.slot(), b_slot = bias.slot()] {
    const Tensor dy = out_slot->take();
    if (!dy.defined()) return;
    const GradOut dw(w_slot);
    const GradOut db(b_slot);
    const Tensor dx = x_slot ? Tensor::empty(dy.shape(), dy.dtype(), device) : Tensor();
    kernel::layer_norm_bwd(device, {.x = rows,
                                    .weight = w,
                                    .stats = stats,
                                    .dy = dy.flatten_rows(),
                                    .dx = dx.defined() ? dx.flatten_rows() : Tensor(),
                                    .dweight = dw.tensor(),
                                    .dbias = db.tensor()});
    dw.commit();
    db.commit();
    if (x_slot) x_slot->accumulate(dx);
  });
  return out;
}

std::vector<OpCase> layer_norm_cases() {
  std::vector<OpCase> cases;
  const auto add = [&](const std::string& name, Shape x, double low, double high) {
    const Shape width{x[x.rank() - 1]};
    cases.push_back({.op = "layer_norm",
                     .name = name,
                     .inputs = {{"x", x, low, high}, {"weight", width}, {"bias", width}},
                     .run = [](const std::vector<Var>& in) -> std::vector<Var> {
                       return {layer_norm(in[0], in[1], in[2], 1e-2)};
                     }});
  };
  add("batch", {2, 3, 7}, -1, 1);
  add("one row", {1, 5}, -1, 1);
  add("far from zero", {3, 6}, 9, 11);
  add("more rows than a part", {67, 3}, -1, 1);
  return cases;
}

}  // namespace adder
