#include <cmath>

#include "autograd/op_cases.h"
#include "autograd/ops/s4_axes.h"
#include "autograd/s4_ops.h"

namespace adder {

Var s4_convolve(const Var& u, const Var& K, const Var& D, bool bidirectional, S4Axes axes) {
  if (u.value().rank() != 3 || K.value().rank() != 3) {
    throw ShapeError(str("s4_convolve: u is ", u.shape(), ", K is ", K.shape(), "; expected ",
                         s4_axes::name(axes), " and (M, H, L)"));
  }
  const std::int64_t outputs = bidirectional ? K.dim(0) / 2 : K.dim(0);
  const Tensor y = s4_axes::result(u.value(), outputs, axes);
  const s4_axes::Output to(y, axes);
  kernel::s4_conv_fwd(y.device(), {s4_axes::input(u.value(), axes), K.value(), D.value(),
                                   bidirectional, to.tensor()});
  to.finish();
  if (!Tape::needs_grad({&u, &K, &D})) return Var(y);
  const Var out = Var::leaf(y);
  Tape::record("s4_convolve", [u, K, D, bidirectional, axes, slot = out.slot()] {
    const Tensor dy = slot->take();
    if (!dy.defined()) return;
    const GradOut du(u.slot());
    const GradOut dK(K.slot());
    const GradOut dD(D.slot());
    const s4_axes::Output to_u(du.tensor(), axes);
    kernel::s4_conv_bwd(dy.device(),
                        {s4_axes::input(u.value(), axes), K.value(), D.value(), bidirectional,
                         s4_axes::input(dy, axes), to_u.tensor(), dK.tensor(), dD.tensor()});
    to_u.finish();
    for (const GradOut* gradient : {&du, &dK, &dD}) gradient->commit();
  });
  return out;
}

namespace {

// u is given as (B, H, L) also where the operation takes (B, L, H).
OpCase convolve_case(const std::string& name, Shape u, std::int64_t outputs, bool skip,
                     bool bidirectional, S4Axes axes = S4Axes::channels_steps) {
  const Shape given = axes == S4Axes::channels_steps ? u : Shape{u[0], u[2], u[1]};
  OpCase c{.op = "s4_convolve",
           .name = name,
           .inputs = {{"u", given}, {"K", {bidirectional ? 2 * outputs : outputs, u[1], u[2]}}},
           .run = [bidirectional, axes](const std::vector<Var>& in) -> std::vector<Var> {
             return {s4_convolve(in[0], in[1], in.size() > 2 ? in[2] : Var(), bidirectional, axes)};
           }};
  if (skip) c.inputs.push_back({"D", {outputs, u[1]}});
  return c;
}

}  // namespace

std::vector<OpCase> s4_convolve_cases() {
  std::vector<OpCase> cases = {
      convolve_case("ordinary", {2, 3, 7}, 1, true, false),
      convolve_case("odd batch, no skip", {3, 2, 8}, 1, false, false),
      convolve_case("one step", {1, 2, 1}, 1, true, false),
      convolve_case("one channel, two outputs", {3, 1, 5}, 2, true, false),
      convolve_case("both directions", {2, 2, 6}, 2, true, true),
      convolve_case("one step, both directions", {1, 2, 1}, 1, true, true),
      convolve_case("steps before channels", {3, 5, 7}, 1, true, false, S4Axes::steps_channels),
      convolve_case("steps before channels, two outputs, both directions", {2, 3, 5}, 2, true, true,
                    S4Axes::steps_channels),
  };
  OpCase big = convolve_case("batch 64, 64 channels, length 1024", {64, 64, 1024}, 1, true, false);
  // Five real transforms of twice the length for each sequence: two forward, three backward.
  big.flops = 5.0 * 64 * 64 * 2.5 * 2048 * std::log2(2048);
  big.bytes = 4.0 * 64 * 64 * 1024 * (2 + 3);
  big.benchmark = true;
  cases.push_back(big);
  return cases;
}

}  // namespace adder
