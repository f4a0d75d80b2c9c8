// What every device's DPLR kernels ask of their arguments.
#include "engine/kernels/s4_dplr.h"

#include <cmath>
#include <initializer_list>
#include <utility>

#include "engine/kernels/arguments.h"

namespace adder {
namespace {

void check_contiguous(const char* place,
                      std::initializer_list<std::pair<const char*, const Tensor&>> tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (tensor.defined() && !tensor.is_contiguous()) {
      throw ShapeError(str(place, ": ", name, " ", tensor.shape(), " is not contiguous"));
    }
  }
}

template <typename Args>
void check_kernel(const char* place, const Args& args, const Tensor& K) {
  check_rank(place, "P", args.P, 4);
  check_rank(place, "C", args.C, 4);
  check_rank(place, "K", K, 3);
  const std::int64_t R = args.P.dim(0);
  const std::int64_t S = args.P.dim(1);
  const std::int64_t N = args.P.dim(2);
  const std::int64_t M = args.C.dim(0);
  const std::int64_t H = args.C.dim(1);
  const std::int64_t L = K.dim(2);
  if (R < 1 || R > kS4MostRanks) {
    throw ShapeError(str(place, ": P has rank ", R, ", expected 1 to ", kS4MostRanks));
  }
  if (S < 1 || N < 1 || M < 1 || H < 1 || H % S != 0) {
    throw ShapeError(str(place, ": ", M, " outputs, ", H, " channels, ", S, " copies, ", N,
                         " modes; expected at least 1 each, and copies that divide the channels"));
  }
  if (L < 1 || L > args.nodes) {
    throw ShapeError(str(place, ": the length is ", L, ", expected 1 to ", args.nodes,
                         ", the length that C was stored for"));
  }
  if (args.options.method != S4Method::bilinear) {
    throw ConfigError(str(place, ": the discretisation of DPLR is bilinear"));
  }
  if (!(args.options.rate > 0) || !(args.options.bandlimit >= 0)) {
    throw ConfigError(str(place, ": rate ", args.options.rate, " and bandlimit ",
                          args.options.bandlimit, ", expected more than 0, and 0 or more"));
  }
  Shape dt{H};
  if (args.dt.defined() && args.dt.rank() == 2) dt.push_back(1);
  check_arguments(place, {{"C", args.C, {M, H, N, 2}, true},
                          {"A_real", args.A_real, {S, N}, true},
                          {"A_imag", args.A_imag, {S, N}, true},
                          {"dt", args.dt, dt, true},
                          {"B", args.B, {S, N, 2}, true},
                          {"P", args.P, {R, S, N, 2}, true},
                          {"K", K, {M, H, L}, true}});
  check_contiguous(place, {{"A_real", args.A_real},
                           {"A_imag", args.A_imag},
                           {"dt", args.dt},
                           {"B", args.B},
                           {"P", args.P},
                           {"C", args.C}});
}

}  // namespace

std::int64_t s4_dplr_nodes(std::int64_t length, double rate) {
  if (!(rate > 0) || !std::isfinite(rate)) {
    throw ConfigError(str("s4_dplr: rate is ", rate, ", expected a positive number"));
  }
  return std::llround(static_cast<double>(length) / rate);
}

void check_s4_dplr(const char* place, const S4DplrKernelFwdArgs& args) {
  check_kernel(place, args, args.K);
}

void check_s4_dplr(const char* place, const S4DplrKernelBwdArgs& args) {
  check_kernel(place, args, args.dK);
  check_arguments(place, {{"C", args.C, args.C.shape(), true},
                          {"dA_real", args.dA_real, args.A_real.shape(), false},
                          {"dA_imag", args.dA_imag, args.A_imag.shape(), false},
                          {"ddt", args.ddt, args.dt.shape(), false},
                          {"dB", args.dB, args.B.shape(), false},
                          {"dP", args.dP, args.P.shape(), false},
                          {"dC", args.dC, args.C.shape(), false}});
  check_contiguous(place, {{"dA_real", args.dA_real},
                           {"dA_imag", args.dA_imag},
                           {"ddt", args.ddt},
                           {"dB", args.dB},
                           {"dP", args.dP},
                           {"dC", args.dC}});
}

void check_s4_dplr(const char* place, const S4DplrStepArgs& args) {
  check_rank(place, "u", args.u, 2);
  check_rank(place, "P", args.P, 4);
  check_rank(place, "C", args.C, 4);
  const std::int64_t B = args.u.dim(0);
  const std::int64_t H = args.u.dim(1);
  const std::int64_t R = args.P.dim(0);
  const std::int64_t N = args.P.dim(2);
  const std::int64_t M = args.C.dim(0);
  if (R < 1 || R > kS4MostRanks) {
    throw ShapeError(str(place, ": P has rank ", R, ", expected 1 to ", kS4MostRanks));
  }
  check_arguments(place, {{"E", args.E, {H, N, 2}, true},
                          {"F", args.F, {H, N, 2}, true},
                          {"B", args.B, {H, N, 2}, true},
                          {"P", args.P, {R, H, N, 2}, true},
                          {"W", args.W, {R, H, N, 2}, true},
                          {"C", args.C, {M, H, N, 2}, true},
                          {"scratch", args.scratch, {2, B, H, N, 2}, true}});
  if (args.E.dtype() != Dtype::f64) {
    throw DtypeError(str(place, ": E is ", dtype_name(args.E.dtype()), ", expected float64"));
  }
  check_arguments(place, {{"u", args.u, {B, H}, true},
                          {"D", args.D, {M, H}, false},
                          {"s", args.s, {B, H, N, 2}, true},
                          {"y", args.y, {B, M, H}, true}});
  check_contiguous(place, {{"E", args.E},
                           {"F", args.F},
                           {"B", args.B},
                           {"P", args.P},
                           {"W", args.W},
                           {"C", args.C},
                           {"s", args.s},
                           {"scratch", args.scratch}});
}

}  // namespace adder
