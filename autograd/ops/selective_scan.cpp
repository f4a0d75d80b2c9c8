#include "autograd/op_cases.h"
#include "autograd/ops.h"
#include "engine/kernels/gather.h"
#include "engine/kernels/scan.h"

namespace adder {
namespace {

// Hands the rows that the kernel computed to the selections they were computed for.
void distribute(GradSlot& slot, const Tensor& rows) {
  const SelectedRows& selected = slot.selected_rows(rows.device());
  for (std::size_t i = 0; i < slot.selections().size(); ++i) {
    const auto& selection = slot.selections()[i];
    const Tensor compact =
        Tensor::empty(selection->index.compact_shape(), rows.dtype(), rows.device());
    kernel::gather_entries(rows.device(), {rows, selected.places[i], compact});
    slot.accumulate(*selection, compact);
  }
}

bool whole(const GradSlot& slot) {
  if (slot.wants_dense()) return true;
  for (const auto& selection : slot.selections()) {
    if (selection->index.kind() == IndexSet::Kind::all) return true;
  }
  return false;
}

}  // namespace

Var selective_scan(const SelectiveScanInputs& in, Tensor* h_last) {
  const Tensor& u = in.u.value();
  const bool needs =
      Tape::needs_grad({&in.u, &in.dt, &in.A_log, &in.B, &in.C, &in.D, &in.z, &in.dt_bias});
  if (u.rank() != 3 || in.A_log.shape().rank() != 2) {
    throw ShapeError(str("selective_scan: u is ", in.u.shape(), ", A_log is ", in.A_log.shape(),
                         "; expected (B, L, D) and (D, N)"));
  }
  const std::int64_t states = in.A_log.dim(1);
  SelectiveScanFwdArgs args{.u = u,
                            .dt = in.dt.value(),
                            .A_log = in.A_log.value(),
                            .B = in.B.value(),
                            .C = in.C.value(),
                            .D = in.D.value(),
                            .z = in.z.value(),
                            .dt_bias = in.dt_bias.value(),
                            .h0 = {},
                            .out = Tensor::empty_with_room(u.shape(), u.dtype(), u.device()),
                            .h_last = {},
                            .checkpoints = {}};
  if (h_last != nullptr) {
    *h_last = Tensor::empty({u.dim(0), u.dim(2), states}, in.A_log.dtype(), u.device());
    args.h_last = *h_last;
  }
  if (needs) {
    args.checkpoints = Tensor::empty({scan_checkpoint_numel(u.dim(0), u.dim(1), u.dim(2), states)},
                                     in.A_log.dtype(), u.device());
  }
  kernel::selective_scan_fwd(u.device(), args);
  if (!needs) return Var(args.out);

  const Var out = Var::leaf(args.out);
  Tape::record("selective_scan",
               [args, out_slot = out.slot(), u_slot = in.u.slot(), dt_slot = in.dt.slot(),
                a_slot = in.A_log.slot(), b_slot = in.B.slot(), c_slot = in.C.slot(),
                d_slot = in.D.slot(), z_slot = in.z.slot(), bias_slot = in.dt_bias.slot()] {
                 const Tensor dout = out_slot->take();
                 if (!dout.defined()) return;
                 const GradOut du(u_slot);
                 const GradOut ddt(dt_slot);
                 const GradOut dB(b_slot);
                 const GradOut dC(c_slot);
                 const GradOut dD(d_slot);
                 const GradOut dz(z_slot);
                 const GradOut dbias(bias_slot);
                 SelectiveScanBwdArgs back{.u = args.u,
                                           .dt = args.dt,
                                           .A_log = args.A_log,
                                           .B = args.B,
                                           .C = args.C,
                                           .D = args.D,
                                           .z = args.z,
                                           .dt_bias = args.dt_bias,
                                           .checkpoints = args.checkpoints,
                                           .dout = dout,
                                           .du = du.tensor(),
                                           .ddt = ddt.tensor(),
                                           .dA_log = {},
                                           .dB = dB.tensor(),
                                           .dC = dC.tensor(),
                                           .dD = dD.tensor(),
                                           .dz = dz.tensor(),
                                           .ddt_bias = dbias.tensor(),
                                           .dh0 = {},
                                           .dA_channels = {}};
                 if (a_slot) {
                   Shape wanted = a_slot->shape();
                   if (!whole(*a_slot)) {
                     back.dA_channels = a_slot->selected_rows(args.u.device()).rows;
                     wanted[0] = back.dA_channels.dim(0);
                   }
                   back.dA_log = Tensor::empty(wanted, args.A_log.dtype(), args.u.device());
                 }
                 kernel::selective_scan_bwd(args.u.device(), back);
                 for (const GradOut* gradient : {&du, &ddt, &dB, &dC, &dD, &dz, &dbias})
                   gradient->commit();
                 if (!a_slot) return;
                 if (back.dA_channels.defined()) {
                   distribute(*a_slot, back.dA_log);
                 } else {
                   a_slot->accumulate(back.dA_log);
                 }
               });
  return out;
}

namespace {

OpCase scan_case(const std::string& name, std::int64_t batch, std::int64_t length,
                 std::int64_t channels, std::int64_t states, double dt_low, double dt_high,
                 bool gate, bool bias) {
  OpCase c{.op = "selective_scan",
           .name = name,
           .inputs = {{"u", {batch, length, channels}},
                      {"dt", {batch, length, channels}, dt_low, dt_high},
                      {"A_log", {channels, states}, -6.9, 2.77},  // A from -16 to -1e-3
                      {"B", {batch, length, states}},
                      {"C", {batch, length, states}},
                      {"D", {channels}}},
           .run = [gate, bias](const std::vector<Var>& in) -> std::vector<Var> {
             SelectiveScanInputs s{in[0], in[1], in[2], in[3], in[4], in[5], {}, {}};
             std::size_t next = 6;
             if (gate) s.z = in[next++];
             if (bias) s.dt_bias = in[next];
             return {selective_scan(s)};
           },
           .tolerance_f32 = 5e-5};
  if (gate) c.inputs.push_back({"z", {batch, length, channels}, -3, 3});
  if (bias) c.inputs.push_back({"dt_bias", {channels}});
  return c;
}

}  // namespace

std::vector<OpCase> selective_scan_cases() {
  std::vector<OpCase> cases = {
      scan_case("ordinary", 2, 9, 5, 4, -3, 1, true, true),
      scan_case("no gate, no bias", 2, 5, 3, 2, -3, 1, false, false),
      scan_case("one step", 1, 1, 3, 2, -2, 2, true, true),
      scan_case("one channel", 2, 6, 1, 3, -2, 2, true, false),
      scan_case("one state", 1, 7, 4, 1, -2, 2, true, true),
      scan_case("softplus beyond 20", 1, 4, 3, 2, 18, 23, true, false),
      scan_case("tiny steps", 1, 6, 3, 2, -12, -8, true, true),
      scan_case("across chunks", 1, 70, 2, 2, -3, 0, true, true),
  };
  // Compact gradient of four scattered entries, checked through the displacement itself.
  OpCase compact = scan_case("selected A_log entries", 2, 9, 5, 3, -3, 1, true, false);
  compact.inputs[2].differentiable = false;
  compact.inputs.push_back({"delta", {4}, -0.1, 0.1});
  compact.run = [](const std::vector<Var>& in) -> std::vector<Var> {
    const auto slot = selection_var(in[2].value(), IndexSet::entries({5, 3}, {13, 1, 2, 6}), in[7]);
    return {selective_scan({in[0], in[1], slot, in[3], in[4], in[5], in[6], {}})};
  };
  cases.push_back(compact);
  OpCase big = scan_case("mamba-130m, batch 4, length 256", 4, 256, 1536, 16, -5, 0, true, true);
  const double elements = 4.0 * 256 * 1536;
  big.flops = elements * 16 * (7 + 20);  // multiplications and additions, exponentials as one each
  big.bytes = 4 * elements * (4 + 8);
  big.benchmark = true;
  cases.push_back(big);
  return cases;
}

}  // namespace adder
