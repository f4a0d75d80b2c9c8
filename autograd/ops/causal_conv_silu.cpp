#include "autograd/op_cases.h"
#include "autograd/ops.h"
#include "engine/kernels/conv.h"

namespace adder {

Var causal_conv_silu(const Var& x, const Var& weight, const Var& bias) {
  const Tensor& input = x.value();
  const Tensor y = Tensor::empty_with_room(input.shape(), input.dtype(), input.device());
  kernel::causal_conv_silu_fwd(input.device(), {input, weight.value(), bias.value(), y});
  if (!Tape::needs_grad({&x, &weight, &bias})) return Var(y);
  const Var out = Var::leaf(y);
  Tape::record("causal_conv_silu",
               [input, w = weight.value(), b = bias.value(), out_slot = out.slot(),
                x_slot = x.slot(), w_slot = weight.slot(), b_slot = bias.slot()] {
                 const Tensor dy = out_slot->take();
                 if (!dy.defined()) return;
                 const GradOut dx(x_slot);
                 const GradOut dw(w_slot);
                 const GradOut db(b_slot);
                 kernel::causal_conv_silu_bwd(
                     input.device(), {input, w, b, dy, dx.tensor(), dw.tensor(), db.tensor()});
                 dx.commit();
                 dw.commit();
                 db.commit();
               });
  return out;
}

std::vector<OpCase> causal_conv_silu_cases() {
  std::vector<OpCase> cases;
  const auto run = [](const std::vector<Var>& in) -> std::vector<Var> {
    return {causal_conv_silu(in[0], in[1], in.size() > 2 ? in[2] : Var())};
  };
  for (const auto& [name, x, width] :
       {std::tuple{"ordinary", Shape{2, 9, 5}, 4},
        std::tuple{"shorter than the filter", Shape{2, 2, 3}, 4},
        std::tuple{"one step", Shape{1, 1, 3}, 3}, std::tuple{"one channel", Shape{2, 6, 1}, 2},
        std::tuple{"width one", Shape{1, 5, 3}, 1}}) {
    cases.push_back({.op = "causal_conv_silu",
                     .name = name,
                     .inputs = {{"x", x, -2, 2}, {"weight", {x[2], width}}, {"bias", {x[2]}}},
                     .run = run});
  }
  cases.push_back({.op = "causal_conv_silu",
                   .name = "no bias",
                   .inputs = {{"x", {1, 5, 3}, -2, 2}, {"weight", {3, 4}}},
                   .run = run});
  const double elements = 4.0 * 256 * 1536;
  cases.push_back({.op = "causal_conv_silu",
                   .name = "mamba-130m, frozen, batch 4, length 256",
                   .inputs = {{"x", {4, 256, 1536}},
                              {"weight", {1536, 4}, -1, 1, false},
                              {"bias", {1536}, -1, 1, false}},
                   .run = run,
                   .flops = elements * (8 + 8 + 8 + 10),
                   .bytes = 4 * elements * 5,
                   .benchmark = true});
  return cases;
}

}  // namespace adder
