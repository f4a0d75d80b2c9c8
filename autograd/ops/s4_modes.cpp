#include "autograd/op_cases.h"
#include "autograd/s4_ops.h"

namespace adder {

S4Modes s4_discretize(const S4Parameters& in, const S4Options& options) {
  const Device device = in.A_real.value().device();
  if (in.A_real.value().rank() != 2 || in.dt.value().rank() < 1) {
    throw ShapeError(str("s4_discretize: A_real is ", in.A_real.shape(), ", dt is ", in.dt.shape(),
                         "; expected (S, N) and (H), (H, 1) or (H, N)"));
  }
  const Shape shape{in.dt.dim(0), in.A_real.dim(1), 2};
  const auto modes = [&] { return Tensor::empty(shape, Dtype::f64, device); };
  const S4DiscretizeFwdArgs args{.A_real = in.A_real.value(),
                                 .A_imag = in.A_imag.value(),
                                 .dt = in.dt.value(),
                                 .B = in.B.value(),
                                 .options = options,
                                 .log_q = modes(),
                                 .p = modes(),
                                 .b = modes()};
  kernel::s4_discretize_fwd(device, args);
  if (!Tape::needs_grad({&in.A_real, &in.A_imag, &in.dt, &in.B})) {
    return {args.log_q, args.p, args.b};
  }
  const S4Modes out{Var::leaf(args.log_q), Var::leaf(args.p), Var::leaf(args.b)};
  Tape::record("s4_discretize",
               [in, options, log_q = out.log_q.slot(), p = out.p.slot(), b = out.b.slot()] {
                 S4DiscretizeBwdArgs back{.A_real = in.A_real.value(),
                                          .A_imag = in.A_imag.value(),
                                          .dt = in.dt.value(),
                                          .B = in.B.value(),
                                          .options = options,
                                          .dlog_q = log_q->take(),
                                          .dp = p->take(),
                                          .db = b->take(),
                                          .dA_real = {},
                                          .dA_imag = {},
                                          .ddt = {},
                                          .dB = {}};
                 if (!back.dlog_q.defined() && !back.dp.defined() && !back.db.defined()) return;
                 const GradOut dA_real(in.A_real.slot());
                 const GradOut dA_imag(in.A_imag.slot());
                 const GradOut ddt(in.dt.slot());
                 const GradOut dB(in.B.slot());
                 back.dA_real = dA_real.tensor();
                 back.dA_imag = dA_imag.tensor();
                 back.ddt = ddt.tensor();
                 back.dB = dB.tensor();
                 kernel::s4_discretize_bwd(back.A_real.device(), back);
                 for (const GradOut* gradient : {&dA_real, &dA_imag, &ddt, &dB}) gradient->commit();
               });
  return out;
}

Var s4_kernel(const S4Modes& modes, const Var& C, std::int64_t length) {
  if (C.value().rank() != 4 || length < 1) {
    throw ShapeError(str("s4_kernel: C is ", C.shape(), " and the length ", length,
                         ", expected (M, H, N, 2) and at least 1"));
  }
  const Tensor K = Tensor::empty({C.dim(0), C.dim(1), length}, C.dtype(), C.value().device());
  kernel::s4_kernel_fwd(K.device(), {modes.log_q.value(), modes.b.value(), C.value(), K});
  if (!Tape::needs_grad({&modes.log_q, &modes.b, &C})) return Var(K);
  const Var out = Var::leaf(K);
  Tape::record("s4_kernel", [log_q = modes.log_q, b = modes.b, C, slot = out.slot()] {
    const Tensor dK = slot->take();
    if (!dK.defined()) return;
    const GradOut dlog_q(log_q.slot());
    const GradOut db(b.slot());
    const GradOut dC(C.slot());
    kernel::s4_kernel_bwd(dK.device(), {log_q.value(), b.value(), C.value(), dK, dlog_q.tensor(),
                                        db.tensor(), dC.tensor()});
    for (const GradOut* gradient : {&dlog_q, &db, &dC}) gradient->commit();
  });
  return out;
}

namespace {

struct KernelCase {
  std::string name;
  S4Options options;
  std::int64_t outputs = 1, channels = 3, copies = 3, modes = 2, length = 9;
  std::int64_t dt_columns = 0;  // 0: dt is (H)
  bool B = true;
  double dt_low = -4, dt_high = -1;
  double imag_low = 0.5, imag_high = 12;
  double real_low = -2, real_high = 0.5;
};

OpCase kernel_case(const KernelCase& k) {
  OpCase c{.op = "s4_kernel",
           .name = k.name,
           .inputs = {{"A_real", {k.copies, k.modes}, k.real_low, k.real_high},
                      {"A_imag", {k.copies, k.modes}, k.imag_low, k.imag_high},
                      {"dt", k.dt_columns > 0 ? Shape{k.channels, k.dt_columns} : Shape{k.channels},
                       k.dt_low, k.dt_high},
                      {"C", {k.outputs, k.channels, k.modes, 2}}},
           .run = [options = k.options, length = k.length,
                   B = k.B](const std::vector<Var>& in) -> std::vector<Var> {
             const Var imag = options.bandlimit > 0 ? two_bands(in[1]) : in[1];
             const S4Modes modes = s4_discretize({in[0], imag, in[2], B ? in[4] : Var()}, options);
             return {s4_kernel(modes, in[3], length)};
           }};
  if (k.B) c.inputs.push_back({"B", {k.copies, k.modes, 2}});
  return c;
}

}  // namespace

std::vector<OpCase> s4_kernel_cases() {
  const S4Options zoh;
  const S4Options bilinear{.method = S4Method::bilinear, .imag_sign = -1};
  std::vector<OpCase> cases;
  for (const KernelCase& k : {
           KernelCase{.name = "zoh", .options = zoh},
           KernelCase{.name = "bilinear", .options = bilinear},
           KernelCase{.name = "dss",
           .options = {.method = S4Method::dss, .length = 9},
           .dt_low = -5,
           .dt_high = -3},
           KernelCase{.name = "length 1", .options = zoh, .length = 1},
           KernelCase{.name = "across blocks", .options = zoh, .modes = 1, .length = 131},
           KernelCase{.name = "one channel, no B",
           .options = zoh,
           .channels = 1,
           .copies = 1,
           .modes = 3,
           .B = false},
           KernelCase{.name = "shared modes, two outputs",
           .options = bilinear,
           .outputs = 2,
           .channels = 4,
           .copies = 2},
           KernelCase{.name = "a step for each mode", .options = zoh, .dt_columns = 2},
           KernelCase{.name = "steps in a column, half the rate",
           .options = {.rate = 0.5},
           .dt_columns = 1},
           KernelCase{.name = "tiny steps", .options = zoh, .dt_low = -12, .dt_high = -9},
           KernelCase{.name = "large steps", .options = bilinear, .dt_low = 0, .dt_high = 1},
           KernelCase{.name = "band limit",
           .options = {.bandlimit = 0.25},
           .modes = 4,
           .dt_low = -2.1,
           .dt_high = -2,
           .imag_high = 2},
           KernelCase{.name = "softplus and sigmoid",
           .options = {.real = S4Transform::softplus,
                      .imag = S4Transform::sigmoid,
                      .dt = S4Transform::softplus}},
           KernelCase{
               .name = "relu",
    .options = {.real = S4Transform::relu, .imag = S4Transform::relu, .dt = S4Transform::exp},
    .real_low = 0.1,
    .real_high = 1},
       }) {
    cases.push_back(kernel_case(k));
  }
  OpCase big = kernel_case({.name = "64 channels, 16 modes, length 1024",
                            .options = zoh,
                            .channels = 64,
                            .copies = 64,
                            .modes = 16,
                            .length = 1024,
                            .dt_low = -6.9,
                            .dt_high = -2.3,
                            .imag_low = 0,
                            .imag_high = 47});
  big.flops = 64.0 * 16 * 1024 * (4 + 10);
  big.bytes = 8.0 * 64 * 1024;
  big.benchmark = true;
  cases.push_back(big);
  return cases;
}

}  // namespace adder
