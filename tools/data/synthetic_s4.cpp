#include "tools/data/synthetic_s4.h"

#include <algorithm>

#include "autograd/tape.h"
#include "engine/cpu/parallel.h"
#include "engine/random.h"

namespace adder::tools {
namespace {

constexpr std::int64_t kMany = std::int64_t{1} << 20;

// 0 … 9 from 32 random bits: the draw's place among ten equal parts (2^32 is no multiple of ten,
// which favours no digit by more than 2.4e-10).
float digit(std::uint32_t bits) {
  return static_cast<float>((std::uint64_t{bits} * 10) >> 32U);
}

// The largest channel of each position, the first of equal ones; (B, L, H) on the host.
Tensor largest_channel(const Tensor& values) {
  const std::int64_t channels = values.dim(2);
  const Tensor labels = Tensor::empty({values.dim(0), values.dim(1)}, Dtype::i32);
  const float* value = values.data<float>();
  auto* label = labels.data<std::int32_t>();
  cpu::parallel_for(labels.numel(), 1024, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float* row = value + i * channels;
      label[i] = static_cast<std::int32_t>(std::max_element(row, row + channels) - row);
    }
  });
  return labels;
}

}  // namespace

SyntheticOptions SyntheticOptions::from_overrides(const DataOverrides& overrides) {
  SyntheticOptions options;
  options.layers = option_number(overrides, "layers", options.layers, 1, 1000);
  options.states = option_number(overrides, "states", options.states, 1, 4096);
  options.length = option_number(overrides, "length", options.length, 1, kMany);
  options.target_seed =
      static_cast<std::uint64_t>(option_number(overrides, "target_seed", 1, 0, kMany * kMany));
  const auto task = overrides.find("task");
  if (task != overrides.end()) {
    if (task->second != "regression" && task->second != "classification") {
      throw ConfigError(
          str("data option task is \"", task->second, "\", must be regression or classification"));
    }
    options.classes = task->second == "classification";
  }
  return options;
}

SyntheticS4::SyntheticS4(const SyntheticOptions& options) : options_(options) {
  DeepS4Config config;
  config.mode = DeepS4Config::Mode::theory;
  config.d_model = options.channels;
  config.n_layers = options.layers;
  config.d_state = options.states;
  config.A_init = "random";
  target_ = DeepS4::init(config, options.target_seed);
  target_->to(options.device);
}

SequenceBatch SyntheticS4::batch(std::span<const std::int64_t> examples) const {
  if (examples.empty()) throw ShapeError("synthetic-s4: a batch of no examples");
  const auto count = static_cast<std::int64_t>(examples.size());
  const std::int64_t per_example = options_.length * options_.channels;
  const Tensor x = Tensor::empty({count, options_.length, options_.channels});
  auto* out = x.data<float>();
  for (const std::int64_t example : examples) {
    if (example < 0) throw ShapeError(str("synthetic-s4: example ", example));
  }
  cpu::parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const auto stream = static_cast<std::uint64_t>(examples[static_cast<std::size_t>(row)]);
      float* to = out + row * per_example;
      for (std::int64_t i = 0; i < per_example; i += 4) {
        const auto words = philox(options_.seed, stream, static_cast<std::uint64_t>(i / 4));
        const std::int64_t last = std::min<std::int64_t>(4, per_example - i);
        for (std::int64_t j = 0; j < last; ++j)
          to[i + j] = digit(words[static_cast<std::size_t>(j)]);
      }
    }
  });
  const Tape::Pause pause;
  SequenceBatch batch;
  batch.x = x.to(options_.device);
  const Tensor target = target_->forward(batch.x, {}).value();
  if (options_.classes) {
    batch.labels = largest_channel(target.to(Device{}).contiguous());
  } else {
    batch.target = target;
  }
  return batch;
}

}  // namespace adder::tools
