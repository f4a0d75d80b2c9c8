#include "autograd/op_cases.h"
#include "autograd/ops.h"
#include "engine/kernels/norm.h"

namespace adder {

std::pair<Var, Var> rms_norm(const Var& x, const Var& residual, const Var& weight, double epsilon,
                             std::optional<Dtype> y_dtype) {
  const Tensor rows = x.value().flatten_rows();
  const Device device = rows.device();
  if (residual.defined()) check_shape("rms_norm", "residual", residual.value(), x.shape());
  const bool needs = Tape::needs_grad({&x, &residual, &weight});
  const Tensor y_shaped =
      Tensor::empty_with_room(x.shape(), y_dtype.value_or(rows.dtype()), device);
  const Tensor inv_rms = needs ? Tensor::empty({rows.dim(0)}, weight.dtype(), device) : Tensor();
  const Tensor sum =
      residual.defined() ? Tensor::empty(rows.shape(), residual.dtype(), device) : rows;
  kernel::rms_norm_fwd(device,
                       {.x = rows,
                        .residual = residual.defined() ? residual.value().flatten_rows() : Tensor(),
                        .weight = weight.value(),
                        .epsilon = epsilon,
                        .residual_out = residual.defined() ? sum : Tensor(),
                        .y = y_shaped.flatten_rows(),
                        .inv_rms = inv_rms});
  const Tensor sum_shaped = residual.defined() ? sum.reshape(x.shape()) : x.value();
  if (!needs) return {Var(y_shaped), Var(sum_shaped)};

  const Var out = Var::leaf(y_shaped);
  const bool sum_needs = x.requires_grad() || residual.requires_grad();
  const Var sum_out = sum_needs ? Var::leaf(sum_shaped) : Var(sum_shaped);
  Tape::record("rms_norm", [sum, w = weight.value(), inv_rms, device, out_slot = out.slot(),
                            sum_slot = sum_out.slot(), x_slot = x.slot(), r_slot = residual.slot(),
                            w_slot = weight.slot()] {
    const Tensor dy = out_slot->take();
    const Tensor through = sum_slot ? sum_slot->take() : Tensor();
    // x may have a narrower type than the sums: its gradient is then a tensor of its own.
    const bool apart = x_slot && x_slot->dtype() != sum.dtype();
    if (!dy.defined()) {
      if (!through.defined()) return;
      if (x_slot) x_slot->accumulate(apart ? through.to(x_slot->dtype()) : through);
      if (r_slot) r_slot->accumulate(through);
      return;
    }
    const GradOut dw(w_slot);
    const GradOut dx(apart ? x_slot : nullptr);
    const bool shared = r_slot || (x_slot && !apart);
    const Tensor dsum = shared ? Tensor::empty(dy.shape(), sum.dtype(), device) : Tensor();
    kernel::rms_norm_bwd(device,
                         {.residual = sum,
                          .weight = w,
                          .inv_rms = inv_rms,
                          .dy = dy.flatten_rows(),
                          .dresidual_in = through.defined() ? through.flatten_rows() : Tensor(),
                          .dresidual = dsum.defined() ? dsum.flatten_rows() : Tensor(),
                          .dweight = dw.tensor(),
                          .dx = apart ? dx.tensor().flatten_rows() : Tensor()});
    dw.commit();
    dx.commit();
    if (x_slot && !apart) x_slot->accumulate(dsum);
    if (r_slot) r_slot->accumulate(dsum);
  });
  return {out, sum_out};
}

std::vector<OpCase> rms_norm_cases() {
  std::vector<OpCase> cases;
  for (const auto& [name, x] :
       {std::pair{"one row", Shape{1, 5}}, std::pair{"one column", Shape{4, 1}},
        std::pair{"batch", Shape{2, 3, 7}}}) {
    const Shape weight{x[x.rank() - 1]};
    cases.push_back({.op = "rms_norm",
                     .name = str(name, ", residual"),
                     .inputs = {{"x", x}, {"residual", x}, {"weight", weight}},
                     .run = [](const std::vector<Var>& in) -> std::vector<Var> {
                       const auto [y, r] = rms_norm(in[0], in[1], in[2], 0.1);
                       return {y, r};
                     }});
    cases.push_back({.op = "rms_norm",
                     .name = name,
                     .inputs = {{"x", x, 0.5, 2}, {"weight", weight}},
                     .run = [](const std::vector<Var>& in) -> std::vector<Var> {
                       return {rms_norm(in[0], Var(), in[1], 0.1).first};
                     }});
  }
  const double elements = 1024.0 * 768;
  cases.push_back(
      {.op = "rms_norm",
       .name = "mamba-130m, 1024 rows, frozen weight",
       .inputs = {{"x", {1024, 768}}, {"residual", {1024, 768}}, {"weight", {768}, -1, 1, false}},
       .run = [](const std::vector<Var>& in) -> std::vector<Var> {
         const auto [y, r] = rms_norm(in[0], in[1], in[2], 1e-5);
         return {y, r};
       },
       .flops = elements * (5 + 9),
       .bytes = 4 * elements * (4 + 4),
       .benchmark = true});
  return cases;
}

}  // namespace adder
