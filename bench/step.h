// What the benchmarks of whole training steps share, on any device.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "autograd/optim.h"
#include "engine/random.h"
#include "models/mamba.h"
#include "models/train_step.h"
#include "peft/adapter.h"

namespace adder::bench {

inline constexpr const char* kSdt =
    R"({"peft_type": "SD_LORA", "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"],
        "num_zero": {"state": 0, "channel": 0}, "num_freeze": {"state": 0.75, "channel": 0.99},
        "proj_lora_r": 8, "num_warmup_it": 0, "selection": "random"})";
inline constexpr const char* kLora =
    R"({"peft_type": "LORA", "target_modules": ["out_proj"], "r": 8, "lora_alpha": 8,
        "lora_dropout": 0.1})";

inline double seconds_of(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

inline MambaConfig shape_130m(std::int64_t layers = 24) {
  MambaConfig config;
  config.num_layers = layers;
  return config;
}

inline Tensor random_ids(std::int64_t batch, std::int64_t length, std::uint64_t seed,
                         std::uint64_t vocabulary = 50000) {
  Random random(seed);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(batch * length));
  for (std::int32_t& id : ids) id = static_cast<std::int32_t>(random.below(vocabulary));
  return Tensor::from({batch, length}, ids);
}

// A model with an adapter and its optimiser, and training steps of theirs as the trainer takes
// them: on a device, a small batch's second step and all further ones are replays.
struct Trainee {
  std::unique_ptr<Mamba> model;
  std::unique_ptr<Adapter> adapter;
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<TrainStep> train_step;
  std::uint64_t steps = 0;

  Trainee(std::unique_ptr<Mamba> base, const char* peft)
      : model(std::move(base)),
        adapter(Adapter::attach(*model, PeftConfig::parse(peft, "bench"), 1)),
        optimizer(make_adamw(collect_trainables(model->parameters()))),
        train_step(std::make_unique<TrainStep>(*model, *optimizer,
                                               TrainStepOptions{.seed = 1, .max_norm = 1})) {}

  // ids and labels (B, L) lie on the host.
  void step(const Tensor& ids, const Tensor& labels) {
    train_step->run({{ids, labels}}, steps++, 1e-4);
  }
};

// The ratios of b's step to a's, in ABBA order, so that a drift of the machine cancels. `timed` is
// called with a step and returns its seconds.
inline std::vector<double> step_ratios(
    int rounds, const std::function<void()>& a, const std::function<void()>& b,
    const std::function<double(const std::function<void()>&)>& timed) {
  a();
  b();
  std::vector<double> ratios;
  for (int i = 0; i < rounds; ++i) {
    const double a0 = timed(a);
    const double b0 = timed(b);
    const double b1 = timed(b);
    const double a1 = timed(a);
    ratios.push_back((b0 + b1) / (a0 + a1));
  }
  return ratios;
}

}  // namespace adder::bench
