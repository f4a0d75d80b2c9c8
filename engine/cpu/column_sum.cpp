// Sums over the rows of a matrix.
#include <numeric>

#include "engine/cpu/rows.h"
#include "engine/kernels/elementwise.h"

namespace adder::cpu {
namespace {

constexpr std::int64_t kRowsPerPartial = 64;  // as in norm.cpp: sums do not depend on the threads
constexpr std::int64_t kMaxPartials = 64;

template <typename T>
void sum_wide(const Matrix<T>& x, std::int64_t rows, std::int64_t D, T* out) {
  const std::int64_t per_partial =
      std::max(kRowsPerPartial, (rows + kMaxPartials - 1) / kMaxPartials);
  const std::int64_t partials = (rows + per_partial - 1) / per_partial;
  Scratch<T> partial(static_cast<std::size_t>(partials * D), T{0});
  parallel_for(partials, row_grain(per_partial * D), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      T* sum = partial.data() + p * D;
      const std::int64_t last = std::min(rows, (p + 1) * per_partial);
      for (std::int64_t row = p * per_partial; row < last; ++row) {
        const T* from = x(row);
        for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
          store(sum + i, load(sum + i, count) + load(from + i, count), count);
        });
      }
    }
  });
  for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
    Vec<T> total{};
    for (std::int64_t p = 0; p < partials; ++p) total += load(partial.data() + p * D + i, count);
    store(out + i, total, count);
  });
}

// --- Few columns, rows without gaps ---
//
// The matrix is read as one sequence of elements. Its columns repeat every `period` vectors, so in
// a group of accumulators, a multiple of the period, the same lanes always hold the same columns.
// After kBlock groups they go to sums in float64, one for each column: no element takes part in
// more than kBlock additions in T, and a few that join the accumulators of one column.
constexpr std::int64_t kFewColumns = 256;
constexpr std::int64_t kBlock = 64;   // groups
constexpr std::int64_t kAtOnce = 16;  // accumulators that hide an addition's latency

template <typename T>
struct Grouping {
  explicit Grouping(std::int64_t D)
      : columns(D),
        distinct(D / std::gcd(D, std::int64_t{kLanes<T>}) * kLanes<T>),
        size(std::max<std::int64_t>(1, kAtOnce * kLanes<T> / distinct) * distinct) {}
  std::int64_t columns;
  std::int64_t distinct;  // elements of one period
  std::int64_t size;      // elements of a group
};

// Adds `count` elements, the first of which is in column 0, to sum[0, D).
template <typename T>
void add_elements(const T* from, std::int64_t count, const Grouping<T>& grouping, double* sum) {
  const auto [D, distinct, size] = grouping;
  constexpr std::int64_t kStep = kLanes<T>;
  Scratch<T> group(static_cast<std::size_t>(size));
  std::int64_t i = 0;
  while (count - i >= size) {
    std::fill(group.begin(), group.end(), T{0});
    const std::int64_t end = i + std::min((count - i) / size, kBlock) * size;
    for (; i < end; i += size) {
      for (std::int64_t k = 0; k < size; k += kStep) {
        store(group.data() + k, load(group.data() + k) + load(from + i + k));
      }
    }
    for (std::int64_t k = distinct; k < size; k += kStep) {
      T* to = group.data() + k % distinct;
      store(to, load(to) + load(group.data() + k));
    }
    for (std::int64_t k = 0; k < distinct; k += D) {
      for (std::int64_t d = 0; d < D; ++d) sum[d] += static_cast<double>(group[k + d]);
    }
  }
  for (; i < count; i += D) {
    for (std::int64_t d = 0; d < D; ++d) sum[d] += static_cast<double>(from[i + d]);
  }
}

template <typename T>
void sum_narrow(const T* x, std::int64_t rows, std::int64_t D, T* out) {
  const Grouping<T> grouping(D);
  const std::int64_t count = rows * D;
  // Whole groups, which begin in column 0, and enough for a thread.
  const std::int64_t least = std::max((count + kMaxPartials - 1) / kMaxPartials, kElementGrain);
  const std::int64_t per_partial = (least + grouping.size - 1) / grouping.size * grouping.size;
  const std::int64_t partials = (count + per_partial - 1) / per_partial;
  Scratch<double> partial(static_cast<std::size_t>(partials * D), 0.0);
  parallel_for(partials, row_grain(per_partial), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const std::int64_t first = p * per_partial;
      add_elements(x + first, std::min(per_partial, count - first), grouping,
                   partial.data() + p * D);
    }
  });
  for (std::int64_t d = 0; d < D; ++d) {
    double total = 0;
    for (std::int64_t p = 0; p < partials; ++p) {
      total += partial[static_cast<std::size_t>(p * D + d)];
    }
    out[d] = static_cast<T>(total);
  }
}

template <typename T>
void sum_columns(const ColumnSumArgs& args) {
  const std::int64_t rows = args.x.dim(0);
  const std::int64_t D = args.x.dim(1);
  const Matrix<T> x = matrix<T>("column_sum", "x", args.x, args.x.shape());
  T* out = vector<T>("column_sum", "out", args.out, D);
  if (D > 0 && D <= kFewColumns && (x.stride == D || rows <= 1)) {
    sum_narrow(x.data, rows, D, out);
  } else {
    sum_wide(x, rows, D, out);
  }
}

}  // namespace

void column_sum(const ColumnSumArgs& args) {
  if (!args.x.defined() || args.x.rank() != 2) {
    throw ShapeError(str("column_sum: x is ", args.x.shape(), ", expected [rows, D]"));
  }
  dispatch_real("column_sum", args.x.dtype(), [&](auto t) { sum_columns<decltype(t)>(args); });
}

}  // namespace adder::cpu
