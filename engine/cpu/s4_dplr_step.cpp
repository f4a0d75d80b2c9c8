// One step of a diagonal-plus-low-rank layer, in float64: E and F nearly undo each other, and what
// their rounding leaves would add up over the steps.
#include <array>

#include "engine/cpu/s4_common.h"
#include "engine/kernels/s4_dplr.h"

namespace adder::cpu {
namespace {

using s4::Cx;

template <typename T>
void step(const S4DplrStepArgs& args) {
  const std::int64_t batch = args.u.dim(0);
  const std::int64_t channels = args.u.dim(1);
  const std::int64_t ranks = args.P.dim(0);
  const std::int64_t modes = args.P.dim(2);
  const std::int64_t outputs = args.C.dim(0);
  const Pairs<double> E(args.E), F(args.F), B(args.B), P(args.P), W(args.W), C(args.C);
  const Pairs<double> scratch(args.scratch);
  const Pairs<T> s(args.s);
  parallel_for(batch * channels, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t h = row % channels;
      const T* u_row = args.u.data<T>() + row / channels * args.u.stride(0);
      const double u = static_cast<double>(u_row[h]);
      const std::int64_t at = row * modes;
      const std::int64_t weight = h * modes;
      // s1 from s into the scratch memory, then s from s1.
      for (std::int64_t n = 0; n < modes; ++n) {
        scratch.set(at + n, E[weight + n] * s[at + n] + (2 * u) * B[weight + n]);
      }
      for (std::int64_t r = 0; r < ranks; ++r) {
        const std::int64_t rank = (r * channels + h) * modes;
        double dot = 0;
        for (std::int64_t n = 0; n < modes; ++n) dot += 2 * (conj(P[rank + n]) * s[at + n]).re;
        for (std::int64_t n = 0; n < modes; ++n) {
          scratch.set(at + n, scratch[at + n] - dot * P[rank + n]);
        }
      }
      std::array<double, kS4MostRanks> dots{};
      for (std::int64_t r = 0; r < ranks; ++r) {
        const std::int64_t rank = (r * channels + h) * modes;
        for (std::int64_t n = 0; n < modes; ++n) {
          dots[static_cast<std::size_t>(r)] += 2 * (W[rank + n] * scratch[at + n]).re;
        }
      }
      for (std::int64_t n = 0; n < modes; ++n) {
        Cx value = scratch[at + n];
        for (std::int64_t r = 0; r < ranks; ++r) {
          value = value - dots[static_cast<std::size_t>(r)] * P[(r * channels + h) * modes + n];
        }
        s.set(at + n, F[weight + n] * value);
      }
      for (std::int64_t m = 0; m < outputs; ++m) {
        double sum = static_cast<double>(skip_weight<T>(args.D, m, h)) * u;
        for (std::int64_t n = 0; n < modes; ++n) {
          sum += 2 * (C[(m * channels + h) * modes + n] * s[at + n]).re;
        }
        args.y.data<T>()[row / channels * args.y.stride(0) + m * args.y.stride(1) + h] =
            static_cast<T>(sum);
      }
    }
  });
}

}  // namespace

void s4_dplr_step(const S4DplrStepArgs& args) {
  check_s4_dplr("s4_dplr_step", args);
  dispatch_real("s4_dplr_step", args.u.dtype(), [&](auto t) { step<decltype(t)>(args); });
}

}  // namespace adder::cpu
