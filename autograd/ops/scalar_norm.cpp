#include "engine/kernels/scalar_norm.h"

#include "autograd/op_cases.h"
#include "autograd/ops.h"

namespace adder {

Var scalar_norm(const Var& x, const Var& scale, const Var& shift) {
  const Tensor rows = x.value().flatten_rows();
  const Device device = rows.device();
  const Tensor y = Tensor::empty(rows.shape(), rows.dtype(), device);
  const Tensor stats = Tensor::empty({rows.dim(0), 2}, rows.dtype(), device);
  kernel::scalar_norm_fwd(device, {rows, scale.value(), shift.value(), y, stats});
  const Tensor shaped = y.reshape(x.shape());
  if (!Tape::needs_grad({&x, &scale, &shift})) return Var(shaped);
  const Var out = Var::leaf(shaped);
  Tape::record("scalar_norm", [rows, s = scale.value(), m = shift.value(), stats, device,
                               out_slot = out.slot(), x_slot = x.slot(), s_slot = scale.slot(),
                               m_slot = shift.slot()] {
    const Tensor dy = out_slot->take();
    if (!dy.defined()) return;
    const GradOut ds(s_slot);
    const GradOut dm(m_slot);
    const Tensor dx = x_slot ? Tensor::empty(dy.shape(), dy.dtype(), device) : Tensor();
    kernel::scalar_norm_bwd(device, {.x = rows,
                                     .scale = s,
                                     .shift = m,
                                     .stats = stats,
                                     .dy = dy.flatten_rows(),
                                     .dx = dx.defined() ? dx.flatten_rows() : Tensor(),
                                     .dscale = ds.tensor(),
                                     .dshift = dm.tensor()});
    ds.commit();
    dm.commit();
    if (x_slot) x_slot->accumulate(dx);
  });
  return out;
}

std::vector<OpCase> scalar_norm_cases() {
  std::vector<OpCase> cases;
  const auto add = [&](const std::string& name, Shape x, double low, double high) {
    cases.push_back({.op = "scalar_norm",
                     .name = name,
                     .inputs = {{"x", x, low, high}, {"scale", {1}, 0.5, 2}, {"shift", {1}}},
                     .run = [](const std::vector<Var>& in) -> std::vector<Var> {
                       return {scalar_norm(in[0], in[1], in[2])};
                     }});
  };
  add("batch", {2, 3, 7}, -1, 1);
  add("one row", {1, 5}, -1, 1);
  add("far from zero", {3, 6}, 9, 11);
  add("wider than a warp", {3, 70}, -1, 1);
  return cases;
}

}  // namespace adder
