// The norms of the official S4 model against PyTorch: batch norm in training and evaluation, its
// running statistics in every place that keeps them.
#include <cmath>
#include <doctest/doctest.h>

#include "autograd/op_cases.h"
#include "autograd/optim.h"
#include "engine/io/file.h"
#include "models/s4_stack.h"
#include "tests/support/golden.h"
#include "tests/support/tiny_mamba.h"

using namespace adder;
using namespace adder::test;

namespace {

struct Run {
  explicit Run(const std::string& name, Dtype dtype = Dtype::f32)
      : golden(SafetensorsFile::open(golden_path("s4_stack_" + name + ".safetensors"))),
        model(S4StackConfig::from_json(golden.metadata().at("config"), "golden"), dtype) {
    for (const ParameterPtr& parameter : model.parameters()) {
      parameter->value().copy_from(golden.load("param/" + parameter->name()));
      parameter->train_dense();
    }
    for (const BufferPtr& buffer : model.buffers()) {
      buffer->value.copy_from(golden.load("buffer/" + buffer->name));
    }
  }

  void check_buffers(const std::string& prefix, double tolerance) const {
    CHECK(model.buffers().size() % 3 == 0);
    for (const BufferPtr& buffer : model.buffers()) {
      CAPTURE(buffer->name);
      CHECK(relative_error(buffer->value.to(Dtype::f64), golden.load(prefix + buffer->name)) <=
            tolerance);
    }
  }

  SafetensorsFile golden;
  S4Stack model;
};

S4StackConfig small(const std::string& norm) {
  S4StackConfig config;
  config.d_input = 2;
  config.d_output = 3;
  config.d_model = 6;
  config.n_layers = 2;
  config.d_state = 4;
  config.prenorm = true;
  config.norm = norm;
  return config;
}

SequenceBatch batch_of(std::uint64_t k) {
  const Tensor x = Tensor::empty({2, 9, 2});
  fill_uniform(x, -1, 1, 5, k);
  return {x, Tensor::from({2}, std::vector<std::int32_t>{2, 0}), {}};
}

std::vector<Tensor> buffers_of(const Model& model) {
  std::vector<Tensor> values;
  for (const BufferPtr& buffer : model.buffers()) values.push_back(buffer->value.clone());
  return values;
}

bool same_buffers(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!same_bits(a[i], b[i])) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("batch norm: outputs, gradients and running statistics are PyTorch's") {
  for (const bool training : {true, false}) {
    for (const bool recompute : {false, true}) {
      CAPTURE(training);
      CAPTURE(recompute);
      Run run("batch");
      const std::string mode = training ? "train/" : "eval/";
      const SequenceBatch batch{run.golden.load("x"), run.golden.load("right"), {}};
      const ForwardContext context{.training = training, .recompute = recompute};
      Tape tape;
      const SequenceLoss result = sequence_loss(run.model, batch, context);
      const double expected = run.golden.load(mode + "loss").item();
      CHECK(std::abs(result.loss.value().item() - expected) <= 1e-6 * expected);
      tape.backward(result.loss);
      for (const ParameterPtr& parameter : run.model.parameters()) {
        CAPTURE(parameter->name());
        const Tensor exact = run.golden.load(mode + "grad/" + parameter->name());
        // What a batch's mean takes away, a bias in front of it, has no gradient.
        if (training && parameter->name() == "encoder.bias") {
          for (const double g : parameter->var().grad().to_vector()) CHECK(std::abs(g) <= 2e-6);
        } else {
          CHECK(relative_error(parameter->var().grad(), exact) <= 1e-4);
        }
      }
      if (!training) run.check_buffers("buffer/", 0);
      const Tape::Pause pause;
      CHECK(relative_error(run.model.forward(batch.x, context).value(),
                           run.golden.load(mode + "y")) <= 2e-5);
    }
  }
}

TEST_CASE("batch norm: running statistics see each batch once, also when layers run again") {
  for (const bool recompute : {false, true}) {
    CAPTURE(recompute);
    Run run("batch");
    const Tensor more = run.golden.load("more");
    for (std::int64_t k = 0; k < more.dim(0); ++k) {
      Tape tape;
      const SequenceBatch batch{more.select(0, k), run.golden.load("right"), {}};
      tape.backward(
          sequence_loss(run.model, batch, {.training = true, .recompute = recompute}).loss);
    }
    run.check_buffers("after/", 1e-6);
  }
}

TEST_CASE("batch norm: 30 steps of AdamW follow PyTorch's") {
  Run run("batch_steps");
  const auto optimizer =
      make_adamw(collect_trainables(run.model.parameters()), {.weight_decay = 0.01});
  const Tensor xs = run.golden.load("xs");
  const Tensor right = run.golden.load("right");
  const Tensor losses = run.golden.load("losses");
  REQUIRE(losses.numel() == 30);
  for (std::int64_t k = 0; k < losses.numel(); ++k) {
    CAPTURE(k);
    Tape tape;
    const SequenceLoss loss =
        sequence_loss(run.model, {xs.select(0, k), right.select(0, k), {}}, {.training = true});
    CHECK(std::abs(loss.loss.value().item() / losses.item(k) - 1) <= 2e-4);
    tape.backward(loss.loss);
    optimizer->step(5e-3);
  }
  run.check_buffers("after/", 2e-3);
}

TEST_CASE("norms: a model of each kind saves and loads to the same bits, buffers included") {
  for (const char* norm : {"layer", "layer_scalar", "batch", "instance", "group", "none"}) {
    CAPTURE(norm);
    S4StackConfig config = small(norm);
    config.pooling = "last";  // the mean over what instance norm has put about zero is zero
    const auto model = S4Stack::init(config, 3);
    const bool batch_norm = std::string(norm) == "batch";
    CHECK(model->buffers().size() == (batch_norm ? 9 : 0));
    for (const ParameterPtr& parameter : model->parameters()) parameter->train_dense();
    const auto optimizer = make_adamw(collect_trainables(model->parameters()));
    double first = 0;
    double last = 0;
    for (std::uint64_t step = 0; step < 40; ++step) {
      Tape tape;
      const SequenceLoss loss = sequence_loss(*model, batch_of(1), {.training = true});
      last = loss.loss.value().item();
      if (step == 0) first = last;
      tape.backward(loss.loss);
      optimizer->step(1e-2);
    }
    CHECK(last < 0.5 * first);
    const TempDirectory directory;
    model->save(directory.path(), Dtype::bf16);
    model->save(directory.path());
    const auto loaded = load_sequence_model(directory.path());
    CHECK(same_buffers(buffers_of(*loaded), buffers_of(*model)));
    if (batch_norm) CHECK(loaded->buffers().back()->value.item() == 40);
    const Tape::Pause pause;
    CHECK(same_bits(loaded->forward(batch_of(2).x, {}).value(),
                    model->forward(batch_of(2).x, {}).value()));
  }
}

TEST_CASE("batch norm: frozen buffers stay, and training is evaluation") {
  const auto model = S4Stack::init(small("batch"), 3);
  const Tape::Pause pause;
  for (std::uint64_t k = 0; k < 3; ++k) model->forward(batch_of(k).x, {.training = true});
  const auto before = buffers_of(*model);
  const Tensor still = model->forward(batch_of(7).x, {}).value();
  CHECK(relative_error(model->forward(batch_of(7).x, {.training = true}).value(), still) > 1e-3);
  CHECK(!same_buffers(buffers_of(*model), before));
  for (std::size_t i = 0; i < before.size(); ++i) model->buffers()[i]->value.copy_from(before[i]);
  model->freeze_buffers();
  CHECK(same_bits(model->forward(batch_of(7).x, {.training = true}).value(), still));
  CHECK(same_buffers(buffers_of(*model), before));
}

TEST_CASE("norms: a variance of one value and bad running statistics are refused") {
  const Tensor one = Tensor::full({1, 1, 2}, 0.5);
  for (const char* norm : {"batch", "instance"}) {
    const auto model = S4Stack::init(small(norm), 3);
    CHECK_THROWS_WITH_AS(model->forward(one, {.training = true}),
                         doctest::Contains("that of one value"), ShapeError);
  }
  // In evaluation batch norm asks for no variance of its own.
  CHECK(S4Stack::init(small("batch"), 3)->forward(one, {}).shape() == Shape{1, 3});

  const auto model = S4Stack::init(small("batch"), 3);
  const TempDirectory directory;
  const auto refused = [&](const std::string& name, const Tensor& value, const char* message) {
    model->save(directory.path());
    const std::string weights = join_path(directory.path(), "model.safetensors");
    std::vector<std::pair<std::string, Tensor>> tensors;
    const SafetensorsFile file = SafetensorsFile::open(weights);
    for (const SafetensorsEntry& entry : file.entries()) {
      if (entry.name != name) tensors.emplace_back(entry.name, file.load(entry.name).clone());
    }
    if (value.defined()) tensors.emplace_back(name, value);
    remove_tree(weights);
    write_safetensors(weights, tensors);
    CHECK_THROWS_WITH_AS(load_sequence_model(directory.path()), doctest::Contains(message),
                         IoError);
  };
  refused("norms.1.running_mean", {}, "norms.1.running_mean");
  refused("norms.1.running_mean", Tensor::zeros({5}), "norms.1.running_mean is [5], expected [6]");
  refused("norms.0.running_mean", Tensor::full({6}, std::nan("")), "holds NaN");
  refused("norm.running_var", Tensor::full({6}, -0.5), "norm.running_var is -0.5 at 0");
  refused("norm.num_batches_tracked", Tensor::zeros({}), "is float32, expected int64");
}
