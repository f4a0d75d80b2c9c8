#include "engine/kernels/scalar_norm.h"

#include "engine/cpu/rows.h"

namespace adder::cpu {
namespace {

// A row's mean, and the sum of squares about it.
template <typename T>
std::pair<T, T> moments(const T* row, std::int64_t length) {
  Vec<T> sum{};
  for_each_vector<T>(length,
                     [&](std::int64_t i, std::int64_t count) { sum += load(row + i, count); });
  const T mean = sum_lanes<T>(sum) / static_cast<T>(length);
  T squares = 0;
  Vec<T> lanes{};
  for_each_vector<T>(length, [&](std::int64_t i, std::int64_t count) {
    if (count == kLanes<T>) {
      const Vec<T> distance = load(row + i) - broadcast(mean);
      lanes = mul_add(distance, distance, lanes);
    } else {
      for (std::int64_t j = i; j < i + count; ++j) squares += (row[j] - mean) * (row[j] - mean);
    }
  });
  return {mean, squares + sum_lanes<T>(lanes)};
}

template <typename T>
void forward(const ScalarNormFwdArgs& args) {
  const char* place = "scalar_norm_fwd";
  const std::int64_t rows = args.x.dim(0);
  const std::int64_t d = args.x.dim(1);
  const Matrix<T> x = matrix<T>(place, "x", args.x, {rows, d});
  const Matrix<T> y = matrix<T>(place, "y", args.y, {rows, d});
  const Matrix<T> stats = matrix<T>(place, "stats", args.stats, {rows, 2});
  const T scale = *vector<T>(place, "scale", args.scale, 1);
  const T shift = *vector<T>(place, "shift", args.shift, 1);
  parallel_for(rows, row_grain(d), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const auto [mean, squares] = moments(x(row), d);
      const T inverse = T{1} / std::sqrt(squares / static_cast<T>(d));
      stats(row)[0] = mean;
      stats(row)[1] = inverse;
      const Vec<T> from = broadcast(mean);
      const Vec<T> factor = broadcast(scale * inverse);
      for_each_vector<T>(d, [&](std::int64_t i, std::int64_t count) {
        const Vec<T> distance = load(x(row) + i, count) - from + broadcast(shift);
        store(y(row) + i, distance * factor, count);
      });
    }
  });
}

template <typename T>
void backward(const ScalarNormBwdArgs& args) {
  const char* place = "scalar_norm_bwd";
  const std::int64_t rows = args.x.dim(0);
  const std::int64_t d = args.x.dim(1);
  const Matrix<T> x = matrix<T>(place, "x", args.x, {rows, d});
  const Matrix<T> dy = matrix<T>(place, "dy", args.dy, {rows, d});
  const Matrix<T> stats = matrix<T>(place, "stats", args.stats, {rows, 2});
  const T scale = *vector<T>(place, "scale", args.scale, 1);
  const T shift = *vector<T>(place, "shift", args.shift, 1);
  Matrix<T> dx;
  if (args.dx.defined()) dx = matrix<T>(place, "dx", args.dx, {rows, d});
  // What each row adds to ds and dm; summed in order, whatever the number of threads.
  Scratch<T> parts(static_cast<std::size_t>(2 * rows));
  parallel_for(rows, row_grain(d), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T inverse = stats(row)[1];
      const Vec<T> mean = broadcast(stats(row)[0]);
      const Vec<T> rstd = broadcast(inverse);
      Vec<T> plain{};
      Vec<T> scaled{};
      for_each_vector<T>(d, [&](std::int64_t i, std::int64_t count) {
        const Vec<T> g = load(dy(row) + i, count);  // zero beyond a tail
        plain += g;
        scaled = mul_add(g, (load(x(row) + i, count) - mean) * rstd, scaled);
      });
      const T sum = sum_lanes<T>(plain);
      const T dot = sum_lanes<T>(scaled) + shift * inverse * sum;
      parts[static_cast<std::size_t>(2 * row)] = dot;
      parts[static_cast<std::size_t>(2 * row + 1)] = scale * inverse * sum;
      if (dx.data == nullptr) continue;
      const Vec<T> mean_g = broadcast(sum / static_cast<T>(d));
      const Vec<T> mean_gx = broadcast(dot / static_cast<T>(d));
      const Vec<T> factor = broadcast(scale * inverse);
      for_each_vector<T>(d, [&](std::int64_t i, std::int64_t count) {
        const Vec<T> normal = (load(x(row) + i, count) - mean) * rstd;
        store(dx(row) + i, factor * (load(dy(row) + i, count) - mean_g - normal * mean_gx), count);
      });
    }
  });
  const auto total = [&](const Tensor& to, std::int64_t which) {
    if (!to.defined()) return;
    double sum = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
      sum += static_cast<double>(parts[static_cast<std::size_t>(2 * row + which)]);
    }
    *vector<T>(place, "gradient", to, 1) = static_cast<T>(sum);
  };
  total(args.dscale, 0);
  total(args.dshift, 1);
}

void check_rank(const char* place, const Tensor& x) {
  if (!x.defined() || x.rank() != 2 || x.dim(1) < 1) {
    throw ShapeError(str(place, ": x is ", x.shape(), ", expected [rows, D]"));
  }
}

}  // namespace

void scalar_norm_fwd(const ScalarNormFwdArgs& args) {
  check_rank("scalar_norm_fwd", args.x);
  dispatch_real("scalar_norm_fwd", args.x.dtype(), [&](auto t) { forward<decltype(t)>(args); });
}

void scalar_norm_bwd(const ScalarNormBwdArgs& args) {
  check_rank("scalar_norm_bwd", args.x);
  dispatch_real("scalar_norm_bwd", args.x.dtype(), [&](auto t) { backward<decltype(t)>(args); });
}

}  // namespace adder::cpu
