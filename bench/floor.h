// What every micro-benchmark prints beside its time: rates, and the floor, the least time this
// machine needs: its bytes at the rate of reading memory or its operations at the rate of a large
// matrix product, whichever takes longer. Both rates are measured at the start. Tensors that stay
// in the caches can be faster than their bytes' floor.
#pragma once

#include <algorithm>
#include <benchmark/benchmark.h>
#include <chrono>
#include <cstring>
#include <vector>

#include "engine/cpu/parallel.h"
#include "engine/kernels/matmul.h"

namespace adder::bench {

template <typename F>
double least_seconds(int rounds, const F& f) {
  double least = 1e30;
  for (int i = 0; i < rounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    f();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    least = std::min(least, seconds.count());
  }
  return least;
}

// Bytes per second of reading 256 MB on all threads.
inline double read_rate() {
  static const double rate = [] {
    const Tensor x = Tensor::full({std::int64_t{1} << 26}, 1);
    const int threads = cpu::num_threads();
    std::vector<double> sums(static_cast<std::size_t>(threads) * 8);
    const double seconds = least_seconds(5, [&] {
      cpu::parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
        typedef float V __attribute__((vector_size(64)));
        V sum[4] = {};
        const float* data = x.data<float>();
        for (std::int64_t i = x.numel() * begin / threads; i < x.numel() * end / threads; i += 64) {
          for (int k = 0; k < 4; ++k) {
            V v;
            std::memcpy(&v, data + i + 16 * k, sizeof v);
            sum[k] += v;
          }
        }
        float total = 0;
        for (const V& v : sum) total += v[0];
        sums[static_cast<std::size_t>(begin) * 8] = static_cast<double>(total);
      });
    });
    benchmark::DoNotOptimize(sums.data());
    return static_cast<double>(x.nbytes()) / seconds;
  }();
  return rate;
}

// Operations per second of a product of 1024 x 768 with 768 x 3072.
inline double product_rate() {
  static const double rate = [] {
    const Tensor a = Tensor::full({1024, 768}, 0.01);
    const Tensor b = Tensor::full({3072, 768}, 0.01);
    const Tensor c = Tensor::empty({1024, 3072});
    const double seconds =
        least_seconds(5, [&] { kernel::matmul({}, {.a = a, .b = b, .c = c, .trans_b = true}); });
    return 2.0 * 1024 * 768 * 3072 / seconds;
  }();
  return rate;
}

// `bytes`: the tensors that must be read and written, once each. `flops`: additions and
// multiplications, exponentials counted as one each.
inline void report(benchmark::State& state, double bytes, double flops = 0) {
  const auto rounds = static_cast<double>(state.iterations());
  const auto rate = [&](double amount) {
    return benchmark::Counter(1e-9 * amount * rounds, benchmark::Counter::kIsRate);
  };
  state.counters["GB/s"] = rate(bytes);
  if (flops > 0) state.counters["GFLOP/s"] = rate(flops);
  state.counters["floor_us"] = 1e6 * std::max(bytes / read_rate(), flops / product_rate());
}

}  // namespace adder::bench
