// Embedding lookup, and softmax cross entropy of one chunk of rows.
#include <cfloat>

#include "cuda/math.h"
#include "cuda/runtime.h"
#include "cuda/strided.h"
#include "engine/kernels/embedding.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;

// One block per row; ids were checked on the host side, where they come from.
template <typename T, typename From>
__global__ void embedding_fwd_kernel(const std::int32_t* ids, const From* table, T* y,
                                     std::int64_t width) {
  const std::int64_t row = blockIdx.x;
  const From* from = table + ids[row] * width;
  for (std::int64_t i = threadIdx.x; i < width; i += kThreads) {
    y[row * width + i] = from_float<T>(to_float(from[i]));
  }
}

// A thread owns one column and adds its rows in their order: ids may repeat, and float atomics
// would make the sum depend on the run.
template <typename T>
__global__ void embedding_bwd_kernel(const std::int32_t* ids, Matrix<const T> dy, std::int64_t rows,
                                     float* dtable, std::int64_t width) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= width) return;
  for (std::int64_t row = 0; row < rows; ++row) {
    dtable[ids[row] * width + column] += to_float(dy(row)[column]);
  }
}

struct CrossEntropy {
  std::int64_t classes;
  const std::int32_t* targets;
  double* losses;
  std::int32_t* argmax;  // or null
  bool write_gradient;
  float scale;
};

// One block per row, three passes over it: maximum, sum of exponentials, gradient. The gradient may
// be the logits' own memory.
template <typename T, typename G>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_kernel(CrossEntropy p, Matrix<const T> logits, Matrix<G> gradient) {
  ADDER_SHARED(float, scratch);  // kThreads values, then kThreads indices
  auto* indices = reinterpret_cast<std::int32_t*>(scratch + kThreads);
  const T* x = logits(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  float most = -FLT_MAX;
  std::int64_t where = p.classes;
  for (std::int64_t i = thread; i < p.classes; i += kThreads) {
    const float value = to_float(x[i]);
    if (value > most || where == p.classes) {
      most = value;
      where = i;
    }
  }
  scratch[thread] = most;
  indices[thread] = static_cast<std::int32_t>(where);
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (thread < half) {
      const bool other_wins =
          indices[thread + half] < p.classes &&
          (scratch[thread + half] > scratch[thread] ||
           (scratch[thread + half] == scratch[thread] && indices[thread + half] < indices[thread]));
      if (other_wins) {
        scratch[thread] = scratch[thread + half];
        indices[thread] = indices[thread + half];
      }
    }
    __syncthreads();
  }
  const float maximum = scratch[0];
  const std::int32_t best = indices[0];
  const std::int32_t target = p.targets[blockIdx.x];
  const float of_target = to_float(x[target]);
  float sum = 0;
  for (std::int64_t i = thread; i < p.classes; i += kThreads) sum += expf(to_float(x[i]) - maximum);
  const float total = block_sum<kThreads>(sum, scratch);
  if (thread == 0) {
    p.losses[blockIdx.x] = log(static_cast<double>(total)) -
                           (static_cast<double>(of_target) - static_cast<double>(maximum));
    if (p.argmax != nullptr) p.argmax[blockIdx.x] = best;
  }
  if (!p.write_gradient) return;
  const float factor = p.scale / total;
  G* to = gradient(blockIdx.x);
  for (std::int64_t i = thread; i < p.classes; i += kThreads) {
    const float probability = expf(to_float(x[i]) - maximum) * factor;
    to[i] = from_float<G>(i == target ? probability - p.scale : probability);
  }
}

// One block: the thread's positions in their order, then a tree over the threads.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    loss_sums_kernel(const double* losses, const std::int32_t* argmax, const std::int32_t* targets,
                     std::int64_t rows, double* sums, T* loss, double factor) {
  ADDER_SHARED(double, totals);  // kThreads of losses, then kThreads of counts
  double* counts = totals + kThreads;
  const int thread = static_cast<int>(threadIdx.x);
  double total = 0;
  double right = 0;
  for (std::int64_t i = thread; i < rows; i += kThreads) {
    total += losses[i];
    if (argmax != nullptr) right += argmax[i] == targets[i] ? 1.0 : 0.0;
  }
  totals[thread] = total;
  counts[thread] = right;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (thread < half) {
      totals[thread] += totals[thread + half];
      counts[thread] += counts[thread + half];
    }
    __syncthreads();
  }
  if (thread > 0) return;
  sums[0] = totals[0];
  sums[1] = counts[0];
  loss[0] = from_float<T>(static_cast<float>(totals[0] * factor));
}

// A warp owns a row: two reads and one write per element.
template <typename T>
__global__ void square_error_kernel(Matrix<const T> y, Matrix<const T> target, Matrix<T> gradient,
                                    std::int64_t rows, std::int64_t width, float factor,
                                    double* losses) {
  const std::int64_t row = global_index() / kWarp;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float sum = 0;
  for (std::int64_t i = lane; i < width; i += kWarp) {
    const float d = to_float(y(row)[i]) - to_float(target(row)[i]);
    sum += d * d;
    if (gradient.data != nullptr) gradient(row)[i] = from_float<T>(factor * d);
  }
  sum = lane_sum<kWarp>(sum);
  if (lane == 0) losses[row] = sum;
}

void check_embedding(const char* place, const Tensor& ids, const Tensor& table, const Tensor& y) {
  if (table.rank() != 2 || !table.is_contiguous()) {
    throw ShapeError(str(place, ": table is ", table.shape(), ", expected a contiguous matrix"));
  }
  check_shape(place, "rows", y, {ids.numel(), table.dim(1)});
}

}  // namespace

void embedding_fwd(const EmbeddingFwdArgs& args) {
  check_embedding("embedding_fwd", args.ids, args.table, args.y);
  if (args.y.numel() == 0) return;
  dispatch_storage("embedding_fwd: y", args.y.dtype(), [&](auto type) {
    using T = decltype(type);
    dispatch_storage("embedding_fwd: table", args.table.dtype(), [&](auto from) {
      using From = decltype(from);
      ADDER_LAUNCH((embedding_fwd_kernel<T, From>), static_cast<int>(args.y.dim(0)), kThreads, 0,
                   stream(args.y.device()), args.ids.data<std::int32_t>(), args.table.data<From>(),
                   args.y.data<T>(), args.y.dim(1));
    });
  });
}

void embedding_bwd(const EmbeddingBwdArgs& args) {
  check_embedding("embedding_bwd", args.ids, args.dtable, args.dy);
  if (args.dy.numel() == 0) return;
  dispatch_storage("embedding_bwd", args.dy.dtype(), [&](auto type) {
    using T = decltype(type);
    const Matrix<const T> dy{args.dy.data<T>(), args.dy.stride(0)};
    ADDER_LAUNCH((embedding_bwd_kernel<T>), blocks_for(args.dtable.dim(1), kThreads), kThreads, 0,
                 stream(args.dy.device()), args.ids.data<std::int32_t>(), dy, args.dy.dim(0),
                 args.dtable.data<float>(), args.dtable.dim(1));
  });
}

void cross_entropy(const CrossEntropyArgs& args) {
  if (!args.logits.defined() || args.logits.rank() != 2 || args.logits.dim(1) == 0) {
    throw ShapeError(
        str("cross_entropy: logits are ", args.logits.shape(), ", expected [rows, V]"));
  }
  const std::int64_t rows = args.logits.dim(0);
  check_shape("cross_entropy", "targets", args.targets, {rows});
  check_shape("cross_entropy", "losses", args.losses, {rows});
  if (rows == 0) return;
  const CrossEntropy p{.classes = args.logits.dim(1),
                       .targets = args.targets.data<std::int32_t>(),
                       .losses = args.losses.data<double>(),
                       .argmax = args.argmax.defined() ? args.argmax.data<std::int32_t>() : nullptr,
                       .write_gradient = args.write_gradient,
                       .scale = static_cast<float>(args.scale)};
  const std::size_t shared = 2 * kThreads * sizeof(float);
  const Tensor& gradient = args.gradient.defined() ? args.gradient : args.logits;
  check_shape("cross_entropy", "gradient", gradient, args.logits.shape());
  dispatch_storage("cross_entropy", args.logits.dtype(), [&](auto type) {
    using T = decltype(type);
    dispatch_storage("cross_entropy: gradient", gradient.dtype(), [&](auto gradient_type) {
      using G = decltype(gradient_type);
      const Matrix<const T> logits{args.logits.data<T>(), args.logits.stride(0)};
      ADDER_LAUNCH((cross_entropy_kernel<T, G>), static_cast<int>(rows), kThreads, shared,
                   stream(args.logits.device()), p, logits, matrix<G>(gradient));
    });
  });
}

void square_error(const SquareErrorArgs& args) {
  const char* place = "square_error";
  check_dense_rows(place, args.y);
  check_dense_rows(place, args.target);
  const std::int64_t rows = args.y.dim(0);
  check_shape(place, "target", args.target, args.y.shape());
  check_shape(place, "losses", args.losses, {rows});
  if (args.gradient.defined()) {
    check_dense_rows(place, args.gradient);
    check_shape(place, "gradient", args.gradient, args.y.shape());
  }
  if (rows == 0) return;
  dispatch_storage(place, args.y.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((square_error_kernel<T>), blocks_for(rows * kWarp, kThreads), kThreads, 0,
                 stream(args.y.device()), Matrix<const T>{args.y.data<T>(), args.y.stride(0)},
                 Matrix<const T>{args.target.data<T>(), args.target.stride(0)},
                 matrix<T>(args.gradient), rows, args.y.dim(1), static_cast<float>(2 * args.scale),
                 args.losses.data<double>());
  });
}

void loss_sums(const LossSumsArgs& args) {
  const std::int64_t rows = args.losses.numel();
  const bool classes = args.argmax.defined() || args.targets.defined();
  if (classes) check_shape("loss_sums", "argmax", args.argmax, {rows});
  if (classes) check_shape("loss_sums", "targets", args.targets, {rows});
  check_shape("loss_sums", "sums", args.sums, {2});
  check_shape("loss_sums", "loss", args.loss, {1});
  dispatch_storage("loss_sums", args.loss.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((loss_sums_kernel<T>), 1, kThreads, 2 * kThreads * sizeof(double),
                 stream(args.sums.device()), rows > 0 ? args.losses.data<double>() : nullptr,
                 classes && rows > 0 ? args.argmax.data<std::int32_t>() : nullptr,
                 classes && rows > 0 ? args.targets.data<std::int32_t>() : nullptr, rows,
                 args.sums.data<double>(), args.loss.data<T>(), args.factor);
  });
}

}  // namespace adder::cuda
