// What every device's S4 kernels ask of their arguments.
#include "engine/kernels/s4.h"

#include <cmath>

#include "engine/kernels/arguments.h"

namespace adder {
namespace {

void check_extent(const char* place, const char* what, std::int64_t extent) {
  if (extent < 1) {
    throw ShapeError(str(place, ": ", what, " is ", extent, ", expected at least 1"));
  }
}

// A float64 tensor of pairs beside activations of any type.
void check_modes(const char* place, const char* name, const Tensor& tensor, const Shape& shape,
                 bool required) {
  if (!tensor.defined()) {
    if (required) throw ShapeError(str(place, ": ", name, " is undefined, expected ", shape));
    return;
  }
  check_shape(place, name, tensor, shape);
  if (tensor.dtype() != Dtype::f64) {
    throw DtypeError(
        str(place, ": ", name, " is ", dtype_name(tensor.dtype()), ", expected float64"));
  }
  if (!tensor.is_contiguous()) {
    throw ShapeError(str(place, ": ", name, " ", shape, " is not contiguous"));
  }
}

// Sequences may also have their channels side by side.
NamedTensor sequences(const char* name, const Tensor& tensor, const Shape& shape, bool required) {
  return {name, tensor, shape, required, NamedTensor::Kind::activation, true};
}

void check_contiguous(const char* place, const char* name, const Tensor& tensor) {
  if (tensor.defined() && !tensor.is_contiguous()) {
    throw ShapeError(str(place, ": ", name, " ", tensor.shape(), " is not contiguous"));
  }
}

void check_pairs(const char* place, const char* name, const Tensor& tensor, int rank) {
  check_rank(place, name, tensor, rank);
  if (tensor.dim(rank - 1) != 2) {
    throw ShapeError(str(place, ": ", name, " is ", tensor.shape(),
                         ", expected a last axis of 2 (real and imaginary part)"));
  }
}

template <typename Args>
void check_discretize(const char* place, const Args& args) {
  check_rank(place, "A_real", args.A_real, 2);
  const std::int64_t S = args.A_real.dim(0);
  const std::int64_t N = args.A_real.dim(1);
  if (!args.dt.defined() || args.dt.rank() < 1 || args.dt.rank() > 2) {
    throw ShapeError(
        str(place, ": dt is ", args.dt.shape(), ", expected (H), (H, 1) or (H, ", N, ")"));
  }
  const std::int64_t H = args.dt.dim(0);
  check_extent(place, "the number of channels", H);
  check_extent(place, "the number of modes", N);
  check_extent(place, "the number of copies of A", S);
  if (H % S != 0) {
    throw ShapeError(
        str(place, ": A_real has ", S, " copies, which do not divide the ", H, " channels of dt"));
  }
  Shape dt_shape{H};
  if (args.dt.rank() == 2) dt_shape = {H, args.dt.dim(1) == 1 ? 1 : N};
  check_arguments(place, {{"A_real", args.A_real, {S, N}, true},
                          {"A_imag", args.A_imag, {S, N}, true},
                          {"dt", args.dt, dt_shape, true},
                          {"B", args.B, {S, N, 2}, false}});
  check_contiguous(place, "A_real", args.A_real);
  check_contiguous(place, "A_imag", args.A_imag);
  check_contiguous(place, "dt", args.dt);
  check_contiguous(place, "B", args.B);
  const S4Options& o = args.options;
  if (!(o.rate > 0) || !std::isfinite(o.rate)) {
    throw ConfigError(str(place, ": rate is ", o.rate, ", expected a positive number"));
  }
  if (!(o.bandlimit >= 0)) {
    throw ConfigError(str(place, ": bandlimit is ", o.bandlimit, ", expected 0 (none) or more"));
  }
  if (o.imag_sign != 1 && o.imag_sign != -1) {
    throw ConfigError(str(place, ": imag_sign is ", o.imag_sign, ", expected 1 or -1"));
  }
  if (o.method == S4Method::dss) check_extent(place, "the length of dss", o.length);
}

}  // namespace

void check_s4(const char* place, const S4DiscretizeFwdArgs& args) {
  check_discretize(place, args);
  const Shape modes{args.dt.dim(0), args.A_real.dim(1), 2};
  check_modes(place, "log_q", args.log_q, modes, true);
  check_modes(place, "p", args.p, modes, true);
  check_modes(place, "b", args.b, modes, true);
}

void check_s4(const char* place, const S4DiscretizeBwdArgs& args) {
  check_discretize(place, args);
  const Shape modes{args.dt.dim(0), args.A_real.dim(1), 2};
  check_modes(place, "dlog_q", args.dlog_q, modes, false);
  check_modes(place, "dp", args.dp, modes, false);
  check_modes(place, "db", args.db, modes, false);
  const Shape copies = args.A_real.shape();
  check_arguments(place, {{"A_real", args.A_real, copies, true},
                          {"dA_real", args.dA_real, copies, false},
                          {"dA_imag", args.dA_imag, copies, false},
                          {"ddt", args.ddt, args.dt.shape(), false},
                          {"dB", args.dB, {copies[0], copies[1], 2}, false}});
  if (args.dB.defined() && !args.B.defined()) {
    throw ShapeError(str(place, ": dB is asked for without B"));
  }
  check_contiguous(place, "dA_real", args.dA_real);
  check_contiguous(place, "dA_imag", args.dA_imag);
  check_contiguous(place, "ddt", args.ddt);
  check_contiguous(place, "dB", args.dB);
}

void check_s4(const char* place, const S4KernelFwdArgs& args) {
  check_pairs(place, "C", args.C, 4);
  check_rank(place, "K", args.K, 3);
  const std::int64_t M = args.C.dim(0);
  const std::int64_t H = args.C.dim(1);
  const std::int64_t N = args.C.dim(2);
  const std::int64_t L = args.K.dim(2);
  check_extent(place, "the length", L);
  check_modes(place, "log_q", args.log_q, {H, N, 2}, true);
  check_modes(place, "b", args.b, {H, N, 2}, true);
  check_arguments(place, {{"C", args.C, {M, H, N, 2}, true}, {"K", args.K, {M, H, L}, true}});
  check_contiguous(place, "C", args.C);
}

void check_s4(const char* place, const S4KernelBwdArgs& args) {
  check_s4(place, S4KernelFwdArgs{args.log_q, args.b, args.C, args.dK});
  const Shape modes = args.log_q.shape();
  check_modes(place, "dlog_q", args.dlog_q, modes, false);
  check_modes(place, "db", args.db, modes, false);
  check_arguments(place,
                  {{"C", args.C, args.C.shape(), true}, {"dC", args.dC, args.C.shape(), false}});
  check_contiguous(place, "dC", args.dC);
}

void check_s4(const char* place, const S4ConvFwdArgs& args) {
  check_rank(place, "u", args.u, 3);
  check_rank(place, "K", args.K, 3);
  const std::int64_t B = args.u.dim(0);
  const std::int64_t H = args.u.dim(1);
  const std::int64_t L = args.u.dim(2);
  check_extent(place, "the length", L);
  const std::int64_t kernels = args.K.dim(0);
  const std::int64_t M = args.bidirectional ? kernels / 2 : kernels;
  if (args.bidirectional && kernels % 2 != 0) {
    throw ShapeError(str(place, ": K is ", args.K.shape(),
                         ", expected an even first extent for two directions"));
  }
  check_arguments(place, {sequences("u", args.u, {B, H, L}, true),
                          {"K", args.K, {kernels, H, L}, true},
                          {"D", args.D, {M, H}, false},
                          sequences("y", args.y, {B, M, H, L}, true)});
}

void check_s4(const char* place, const S4ConvBwdArgs& args) {
  check_s4(place, S4ConvFwdArgs{args.u, args.K, args.D, args.bidirectional, args.dy});
  const std::int64_t H = args.u.dim(1);
  const std::int64_t M = args.dy.dim(1);
  check_arguments(place, {sequences("u", args.u, args.u.shape(), true),
                          sequences("du", args.du, args.u.shape(), false),
                          {"dK", args.dK, args.K.shape(), false},
                          {"dD", args.dD, {M, H}, false}});
}

namespace {

void check_checkpoints(const char* place, const Tensor& checkpoints, const Tensor& u,
                       std::int64_t modes) {
  const std::int64_t needed = s4_scan_checkpoint_numel(u.dim(0), u.dim(1), u.dim(2), modes);
  if (checkpoints.numel() < needed || !checkpoints.is_contiguous() ||
      checkpoints.dtype() != u.dtype()) {
    throw ShapeError(str(place, ": checkpoints is ", dtype_name(checkpoints.dtype()), " ",
                         checkpoints.shape(), ", expected ", needed, " contiguous elements of ",
                         dtype_name(u.dtype())));
  }
}

}  // namespace

void check_s4(const char* place, const S4ScanFwdArgs& args) {
  check_rank(place, "u", args.u, 3);
  check_pairs(place, "C", args.C, 4);
  const std::int64_t B = args.u.dim(0);
  const std::int64_t H = args.u.dim(1);
  const std::int64_t L = args.u.dim(2);
  const std::int64_t M = args.C.dim(0);
  const std::int64_t N = args.C.dim(2);
  check_extent(place, "the length", L);
  check_modes(place, "p", args.p, {H, N, 2}, true);
  check_modes(place, "b", args.b, {H, N, 2}, true);
  check_arguments(place, {sequences("u", args.u, {B, H, L}, true),
                          {"C", args.C, {M, H, N, 2}, true},
                          {"D", args.D, {M, H}, false},
                          {"x0", args.x0, {B, H, N, 2}, false},
                          sequences("y", args.y, {B, M, H, L}, true),
                          {"x_last", args.x_last, {B, H, N, 2}, false}});
  check_contiguous(place, "C", args.C);
  check_contiguous(place, "x0", args.x0);
  check_contiguous(place, "x_last", args.x_last);
  if (args.checkpoints.defined()) check_checkpoints(place, args.checkpoints, args.u, N);
}

void check_s4(const char* place, const S4ScanBwdArgs& args) {
  check_s4(place, S4ScanFwdArgs{.u = args.u,
                                .p = args.p,
                                .b = args.b,
                                .C = args.C,
                                .D = args.D,
                                .x0 = {},
                                .y = args.dy,
                                .x_last = {},
                                .checkpoints = args.checkpoints});
  const Shape modes = args.p.shape();
  const Shape states{args.u.dim(0), modes[0], modes[1], 2};
  if (!args.checkpoints.defined()) throw ShapeError(str(place, ": checkpoints is undefined"));
  check_modes(place, "dp", args.dp, modes, false);
  check_modes(place, "db", args.db, modes, false);
  check_arguments(place, {sequences("u", args.u, args.u.shape(), true),
                          {"dx_last", args.dx_last, states, false},
                          sequences("du", args.du, args.u.shape(), false),
                          {"dC", args.dC, args.C.shape(), false},
                          {"dD", args.dD, {args.C.dim(0), modes[0]}, false},
                          {"dx0", args.dx0, states, false}});
  check_contiguous(place, "dx_last", args.dx_last);
  check_contiguous(place, "dC", args.dC);
  check_contiguous(place, "dx0", args.dx0);
}

void check_s4(const char* place, const S4StepArgs& args) {
  check_rank(place, "u", args.u, 2);
  check_pairs(place, "C", args.C, 4);
  const std::int64_t B = args.u.dim(0);
  const std::int64_t H = args.u.dim(1);
  const std::int64_t M = args.C.dim(0);
  const std::int64_t N = args.C.dim(2);
  check_modes(place, "p", args.p, {H, N, 2}, true);
  check_modes(place, "b", args.b, {H, N, 2}, true);
  check_arguments(place, {{"u", args.u, {B, H}, true},
                          {"C", args.C, {M, H, N, 2}, true},
                          {"D", args.D, {M, H}, false},
                          {"x", args.x, {B, H, N, 2}, true},
                          {"y", args.y, {B, M, H}, true}});
  check_contiguous(place, "C", args.C);
  check_contiguous(place, "x", args.x);
}

std::int64_t s4_scan_checkpoint_numel(std::int64_t batch, std::int64_t channels,
                                      std::int64_t length, std::int64_t modes) {
  const std::int64_t chunks = (length + kS4Chunk - 1) / kS4Chunk;
  return (batch * channels + 15) / 16 * 16 * chunks * modes * 2;
}

std::int64_t s4_fft_length(std::int64_t length) {
  for (std::int64_t n = 2 * length;; ++n) {
    std::int64_t rest = n;
    for (const std::int64_t factor : {2, 3, 5}) {
      while (rest % factor == 0) rest /= factor;
    }
    if (rest == 1) return n;
  }
}

}  // namespace adder
