// Adapters on the official S4 model: what of it they leave alone.
#include <cmath>
#include <doctest/doctest.h>

#include "autograd/optim.h"
#include "engine/error.h"
#include "engine/random.h"
#include "models/s4_stack.h"
#include "peft/adapter.h"
#include "tests/support/s4_variants.h"
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

namespace {

// The minimal S4D, and the official block with the norm before it; running statistics of either
// are not those that a batch of the tests has.
std::vector<S4Variant> batch_norms() {
  std::vector<S4Variant> all = {minimal_variant("batch"), bottleneck_variant()};
  all[1].config.norm = "batch";
  all[1].config.prenorm = true;
  return all;
}

std::vector<Tensor> statistics(const Model& model) {
  std::vector<Tensor> values;
  for (const BufferPtr& buffer : model.buffers()) values.push_back(buffer->value.clone());
  return values;
}

bool same_statistics(const Model& model, const std::vector<Tensor>& values) {
  bool same = model.buffers().size() == values.size() && !values.empty();
  for (std::size_t i = 0; same && i < values.size(); ++i) {
    same = same_bits(model.buffers()[i]->value, values[i]);
  }
  return same;
}

}  // namespace

TEST_CASE("adapters: running statistics stay in a warm-up, in training and in passes done again") {
  for (const S4Variant& variant : batch_norms()) {
    for (const std::string& json : {variant.lora(), variant.sdt("displacement"),
                                    variant.sdt("loss"), variant.sdt("gradient")}) {
      CAPTURE(variant.name);
      CAPTURE(json);
      const auto model = variant_model(variant);
      const auto before = statistics(*model);
      {
        // Without an adapter they would move, and the loss would be that of the batch's own.
        const auto other = variant_model(variant);
        const Tape::Pause pause;
        const double training =
            sequence_loss(*other, s4_batch(*other, 1), {.training = true}).loss.value().item();
        CHECK_FALSE(same_statistics(*other, before));
        CHECK(std::abs(training - s4_loss(*model, 1)) > 1e-4);
      }
      const auto adapter = attach(*model, json);
      s4_warm_up(*model, *adapter);
      CHECK(same_statistics(*model, before));
      const auto optimizer = s4_optimizer(*model);
      for (unsigned step = 0; step < 4; ++step) {
        const double evaluated = s4_loss(*model, 100 + step);
        CHECK(s4_step(*model, *optimizer, *adapter, step) == evaluated);
      }
      {
        Tape tape;
        const Var loss =
            sequence_loss(*model, s4_batch(*model, 1), {.training = true, .recompute = true}).loss;
        CHECK(loss.value().item() == s4_loss(*model, 1));
        tape.backward(loss);
        for (const Trainable& trainable : collect_trainables(model->parameters())) {
          trainable.clear_grad();
        }
      }
      CHECK(same_statistics(*model, before));

      // The adapter alone has the validation loss, beside its base.
      const double validation = s4_loss(*model, 7);
      const TempDirectory directory;
      adapter->save(directory.path());
      for (const auto& [name, tensor] : SavedAdapter::read(directory.path()).tensors) {
        CHECK(name.find("running") == std::string::npos);
        CHECK(name.find("num_batches") == std::string::npos);
      }
      const auto base = variant_model(variant);
      const auto loaded = Adapter::load(*base, directory.path());
      CHECK(s4_loss(*base, 7) == validation);
      // Merged, with the base's statistics in the model's file.
      loaded->merge_into_weights();
      const TempDirectory written;
      base->save(written.path());
      const auto merged = S4Stack::load(written.path());
      CHECK(same_statistics(*merged, before));
      CHECK(std::abs(s4_loss(*merged, 7) - validation) <= 1e-5 * validation);
      CHECK_FALSE(merged->buffers_frozen());
    }
  }
}

TEST_CASE("adapters: a single value is enough for frozen statistics, and none for the batch's") {
  const S4Variant variant = minimal_variant("batch");
  const auto model = variant_model(variant);
  const Tensor x = Tensor::from({1, 1, 2}, std::vector<float>{0.5F, -1.0F});
  const Tape::Pause pause;
  CHECK_THROWS_AS(model->forward(x, {.training = true}), ShapeError);
  const auto adapter = attach(*model, variant.lora());
  CHECK(same_bits(model->forward(x, {.training = true}).value(), model->forward(x, {}).value()));
}
