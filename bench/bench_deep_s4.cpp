// A training step of the deep S4 of the synthetic experiment (theory mode, 64 channels, 4 layers,
// 16 states): seconds of each part and peak memory. bench/baselines/pytorch_deep_s4.py does the
// same in PyTorch.
//
//   bench_deep_s4 [BATCH=4000] [LENGTH=200] [ROUNDS=3]
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "autograd/optim.h"
#include "engine/cpu/parallel.h"
#include "engine/memory.h"
#include "engine/random.h"
#include "models/deep_s4.h"

using namespace adder;

int main(int argc, char** argv) {
  const auto argument = [&](int i, std::int64_t otherwise) {
    return argc > i ? std::atoll(argv[i]) : otherwise;
  };
  const std::int64_t batch = argument(1, 4000);
  const std::int64_t length = argument(2, 200);
  const std::int64_t rounds = argument(3, 3);
  DeepS4Config config;
  config.mode = DeepS4Config::Mode::theory;
  config.A_init = "random";
  const auto model = DeepS4::init(config, 1);
  for (const ParameterPtr& parameter : model->parameters()) parameter->train_dense();
  const auto optimizer = make_adamw(collect_trainables(model->parameters()));
  SequenceBatch data{Tensor::empty({batch, length, config.d_model}),
                     {},
                     Tensor::empty({batch, length, config.d_model})};
  fill_uniform(data.x, 0, 9, 1, 1);
  fill_uniform(data.target, 0, 5, 1, 2);
  double least_forward = 1e30;
  double least_step = 1e30;
  for (std::int64_t round = 0; round <= rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    const auto seconds = [&] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    Tape tape;
    const SequenceLoss loss = sequence_loss(*model, data, {});
    const double forward = seconds();
    tape.backward(loss.loss);
    optimizer->step(1e-3);
    if (round == 0 && rounds > 0) continue;  // memory is fresh, threads start
    least_forward = std::min(least_forward, forward);
    least_step = std::min(least_step, seconds());
  }
  std::printf(
      "{\"model\": \"deep_s4\", \"batch\": %lld, \"length\": %lld, \"threads\": %d, \"forward_s\": "
      "%.3f, "
      "\"step_s\": %.3f, \"peak_bytes\": %lld}\n",
      static_cast<long long>(batch), static_cast<long long>(length), cpu::num_threads(),
      least_forward, least_step, static_cast<long long>(memory_stats({}).peak_bytes));
}
