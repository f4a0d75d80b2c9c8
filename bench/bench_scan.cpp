// Times of the selective scan and of the convolution in front of it. per_bldn: time per (batch,
// step, channel, state); the rest is explained in bench/floor.h.
#include <benchmark/benchmark.h>
#include <cmath>
#include <cstdint>

#include "bench/floor.h"
#include "engine/kernels/conv.h"
#include "engine/kernels/scan.h"

namespace adder {
namespace {

// Uniform in [low, high), from a small generator: speed does not depend on its quality.
Tensor random_tensor(const Shape& shape, float low, float high) {
  static std::uint32_t state = 1;
  Tensor tensor = Tensor::empty(shape);
  float* data = tensor.data<float>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    state = state * 1664525U + 1013904223U;
    data[i] = low + (high - low) * static_cast<float>(state >> 8) * 0x1p-24F;
  }
  return tensor;
}

struct ScanCase {
  explicit ScanCase(const benchmark::State& state)
      : b(state.range(0)), l(state.range(1)), d(state.range(2)), n(state.range(3)) {
    // z and u, as well as dt, B and C, are slices of wider tensors, as in a model.
    const Tensor xz = random_tensor({b, l, 2 * d}, -1, 1);
    const Tensor bc = random_tensor({b, l, 2 * n + 48}, -1, 1);
    A_log = Tensor::empty({d, n});
    for (std::int64_t i = 0; i < d * n; ++i) {
      A_log.data<float>()[i] = std::log(static_cast<float>(i % n + 1));
    }
    fwd.u = random_tensor({b, l, d}, -1, 1);
    fwd.dt = random_tensor({b, l, d}, -1, 1);
    fwd.A_log = A_log;
    fwd.B = bc.slice(2, 48, 48 + n);
    fwd.C = bc.slice(2, 48 + n, 48 + 2 * n);
    fwd.D = random_tensor({d}, -1, 1);
    fwd.z = xz.slice(2, d, 2 * d);
    fwd.dt_bias = random_tensor({d}, -5, -2);
    fwd.out = Tensor::zeros({b, l, d});
    fwd.checkpoints = Tensor::zeros({scan_checkpoint_numel(b, l, d, n)});
  }

  // flops: per (batch, step, channel, state).
  void report(benchmark::State& state, double rows_of_d, double checkpoint_passes,
              double flops) const {
    const auto steps = static_cast<double>(b * l);
    const double bytes =
        4 * (steps * (rows_of_d * static_cast<double>(d) + 4.0 * static_cast<double>(n)) +
             checkpoint_passes * static_cast<double>(fwd.checkpoints.numel()));
    const double elements = steps * static_cast<double>(d * n);
    state.counters["per_bldn"] = benchmark::Counter(
        elements, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
    bench::report(state, bytes, flops * elements);
  }

  std::int64_t b, l, d, n;
  Tensor A_log;
  SelectiveScanFwdArgs fwd;
};

void scan_forward(benchmark::State& state) {
  const ScanCase c(state);
  for (auto _ : state) kernel::selective_scan_fwd({}, c.fwd);
  c.report(state, 4, 1, 7);
}

void scan_backward(benchmark::State& state) {
  const ScanCase c(state);
  kernel::selective_scan_fwd({}, c.fwd);
  SelectiveScanBwdArgs args;
  args.u = c.fwd.u, args.dt = c.fwd.dt, args.A_log = c.A_log, args.B = c.fwd.B, args.C = c.fwd.C;
  args.D = c.fwd.D, args.z = c.fwd.z, args.dt_bias = c.fwd.dt_bias;
  args.checkpoints = c.fwd.checkpoints;
  args.dout = random_tensor({c.b, c.l, c.d}, -1, 1);
  const bool frozen_A = state.range(4) == 0;
  for (Tensor* grad : {&args.du, &args.ddt, &args.dz}) *grad = Tensor::zeros({c.b, c.l, c.d});
  for (Tensor* grad : {&args.dB, &args.dC}) *grad = Tensor::zeros({c.b, c.l, c.n});
  if (!frozen_A) args.dA_log = Tensor::zeros({c.d, c.n});
  for (auto _ : state) kernel::selective_scan_bwd({}, args);
  c.report(state, 7, 1, 20);
}

void scan_step(benchmark::State& state) {
  const ScanCase c(state);
  SelectiveScanStepArgs args;
  const auto last = [&](const Tensor& t) { return t.select(1, c.l - 1); };
  args.u = last(c.fwd.u), args.dt = last(c.fwd.dt), args.A_log = c.A_log, args.B = last(c.fwd.B);
  args.C = last(c.fwd.C), args.D = c.fwd.D, args.z = last(c.fwd.z), args.dt_bias = c.fwd.dt_bias;
  args.h = Tensor::zeros({c.b, c.d, c.n});
  args.out = Tensor::zeros({c.b, c.d});
  for (auto _ : state) kernel::selective_scan_step({}, args);
}

void conv_forward(benchmark::State& state) {
  const std::int64_t d = state.range(2);
  const Tensor x = random_tensor({state.range(0), state.range(1), 2 * d}, -1, 1).slice(2, 0, d);
  const CausalConvFwdArgs args{x, random_tensor({d, 4}, -1, 1), random_tensor({d}, -1, 1),
                               Tensor::zeros(x.shape())};
  for (auto _ : state) kernel::causal_conv_silu_fwd({}, args);
  const auto elements = static_cast<double>(x.numel());
  bench::report(state, 8 * elements, 16 * elements);
}

void conv_backward(benchmark::State& state) {
  const std::int64_t d = state.range(2);
  const Tensor x = random_tensor({state.range(0), state.range(1), 2 * d}, -1, 1).slice(2, 0, d);
  CausalConvBwdArgs args{x,
                         random_tensor({d, 4}, -1, 1),
                         random_tensor({d}, -1, 1),
                         random_tensor(x.shape(), -1, 1),
                         Tensor::zeros(x.shape()),
                         Tensor::zeros({d, 4}),
                         Tensor::zeros({d})};
  if (state.range(4) == 0) args.dweight = args.dbias = Tensor();
  for (auto _ : state) kernel::causal_conv_silu_bwd({}, args);
  const auto elements = static_cast<double>(x.numel());
  bench::report(state, 12 * elements, 34 * elements);
}

// Batch, length, channels, states.
void shapes(benchmark::internal::Benchmark* bench) {
  bench->Args({4, 256, 1536, 16})->Args({1, 2048, 1536, 16})->Args({8, 512, 512, 16});
  bench->Unit(benchmark::kMillisecond)->UseRealTime();
}
// The same, with the parameters trained (1) or frozen (0).
void trained_shapes(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t trained : {1, 0}) {
    bench->Args({4, 256, 1536, 16, trained});
    bench->Args({1, 2048, 1536, 16, trained})->Args({8, 512, 512, 16, trained});
  }
  bench->Unit(benchmark::kMillisecond)->UseRealTime();
}

BENCHMARK(scan_forward)->Apply(shapes);
BENCHMARK(scan_backward)->Apply(trained_shapes);
BENCHMARK(scan_step)->Apply(shapes);
BENCHMARK(conv_forward)->Apply(shapes);
BENCHMARK(conv_backward)->Apply(trained_shapes);

}  // namespace
}  // namespace adder

BENCHMARK_MAIN();
