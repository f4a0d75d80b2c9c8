#include "engine/cpu/rows.h"
#include "engine/kernels/embedding.h"

namespace adder::cpu {
namespace {

constexpr std::int64_t kBlock = 4096;  // float sums are added up in double once per block

template <typename T>
T row_maximum(const T* x, std::int64_t V) {
  Vec<T> most = broadcast(-std::numeric_limits<T>::infinity());
  for_each_vector<T>(V, [&](std::int64_t i, std::int64_t count) {
    if (count < kLanes<T>) return;
    const Vec<T> v = load(x + i);
    most = v > most ? v : most;
  });
  T maximum = -std::numeric_limits<T>::infinity();
  for (int lane = 0; lane < kLanes<T>; ++lane) maximum = std::max(maximum, T(most[lane]));
  for (std::int64_t i = V - V % kLanes<T>; i < V; ++i) maximum = std::max(maximum, x[i]);
  return maximum;
}

template <typename T>
std::int64_t first_equal(const T* x, std::int64_t V, T value) {
  constexpr std::int64_t kStep = 64;  // counting has no early exit, so the compiler vectorises it
  std::int64_t i = 0;
  for (; i + kStep <= V; i += kStep) {
    int hits = 0;
    for (std::int64_t j = 0; j < kStep; ++j) hits += x[i + j] == value ? 1 : 0;
    if (hits > 0) break;
  }
  for (; i < V; ++i) {
    if (x[i] == value) return i;
  }
  return 0;
}

// Sum of exp(x - maximum); the terms replace x when kWrite.
template <bool kWrite, typename T>
double sum_exp(T* x, std::int64_t V, T maximum) {
  const Vec<T> shift = broadcast(maximum);
  double total = 0;
  for (std::int64_t block = 0; block < V; block += kBlock) {
    T* at = x + block;
    Vec<T> sum{};
    T rest = 0;
    for_each_vector<T>(std::min(kBlock, V - block), [&](std::int64_t i, std::int64_t count) {
      const Vec<T> e = exp(load(at + i, count) - shift);
      if (count == kLanes<T>) {
        sum += e;
      } else {
        for (std::int64_t lane = 0; lane < count; ++lane) rest += e[lane];
      }
      if (kWrite) store(at + i, e, count);
    });
    total += static_cast<double>(sum_lanes<T>(sum) + rest);
  }
  return total;
}

template <typename T>
void run(const CrossEntropyArgs& args) {
  const char* place = "cross_entropy";
  const std::int64_t rows = args.logits.dim(0);
  const std::int64_t V = args.logits.dim(1);
  const Matrix<T> logits = matrix<T>(place, "logits", args.logits, {rows, V});
  const std::int32_t* targets = vector<std::int32_t>(place, "targets", args.targets, rows);
  double* losses = vector<double>(place, "losses", args.losses, rows);
  const Matrix<T> gradient =
      args.gradient.defined() ? matrix<T>(place, "gradient", args.gradient, {rows, V}) : logits;
  std::int32_t* argmax =
      args.argmax.defined() ? vector<std::int32_t>(place, "argmax", args.argmax, rows) : nullptr;
  for (std::int64_t row = 0; row < rows; ++row) {
    if (targets[row] < 0 || targets[row] >= V) {
      throw ShapeError(
          str(place, ": target ", targets[row], " in row ", row, " of ", V, " classes"));
    }
  }
  parallel_for(rows, row_grain(V), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      T* x = logits(row);
      const T maximum = row_maximum(x, V);
      const std::int32_t target = targets[row];
      const double shifted = static_cast<double>(x[target]) - static_cast<double>(maximum);
      if (argmax != nullptr) argmax[row] = static_cast<std::int32_t>(first_equal(x, V, maximum));
      const double sum =
          args.write_gradient ? sum_exp<true>(x, V, maximum) : sum_exp<false>(x, V, maximum);
      losses[row] = std::log(sum) - shifted;
      if (!args.write_gradient) continue;
      const Vec<T> factor = broadcast(static_cast<T>(args.scale / sum));
      T* to = gradient(row);
      for_each_vector<T>(V, [&](std::int64_t i, std::int64_t count) {
        store(to + i, load(x + i, count) * factor, count);
      });
      to[target] -= static_cast<T>(args.scale);
    }
  });
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& args) {
  if (!args.logits.defined() || args.logits.rank() != 2 || args.logits.dim(1) == 0) {
    throw ShapeError(
        str("cross_entropy: logits are ", args.logits.shape(), ", expected [rows, V]"));
  }
  dispatch_real("cross_entropy", args.logits.dtype(), [&](auto t) { run<decltype(t)>(args); });
}

void square_error(const SquareErrorArgs& args) {
  const char* place = "square_error";
  if (!args.y.defined() || args.y.rank() != 2) {
    throw ShapeError(str(place, ": y is ", args.y.shape(), ", expected [rows, D]"));
  }
  dispatch_real(place, args.y.dtype(), [&](auto type) {
    using T = decltype(type);
    const std::int64_t rows = args.y.dim(0);
    const std::int64_t D = args.y.dim(1);
    const Matrix<T> y = matrix<T>(place, "y", args.y, {rows, D});
    const Matrix<T> target = matrix<T>(place, "target", args.target, {rows, D});
    const bool wanted = args.gradient.defined();
    const Matrix<T> gradient =
        wanted ? matrix<T>(place, "gradient", args.gradient, {rows, D}) : Matrix<T>{};
    double* losses = vector<double>(place, "losses", args.losses, rows);
    const Vec<T> factor = broadcast(static_cast<T>(2 * args.scale));
    parallel_for(rows, row_grain(D), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        Vec<T> sum{};
        for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
          const Vec<T> d = load(y(row) + i, count) - load(target(row) + i, count);
          sum += d * d;  // lanes beyond a tail's count are zero
          if (wanted) store(gradient(row) + i, d * factor, count);
        });
        losses[row] = static_cast<double>(sum_lanes<T>(sum));
      }
    });
  });
}

void loss_sums(const LossSumsArgs& args) {
  const char* place = "loss_sums";
  const std::int64_t rows = args.losses.numel();
  const double* losses = vector<double>(place, "losses", args.losses, rows);
  const bool classes = args.argmax.defined() || args.targets.defined();
  const std::int32_t* argmax =
      classes ? vector<std::int32_t>(place, "argmax", args.argmax, rows) : nullptr;
  const std::int32_t* targets =
      classes ? vector<std::int32_t>(place, "targets", args.targets, rows) : nullptr;
  double* sums = vector<double>(place, "sums", args.sums, 2);
  check_shape(place, "loss", args.loss, {1});
  double total = 0;
  std::int64_t right = 0;
  for (std::int64_t i = 0; i < rows; ++i) {
    total += losses[i];
    if (classes) right += argmax[i] == targets[i] ? 1 : 0;
  }
  sums[0] = total;
  sums[1] = static_cast<double>(right);
  args.loss.fill(total * args.factor);
}

}  // namespace adder::cpu
