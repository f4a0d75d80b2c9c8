// One step of a diagonal-plus-low-rank layer, in float64. A warp owns one (b, h), lane i its modes
// i, i + 32, ...; each product with a row of rank is a sum over the warp. Traffic per mode: the
// state and the coefficients once, P and W twice for each rank.
#include "cuda/s4_device.h"
#include "cuda/strided.h"
#include "engine/kernels/s4_dplr.h"

namespace adder::cuda {
namespace {

using s4::Cx;

constexpr int kThreads = 128;

struct Step {
  std::int64_t batch, channels, modes, ranks, outputs;
  const float* u;
  std::int64_t u_stride;
  Pairs<const double> E, F, B, P, W, C;
  Skip D;
  Pairs<float> s;
  Pairs<double> scratch;
  float* y;
  std::int64_t y_batch, y_output;
};

__global__ void __launch_bounds__(kThreads) s4_dplr_step_kernel(Step p) {
  const std::int64_t row = global_index() / kWarp;
  const std::int64_t lane = threadIdx.x % kWarp;
  const bool exists = row < p.batch * p.channels;
  const std::int64_t h = row % p.channels;
  const std::int64_t at = row * p.modes;
  const std::int64_t own = h * p.modes;
  const std::int64_t end = exists ? p.modes : 0;
  const double u = exists ? static_cast<double>(p.u[row / p.channels * p.u_stride + h]) : 0.0;
  for (std::int64_t n = lane; n < end; n += kWarp) {
    p.scratch.set(at + n, p.E[own + n] * p.s[at + n] + (2 * u) * p.B[own + n]);
  }
  for (std::int64_t r = 0; r < p.ranks; ++r) {
    const std::int64_t rank = (r * p.channels + h) * p.modes;
    double dot = 0;
    for (std::int64_t n = lane; n < end; n += kWarp) dot += (conj(p.P[rank + n]) * p.s[at + n]).re;
    dot = 2 * sum_lanes(dot, kWarp);
    for (std::int64_t n = lane; n < end; n += kWarp) {
      p.scratch.set(at + n, p.scratch[at + n] - dot * p.P[rank + n]);
    }
  }
  // The second product needs s1 whole for every rank.
  const std::int64_t next = p.batch * p.channels * p.modes + at;
  for (std::int64_t n = lane; n < end; n += kWarp) p.scratch.set(next + n, p.scratch[at + n]);
  for (std::int64_t r = 0; r < p.ranks; ++r) {
    const std::int64_t rank = (r * p.channels + h) * p.modes;
    double dot = 0;
    for (std::int64_t n = lane; n < end; n += kWarp) dot += (p.W[rank + n] * p.scratch[at + n]).re;
    dot = 2 * sum_lanes(dot, kWarp);
    for (std::int64_t n = lane; n < end; n += kWarp) {
      p.scratch.set(next + n, p.scratch[next + n] - dot * p.P[rank + n]);
    }
  }
  for (std::int64_t n = lane; n < end; n += kWarp) {
    p.s.set(at + n, p.F[own + n] * p.scratch[next + n]);
  }
  for (std::int64_t m = 0; m < p.outputs; ++m) {
    double sum = 0;
    for (std::int64_t n = lane; n < end; n += kWarp) {
      sum += (p.C[(m * p.channels + h) * p.modes + n] * p.s[at + n]).re;
    }
    sum = 2 * sum_lanes(sum, kWarp);
    if (exists && lane == 0) {
      const double skipped = static_cast<double>(p.D.at(m, h)) * u;
      p.y[row / p.channels * p.y_batch + m * p.y_output + h] = static_cast<float>(sum + skipped);
    }
  }
}

}  // namespace

void s4_dplr_step(const S4DplrStepArgs& args) {
  check_s4_dplr("s4_dplr_step", args);
  check_float("s4_dplr_step", args.u);
  const Step p{args.u.dim(0),           args.u.dim(1),
               args.P.dim(2),           args.P.dim(0),
               args.C.dim(0),           args.u.data<float>(),
               args.u.stride(0),        {args.E.data<double>()},
               {args.F.data<double>()}, {args.B.data<double>()},
               {args.P.data<double>()}, {args.W.data<double>()},
               {args.C.data<double>()}, skip(args.D),
               pairs<float>(args.s),    pairs<double>(args.scratch),
               args.y.data<float>(),    args.y.stride(0),
               args.y.stride(1)};
  ADDER_LAUNCH(s4_dplr_step_kernel, blocks_for(p.batch * p.channels * kWarp, kThreads), kThreads, 0,
               stream(args.u.device()), p);
}

}  // namespace adder::cuda
