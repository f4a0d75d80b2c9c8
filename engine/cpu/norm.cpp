#include "engine/kernels/norm.h"

#include "engine/cpu/rows.h"

namespace adder::cpu {
namespace {

// Rows whose contribution to dweight is summed on its own: a number that does not depend on the
// thread count, so neither does the result.
constexpr std::int64_t kRowsPerPartial = 64;
constexpr std::int64_t kMaxPartials = 64;

template <typename T>
void forward(const RmsNormFwdArgs& args) {
  const char* place = "rms_norm_fwd";
  const std::int64_t rows = args.x.dim(0);
  const std::int64_t D = args.x.dim(1);
  const Matrix<T> x = matrix<T>(place, "x", args.x, {rows, D});
  const Matrix<T> y = matrix<T>(place, "y", args.y, {rows, D});
  const T* weight = vector<T>(place, "weight", args.weight, D);
  Matrix<T> residual;
  Matrix<T> out = x;
  if (args.residual.defined()) {
    residual = matrix<T>(place, "residual", args.residual, {rows, D});
    out = matrix<T>(place, "residual_out", args.residual_out, {rows, D});
  }
  T* inv_rms = args.inv_rms.defined() ? vector<T>(place, "inv_rms", args.inv_rms, rows) : nullptr;
  parallel_for(rows, row_grain(D), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* in = x(row);
      const T* sum = in;
      Vec<T> squares{};
      if (residual.data != nullptr) {
        const T* res = residual(row);
        T* total = out(row);
        for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
          const Vec<T> v = load(in + i, count) + load(res + i, count);
          store(total + i, v, count);
          squares = mul_add(v, v, squares);
        });
        sum = total;
      } else {
        for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
          const Vec<T> v = load(in + i, count);
          squares = mul_add(v, v, squares);
        });
      }
      const T mean = sum_lanes<T>(squares) / static_cast<T>(D);
      const T inverse = T{1} / std::sqrt(mean + static_cast<T>(args.epsilon));
      if (inv_rms != nullptr) inv_rms[row] = inverse;
      T* to = y(row);
      const Vec<T> factor = broadcast(inverse);
      for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
        store(to + i, load(sum + i, count) * factor * load(weight + i, count), count);
      });
    }
  });
}

// With x^ = r inv_rms and g = dy w: dr = inv_rms (g - x^ mean(g x^)), dw = sum over rows of dy x^.
template <typename T>
void backward(const RmsNormBwdArgs& args) {
  const char* place = "rms_norm_bwd";
  const std::int64_t rows = args.residual.dim(0);
  const std::int64_t D = args.residual.dim(1);
  const Matrix<T> r = matrix<T>(place, "residual", args.residual, {rows, D});
  const Matrix<T> dy = matrix<T>(place, "dy", args.dy, {rows, D});
  const T* weight = vector<T>(place, "weight", args.weight, D);
  const T* inv_rms = vector<T>(place, "inv_rms", args.inv_rms, rows);
  Matrix<T> through;
  Matrix<T> dr;
  if (args.dresidual_in.defined()) {
    through = matrix<T>(place, "dresidual_in", args.dresidual_in, {rows, D});
  }
  if (args.dresidual.defined()) dr = matrix<T>(place, "dresidual", args.dresidual, {rows, D});
  T* dweight = args.dweight.defined() ? vector<T>(place, "dweight", args.dweight, D) : nullptr;

  const std::int64_t per_partial =
      std::max(kRowsPerPartial, (rows + kMaxPartials - 1) / kMaxPartials);
  const std::int64_t partials = (rows + per_partial - 1) / per_partial;
  Scratch<T> partial(dweight != nullptr ? static_cast<std::size_t>(partials * D) : 0, T{0});
  const auto one_row = [&](std::int64_t row, T* dw) {
    const T* in = r(row);
    const T* grad = dy(row);
    const Vec<T> inverse = broadcast(inv_rms[row]);
    Vec<T> dot{};
    for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
      const Vec<T> product = load(grad + i, count) * (load(in + i, count) * inverse);
      dot = mul_add(product, load(weight + i, count), dot);
      if (dw != nullptr) store(dw + i, load(dw + i, count) + product, count);
    });
    if (dr.data == nullptr) return;
    const Vec<T> mean = broadcast(sum_lanes<T>(dot) / static_cast<T>(D));
    const T* arriving = through.data != nullptr ? through(row) : nullptr;
    T* to = dr(row);
    for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
      const Vec<T> normal = load(in + i, count) * inverse;
      Vec<T> v = inverse * (load(grad + i, count) * load(weight + i, count) - normal * mean);
      if (arriving != nullptr) v += load(arriving + i, count);
      store(to + i, v, count);
    });
  };
  parallel_for(partials, row_grain(per_partial * D), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      T* dw = dweight != nullptr ? partial.data() + p * D : nullptr;
      const std::int64_t last = std::min(rows, (p + 1) * per_partial);
      for (std::int64_t row = p * per_partial; row < last; ++row) one_row(row, dw);
    }
  });
  if (dweight == nullptr) return;
  for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
    Vec<T> total{};
    for (std::int64_t p = 0; p < partials; ++p) total += load(partial.data() + p * D + i, count);
    store(dweight + i, total, count);
  });
}

void check_rank(const char* place, const Tensor& tensor) {
  if (!tensor.defined() || tensor.rank() != 2) {
    throw ShapeError(str(place, ": x is ", tensor.shape(), ", expected [rows, D]"));
  }
}

}  // namespace

void rms_norm_fwd(const RmsNormFwdArgs& args) {
  check_rank("rms_norm_fwd", args.x);
  dispatch_real("rms_norm_fwd", args.x.dtype(), [&](auto t) { forward<decltype(t)>(args); });
}

void rms_norm_bwd(const RmsNormBwdArgs& args) {
  check_rank("rms_norm_bwd", args.residual);
  if (args.dx.defined()) throw DtypeError("rms_norm_bwd: dx is for x of 16 bits, not on the CPU");
  dispatch_real("rms_norm_bwd", args.residual.dtype(),
                [&](auto t) { backward<decltype(t)>(args); });
}

}  // namespace adder::cpu
