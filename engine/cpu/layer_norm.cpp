#include "engine/cpu/rows.h"
#include "engine/kernels/norm.h"

namespace adder::cpu {
namespace {

constexpr std::int64_t kRowsPerPartial = 64;  // as in norm.cpp: sums do not depend on the threads
constexpr std::int64_t kMaxPartials = 64;

template <typename T>
void forward(const LayerNormFwdArgs& args) {
  const char* place = "layer_norm_fwd";
  const std::int64_t rows = args.x.dim(0);
  const std::int64_t D = args.x.dim(1);
  const Matrix<T> x = matrix<T>(place, "x", args.x, {rows, D});
  const Matrix<T> y = matrix<T>(place, "y", args.y, {rows, D});
  const Matrix<T> stats = matrix<T>(place, "stats", args.stats, {rows, 2});
  const T* weight = vector<T>(place, "weight", args.weight, D);
  const T* bias = vector<T>(place, "bias", args.bias, D);
  parallel_for(rows, row_grain(D), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* in = x(row);
      Vec<T> sum{};
      for_each_vector<T>(D,
                         [&](std::int64_t i, std::int64_t count) { sum += load(in + i, count); });
      const T mean = sum_lanes<T>(sum) / static_cast<T>(D);
      T squares = 0;  // about the mean, so that a large one cancels nothing
      Vec<T> lanes{};
      for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
        if (count == kLanes<T>) {
          const Vec<T> d = load(in + i) - broadcast(mean);
          lanes = mul_add(d, d, lanes);
        } else {
          for (std::int64_t j = i; j < i + count; ++j) squares += (in[j] - mean) * (in[j] - mean);
        }
      });
      squares += sum_lanes<T>(lanes);
      const T inverse =
          T{1} / std::sqrt(squares / static_cast<T>(D) + static_cast<T>(args.epsilon));
      stats(row)[0] = mean;
      stats(row)[1] = inverse;
      T* to = y(row);
      for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
        const Vec<T> normal = (load(in + i, count) - broadcast(mean)) * broadcast(inverse);
        store(to + i, mul_add(normal, load(weight + i, count), load(bias + i, count)), count);
      });
    }
  });
}

// With x^ = (x - mean) inverse and g = dy w: dx = inverse (g - mean(g) - x^ mean(g x^)), dw = sum
// over rows of dy x^, db of dy.
template <typename T>
void backward(const LayerNormBwdArgs& args) {
  const char* place = "layer_norm_bwd";
  const std::int64_t rows = args.x.dim(0);
  const std::int64_t D = args.x.dim(1);
  const Matrix<T> x = matrix<T>(place, "x", args.x, {rows, D});
  const Matrix<T> dy = matrix<T>(place, "dy", args.dy, {rows, D});
  const Matrix<T> stats = matrix<T>(place, "stats", args.stats, {rows, 2});
  const T* weight = vector<T>(place, "weight", args.weight, D);
  Matrix<T> dx;
  if (args.dx.defined()) dx = matrix<T>(place, "dx", args.dx, {rows, D});
  T* dweight = args.dweight.defined() ? vector<T>(place, "dweight", args.dweight, D) : nullptr;
  T* dbias = args.dbias.defined() ? vector<T>(place, "dbias", args.dbias, D) : nullptr;
  const std::int64_t per_partial =
      std::max(kRowsPerPartial, (rows + kMaxPartials - 1) / kMaxPartials);
  const std::int64_t partials = (rows + per_partial - 1) / per_partial;
  Scratch<T> partial(static_cast<std::size_t>(2 * partials * D), T{0});
  const auto one_row = [&](std::int64_t row, T* dw, T* db) {
    const T* in = x(row);
    const T* grad = dy(row);
    const Vec<T> mean = broadcast(stats(row)[0]);
    const Vec<T> inverse = broadcast(stats(row)[1]);
    Vec<T> sum{};
    Vec<T> dot{};
    for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
      const Vec<T> v = load(grad + i, count);
      const Vec<T> normal = (load(in + i, count) - mean) * inverse;
      const Vec<T> g = v * load(weight + i, count);  // zero beyond a tail
      sum += g;
      dot = mul_add(g, normal, dot);
      store(dw + i, mul_add(v, normal, load(dw + i, count)), count);
      store(db + i, load(db + i, count) + v, count);
    });
    if (dx.data == nullptr) return;
    const Vec<T> mean_g = broadcast(sum_lanes<T>(sum) / static_cast<T>(D));
    const Vec<T> mean_dot = broadcast(sum_lanes<T>(dot) / static_cast<T>(D));
    T* to = dx(row);
    for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
      const Vec<T> normal = (load(in + i, count) - mean) * inverse;
      const Vec<T> g = load(grad + i, count) * load(weight + i, count);
      store(to + i, inverse * (g - mean_g - normal * mean_dot), count);
    });
  };
  parallel_for(partials, row_grain(per_partial * D), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      T* sums = partial.data() + 2 * p * D;
      const std::int64_t last = std::min(rows, (p + 1) * per_partial);
      for (std::int64_t row = p * per_partial; row < last; ++row) one_row(row, sums, sums + D);
    }
  });
  const auto total = [&](T* to, std::int64_t offset) {
    if (to == nullptr) return;
    for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
      Vec<T> sum{};
      for (std::int64_t p = 0; p < partials; ++p) {
        sum += load(partial.data() + 2 * p * D + offset + i, count);
      }
      store(to + i, sum, count);
    });
  };
  total(dweight, 0);
  total(dbias, D);
}

void check_rank(const char* place, const Tensor& x) {
  if (!x.defined() || x.rank() != 2 || x.dim(1) < 1) {
    throw ShapeError(str(place, ": x is ", x.shape(), ", expected [rows, D]"));
  }
}

}  // namespace

void layer_norm_fwd(const LayerNormFwdArgs& args) {
  check_rank("layer_norm_fwd", args.x);
  dispatch_real("layer_norm_fwd", args.x.dtype(), [&](auto t) { forward<decltype(t)>(args); });
}

void layer_norm_bwd(const LayerNormBwdArgs& args) {
  check_rank("layer_norm_bwd", args.x);
  dispatch_real("layer_norm_bwd", args.x.dtype(), [&](auto t) { backward<decltype(t)>(args); });
}

}  // namespace adder::cpu
