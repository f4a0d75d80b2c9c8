// Low-rank branches under dropout, in products too thin for a library to be bound by anything but
// bytes. A mask is drawn where it acts, four elements to a counter as in dropout_kernel, so that
// neither the dropped input nor its gradient is ever written. Without dropout cuBLASLt does the
// same products in the same passes.
//
// Bytes of a branch in units of x, y, W (all their elements once), s and the masks left out, for
// y = x W^T + s B^T, dx and the gradients of A and B; before, the dropped x and the branch's part
// of dx were written and read again, and the branch's product read and wrote y a second time:
//
//                                   before            now
//   forward                         x + 2y            x         (and 2W, see below)
//     with dropout                  3x + 2y           x         (and 2W)
//   backward                        3x + 2y           3x + 2y   (ds: y, dB: y, dA: x, dx: 2x)
//     with dropout                  9x + 2y           3x + 2y
//
// The forward figures are those of joined products, [x | s] [W | B]^T, for which s is written
// behind the rows of x (Tensor::take_room). [W | B] is put together for each forward pass, so W is
// read and written once more: a share of out / rows of the pass over x. Where rows are so few
// that this is more than reading and writing y again, `linear` does that instead: x + 2y.
//
// Mapping: reduce: a warp owns kRows rows, a lane the quads of columns lane, lane + 32, ...; the
// lanes' sums are added at the end. dA: a thread owns a quad of columns and walks the rows of its
// part; column_sum adds the parts. dx: a thread owns a quad of columns of kDxRows rows. A stays in
// the L1 cache. Ranks above kTile take several walks over the same rows, which the caches hold.
#include "cuda/math.h"
#include "cuda/philox.h"
#include "cuda/runtime.h"
#include "cuda/strided.h"
#include "cuda/vector.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/low_rank.h"
#include "engine/kernels/matmul.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTile = 8;    // rank at a time
constexpr int kRows = 4;    // of a warp
constexpr int kDxRows = 8;  // of a thread
constexpr std::int64_t kMostParts = 128;
constexpr std::int64_t kLeastRowsPerPart = 64;

struct Mask {
  std::uint64_t seed, stream;
  const std::int64_t* stream_offset;
  std::uint32_t threshold;
  float factor;
};

// Multiplies the elements [first, first + 4) of the whole input by 0 or 1 / (1 - p). With kAligned,
// first is a multiple of 4: one counter. Otherwise they take from two.
template <bool kAligned>
__device__ __forceinline__ void drop(const Mask& mask, std::uint64_t stream, std::int64_t first,
                                     float (&value)[4]) {
  const auto counter = static_cast<std::uint64_t>(first / 4);
  std::uint32_t words[4];
  philox(mask.seed, stream, counter, words);
  if constexpr (!kAligned) {
    std::uint32_t more[4];
    philox(mask.seed, stream, counter + 1, more);
    const int shift = static_cast<int>(first % 4);  // moved by selects: no subscript is a variable
    std::uint32_t all[8];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      all[k] = words[k];
      all[k + 4] = more[k];
    }
#pragma unroll
    for (int k = 0; k < 7; ++k) all[k] = shift % 2 != 0 ? all[k + 1] : all[k];
#pragma unroll
    for (int k = 0; k < 4; ++k) words[k] = shift >= 2 ? all[k + 2] : all[k];
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) value[k] = words[k] >= mask.threshold ? value[k] * mask.factor : 0.0F;
}

__device__ __forceinline__ std::uint64_t stream_of(const Mask& mask) {
  return mask.stream_offset == nullptr
             ? mask.stream
             : mask.stream + static_cast<std::uint64_t>(*mask.stream_offset);
}

template <typename T, bool kVector>
__global__ void __launch_bounds__(kThreads, 4)
    low_rank_reduce_kernel(Matrix<const T> x, Matrix<const T> A, Matrix<T> s, std::int64_t rows,
                           int width, int rank, float alpha, Mask mask) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t warp =
      (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  const std::int64_t first = warp * kRows;
  const std::uint64_t stream = stream_of(mask);
  for (int j0 = 0; j0 < rank; j0 += kTile) {
    float sums[kRows][kTile] = {};
    for (int k = lane * 4; k < width; k += 4 * kWarp) {
      Quad<float> values[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const std::int64_t row = first + i < rows ? first + i : rows - 1;
        values[i] = floats(load_quad<kVector>(x(row) + k, width - k));
        drop<kVector>(mask, stream, row * width + k, values[i].v);
      }
#pragma unroll
      for (int j = 0; j < kTile; ++j) {
        if (j0 + j >= rank) continue;
        const Quad<float> a = floats(load_quad<kVector>(A(j0 + j) + k, width - k));
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[i][j] += values[i].v[e] * a.v[e];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kTile; ++j) {
        const float sum = lane_sum<kWarp>(sums[i][j]);
        if (lane == (i * kTile + j) % kWarp && first + i < rows && j0 + j < rank) {
          s(first + i)[j0 + j] = from_float<T>(alpha * sum);
        }
      }
    }
  }
}

template <typename T, bool kVector>
__global__ void __launch_bounds__(kThreads)
    low_rank_da_kernel(Matrix<const T> ds, Matrix<const T> x, std::int64_t rows,
                       std::int64_t per_part, int width, int rank, Mask mask, float* partial) {
  const int k = static_cast<int>(blockIdx.x * kThreads + threadIdx.x) * 4;
  if (k >= width) return;
  const std::int64_t begin = blockIdx.y * per_part;
  const std::int64_t end = begin + per_part < rows ? begin + per_part : rows;
  const std::uint64_t stream = stream_of(mask);
  for (int j0 = 0; j0 < rank; j0 += kTile) {
    float sums[kTile][4] = {};
    for (std::int64_t row = begin; row < end; ++row) {
      Quad<float> value = floats(load_quad<kVector>(x(row) + k, width - k));
      drop<kVector>(mask, stream, row * width + k, value.v);
#pragma unroll
      for (int j = 0; j < kTile; ++j) {
        if (j0 + j >= rank) continue;
        const float d = to_float(ds(row)[j0 + j]);
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[j][e] += d * value.v[e];
      }
    }
#pragma unroll
    for (int j = 0; j < kTile; ++j) {
      if (j0 + j >= rank) continue;
      float* to = partial + (blockIdx.y * static_cast<std::int64_t>(rank) + j0 + j) * width + k;
      store_quad<kVector>(to, width - k, stored<float>(sums[j]));
    }
  }
}

template <typename T, bool kVector>
__global__ void __launch_bounds__(kThreads)
    low_rank_dx_kernel(Matrix<const T> ds, Matrix<const T> A, Matrix<T> dx, std::int64_t rows,
                       int width, int rank, Mask mask) {
  const int k = static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * 4;
  if (k >= width) return;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kDxRows;
  const std::uint64_t stream = stream_of(mask);
  float sums[kDxRows][4] = {};
  for (int j = 0; j < rank; ++j) {
    const Quad<float> a = floats(load_quad<kVector>(A(j) + k, width - k));
#pragma unroll
    for (int i = 0; i < kDxRows; ++i) {
      const std::int64_t row = first + i < rows ? first + i : rows - 1;
      const float d = to_float(ds(row)[j]);
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i][e] += d * a.v[e];
    }
  }
#pragma unroll
  for (int i = 0; i < kDxRows; ++i) {
    const std::int64_t row = first + i;
    if (row >= rows) continue;
    drop<kVector>(mask, stream, row * width + k, sums[i]);
    const Quad<float> before = floats(load_quad<kVector>(dx(row) + k, width - k));
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[i][e] += before.v[e];
    store_quad<kVector>(dx(row) + k, width - k, stored<T>(sums[i]));
  }
}

template <typename T, typename From, bool kVector>
__global__ void __launch_bounds__(kThreads)
    join_weight_kernel(Matrix<const From> W, Matrix<T> joined, int width) {
  const std::int64_t row = blockIdx.x;
  for (int k = static_cast<int>(threadIdx.x) * 4; k < width; k += 4 * kThreads) {
    const Quad<float> value = floats(load_quad<kVector>(W(row) + k, width - k));
    store_quad<kVector>(joined(row) + k, width - k, stored<T>(value.v));
  }
}

// One branch's columns, `joined` being moved to the first of them.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    join_branch_kernel(Matrix<const T> B, std::int64_t begin, std::int64_t end, Matrix<T> joined,
                       std::int64_t rows, int rank) {
  const std::int64_t i = global_index();
  if (i >= rows * rank) return;
  const std::int64_t row = i / rank;
  const std::int64_t j = i % rank;
  joined(row)[j] = row >= begin && row < end ? B(row - begin)[j] : from_float<T>(0);
}

template <typename T>
Matrix<const T> read(const Tensor& tensor) {
  return {tensor.data<T>(), tensor.stride(0)};
}

Mask mask_of(const BranchDropout& d) {
  return {d.seed, d.stream,
          d.stream_offset.defined() ? d.stream_offset.data<std::int64_t>() : nullptr,
          static_cast<std::uint32_t>(std::ceil(d.p * 4294967296.0)),
          static_cast<float>(1.0 / (1.0 - d.p))};
}

// What the three kernels share; a mask of p = 1 has no threshold of 32 bits and keeps nothing.
void check(const char* place, const BranchDropout& dropout, const Tensor& thin, const Tensor& x,
           const Shape& matrix, const Tensor& of_x_type) {
  if (!(dropout.p > 0 && dropout.p <= 1)) {
    throw ConfigError(str(place, ": p is ", dropout.p, ", expected [0, 1]"));
  }
  check_dense_rows(place, x);
  check_dense_rows(place, thin);
  check_shape(place, "A", of_x_type, matrix);
  check_shape(place, "s", thin, {x.dim(0), matrix[0]});
  if (x.dim(1) > (1 << 30)) throw ShapeError(str(place, ": ", x.dim(1), " columns on CUDA"));
}

}  // namespace

void low_rank_reduce(const LowRankReduceArgs& args) {
  if (args.dropout.p == 0) {
    return matmul({.a = args.x, .b = args.A, .c = args.s, .trans_b = true, .alpha = args.alpha});
  }
  const char* place = "low_rank_reduce";
  check_dense_rows(place, args.A);
  check(place, args.dropout, args.s, args.x, {args.A.dim(0), args.x.dim(1)}, args.A);
  if (args.s.numel() == 0) return;
  if (args.dropout.p == 1) return args.s.fill(0);
  dispatch_storage(place, args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    dispatch_bool(in_quads({&args.x, &args.A}), [&](auto vector) {
      constexpr bool kVector = decltype(vector)::value;
      ADDER_LAUNCH((low_rank_reduce_kernel<T, kVector>),
                   blocks_for(args.x.dim(0), kRows * (kThreads / kWarp)), kThreads, 0,
                   stream(args.x.device()), read<T>(args.x), read<T>(args.A), matrix<T>(args.s),
                   args.x.dim(0), static_cast<int>(args.x.dim(1)), static_cast<int>(args.A.dim(0)),
                   static_cast<float>(args.alpha), mask_of(args.dropout));
    });
  });
}

void low_rank_da(const LowRankDaArgs& args) {
  if (args.dropout.p == 0) {
    return matmul({.a = args.ds, .b = args.x, .c = args.dA, .trans_a = true});
  }
  const char* place = "low_rank_da";
  check_dense_rows(place, args.dA);
  check(place, args.dropout, args.ds, args.x, {args.ds.dim(1), args.x.dim(1)}, args.dA);
  const std::int64_t rows = args.x.dim(0);
  const std::int64_t width = args.x.dim(1);
  const std::int64_t rank = args.dA.dim(0);
  if (args.dA.numel() == 0) return;
  if (args.dropout.p == 1) return args.dA.fill(0);
  const std::int64_t per_part = std::max(kLeastRowsPerPart, (rows + kMostParts - 1) / kMostParts);
  const std::int64_t parts = std::max<std::int64_t>(1, (rows + per_part - 1) / per_part);
  const Tensor partial = Tensor::empty({parts, rank * width}, Dtype::f32, args.x.device());
  const dim3 grid(static_cast<unsigned>(blocks_for((width + 3) / 4, kThreads)),
                  static_cast<unsigned>(parts));
  dispatch_storage(place, args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    dispatch_bool(in_quads({&args.x}), [&](auto vector) {
      constexpr bool kVector = decltype(vector)::value;
      ADDER_LAUNCH((low_rank_da_kernel<T, kVector>), grid, kThreads, 0, stream(args.x.device()),
                   read<T>(args.ds), read<T>(args.x), rows, per_part, static_cast<int>(width),
                   static_cast<int>(rank), mask_of(args.dropout), partial.data<float>());
    });
  });
  column_sum({partial, args.dA.reshape({rank * width})});
}

void low_rank_dx(const LowRankDxArgs& args) {
  if (args.dropout.p == 0) return matmul({.a = args.ds, .b = args.A, .c = args.dx, .beta = 1});
  const char* place = "low_rank_dx";
  check_dense_rows(place, args.A);
  check(place, args.dropout, args.ds, args.dx, {args.A.dim(0), args.dx.dim(1)}, args.A);
  const std::int64_t rows = args.dx.dim(0);
  const std::int64_t width = args.dx.dim(1);
  if (args.dx.numel() == 0 || args.dropout.p == 1) return;
  const dim3 grid(static_cast<unsigned>(blocks_for(rows, kDxRows)),
                  static_cast<unsigned>(blocks_for((width + 3) / 4, kThreads)));
  dispatch_storage(place, args.dx.dtype(), [&](auto type) {
    using T = decltype(type);
    dispatch_bool(in_quads({&args.dx, &args.A}), [&](auto vector) {
      constexpr bool kVector = decltype(vector)::value;
      ADDER_LAUNCH((low_rank_dx_kernel<T, kVector>), grid, kThreads, 0, stream(args.dx.device()),
                   read<T>(args.ds), read<T>(args.A), matrix<T>(args.dx), rows,
                   static_cast<int>(width), static_cast<int>(args.A.dim(0)), mask_of(args.dropout));
    });
  });
}

void low_rank_join(const LowRankJoinArgs& args) {
  const char* place = "low_rank_join";
  check_dense_rows(place, args.W);
  check_dense_rows(place, args.joined);
  const Device device = args.joined.device();
  const std::int64_t rows = args.W.dim(0);
  const std::int64_t width = args.W.dim(1);
  std::int64_t columns = width;
  for (const Tensor& B : args.B) columns += B.dim(1);
  check_shape(place, "joined", args.joined, {rows, columns});
  if (rows == 0) return;
  const Tensor left = args.joined.slice(1, 0, width);
  dispatch_storage(place, args.joined.dtype(), [&](auto type) {
    using T = decltype(type);
    dispatch_storage(place, args.W.dtype(), [&](auto from_type) {
      using From = decltype(from_type);
      dispatch_bool(in_quads({&args.W, &left}), [&](auto vector) {
        constexpr bool kVector = decltype(vector)::value;
        ADDER_LAUNCH((join_weight_kernel<T, From, kVector>), static_cast<int>(rows), kThreads, 0,
                     stream(device), read<From>(args.W), matrix<T>(left), static_cast<int>(width));
      });
    });
    std::int64_t at = width;
    for (std::size_t i = 0; i < args.B.size(); ++i) {
      const Tensor& B = args.B[i];
      check_dense_rows(place, B);
      const Tensor part = args.joined.slice(1, at, at + B.dim(1));
      at += B.dim(1);
      if (part.numel() == 0) continue;
      ADDER_LAUNCH((join_branch_kernel<T>), blocks_for(part.numel(), kThreads), kThreads, 0,
                   stream(device), read<T>(B), args.row_begin[i], args.row_begin[i] + B.dim(0),
                   matrix<T>(part), rows, static_cast<int>(B.dim(1)));
    }
  });
}

}  // namespace adder::cuda
