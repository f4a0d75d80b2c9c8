#include "engine/kernels/copy.h"

#include <algorithm>

#include "engine/cpu/parallel.h"
#include "engine/cpu/transpose.h"

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

// Copies float32 whose last two axes change places, tile by tile: element after element each would
// touch a cache line of its own. False when the tensors are not of this kind.
bool copy_transposed(const Tensor& to, const Tensor& from) {
  constexpr std::int64_t kTile = kLanes<float>;
  if (to.dtype() != Dtype::f32 || from.dtype() != Dtype::f32 || to.rank() < 2) return false;
  const std::int64_t rows = to.dim(-2);
  const std::int64_t columns = to.dim(-1);
  if (!to.is_contiguous() || from.stride(-2) != 1 || rows < kTile || columns < kTile) return false;
  std::vector<std::int64_t> starts;
  const Tensor corners = from.slice(-1, 0, 1).slice(-2, 0, 1);
  for_each_row(corners.shape(), corners.strides(), 0, 0,
               [&](std::int64_t offset) { starts.push_back(offset); });
  const std::int64_t step = from.stride(-1);
  const std::int64_t bands = (rows + kTile - 1) / kTile;
  const auto count = static_cast<std::int64_t>(starts.size());
  const float* source = from.data<float>();
  float* target = to.data<float>();
  const std::int64_t grain = std::max<std::int64_t>(1, 16384 / (kTile * columns));
  parallel_for(count * bands, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t row = item % bands * kTile;
      const float* s = source + starts[static_cast<std::size_t>(item / bands)] + row;
      float* t = target + (item / bands * rows + row) * columns;
      const std::int64_t height = std::min(kTile, rows - row);
      std::int64_t column = 0;
      for (; height == kTile && column + kTile <= columns; column += kTile) {
        Vec<float> tile[kTile];
        for (std::int64_t i = 0; i < kTile; ++i) tile[i] = load(s + (column + i) * step);
        transpose<float>(tile);
        for (std::int64_t i = 0; i < kTile; ++i) store(t + i * columns + column, tile[i]);
      }
      for (; column < columns; ++column) {
        for (std::int64_t i = 0; i < height; ++i) t[i * columns + column] = s[column * step + i];
      }
    }
  });
  return true;
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
  if (copy_transposed(args.to, args.from)) return;
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
