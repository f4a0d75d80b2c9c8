// Small random S4 models, and what tests of adapters do with them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "autograd/optim.h"
#include "engine/random.h"
#include "models/deep_s4.h"
#include "models/s4_stack.h"
#include "peft/adapter.h"

namespace adder::test {

inline std::unique_ptr<DeepS4> tiny_s4(DeepS4Config::Mode mode = DeepS4Config::Mode::standard,
                                       std::int64_t channels = 6, std::int64_t states = 4) {
  DeepS4Config config;
  config.mode = mode;
  config.d_model = channels;
  config.n_layers = 2;
  config.d_state = states;
  config.d_input = 2;
  config.d_output = 3;
  return DeepS4::init(config, 11);
}

// The official model: 6 channels, 4 stored modes, two layers.
inline S4StackConfig tiny_stack_config() {
  S4StackConfig config;
  config.d_input = 2;
  config.d_output = 3;
  config.d_model = 6;
  config.n_layers = 2;
  config.d_state = 8;
  config.l_max = 16;
  return config;
}
inline std::unique_ptr<S4Stack> tiny_stack(const S4StackConfig& config = tiny_stack_config()) {
  return S4Stack::init(config, 11);
}

inline SequenceBatch s4_batch(const SequenceModel& model, std::uint64_t seed) {
  const std::int64_t length = 10;
  SequenceBatch batch;
  batch.x = Tensor::empty({4, length, model.input_size()}, Dtype::f32);
  fill_normal(batch.x, 0, 1, seed, 1);
  const std::int64_t out = model.output_size();
  batch.target = Tensor::empty(model.pooled() ? Shape{4, out} : Shape{4, length, out}, Dtype::f32);
  fill_normal(batch.target, 0, 1, seed, 2);
  return batch;
}

inline double s4_loss(const SequenceModel& model, std::uint64_t seed) {
  const Tape::Pause pause;
  return sequence_loss(model, s4_batch(model, seed), {}).loss.value().to_vector()[0];
}

inline Tensor s4_output(const SequenceModel& model, std::uint64_t seed) {
  const Tape::Pause pause;
  return model.forward(s4_batch(model, seed).x, {}).value();
}

inline std::unique_ptr<Optimizer> s4_optimizer(const Model& model) {
  return make_adamw(collect_trainables(model.parameters()), {.weight_decay = 0.01});
}

// One update on a batch of its own, as the trainer does it. Returns the loss before it.
inline double s4_step(SequenceModel& model, Optimizer& optimizer, Adapter& adapter,
                      std::uint64_t step, double lr = 0.01) {
  Tape tape;
  Var loss = sequence_loss(model, s4_batch(model, 100 + step), {.training = true}).loss;
  const double value = loss.value().to_vector()[0];
  const Var penalty = adapter.warmup_penalty();
  if (penalty.defined()) loss = add(loss, penalty);
  tape.backward(loss);
  adapter.accumulate_warmup_statistics();
  optimizer.step(lr);
  return value;
}

// What the trainer does between attaching and the training proper.
inline void s4_warm_up(SequenceModel& model, Adapter& adapter) {
  if (!adapter.needs_warmup()) return;
  adapter.set_probe([&model, probe = 0]() mutable { return s4_loss(model, 900 + probe++ % 4); });
  const std::int64_t steps = adapter.warmup_forwards(1000);
  if (steps > 0) {
    const auto optimizer = s4_optimizer(model);
    for (std::int64_t step = 0; step < steps; ++step) {
      s4_step(model, *optimizer, adapter, static_cast<std::uint64_t>(step),
              adapter.warmup_lr().value());
    }
  }
  adapter.finish_warmup();
}

inline std::map<std::string, Tensor> s4_values(const Model& model) {
  std::map<std::string, Tensor> values;
  for (const ParameterPtr& parameter : model.parameters()) {
    values[parameter->name()] = parameter->value().clone();
  }
  return values;
}

}  // namespace adder::test
