// A small random Mamba, and what tests of adapters do with it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "autograd/op_cases.h"
#include "engine/random.h"
#include "models/mamba.h"
#include "tests/support/temp_directory.h"

namespace adder::test {

inline MambaConfig tiny_config() {
  MambaConfig config;
  config.hidden_size = 12;
  config.num_layers = 2;
  config.vocab_size = 29;
  config.state_size = 5;
  config.conv_kernel = 4;
  config.inner_size = 24;
  config.time_step_rank = 3;
  return config;
}

// The tiny model with larger embeddings, so that its logits and gradients are not all alike.
inline std::unique_ptr<Mamba> tiny_mamba(std::uint64_t seed = 7) {
  MambaConfig config = tiny_config();
  config.initializer_range = 0.5;
  return Mamba::init(config, seed);
}

inline Tensor random_ids(Shape shape, std::int64_t vocab, std::uint64_t seed) {
  Random random(seed, 99);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(shape.numel()));
  for (auto& id : ids) {
    id = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocab)));
  }
  return Tensor::from(shape, ids);
}

// Everything that trains gets a value in U(-size, size).
inline void redraw_trainables(const Model& model, std::uint64_t seed, double size = 0.1) {
  std::uint64_t stream = 1000;
  for (const Trainable& trainable : collect_trainables(model.parameters())) {
    fill_uniform(trainable.value, -size, size, seed, stream++);
    trainable.apply();
  }
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() && a.to_vector() == b.to_vector();
}

}  // namespace adder::test
