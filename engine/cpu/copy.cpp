#include "engine/kernels/copy.h"

#include <algorithm>

#include "engine/cpu/parallel.h"

namespace adder::cpu {
namespace {

// Calls visit(offset) for the first element of every innermost run, in row-major order.
template <typename Visit>
void for_each_row(const Shape& shape, const Shape& strides, int axis, std::int64_t offset,
                  const Visit& visit) {
  if (axis >= shape.rank() - 1) {
    visit(offset);
    return;
  }
  for (std::int64_t i = 0; i < shape[axis]; ++i) {
    for_each_row(shape, strides, axis + 1, offset + i * strides[axis], visit);
  }
}

template <typename To, typename From>
void copy_rows(const Tensor& to, const Tensor& from) {
  std::vector<std::int64_t> starts;
  const int rank = from.rank();
  const std::int64_t length = rank == 0 ? 1 : from.dim(-1);
  const std::int64_t from_step = rank == 0 ? 1 : from.stride(-1);
  const std::int64_t to_step = rank == 0 ? 1 : to.stride(-1);
  for_each_row(from.shape(), from.strides(), 0, 0,
               [&](std::int64_t offset) { starts.push_back(offset); });
  const From* source = from.data<From>();
  To* target = to.data<To>();
  std::size_t row = 0;
  for_each_row(to.shape(), to.strides(), 0, 0, [&](std::int64_t offset) {
    const From* s = source + starts[row++];
    To* t = target + offset;
    if constexpr (std::is_same_v<To, From>) {
      if (from_step == 1 && to_step == 1) {
        std::copy_n(s, length, t);
        return;
      }
    }
    for (std::int64_t i = 0; i < length; ++i) t[i * to_step] = convert<To>(s[i * from_step]);
  });
}

// f applied to a float or double; other types are only stored.
template <typename F>
void dispatch_computed(const char* place, Dtype dtype, const F& f) {
  if (dtype == Dtype::f32) return f(float{});
  if (dtype == Dtype::f64) return f(double{});
  throw DtypeError(str(place, ": ", dtype_name(dtype), " is only stored, not computed with"));
}

// Calls f(first element, stride, count) for every innermost run of x.
template <typename T, typename F>
void for_each_run(const Tensor& x, const F& f) {
  T* data = x.data<T>();
  const std::int64_t length = x.rank() == 0 ? 1 : x.dim(-1);
  const std::int64_t step = x.rank() == 0 ? 1 : x.stride(-1);
  for_each_row(x.shape(), x.strides(), 0, 0,
               [&](std::int64_t offset) { f(data + offset, step, length); });
}

}  // namespace

void copy(const CopyArgs& args) {
  dispatch(args.to.dtype(), [&](auto to) {
    dispatch(args.from.dtype(),
             [&](auto from) { copy_rows<decltype(to), decltype(from)>(args.to, args.from); });
  });
}

void fill(const FillArgs& args) {
  dispatch(args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T element = convert<T>(args.value);
    for_each_run<T>(args.x, [&](T* x, std::int64_t step, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) x[i * step] = element;
    });
  });
}

void add_in_place(const AddInPlaceArgs& args) {
  dispatch_computed("add_", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    const Tensor source = args.other.contiguous();
    const T* from = source.data<T>();
    if (args.x.is_contiguous()) {  // the gradients of activations: large enough to share out
      T* to = args.x.data<T>();
      parallel_for(args.x.numel(), 1 << 16, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) to[i] += from[i];
      });
      return;
    }
    for_each_run<T>(args.x, [&](T* to, std::int64_t step, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) to[i * step] += from[i];
      from += count;
    });
  });
}

void scale_in_place(const ScaleInPlaceArgs& args) {
  dispatch_computed("scale_", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    for_each_run<T>(args.x, [&](T* x, std::int64_t step, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) x[i * step] *= static_cast<T>(args.factor);
    });
  });
}

}  // namespace adder::cpu
