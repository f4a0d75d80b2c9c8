#include "engine/kernels/embedding.h"

#include "engine/cpu/rows.h"

namespace adder::cpu {
namespace {

const std::int32_t* check_ids(const char* place, const Tensor& ids, std::int64_t rows,
                              std::int64_t V) {
  const std::int32_t* id = vector<std::int32_t>(place, "ids", ids, rows);
  for (std::int64_t i = 0; i < rows; ++i) {
    if (id[i] < 0 || id[i] >= V) {
      throw ShapeError(
          str(place, ": id ", id[i], " at position ", i, ", the table has ", V, " rows"));
    }
  }
  return id;
}

void check_matrices(const char* place, const Tensor& table, const Tensor& y) {
  if (!table.defined() || !y.defined() || table.rank() != 2 || y.rank() != 2) {
    throw ShapeError(str(place, ": table is ", table.shape(), " and rows are ", y.shape(),
                         ", expected matrices"));
  }
}

template <typename T, typename From>
void lookup(const EmbeddingFwdArgs& args) {
  const char* place = "embedding_fwd";
  const std::int64_t rows = args.y.dim(0);
  const std::int64_t D = args.table.dim(1);
  const Matrix<T> y = matrix<T>(place, "y", args.y, {rows, D});
  const Matrix<From> table = matrix<From>(place, "table", args.table, args.table.shape());
  const std::int32_t* ids = check_ids(place, args.ids, rows, args.table.dim(0));
  parallel_for(rows, row_grain(D), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const From* from = table(ids[row]);
      T* to = y(row);
#pragma omp simd
      for (std::int64_t i = 0; i < D; ++i) to[i] = static_cast<T>(from[i]);
    }
  });
}

// Threads share out the columns and not the rows: an id may repeat, and every entry then sums its
// rows in their order whatever the thread count.
template <typename T>
void scatter(const EmbeddingBwdArgs& args) {
  const char* place = "embedding_bwd";
  const std::int64_t rows = args.dy.dim(0);
  const std::int64_t D = args.dtable.dim(1);
  const Matrix<T> dy = matrix<T>(place, "dy", args.dy, {rows, D});
  const Matrix<T> table = matrix<T>(place, "dtable", args.dtable, args.dtable.shape());
  const std::int32_t* ids = check_ids(place, args.ids, rows, args.dtable.dim(0));
  constexpr std::int64_t kBlock = 64;  // columns: whole cache lines
  const std::int64_t blocks = (D + kBlock - 1) / kBlock;
  parallel_for(blocks, row_grain(rows * kBlock), [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * kBlock;
    const std::int64_t columns = std::min(D, end * kBlock) - first;
    for (std::int64_t row = 0; row < rows; ++row) {
      const T* from = dy(row) + first;
      T* to = table(ids[row]) + first;
      for_each_vector<T>(columns, [&](std::int64_t i, std::int64_t count) {
        store(to + i, load(to + i, count) + load(from + i, count), count);
      });
    }
  });
}

}  // namespace

void embedding_fwd(const EmbeddingFwdArgs& args) {
  check_matrices("embedding_fwd", args.table, args.y);
  dispatch_real("embedding_fwd: y", args.y.dtype(), [&](auto type) {
    using T = decltype(type);
    if (args.table.dtype() == Dtype::bf16) return lookup<T, BFloat16>(args);
    if (args.table.dtype() == Dtype::f16) return lookup<T, Float16>(args);
    lookup<T, T>(args);
  });
}

void embedding_bwd(const EmbeddingBwdArgs& args) {
  check_matrices("embedding_bwd", args.dtable, args.dy);
  dispatch_real("embedding_bwd: dtable", args.dtable.dtype(),
                [&](auto type) { scatter<decltype(type)>(args); });
}

}  // namespace adder::cpu
