// Compares matrix product libraries on the training shapes of mamba-130m: the forward product
// y = x W^T of every projection, and its gradients dx = dy W and dW = dy^T x. Built once per
// library found at configure time; prints GF/s, best of several repetitions, for the thread counts
// given.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "engine/cpu/parallel.h"
#include "engine/cpu/sgemm.h"

namespace {

using adder::cpu::sgemm;

struct Projection {
  const char* name;
  std::int64_t rows, out, in;
};

constexpr Projection kProjections[] = {
    {"in_proj", 1024, 3072, 768},    {"out_proj", 1024, 768, 1536}, {"x_proj", 1024, 80, 1536},
    {"dt_proj", 1024, 1536, 48},     {"lora A", 1024, 8, 1536},     {"lora B", 1024, 768, 8},
    {"head chunk", 256, 50280, 768},
};

template <typename Body>
double best_seconds(const Body& body) {
  using Clock = std::chrono::steady_clock;
  double best = 1e30;
  double spent = 0;
  for (int i = 0; i < 200 && (i < 7 || spent < 0.15); ++i) {
    const auto start = Clock::now();
    body();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::min(best, seconds);
    spent += seconds;
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  std::printf("%s\n%-12s %5s %6s %5s", adder::cpu::sgemm_library(), "GF/s", "rows", "out", "in");
  std::vector<int> counts;
  for (int i = 1; i < argc; ++i) counts.push_back(std::atoi(argv[i]));
  if (counts.empty()) counts = {1, adder::cpu::num_threads()};
  for (const int threads : counts) {
    std::printf(" | %dT: %6s %6s %6s", threads, "y", "dx", "dW");
  }
  std::printf("\n");
  for (const auto& [name, rows, out, in] : kProjections) {
    std::vector<float> x(static_cast<std::size_t>(rows * in), 0.5F);
    std::vector<float> w(static_cast<std::size_t>(out * in), 0.25F);
    std::vector<float> y(static_cast<std::size_t>(rows * out), 1.F);
    std::printf("%-12s %5ld %6ld %5ld", name, static_cast<long>(rows), static_cast<long>(out),
                static_cast<long>(in));
    const double flops = 2e-9 * static_cast<double>(rows * out * in);
    for (const int threads : counts) {
      adder::cpu::set_num_threads(threads);
      const double forward = best_seconds([&] {
        sgemm(false, true, rows, out, in, 1, x.data(), in, w.data(), in, 0, y.data(), out);
      });
      const double dx = best_seconds([&] {
        sgemm(false, false, rows, in, out, 1, y.data(), out, w.data(), in, 0, x.data(), in);
      });
      const double dw = best_seconds([&] {
        sgemm(true, false, out, in, rows, 1, y.data(), out, x.data(), in, 0, w.data(), in);
      });
      std::printf(" |     %6.1f %6.1f %6.1f", flops / forward, flops / dx, flops / dw);
      std::fflush(stdout);
    }
    std::printf("\n");
  }
  return 0;
}
