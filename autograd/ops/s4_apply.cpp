#include "autograd/ops/s4_axes.h"

namespace adder {

bool s4_scan_is_faster(Device device, std::int64_t modes, std::int64_t length) {
  if (!device.is_cpu()) return false;
  // The scan's time grows with the modes; the convolution's with the logarithm of the length, and
  // faster once its channels leave the caches. Both passes take the same time at about 0.4 sqrt(L)
  // modes, from 64 to 16,384 steps (bench_s4's rows "choice").
  return 25 * modes * modes <= 4 * length;
}

Var s4_apply(const Var& u, const S4Modes& modes, const Var& C, const Var& D, S4Axes axes) {
  if (u.value().rank() != 3 || C.value().rank() != 4) {
    throw ShapeError(str("s4: u is ", u.shape(), ", C is ", C.shape(), "; expected ",
                         s4_axes::name(axes), " and (M, H, N, 2)"));
  }
  const std::int64_t length = u.dim(axes == S4Axes::channels_steps ? 2 : 1);
  if (s4_scan_is_faster(u.value().device(), C.dim(2), length)) {
    return s4_scan(u, modes, C, D, {}, axes).y;
  }
  return s4_convolve(u, s4_kernel(modes, C, length), D, false, axes);
}

}  // namespace adder
