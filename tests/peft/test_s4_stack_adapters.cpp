// Adapters on the official S4 model: what of it they leave alone.
#include <doctest/doctest.h>

#include "autograd/optim.h"
#include "engine/random.h"
#include "models/s4_stack.h"
#include "peft/adapter.h"
#include "tests/support/tiny_mamba.h"

using namespace adder;
using namespace adder::test;

namespace {

std::unique_ptr<S4Stack> with_batch_norm() {
  S4StackConfig config;
  config.d_input = 2;
  config.d_output = 3;
  config.d_model = 6;
  config.n_layers = 2;
  config.d_state = 4;
  config.norm = "batch";
  auto model = S4Stack::init(config, 3);
  for (const BufferPtr& buffer : model->buffers()) {
    if (buffer->value.numel() > 1) fill_uniform(buffer->value, 0.5, 1.5, 7, 1);
  }
  return model;
}

SequenceBatch batch_of(std::uint64_t k) {
  const Tensor x = Tensor::empty({2, 9, 2});
  fill_uniform(x, -1, 1, 5, k);
  return {x, Tensor::from({2}, std::vector<std::int32_t>{2, 0}), {}};
}

}  // namespace

TEST_CASE("adapters: a base's running statistics stay, and an adapter is exact without them") {
  const auto model = with_batch_norm();
  const auto untouched = with_batch_norm();
  const auto adapter = Adapter::attach(
      *model,
      PeftConfig::parse(R"({"peft_type": "LORA", "r": 2, "target_modules": ["output_linear.0"]})",
                        "test"),
      3);
  const auto optimizer = make_adamw(collect_trainables(model->parameters()));
  double last = 0;
  for (std::uint64_t k = 0; k < 5; ++k) {
    Tape tape;
    const SequenceLoss loss = sequence_loss(*model, batch_of(1), {.training = true});
    last = loss.loss.value().item();
    tape.backward(loss.loss);
    optimizer->step(1e-2);
  }
  const Tape::Pause pause;
  for (std::size_t i = 0; i < model->buffers().size(); ++i) {
    CAPTURE(model->buffers()[i]->name);
    CHECK(same_bits(model->buffers()[i]->value, untouched->buffers()[i]->value));
  }
  // Training is on what evaluation sees.
  CHECK(sequence_loss(*model, batch_of(1), {}).loss.value().item() < last);
  const Tensor trained = model->forward(batch_of(2).x, {}).value();
  CHECK(relative_error(untouched->forward(batch_of(2).x, {}).value(), trained) > 1e-4);
  const TempDirectory directory;
  adapter->save(directory.path());
  const auto loaded = Adapter::load(*untouched, directory.path());
  CHECK(same_bits(untouched->forward(batch_of(2).x, {}).value(), trained));
}
