#include "engine/kernels/gather.h"

#include "engine/cpu/rows.h"

namespace adder::cpu {
namespace {

template <typename T>
void gather(const GatherColumnsArgs& args) {
  const auto* columns = args.columns.data<std::int32_t>();
  const std::int64_t stride = args.x.stride(0);
  const T* x = args.x.data<T>();
  T* out = args.out.data<T>();
  const std::int64_t width = args.columns.numel();
  parallel_for(args.x.dim(0), 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t i = 0; i < width; ++i) out[row * width + i] = x[row * stride + columns[i]];
    }
  });
}

// Checks a list of rows and calls f(row of full, row of some, D) for each, with typed pointers.
template <typename F>
void for_each_row(const char* place, const Tensor& full, const Tensor& rows, const Tensor& some,
                  const F& f) {
  check_dense_rows(place, "full", full);
  check_dense_rows(place, "rows", some);
  check_shape(place, "rows", some, {rows.numel(), full.dim(1)});
  const auto* row = rows.data<std::int64_t>();
  for (std::int64_t i = 0; i < rows.numel(); ++i) {
    if (row[i] < 0 || row[i] >= full.dim(0)) {
      throw ShapeError(str(place, ": row ", row[i], " of ", full.shape()));
    }
  }
  dispatch_real(place, full.dtype(), [&](auto type) {
    using T = decltype(type);
    T* all = full.data<T>();
    T* part = some.data<T>();
    const std::int64_t width = full.dim(1);
    parallel_for(rows.numel(), row_grain(width), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        f(all + row[i] * full.stride(0), part + i * some.stride(0), width);
      }
    });
  });
}

// Checks a list of entries and calls f(full, compact, position, i) for each, with typed pointers.
template <typename F>
void for_each_entry(const char* place, const Tensor& full, const Tensor& positions,
                    const Tensor& compact, const F& f) {
  if (!full.is_contiguous() || !compact.is_contiguous() || !positions.is_contiguous()) {
    throw ShapeError(str(place, ": tensors must be contiguous"));
  }
  if (compact.numel() != positions.numel()) {
    throw ShapeError(
        str(place, ": compact is ", compact.shape(), " for ", positions.numel(), " positions"));
  }
  const auto* position = positions.data<std::int64_t>();
  const std::int64_t count = positions.numel();
  for (std::int64_t i = 0; i < count; ++i) {
    if (position[i] < 0 || position[i] >= full.numel()) {
      throw ShapeError(str(place, ": position ", position[i], " of a tensor ", full.shape()));
    }
  }
  const auto run = [&](auto type) {
    using T = decltype(type);
    T* all = full.data<T>();
    T* some = compact.data<T>();
    for (std::int64_t i = 0; i < count; ++i) f(all[position[i]], some[i]);
  };
  if (full.dtype() == Dtype::f64) return run(double{});
  run(float{});
}

}  // namespace

void gather_columns(const GatherColumnsArgs& args) {
  if (args.x.rank() != 2 || args.x.stride(1) != 1) {
    throw ShapeError(str("gather_columns: x is ", args.x.shape(), ", expected dense rows"));
  }
  check_shape("gather_columns", "out", args.out, {args.x.dim(0), args.columns.numel()});
  const auto* columns = args.columns.data<std::int32_t>();
  for (std::int64_t i = 0; i < args.columns.numel(); ++i) {
    if (columns[i] < 0 || columns[i] >= args.x.dim(1)) {
      throw ShapeError(str("gather_columns: column ", columns[i], " of x ", args.x.shape()));
    }
  }
  if (args.x.dtype() == Dtype::f64) return gather<double>(args);
  gather<float>(args);
}

void gather_rows(const GatherRowsArgs& args) {
  for_each_row(
      "gather_rows", args.x, args.rows, args.out,
      [](const auto* full, auto* some, std::int64_t width) { std::copy_n(full, width, some); });
}

void scatter_rows(const ScatterRowsArgs& args) {
  for_each_row(
      "scatter_rows", args.out, args.rows, args.x,
      [](auto* full, const auto* some, std::int64_t width) { std::copy_n(some, width, full); });
}

void gather_entries(const GatherEntriesArgs& args) {
  for_each_entry("gather_entries", args.full, args.positions, args.compact,
                 [](const auto& full, auto& compact) { compact = full; });
}

void scatter_entries(const ScatterEntriesArgs& args) {
  for_each_entry("scatter_entries", args.full, args.positions, args.compact,
                 [](auto& full, const auto& compact) { full = compact; });
}

}  // namespace adder::cpu
