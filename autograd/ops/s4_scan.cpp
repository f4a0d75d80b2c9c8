#include "autograd/op_cases.h"
#include "autograd/ops/s4_axes.h"
#include "autograd/s4_ops.h"

namespace adder {

S4ScanResult s4_scan(const Var& u, const S4Modes& modes, const Var& C, const Var& D, const Var& x0,
                     S4Axes axes) {
  if (u.value().rank() != 3 || C.value().rank() != 4) {
    throw ShapeError(str("s4_scan: u is ", u.shape(), ", C is ", C.shape(), "; expected ",
                         s4_axes::name(axes), " and (M, H, N, 2)"));
  }
  const Device device = u.value().device();
  const Tensor input = s4_axes::input(u.value(), axes);
  const std::int64_t batch = input.dim(0);
  const std::int64_t channels = input.dim(1);
  const std::int64_t length = input.dim(2);
  const std::int64_t states = C.dim(2);
  const Tensor y = s4_axes::result(u.value(), C.dim(0), axes);
  const s4_axes::Output to(y, axes);
  S4ScanFwdArgs args{.u = input,
                     .p = modes.p.value(),
                     .b = modes.b.value(),
                     .C = C.value(),
                     .D = D.value(),
                     .x0 = x0.value(),
                     .y = to.tensor(),
                     .x_last = Tensor::empty({batch, channels, states, 2}, u.dtype(), device),
                     .checkpoints = {}};
  const bool needs = Tape::needs_grad({&u, &modes.p, &modes.b, &C, &D, &x0});
  if (needs) {
    args.checkpoints = Tensor::empty({s4_scan_checkpoint_numel(batch, channels, length, states)},
                                     u.dtype(), device);
  }
  kernel::s4_scan_fwd(device, args);
  to.finish();
  if (!needs) return {Var(y), Var(args.x_last)};
  const S4ScanResult out{Var::leaf(y), Var::leaf(args.x_last)};
  args.u = args.y = args.x_last = args.x0 = Tensor();  // the gradient does without them
  Tape::record("s4_scan", [args, axes, u_value = u.value(), y_shape = y.shape(),
                           y_slot = out.y.slot(), x_last_slot = out.x_last.slot(),
                           u_slot = u.slot(), p_slot = modes.p.slot(), b_slot = modes.b.slot(),
                           C_slot = C.slot(), D_slot = D.slot(), x0_slot = x0.slot()] {
    Tensor dy = y_slot->take();
    const Tensor dx_last = x_last_slot->take();
    if (!dy.defined() && !dx_last.defined()) return;
    if (!dy.defined()) dy = Tensor::zeros(y_shape, u_value.dtype(), u_value.device());
    const GradOut du(u_slot);
    const GradOut dp(p_slot);
    const GradOut db(b_slot);
    const GradOut dC(C_slot);
    const GradOut dD(D_slot);
    const GradOut dx0(x0_slot);
    const s4_axes::Output to_u(du.tensor(), axes);
    kernel::s4_scan_bwd(dy.device(), {.u = s4_axes::input(u_value, axes),
                                      .p = args.p,
                                      .b = args.b,
                                      .C = args.C,
                                      .D = args.D,
                                      .checkpoints = args.checkpoints,
                                      .dy = s4_axes::input(dy, axes),
                                      .dx_last = dx_last,
                                      .du = to_u.tensor(),
                                      .dp = dp.tensor(),
                                      .db = db.tensor(),
                                      .dC = dC.tensor(),
                                      .dD = dD.tensor(),
                                      .dx0 = dx0.tensor()});
    to_u.finish();
    for (const GradOut* gradient : {&du, &dp, &db, &dC, &dD, &dx0}) gradient->commit();
  });
  return out;
}

namespace {

struct ScanCase {
  std::string name;
  Shape u;
  std::int64_t outputs = 1, modes = 2;
  bool state = false;  // from x0, and with the final state as an output
  S4Options options = {};
  double dt_low = -4, dt_high = -1;
  S4Axes axes = S4Axes::channels_steps;  // u is (B, H, L) here for both
};

OpCase scan_case(const ScanCase& s) {
  const std::int64_t channels = s.u[1];
  OpCase c{.op = "s4_scan",
           .name = s.name,
           .inputs = {{"u", s.axes == S4Axes::channels_steps ? s.u : Shape{s.u[0], s.u[2], s.u[1]}},
                      {"A_real", {channels, s.modes}, -2, 0.5},
                      {"A_imag", {channels, s.modes}, 0, 12},
                      {"dt", {channels}, s.dt_low, s.dt_high},
                      {"B", {channels, s.modes, 2}},
                      {"C", {s.outputs, channels, s.modes, 2}},
                      {"D", {s.outputs, channels}}},
           .run = [options = s.options, state = s.state,
                   axes = s.axes](const std::vector<Var>& in) -> std::vector<Var> {
             const S4Modes modes = s4_discretize({in[1], in[2], in[3], in[4]}, options);
             const S4ScanResult out =
                 s4_scan(in[0], modes, in[5], in[6], state ? in[7] : Var(), axes);
             if (!state) return {out.y};
             return {out.y, out.x_last};
           }};
  if (s.state) c.inputs.push_back({"x0", {s.u[0], channels, s.modes, 2}});
  return c;
}

}  // namespace

std::vector<OpCase> s4_scan_cases() {
  const S4Options bilinear{.method = S4Method::bilinear, .imag_sign = -1};
  std::vector<OpCase> cases;
  for (const ScanCase& s : {
           ScanCase{.name = "ordinary", .u = {2, 3, 9}},
           ScanCase{.name = "from a state to a state", .u = {2, 3, 5}, .state = true},
           ScanCase{.name = "one step", .u = {1, 2, 1}, .state = true},
           ScanCase{.name = "one mode, bilinear", .u = {1, 2, 7}, .modes = 1, .options = bilinear},
           ScanCase{.name = "two outputs", .u = {2, 2, 6}, .outputs = 2, .modes = 3, .state = true},
           ScanCase{.name = "more sequences than lanes", .u = {7, 3, 4}, .modes = 1},
           ScanCase{.name = "across chunks", .u = {1, 2, 70}, .state = true},
           ScanCase{.name = "steps before channels",
           .u = {2, 9, 35},
           .outputs = 2,
           .state = true,
           .axes = S4Axes::steps_channels},
           ScanCase{.name = "tiny steps", .u = {1, 2, 6}, .dt_low = -12, .dt_high = -9},
       }) {
    cases.push_back(scan_case(s));
  }
  OpCase big = scan_case({.name = "batch 64, 64 channels, 16 modes, length 1024",
                          .u = {64, 64, 1024},
                          .modes = 16,
                          .dt_low = -6.9,
                          .dt_high = -2.3});
  big.flops = 64.0 * 64 * 1024 * 16 * (16 + 44);
  big.bytes = 4.0 * 64 * 64 * 1024 * (2 + 3);
  big.benchmark = true;
  cases.push_back(big);
  return cases;
}

}  // namespace adder
