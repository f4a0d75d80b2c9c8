// Gathering and scattering by index lists: one thread per element moved.
#include "cuda/runtime.h"
#include "cuda/strided.h"
#include "engine/kernels/gather.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void gather_columns_kernel(Matrix<const T> x, const std::int32_t* columns,
                                      std::int64_t rows, std::int64_t count, T* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < rows * count) out[i] = x(i / count)[columns[i % count]];
}

// Moves whole rows; neighbouring threads take neighbouring columns.
template <typename T, bool kScatter>
__global__ void move_rows_kernel(Matrix<T> full, const std::int64_t* rows, std::int64_t count,
                                 Matrix<T> some, std::int64_t width) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count * width) return;
  T& one = full(rows[i / width])[i % width];
  T& other = some(i / width)[i % width];
  if constexpr (kScatter) {
    one = other;
  } else {
    other = one;
  }
}

template <typename T>
__global__ void gather_entries_kernel(const T* full, const std::int64_t* positions,
                                      std::int64_t count, T* compact) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) compact[i] = full[positions[i]];
}

template <typename T>
__global__ void scatter_entries_kernel(const T* compact, const std::int64_t* positions,
                                       std::int64_t count, T* full) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) full[positions[i]] = compact[i];
}

void check_entries(const char* place, const Tensor& full, const Tensor& positions,
                   const Tensor& compact) {
  if (!full.is_contiguous() || !compact.is_contiguous() || !positions.is_contiguous()) {
    throw ShapeError(str(place, ": tensors must be contiguous"));
  }
  if (compact.numel() != positions.numel()) {
    throw ShapeError(
        str(place, ": compact is ", compact.shape(), " for ", positions.numel(), " positions"));
  }
}

}  // namespace

void gather_columns(const GatherColumnsArgs& args) {
  if (args.x.rank() != 2 || (args.x.dim(1) > 1 && args.x.stride(1) != 1)) {
    throw ShapeError(str("gather_columns: x is ", args.x.shape(), ", expected dense rows"));
  }
  const std::int64_t count = args.columns.numel();
  check_shape("gather_columns", "out", args.out, {args.x.dim(0), count});
  if (args.out.numel() == 0) return;
  dispatch_storage("gather_columns", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    const Matrix<const T> x{args.x.data<T>(), args.x.stride(0)};
    ADDER_LAUNCH((gather_columns_kernel<T>), blocks_for(args.out.numel(), kThreads), kThreads, 0,
                 stream(args.x.device()), x, args.columns.data<std::int32_t>(), args.x.dim(0),
                 count, args.out.data<T>());
  });
}

namespace {

template <bool kScatter>
void move_rows(const char* place, const Tensor& full, const Tensor& rows, const Tensor& some) {
  check_shape(place, "rows", some, {rows.numel(), full.dim(1)});
  if (some.numel() == 0) return;
  dispatch_storage(place, full.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((move_rows_kernel<T, kScatter>), blocks_for(some.numel(), kThreads), kThreads, 0,
                 stream(full.device()), matrix<T>(full), rows.data<std::int64_t>(), rows.numel(),
                 matrix<T>(some), full.dim(1));
  });
}

}  // namespace

void gather_rows(const GatherRowsArgs& args) {
  move_rows<false>("gather_rows", args.x, args.rows, args.out);
}

void scatter_rows(const ScatterRowsArgs& args) {
  move_rows<true>("scatter_rows", args.out, args.rows, args.x);
}

void gather_entries(const GatherEntriesArgs& args) {
  check_entries("gather_entries", args.full, args.positions, args.compact);
  const std::int64_t count = args.positions.numel();
  if (count == 0) return;
  dispatch_storage("gather_entries", args.full.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((gather_entries_kernel<T>), blocks_for(count, kThreads), kThreads, 0,
                 stream(args.full.device()), args.full.data<T>(),
                 args.positions.data<std::int64_t>(), count, args.compact.data<T>());
  });
}

void scatter_entries(const ScatterEntriesArgs& args) {
  check_entries("scatter_entries", args.full, args.positions, args.compact);
  const std::int64_t count = args.positions.numel();
  if (count == 0) return;
  dispatch_storage("scatter_entries", args.full.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((scatter_entries_kernel<T>), blocks_for(count, kThreads), kThreads, 0,
                 stream(args.full.device()), args.compact.data<T>(),
                 args.positions.data<std::int64_t>(), count, args.full.data<T>());
  });
}

}  // namespace adder::cuda
