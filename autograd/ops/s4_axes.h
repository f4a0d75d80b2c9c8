// The sequences of the S4 operations as a device's kernels take them: (B, H, L) and (B, M, H, L).
// Private to autograd.
#pragma once

#include "autograd/s4_ops.h"

namespace adder::s4_axes {

// (B, H, L) of (B, L, H), and (B, M, H, L) of (B, L, M, H), without a copy.
inline Tensor view(const Tensor& x, S4Axes axes) {
  if (axes == S4Axes::channels_steps || !x.defined()) return x;
  return x.rank() == 3 ? x.transpose(1, 2) : x.transpose(1, 2).transpose(2, 3);
}

// For messages.
inline const char* name(S4Axes axes) {
  return axes == S4Axes::channels_steps ? "(B, H, L)" : "(B, L, H)";
}
// A place for y.
inline Tensor result(const Tensor& u, std::int64_t outputs, S4Axes axes) {
  const Shape shape = axes == S4Axes::channels_steps ? Shape{u.dim(0), outputs, u.dim(1), u.dim(2)}
                                                     : Shape{u.dim(0), u.dim(1), outputs, u.dim(2)};
  return Tensor::empty(shape, u.dtype(), u.device());
}

// Kernels of the CPU read either order; others want a sequence's steps side by side.
inline bool reads_views(const Tensor& x, S4Axes axes) {
  return axes == S4Axes::channels_steps || !x.defined() || x.device().is_cpu();
}

inline Tensor input(const Tensor& x, S4Axes axes) {
  return reads_views(x, axes) ? view(x, axes) : view(x, axes).clone();
}

// What a kernel writes to; finish() brings it to `result`.
class Output {
 public:
  Output(const Tensor& result, S4Axes axes)
      : view_(view(result, axes)), written_(view_), copies_(!reads_views(result, axes)) {
    if (copies_) written_ = Tensor::empty(view_.shape(), view_.dtype(), view_.device());
  }
  const Tensor& tensor() const { return written_; }
  void finish() const {
    if (copies_) view_.copy_from(written_);
  }

 private:
  Tensor view_, written_;
  bool copies_;
};

}  // namespace adder::s4_axes
