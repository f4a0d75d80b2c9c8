// Times of the kernels around the scan at mamba-130m's shapes, with reading and copying plain
// memory beside them. What is printed: bench/floor.h; GFLOP/s for products only.
#include <benchmark/benchmark.h>
#include <cstdint>
#include <string>

#include "bench/floor.h"
#include "engine/cpu/parallel.h"
#include "engine/cpu/simd.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/embedding.h"
#include "engine/kernels/matmul.h"
#include "engine/kernels/moment_norm.h"
#include "engine/kernels/norm.h"
#include "engine/kernels/optim.h"
#include "engine/random.h"

namespace adder {
namespace {

constexpr std::int64_t kRows = 1024, kD = 768, kInner = 1536, kVocabulary = 50280;

Tensor uniform(Shape shape, Dtype dtype = Dtype::f32) {
  const Tensor tensor = Tensor::empty(shape, dtype);
  fill_uniform(tensor, -1, 1, 1, 0);
  return tensor;
}

Tensor some_ids(std::int64_t rows) {
  const Tensor ids = Tensor::empty({rows}, Dtype::i32);
  Random random(1);
  for (std::int64_t i = 0; i < rows; ++i) {
    ids.data<std::int32_t>()[i] = static_cast<std::int32_t>(random.below(kVocabulary));
  }
  return ids;
}

using bench::report;

double bytes_of(std::initializer_list<Tensor> tensors) {
  double sum = 0;
  for (const Tensor& tensor : tensors) sum += static_cast<double>(tensor.nbytes());
  return sum;
}

void read_memory(benchmark::State& state) {
  const Tensor x = uniform({state.range(0)});
  const std::int64_t pieces = 64;
  const std::int64_t length = x.numel() / pieces;
  std::vector<float> sums(pieces);
  for (auto _ : state) {
    cpu::parallel_for(pieces, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) {
        const float* from = x.data<float>() + p * length;
        cpu::VecF acc[4] = {};
        for (std::int64_t i = 0; i + 4 * cpu::kLanes<float> <= length;
             i += 4 * cpu::kLanes<float>) {
          for (int u = 0; u < 4; ++u) acc[u] += cpu::load(from + i + u * cpu::kLanes<float>);
        }
        sums[static_cast<std::size_t>(p)] =
            cpu::sum_lanes<float>(acc[0] + acc[1] + acc[2] + acc[3]);
      }
    });
    benchmark::DoNotOptimize(sums.data());
  }
  report(state, bytes_of({x}));
}

void copy_memory(benchmark::State& state) {
  const Tensor x = uniform({state.range(0)});
  const Tensor y = uniform({state.range(0)});
  for (auto _ : state) {
    cpu::parallel_for(x.numel(), 16384, [&](std::int64_t begin, std::int64_t end) {
      std::memcpy(y.data<float>() + begin, x.data<float>() + begin,
                  static_cast<std::size_t>(end - begin) * sizeof(float));
    });
  }
  report(state, bytes_of({x, y}));
}

void wake_threads(benchmark::State& state) {
  std::int64_t touched[64] = {};
  for (auto _ : state) {
    cpu::parallel_for(cpu::num_threads(), 1,
                      [&](std::int64_t begin, std::int64_t) { touched[begin % 64] += 1; });
  }
  benchmark::DoNotOptimize(touched);
}

// y = x W^T: rows, out, in; W in the dtype given.
void project(benchmark::State& state, Dtype dtype) {
  const Tensor x = uniform({state.range(0), state.range(2)});
  const Tensor w = uniform({state.range(1), state.range(2)}, dtype);
  const Tensor y = uniform({state.range(0), state.range(1)});
  const MatmulArgs args{.a = x, .b = w, .c = y, .trans_b = true, .alpha = 1, .beta = 0};
  for (auto _ : state) kernel::matmul({}, args);
  report(state, bytes_of({x, w, y}),
         2.0 * static_cast<double>(state.range(0) * state.range(1) * state.range(2)));
}
void project_f32(benchmark::State& state) {
  project(state, Dtype::f32);
}
void project_bf16(benchmark::State& state) {
  project(state, Dtype::bf16);
}
void project_f16(benchmark::State& state) {
  project(state, Dtype::f16);
}

void norm_forward(benchmark::State& state) {
  RmsNormFwdArgs args;
  args.x = uniform({kRows, kD});
  args.residual = uniform({kRows, kD});
  args.weight = uniform({kD});
  args.residual_out = uniform({kRows, kD});
  args.y = uniform({kRows, kD});
  args.inv_rms = uniform({kRows});
  for (auto _ : state) kernel::rms_norm_fwd({}, args);
  report(state, bytes_of({args.x, args.residual, args.residual_out, args.y}));
}

void norm_backward(benchmark::State& state) {
  RmsNormBwdArgs args;
  args.residual = uniform({kRows, kD});
  args.weight = uniform({kD});
  args.inv_rms = uniform({kRows});
  args.dy = uniform({kRows, kD});
  args.dresidual_in = uniform({kRows, kD});
  args.dresidual = uniform({kRows, kD});
  if (state.range(0) != 0) args.dweight = uniform({kD});
  for (auto _ : state) kernel::rms_norm_bwd({}, args);
  report(state, bytes_of({args.residual, args.dy, args.dresidual_in, args.dresidual}));
}

// S4's shapes: 16 sequences of 1024 positions, 256 channels; batch norm, or a statistic for each
// sequence. x and dy are read twice, as they do not stay in the caches.
Shape sequences(bool batch) {
  return batch ? Shape{1, 16 * 1024, 256} : Shape{16, 1024, 256};
}

void moment_norm_forward(benchmark::State& state) {
  const bool batch = state.range(0) != 0;
  MomentNormFwdArgs args;
  args.x = uniform(sequences(batch));
  args.weight = uniform({256});
  args.bias = uniform({256});
  args.y = uniform(sequences(batch));
  args.stats = uniform({2, args.x.dim(0), batch ? 256 : 1});
  for (auto _ : state) kernel::moment_norm_fwd({}, args);
  report(state, bytes_of({args.x, args.x, args.y}));
}

void moment_norm_backward(benchmark::State& state) {
  const bool batch = state.range(0) != 0;
  MomentNormBwdArgs args;
  args.x = uniform(sequences(batch));
  args.weight = uniform({256});
  args.stats = uniform({2, args.x.dim(0), batch ? 256 : 1});
  args.dy = uniform(sequences(batch));
  args.dx = uniform(sequences(batch));
  args.dweight = uniform({256});
  args.dbias = uniform({256});
  for (auto _ : state) kernel::moment_norm_bwd({}, args);
  report(state, bytes_of({args.x, args.x, args.dy, args.dy, args.dx}));
}

void lookup(benchmark::State& state) {
  const EmbeddingFwdArgs args{some_ids(kRows), uniform({kVocabulary, kD}), uniform({kRows, kD})};
  for (auto _ : state) kernel::embedding_fwd({}, args);
  report(state, 2 * bytes_of({args.y}));
}

void lookup_gradient(benchmark::State& state) {
  const EmbeddingBwdArgs args{some_ids(kRows), uniform({kRows, kD}), uniform({kVocabulary, kD})};
  for (auto _ : state) kernel::embedding_bwd({}, args);
  report(state, 3 * bytes_of({args.dy}));
}

void loss(benchmark::State& state) {
  CrossEntropyArgs args;
  args.logits = uniform({256, kVocabulary});
  args.targets = some_ids(256);
  args.losses = Tensor::empty({256}, Dtype::f64);
  args.argmax = Tensor::empty({256}, Dtype::i32);
  args.write_gradient = state.range(0) != 0;
  args.scale = 1;
  for (auto _ : state) kernel::cross_entropy({}, args);
  report(state, bytes_of({args.logits}) * (args.write_gradient ? 2 : 1));
}

void map_forward(benchmark::State& state, UnaryOp op) {
  UnaryFwdArgs args{op, uniform({kRows, kInner}), uniform({kRows, kInner})};
  for (auto _ : state) kernel::unary_fwd({}, args);
  report(state, bytes_of({args.x, args.y}));
}

void map_backward(benchmark::State& state, UnaryOp op) {
  UnaryBwdArgs args{op, uniform({kRows, kInner}), uniform({kRows, kInner}),
                    uniform({kRows, kInner})};
  for (auto _ : state) kernel::unary_bwd({}, args);
  report(state, bytes_of({args.x, args.dy, args.dx}));
}

void multiply(benchmark::State& state) {
  const BinaryArgs args{BinaryOp::mul, uniform({kRows, kInner}), uniform({kRows, kInner}),
                        uniform({kRows, kInner})};
  for (auto _ : state) kernel::binary({}, args);
  report(state, bytes_of({args.a, args.b, args.y}));
}

void bias(benchmark::State& state) {
  const AddBiasArgs args{uniform({kInner}), uniform({kRows, kInner})};
  for (auto _ : state) kernel::add_bias({}, args);
  report(state, 2 * bytes_of({args.y}));
}

void sum_columns(benchmark::State& state) {
  const ColumnSumArgs args{uniform({state.range(0), state.range(1)}), uniform({state.range(1)})};
  for (auto _ : state) kernel::column_sum({}, args);
  report(state, bytes_of({args.x}));
}

void drop(benchmark::State& state) {
  DropoutArgs args{uniform({kRows, kInner}), uniform({kRows, kInner})};
  args.p = 0.1;
  for (auto _ : state) kernel::dropout({}, args);
  report(state, bytes_of({args.x, args.y}));
  state.counters["Gelem/s"] = benchmark::Counter(
      1e-9 * static_cast<double>(kRows * kInner * state.iterations()), benchmark::Counter::kIsRate);
}

// The whole of 130M's weights in one tensor.
constexpr std::int64_t kWeights = 129135360 / 4;

void adamw(benchmark::State& state) {
  AdamwArgs args;
  args.items = {{.value = uniform({kWeights}),
                 .grad = uniform({kWeights}),
                 .first = Tensor::zeros({kWeights}),
                 .second = Tensor::zeros({kWeights})}};
  args.lr = 1e-4;
  for (auto _ : state) kernel::adamw_step({}, args);
  report(state, 7 * bytes_of({args.items.front().value}));
}

void gradient_norm(benchmark::State& state) {
  const GradientNormArgs args{
      .grads = {uniform({kWeights})}, .max_norm = 1, .result = Tensor::empty({2}, Dtype::f64)};
  for (auto _ : state) kernel::gradient_norm({}, args);
  report(state, bytes_of({args.grads.front()}));
}

#define ADDER_BENCHMARK(name) BENCHMARK(name)->UseRealTime()->Unit(benchmark::kMicrosecond)
#define ADDER_BENCHMARK_OP(name, op) \
  BENCHMARK_CAPTURE(name, op, UnaryOp::op)->UseRealTime()->Unit(benchmark::kMicrosecond)

ADDER_BENCHMARK(read_memory)->Arg(1 << 26)->Arg(3072 * 768);
ADDER_BENCHMARK(copy_memory)->Arg(1 << 26)->Arg(kRows* kInner);
ADDER_BENCHMARK(wake_threads);
ADDER_BENCHMARK(project_f32)
    ->ArgNames({"rows", "out", "in"})
    ->Args({1, kVocabulary, kD})
    ->Args({4, kVocabulary, kD})
    ->Args({1, 2 * kInner, kD})
    ->Args({4, 2 * kInner, kD})
    ->Args({1, 80, kInner})
    ->Args({1, kInner, 48})
    ->Args({kRows, 2 * kInner, kD})
    ->Args({kRows, kD, kInner})
    ->Args({kRows, 80, kInner})
    ->Args({kRows, kInner, 48})
    ->Args({kRows, 8, kInner})
    ->Args({kRows, kD, 8});
ADDER_BENCHMARK(project_bf16)
    ->ArgNames({"rows", "out", "in"})
    ->Args({1, kVocabulary, kD})
    ->Args({4, kVocabulary, kD})
    ->Args({1, 2 * kInner, kD})
    ->Args({4, 2 * kInner, kD})
    ->Args({kRows, 2 * kInner, kD})
    ->Args({kRows, kD, kInner});
ADDER_BENCHMARK(project_f16)->Args({kRows, 2 * kInner, kD});
ADDER_BENCHMARK(norm_forward);
ADDER_BENCHMARK(norm_backward)->ArgName("dweight")->Arg(0)->Arg(1);
ADDER_BENCHMARK(moment_norm_forward)->ArgName("batch")->Arg(0)->Arg(1);
ADDER_BENCHMARK(moment_norm_backward)->ArgName("batch")->Arg(0)->Arg(1);
ADDER_BENCHMARK(lookup);
ADDER_BENCHMARK(lookup_gradient);
ADDER_BENCHMARK(loss)->ArgName("gradient")->Arg(0)->Arg(1);
ADDER_BENCHMARK_OP(map_forward, silu);
ADDER_BENCHMARK_OP(map_forward, softplus);
ADDER_BENCHMARK_OP(map_forward, tanh);
ADDER_BENCHMARK_OP(map_backward, silu);
ADDER_BENCHMARK(multiply);
ADDER_BENCHMARK(bias);
ADDER_BENCHMARK(sum_columns)
    ->ArgNames({"rows", "columns"})
    ->Args({kRows, kInner})
    ->Args({kRows * kInner, 1})
    ->Args({kRows * kInner / 3, 3})
    ->Args({kRows * kInner / 10, 10})
    ->Args({kRows * kInner / 17, 17})
    ->Args({kRows * kInner / 64, 64});
ADDER_BENCHMARK(drop);
ADDER_BENCHMARK(adamw);
ADDER_BENCHMARK(gradient_norm);

}  // namespace
}  // namespace adder

BENCHMARK_MAIN();
