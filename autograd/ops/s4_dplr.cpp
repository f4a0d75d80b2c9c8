#include "autograd/op_cases.h"
#include "autograd/s4_ops.h"

namespace adder {

Var s4_dplr_kernel(const S4DplrParameters& in, const Var& C, const S4Options& options,
                   std::int64_t stored_length, std::int64_t length) {
  if (C.value().rank() != 4 || length < 1) {
    throw ShapeError(str("s4_dplr_kernel: C is ", C.shape(), " and the length ", length,
                         ", expected (M, H, N, 2) and at least 1"));
  }
  const Tensor K = Tensor::empty({C.dim(0), C.dim(1), length}, C.dtype(), C.value().device());
  const S4DplrKernelFwdArgs args{.A_real = in.A_real.value(),
                                 .A_imag = in.A_imag.value(),
                                 .dt = in.dt.value(),
                                 .B = in.B.value(),
                                 .P = in.P.value(),
                                 .C = C.value(),
                                 .options = options,
                                 .nodes = s4_dplr_nodes(stored_length, options.rate),
                                 .K = K};
  kernel::s4_dplr_kernel_fwd(K.device(), args);
  if (!Tape::needs_grad({&in.A_real, &in.A_imag, &in.dt, &in.B, &in.P, &C})) return Var(K);
  const Var out = Var::leaf(K);
  Tape::record("s4_dplr_kernel", [in, C, options, nodes = args.nodes, slot = out.slot()] {
    const Tensor dK = slot->take();
    if (!dK.defined()) return;
    const GradOut dA_real(in.A_real.slot());
    const GradOut dA_imag(in.A_imag.slot());
    const GradOut ddt(in.dt.slot());
    const GradOut dB(in.B.slot());
    const GradOut dP(in.P.slot());
    const GradOut dC(C.slot());
    kernel::s4_dplr_kernel_bwd(dK.device(), {.A_real = in.A_real.value(),
                                             .A_imag = in.A_imag.value(),
                                             .dt = in.dt.value(),
                                             .B = in.B.value(),
                                             .P = in.P.value(),
                                             .C = C.value(),
                                             .options = options,
                                             .nodes = nodes,
                                             .dK = dK,
                                             .dA_real = dA_real.tensor(),
                                             .dA_imag = dA_imag.tensor(),
                                             .ddt = ddt.tensor(),
                                             .dB = dB.tensor(),
                                             .dP = dP.tensor(),
                                             .dC = dC.tensor()});
    for (const GradOut* gradient : {&dA_real, &dA_imag, &ddt, &dB, &dP, &dC}) gradient->commit();
  });
  return out;
}

namespace {

struct DplrCase {
  std::string name;
  std::int64_t ranks = 1, outputs = 1, channels = 2, copies = 2, modes = 2, length = 8;
  std::int64_t stored = 8;
  double rate = 1, bandlimit = 0;
};

OpCase dplr_case(const DplrCase& d) {
  const S4Options options{
      .method = S4Method::bilinear, .imag_sign = -1, .rate = d.rate, .bandlimit = d.bandlimit};
  // The only node of a length of one is w = 1, where the kernel does not depend on dt.
  const bool dt_matters = d.stored > 1;
  return {
      .op = "s4_dplr_kernel",
      .name = d.name,
      .inputs = {{"A_real", {d.copies, d.modes}, -1.5, 0},
                 {"A_imag", {d.copies, d.modes}, 0.5, d.bandlimit > 0 ? 2.0 : 9.0},
                 {"dt",
                  {d.channels},
                  d.bandlimit > 0 ? -2.1 : -3.0,
                  d.bandlimit > 0 ? -2.0 : -1.0,
                  dt_matters},
                 {"B", {d.copies, d.modes, 2}},
                 {"P", {d.ranks, d.copies, d.modes, 2}},
                 {"C", {d.outputs, d.channels, d.modes, 2}}},
      .run = [options, length = d.length,
              stored = d.stored](const std::vector<Var>& in) -> std::vector<Var> {
        const Var imag = options.bandlimit > 0 ? two_bands(in[1]) : in[1];
        return {s4_dplr_kernel({in[0], imag, in[2], in[3], in[4]}, in[5], options, stored, length)};
      }};
}

}  // namespace

std::vector<OpCase> s4_dplr_cases() {
  std::vector<OpCase> cases;
  for (const DplrCase& d : {
           DplrCase{.name = "rank 1"},
           DplrCase{.name = "rank 2, odd length", .ranks = 2, .length = 9, .stored = 9},
           DplrCase{.name = "rank 3, shared copies", .ranks = 3, .channels = 4, .copies = 2},
           DplrCase{.name = "two outputs", .ranks = 2, .outputs = 2, .modes = 3},
           DplrCase{.name = "one node", .length = 1, .stored = 1},
           DplrCase{.name = "stored for longer", .length = 5, .stored = 20},
           DplrCase{.name = "half the rate", .length = 8, .stored = 5, .rate = 0.5},
           DplrCase{.name = "band limit", .modes = 4, .bandlimit = 0.3},
       }) {
    cases.push_back(dplr_case(d));
  }
  OpCase big = dplr_case({.name = "64 channels, 32 modes, length 1024",
                          .channels = 64,
                          .copies = 64,
                          .modes = 32,
                          .length = 1024,
                          .stored = 1024});
  // Per channel, mode and node: two reciprocals, and four sums of 8 operations, three times over.
  big.flops = 64.0 * 32 * 513 * (3 * 2 * 12 + 4 * (8 + 8 + 28));
  big.bytes = 8.0 * 64 * 1024;
  big.benchmark = true;
  cases.push_back(big);
  return cases;
}

}  // namespace adder
