#include "bench/cuda/rows.h"
#include "engine/kernels/conv.h"
#include "engine/kernels/scan.h"

namespace adder::bench {
namespace {

struct ScanShape {
  std::int64_t b, l, d, n;
};

// As in a model: z is half of a wider tensor, dt's rank stands in front of B and C.
struct ScanCase {
  ScanCase(const Harness& harness, const ScanShape& shape, Dtype dtype) : s(shape) {
    const Device device = harness.device();
    const Tensor xz = harness.uniform({s.b, s.l, 2 * s.d}, dtype);
    const std::int64_t rank = std::max<std::int64_t>(s.d / 32, 1);
    const Tensor bc = harness.uniform({s.b, s.l, rank + 2 * s.n}, dtype);
    fwd.u = harness.uniform({s.b, s.l, s.d}, dtype);
    fwd.dt = harness.uniform({s.b, s.l, s.d}, dtype);
    fwd.A_log = harness.uniform({s.d, s.n}, Dtype::f32, 0, 2.8);
    fwd.B = bc.slice(2, rank, rank + s.n);
    fwd.C = bc.slice(2, rank + s.n, rank + 2 * s.n);
    fwd.D = harness.uniform({s.d}, Dtype::f32);
    fwd.z = xz.slice(2, s.d, 2 * s.d);
    fwd.dt_bias = harness.uniform({s.d}, Dtype::f32, -5, -2);
    fwd.out = Tensor::empty({s.b, s.l, s.d}, dtype, device);
    fwd.checkpoints =
        Tensor::empty({scan_checkpoint_numel(s.b, s.l, s.d, s.n)}, Dtype::f32, device);
  }
  ScanShape s;
  SelectiveScanFwdArgs fwd;
};

enum class DecayGradient : std::uint8_t { none, chosen, dense };

SelectiveScanBwdArgs backward_args(const Harness& harness, const ScanCase& c, DecayGradient decay) {
  const Dtype dtype = c.fwd.u.dtype();
  const auto like_u = [&] { return Tensor::empty({c.s.b, c.s.l, c.s.d}, dtype, harness.device()); };
  const auto like_B = [&] { return Tensor::empty({c.s.b, c.s.l, c.s.n}, dtype, harness.device()); };
  SelectiveScanBwdArgs args;
  args.u = c.fwd.u, args.dt = c.fwd.dt, args.A_log = c.fwd.A_log, args.B = c.fwd.B;
  args.C = c.fwd.C, args.D = c.fwd.D, args.z = c.fwd.z, args.dt_bias = c.fwd.dt_bias;
  args.checkpoints = c.fwd.checkpoints;
  args.dout = harness.uniform({c.s.b, c.s.l, c.s.d}, dtype);
  args.du = like_u(), args.ddt = like_u(), args.dz = like_u(), args.dB = like_B();
  args.dC = like_B();
  if (decay == DecayGradient::dense) {
    args.dA_log = Tensor::empty({c.s.d, c.s.n}, Dtype::f32, harness.device());
  } else if (decay == DecayGradient::chosen) {  // a hundredth of the channels, as SDT chooses
    std::vector<std::int32_t> channels;
    for (std::int64_t d = 0; d < c.s.d; d += 101) channels.push_back(static_cast<std::int32_t>(d));
    const auto count = static_cast<std::int64_t>(channels.size());
    args.dA_channels = Tensor::from({count}, channels).to(harness.device());
    args.dA_log = Tensor::empty({count, c.s.n}, Dtype::f32, harness.device());
  }
  return args;
}

Json scan_fields(const ScanShape& s, Dtype dtype) {
  return {{"dtype", dtype_name(dtype)}, {"shape", {s.b, s.l, s.d, s.n}}};
}

void scan_at(Harness& harness, const ScanShape& s, Dtype dtype) {
  const Device device = harness.device();
  const auto rows = static_cast<double>(s.b * s.l);
  const auto size = static_cast<double>(dtype_size(dtype));
  const auto channels = static_cast<double>(s.d);
  const auto states = static_cast<double>(s.n);
  harness.figure("selective_scan_fwd", scan_fields(s, dtype),
                 scan_forward_work(rows, channels, states, size), [&] {
                   const ScanCase c(harness, s, dtype);
                   return [c, device] { kernel::selective_scan_fwd(device, c.fwd); };
                 });
  const std::pair<DecayGradient, const char*> decays[] = {{DecayGradient::none, "frozen"},
                                                          {DecayGradient::chosen, "chosen"},
                                                          {DecayGradient::dense, "dense"}};
  for (const auto& [decay, decay_name] : decays) {
    Json fields = scan_fields(s, dtype);
    fields["dA"] = decay_name;
    harness.figure("selective_scan_bwd", fields, scan_backward_work(rows, channels, states, size),
                   [&, decay = decay] {
                     const ScanCase c(harness, s, dtype);
                     kernel::selective_scan_fwd(device, c.fwd);
                     const SelectiveScanBwdArgs args = backward_args(harness, c, decay);
                     return [args, device] { kernel::selective_scan_bwd(device, args); };
                   });
  }
}

void scan_step_at(Harness& harness, const ScanShape& s, Dtype dtype) {
  const Device device = harness.device();
  const double bytes =
      static_cast<double>(s.b * s.d) *
      (8.0 * static_cast<double>(s.n) + 4.0 * static_cast<double>(dtype_size(dtype)));
  harness.figure("selective_scan_step", scan_fields(s, dtype), {.bytes = bytes}, [&] {
    const ScanCase c(harness, s, dtype);
    const auto last = [&](const Tensor& t) { return t.select(1, s.l - 1); };
    const SelectiveScanStepArgs args{.u = last(c.fwd.u),
                                     .dt = last(c.fwd.dt),
                                     .A_log = c.fwd.A_log,
                                     .B = last(c.fwd.B),
                                     .C = last(c.fwd.C),
                                     .D = c.fwd.D,
                                     .z = last(c.fwd.z),
                                     .dt_bias = c.fwd.dt_bias,
                                     .h = harness.uniform({s.b, s.d, s.n}, Dtype::f32),
                                     .out = Tensor::empty({s.b, s.d}, dtype, device)};
    return [args, device] { kernel::selective_scan_step(device, args); };
  });
}

void conv_at(Harness& harness, std::int64_t b, std::int64_t l, std::int64_t d, Dtype dtype) {
  const Device device = harness.device();
  const auto elements = static_cast<double>(b * l * d);
  const auto size = static_cast<double>(dtype_size(dtype));
  const auto input = [&] { return harness.uniform({b, l, 2 * d}, dtype).slice(2, 0, d); };
  Json fields{{"dtype", dtype_name(dtype)}, {"shape", {b, l, d}}};
  harness.figure("causal_conv_silu_fwd", fields, conv_work(elements, size, false), [&] {
    const CausalConvFwdArgs args{input(), harness.uniform({d, 4}, Dtype::f32),
                                 harness.uniform({d}, Dtype::f32),
                                 Tensor::empty({b, l, d}, dtype, device)};
    return [args, device] { kernel::causal_conv_silu_fwd(device, args); };
  });
  for (const bool frozen : {true, false}) {
    fields["weights"] = frozen ? "frozen" : "trained";
    harness.figure("causal_conv_silu_bwd", fields, conv_work(elements, size, true), [&] {
      CausalConvBwdArgs args{.x = input(),
                             .weight = harness.uniform({d, 4}, Dtype::f32),
                             .bias = harness.uniform({d}, Dtype::f32),
                             .dy = harness.uniform({b, l, d}, dtype),
                             .dx = Tensor::empty({b, l, d}, dtype, device),
                             .dweight = {},
                             .dbias = {}};
      if (!frozen) {
        args.dweight = Tensor::empty({d, 4}, Dtype::f32, device);
        args.dbias = Tensor::empty({d}, Dtype::f32, device);
      }
      return [args, device] { kernel::causal_conv_silu_bwd(device, args); };
    });
  }
}

}  // namespace

// Per state: one exponential, two multiplications, two multiply-adds. Per channel and step:
// softplus and the gate, about 28 instructions with their addressing, four of them transcendental.
Work scan_forward_work(double rows, double channels, double states, double size) {
  const double elements = rows * channels;
  return {.bytes = elements * 4 * size + rows * 2 * states * size +
                   elements * states * 4 / static_cast<double>(kScanChunk),
          .exps = elements * (states + 4),
          .issues = elements * (5 * states + 28)};
}

// Per state 22 instructions: 12 with the states rebuilt once, 4 for a second rebuild between saved
// states, 4 to sum over channels, 2 loads; one exponential if it is kept.
Work scan_backward_work(double rows, double channels, double states, double size) {
  const double elements = rows * channels;
  return {.bytes = elements * 7 * size + rows * 4 * states * size +
                   elements * states * 4 / static_cast<double>(kScanChunk),
          .exps = elements * (states + 5),
          .issues = elements * (22 * states + 60)};
}

Work conv_work(double elements, double size, bool backward) {
  return {.bytes = elements * size * (backward ? 3 : 2), .exps = 2 * elements};
}

void scan_rows(Harness& harness) {
  const std::vector<ScanShape> shapes =
      harness.tiny()
          ? std::vector<ScanShape>{{1, 34, 9, 4}}
          : std::vector<ScanShape>{{8, 2048, 1536, 16}, {8, 2048, 5120, 16}, {4, 128, 1536, 16}};
  for (const ScanShape& s : shapes) {
    for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
      scan_at(harness, s, dtype);
      conv_at(harness, s.b, s.l, s.d, dtype);
    }
  }
  const ScanShape& first = shapes.front();
  scan_step_at(harness, {first.b, 1, first.d, first.n}, Dtype::f32);
}

}  // namespace adder::bench
