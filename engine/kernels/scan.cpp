// What every device's scan asks of its arguments.
#include "engine/kernels/scan.h"

#include "engine/kernels/arguments.h"

namespace adder {
namespace {

using Kind = NamedTensor::Kind;

// Throws unless the checkpoints, where defined, are contiguous, of the states' dtype and large
// enough.
void check_checkpoints(const char* place, const Tensor& checkpoints, const Tensor& u,
                       std::int64_t states) {
  if (!checkpoints.defined()) return;
  const std::int64_t needed = scan_checkpoint_numel(u.dim(0), u.dim(1), u.dim(2), states);
  if (checkpoints.numel() < needed || !checkpoints.is_contiguous()) {
    throw ShapeError(str(place, ": checkpoints is ", checkpoints.shape(), ", expected ", needed,
                         " contiguous elements"));
  }
  const Dtype expected = u.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  if (checkpoints.dtype() != expected) {
    throw DtypeError(str(place, ": checkpoints is ", dtype_name(checkpoints.dtype()), ", expected ",
                         dtype_name(expected)));
  }
}

}  // namespace

std::int64_t scan_checkpoint_numel(std::int64_t batch, std::int64_t length, std::int64_t channels,
                                   std::int64_t states) {
  const std::int64_t chunks = (length + kScanChunk - 1) / kScanChunk;
  return batch * chunks * ((channels + 15) / 16 * 16) * states;
}

void check_scan(const char* place, const SelectiveScanFwdArgs& args) {
  check_rank(place, "u", args.u, 3);
  check_rank(place, "A_log", args.A_log, 2);
  const std::int64_t b = args.u.dim(0);
  const std::int64_t l = args.u.dim(1);
  const std::int64_t d = args.u.dim(2);
  const std::int64_t n = args.A_log.dim(1);
  check_arguments(place, {{"u", args.u, {b, l, d}, true},
                          {"dt", args.dt, {b, l, d}, true},
                          {"A_log", args.A_log, {d, n}, true, Kind::weight},
                          {"B", args.B, {b, l, n}, true},
                          {"C", args.C, {b, l, n}, true},
                          {"D", args.D, {d}, true, Kind::weight},
                          {"z", args.z, {b, l, d}, false},
                          {"dt_bias", args.dt_bias, {d}, false, Kind::weight},
                          {"h0", args.h0, {b, d, n}, false, Kind::weight},
                          {"out", args.out, {b, l, d}, true},
                          {"h_last", args.h_last, {b, d, n}, false, Kind::weight}});
  check_checkpoints(place, args.checkpoints, args.u, n);
}

void check_scan(const char* place, const SelectiveScanBwdArgs& args) {
  check_rank(place, "u", args.u, 3);
  check_rank(place, "A_log", args.A_log, 2);
  const std::int64_t b = args.u.dim(0);
  const std::int64_t l = args.u.dim(1);
  const std::int64_t d = args.u.dim(2);
  const std::int64_t n = args.A_log.dim(1);
  std::int64_t dA_rows = d;
  if (args.dA_channels.defined() && args.dA_channels.device().is_cpu()) {
    std::int64_t previous = -1;
    for (std::int64_t i = 0; i < args.dA_channels.numel(); ++i) {
      const std::int32_t channel = args.dA_channels.data<std::int32_t>()[i];
      if (channel <= previous || channel >= d) {
        throw ShapeError(str(place, ": dA_channels has ", channel, " after ", previous,
                             ", expected ascending numbers below ", d));
      }
      previous = channel;
    }
  }
  if (args.dA_channels.defined()) dA_rows = args.dA_channels.numel();
  check_arguments(place, {{"u", args.u, {b, l, d}, true},
                          {"dt", args.dt, {b, l, d}, true},
                          {"A_log", args.A_log, {d, n}, true, Kind::weight},
                          {"B", args.B, {b, l, n}, true},
                          {"C", args.C, {b, l, n}, true},
                          {"D", args.D, {d}, true, Kind::weight},
                          {"z", args.z, {b, l, d}, args.dz.defined()},
                          {"dt_bias", args.dt_bias, {d}, false, Kind::weight},
                          {"dout", args.dout, {b, l, d}, true},
                          {"du", args.du, {b, l, d}, false},
                          {"ddt", args.ddt, {b, l, d}, false},
                          {"dA_log", args.dA_log, {dA_rows, n}, false, Kind::weight},
                          {"dB", args.dB, {b, l, n}, false},
                          {"dC", args.dC, {b, l, n}, false},
                          {"dD", args.dD, {d}, false, Kind::weight},
                          {"dz", args.dz, {b, l, d}, false},
                          {"ddt_bias", args.ddt_bias, {d}, false, Kind::weight},
                          {"dh0", args.dh0, {b, d, n}, false, Kind::weight}});
  if (!args.checkpoints.defined()) throw ShapeError(str(place, ": checkpoints is undefined"));
  check_checkpoints(place, args.checkpoints, args.u, n);
}

void check_scan(const char* place, const SelectiveScanStepArgs& args) {
  check_rank(place, "u", args.u, 2);
  check_rank(place, "A_log", args.A_log, 2);
  const std::int64_t b = args.u.dim(0);
  const std::int64_t d = args.u.dim(1);
  const std::int64_t n = args.A_log.dim(1);
  check_arguments(place, {{"u", args.u, {b, d}, true},
                          {"dt", args.dt, {b, d}, true},
                          {"A_log", args.A_log, {d, n}, true, Kind::weight},
                          {"B", args.B, {b, n}, true},
                          {"C", args.C, {b, n}, true},
                          {"D", args.D, {d}, true, Kind::weight},
                          {"z", args.z, {b, d}, false},
                          {"dt_bias", args.dt_bias, {d}, false, Kind::weight},
                          {"h", args.h, {b, d, n}, true, Kind::weight},
                          {"out", args.out, {b, d}, true}});
}

}  // namespace adder
