#include "engine/kernels/moment_norm.h"

#include "autograd/op_cases.h"
#include "autograd/ops.h"

namespace adder {
namespace {

// x as the kernel's (G, R, D).
Tensor grouped(const Tensor& x, MomentsOf over) {
  const std::int64_t d = x.dim(2);
  return x.contiguous().reshape(over == MomentsOf::batch ? Shape{1, x.dim(0) * x.dim(1), d}
                                                         : Shape{x.dim(0), x.dim(1), d});
}

void check(const Var& x, const Var& weight, const Var& bias, const MomentNormOptions& options) {
  if (x.shape().rank() != 3 || x.value().numel() == 0) {
    throw ShapeError(str("moment_norm: x is ", x.shape(), ", expected (B, L, D), none of them 0"));
  }
  if (weight.defined() != bias.defined()) {
    throw ShapeError("moment_norm: weight and bias belong together");
  }
  const std::int64_t l = x.dim(1);
  const std::int64_t counts[] = {x.dim(0) * l, l, l * x.dim(2)};
  const std::int64_t count = counts[static_cast<std::size_t>(options.over)];
  if (count < 2 && !options.use_running) {
    throw ShapeError(
        str("moment_norm: x is ", x.shape(), ", so that each variance would be that of one value"));
  }
}

}  // namespace

Var moment_norm(const Var& x, const Var& weight, const Var& bias,
                const MomentNormOptions& options) {
  check(x, weight, bias, options);
  const Device device = x.value().device();
  const Tensor in = grouped(x.value(), options.over);
  const Tensor y = Tensor::empty(in.shape(), in.dtype(), device);
  const std::int64_t per_group = options.over == MomentsOf::group ? 1 : in.dim(2);
  const Tensor stats = Tensor::empty({2, in.dim(0), per_group}, in.dtype(), device);
  kernel::moment_norm_fwd(device, {.x = in,
                                   .weight = weight.value(),
                                   .bias = bias.value(),
                                   .epsilon = options.epsilon,
                                   .y = y,
                                   .stats = stats,
                                   .running_mean = options.running.mean,
                                   .running_var = options.running.var,
                                   .batches = options.running.batches,
                                   .use_running = options.use_running,
                                   .momentum = options.momentum});
  const Tensor shaped = y.reshape(x.shape());
  if (!Tape::needs_grad({&x, &weight, &bias})) return Var(shaped);
  const Var out = Var::leaf(shaped);
  Tape::record("moment_norm", [in, stats, device, given = options.use_running, w = weight.value(),
                               out_slot = out.slot(), x_slot = x.slot(), w_slot = weight.slot(),
                               b_slot = bias.slot()] {
    const Tensor dy = out_slot->take();
    if (!dy.defined()) return;
    const GradOut dw(w_slot);
    const GradOut db(b_slot);
    const Tensor dx = x_slot ? Tensor::empty(in.shape(), in.dtype(), device) : Tensor();
    kernel::moment_norm_bwd(device, {.x = in,
                                     .weight = w,
                                     .stats = stats,
                                     .dy = dy.contiguous().reshape(in.shape()),
                                     .given_stats = given,
                                     .dx = dx,
                                     .dweight = dw.tensor(),
                                     .dbias = db.tensor()});
    dw.commit();
    db.commit();
    if (x_slot) x_slot->accumulate(dx.reshape(dy.shape()));
  });
  return out;
}

std::vector<OpCase> moment_norm_cases() {
  std::vector<OpCase> cases;
  const auto add = [&](const std::string& name, MomentsOf over, Shape x, double low, double high,
                       bool affine = true) {
    std::vector<OpInput> inputs{{"x", x, low, high}};
    if (affine) inputs.insert(inputs.end(), {{"weight", {x[2]}}, {"bias", {x[2]}}});
    cases.push_back({.op = "moment_norm",
                     .name = name,
                     .inputs = inputs,
                     .run = [over](const std::vector<Var>& in) -> std::vector<Var> {
                       const MomentNormOptions options{.over = over, .epsilon = 1e-2};
                       if (in.size() == 1) return {moment_norm(in[0], Var(), Var(), options)};
                       return {moment_norm(in[0], in[1], in[2], options)};
                     }});
  };
  for (const auto& [name, over] : {std::pair{"batch", MomentsOf::batch},
                                   {"instance", MomentsOf::instance},
                                   {"group", MomentsOf::group}}) {
    add(name, over, {2, 3, 7}, -1, 1);
    add(str(name, ", one channel"), over, {3, 4, 1}, -1, 1);
    add(str(name, ", not affine"), over, {2, 4, 5}, -1, 1, false);
    add(str(name, ", far from zero"), over, {2, 5, 6}, 9, 11);
    add(str(name, ", more rows than a part"), over, {1, 67, 3}, -1, 1);
  }
  add("batch, one position", MomentsOf::batch, {5, 1, 4}, -1, 1);
  add("group, one position", MomentsOf::group, {3, 1, 5}, -1, 1);
  cases.push_back(
      {.op = "moment_norm",
       .name = "batch, running statistics",
       .inputs = {{"x", {2, 3, 20}}, {"weight", {20}}, {"bias", {20}}},
       .run = [](const std::vector<Var>& in) -> std::vector<Var> {
         const Tensor& x = in[0].value();
         RunningMoments running{Tensor::full({20}, 0.25, x.dtype(), x.device()),
                                Tensor::full({20}, 0.5, x.dtype(), x.device()),
                                {}};
         return {moment_norm(
             in[0], in[1], in[2],
             {.over = MomentsOf::batch, .running = std::move(running), .use_running = true})};
       }});
  for (const auto& [name, over] : {std::pair{"batch, B=16 L=1024 D=256", MomentsOf::batch},
                                   {"group, B=16 L=1024 D=256", MomentsOf::group}}) {
    add(name, over, {16, 1024, 256}, -1, 1);
    // Forward reads x twice and writes y; backward reads x and dy twice and writes dx.
    cases.back().bytes = 8.0 * 4 * 16 * 1024 * 256;
    cases.back().flops = 20.0 * 16 * 1024 * 256;
    cases.back().benchmark = true;
  }
  return cases;
}

}  // namespace adder
