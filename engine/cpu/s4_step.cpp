// One step of the diagonal recurrence. A channel's modes lie one behind the other as pairs, and a
// token is a few thousand of them, so plain loops that the compiler vectorises are enough.
#include "engine/cpu/s4_common.h"

namespace adder::cpu {
namespace {

template <typename T>
void step(const S4StepArgs& args) {
  const std::int64_t batch = args.u.dim(0);
  const std::int64_t channels = args.u.dim(1);
  const std::int64_t outputs = args.C.dim(0);
  const std::int64_t modes = args.C.dim(2);
  const double* p = args.p.data<double>();
  const double* b = args.b.data<double>();
  const T* C = args.C.data<T>();
  parallel_for(channels, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = 0; i < batch; ++i) {
      const T* u_row = args.u.data<T>() + i * args.u.stride(0);
      T* y_row = args.y.data<T>() + i * args.y.stride(0);
      for (std::int64_t h = begin; h < end; ++h) {
        T* x = args.x.data<T>() + (i * channels + h) * modes * 2;
        const double* p_row = p + h * modes * 2;
        const double* b_row = b + h * modes * 2;
        const double u = static_cast<double>(u_row[h]);
        for (std::int64_t n = 0; n < 2 * modes; n += 2) {
          const double re = static_cast<double>(x[n]);
          const double im = static_cast<double>(x[n + 1]);
          x[n] = static_cast<T>(re + (p_row[n] * re - p_row[n + 1] * im) + b_row[n] * u);
          x[n + 1] = static_cast<T>(im + (p_row[n] * im + p_row[n + 1] * re) + b_row[n + 1] * u);
        }
        for (std::int64_t m = 0; m < outputs; ++m) {
          const T* c = C + (m * channels + h) * modes * 2;
          T sum = 0;
          for (std::int64_t n = 0; n < 2 * modes; n += 2) sum += c[n] * x[n] - c[n + 1] * x[n + 1];
          y_row[m * args.y.stride(1) + h] = 2 * sum + skip_weight<T>(args.D, m, h) * u_row[h];
        }
      }
    }
  });
}

}  // namespace

void s4_step(const S4StepArgs& args) {
  check_s4("s4_step", args);
  dispatch_real("s4_step", args.u.dtype(), [&](auto t) { step<decltype(t)>(args); });
}

}  // namespace adder::cpu
