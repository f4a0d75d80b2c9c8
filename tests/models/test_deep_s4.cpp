// The deep S4 against PyTorch, its directories, and what it refuses.
#include <cmath>
#include <doctest/doctest.h>

#include "autograd/op_cases.h"
#include "autograd/optim.h"
#include "models/deep_s4.h"
#include "tests/support/differences.h"
#include "tests/support/golden.h"
#include "tests/support/tiny_mamba.h"

using namespace adder;
using namespace adder::test;

namespace {

struct Run {
  explicit Run(const std::string& name, Dtype dtype = Dtype::f32)
      : golden(SafetensorsFile::open(golden_path("deep_s4_" + name + ".safetensors"))),
        model(DeepS4Config::from_json(golden.metadata().at("config"), name), dtype) {
    for (const ParameterPtr& parameter : model.parameters()) {
      parameter->value().copy_from(golden.load("param/" + parameter->name()));
      parameter->train_dense();
    }
  }

  SequenceBatch batch(std::int64_t step) const {
    const Tensor right = golden.load("right").select(0, step).contiguous();
    const Tensor x = golden.load("x").select(0, step).contiguous();
    if (right.dtype() == Dtype::i32) return {x, right, {}};
    return {x, {}, right.to(model.parameters().front()->value().dtype())};
  }

  SafetensorsFile golden;
  DeepS4 model;
};

DeepS4Config small(DeepS4Config::Mode mode) {
  DeepS4Config config;
  config.mode = mode;
  config.d_model = 5;
  config.n_layers = 2;
  config.d_state = 3;
  config.d_input = 2;
  config.d_output = 4;
  return config;
}

}  // namespace

TEST_CASE("deep S4: outputs, losses and gradients are PyTorch's") {
  for (const char* name : {"regression", "positions", "classifier"}) {
    for (const bool recompute : {false, true}) {
      CAPTURE(name);
      CAPTURE(recompute);
      Run run(name);
      const SequenceBatch batch = run.batch(0);
      Tape tape;
      const SequenceLoss result = sequence_loss(run.model, batch, {.recompute = recompute});
      const double expected = run.golden.load("loss").item();
      CHECK(std::abs(result.loss.value().item() - expected) <= 1e-6 * expected);
      tape.backward(result.loss);
      for (const ParameterPtr& parameter : run.model.parameters()) {
        CAPTURE(parameter->name());
        const Tensor gradient = run.golden.load("grad/" + parameter->name());
        CHECK(relative_error(parameter->var().grad(), gradient) <= 1e-4);
      }
      const Tape::Pause pause;
      const Tensor y = run.model.forward(batch.x, {}).value();
      CHECK(relative_error(y, run.golden.load("y")) <= 2e-5);
    }
  }
}

TEST_CASE("deep S4: 30 steps of AdamW follow PyTorch") {
  for (const char* name : {"regression", "positions", "classifier"}) {
    CAPTURE(name);
    const Run run(name);
    const double lr = std::stod(run.golden.metadata().at("lr"));
    const double decay = std::stod(run.golden.metadata().at("decay"));
    const auto optimizer =
        make_adamw(collect_trainables(run.model.parameters()), {.weight_decay = decay});
    const Tensor losses = run.golden.load("losses");
    for (std::int64_t step = 0; step < losses.numel(); ++step) {
      CAPTURE(step);
      Tape tape;
      const SequenceLoss result = sequence_loss(run.model, run.batch(step), {});
      const double loss = result.loss.value().item();
      CHECK(std::abs(loss - losses.item(step)) <= 2e-4 * losses.item(step));
      tape.backward(result.loss);
      optimizer->step(lr);
    }
    for (const ParameterPtr& parameter : run.model.parameters()) {
      CAPTURE(parameter->name());
      CHECK(relative_error(parameter->value(), run.golden.load("final/" + parameter->name())) <=
            2e-3);
    }
  }
}

TEST_CASE("deep S4: every parameter's gradient by differences in float64") {
  Run run("classifier", Dtype::f64);
  const SequenceBatch batch = run.batch(0);
  {
    Tape tape;
    tape.backward(sequence_loss(run.model, batch, {}).loss);
  }
  const Tape::Pause pause;
  check_differences(run.model.parameters(), 1 << 20,
                    [&] { return sequence_loss(run.model, batch, {}).loss.value().item(); });
}

TEST_CASE("deep S4: a saved model loads to the same bits, low rank folded in") {
  for (const auto mode : {DeepS4Config::Mode::theory, DeepS4Config::Mode::standard}) {
    const auto model = DeepS4::init(small(mode), 3);
    const TempDirectory directory;
    model->save(directory.path());
    const auto loaded = load_sequence_model(directory.path());
    REQUIRE(loaded->parameters().size() == model->parameters().size());
    for (std::size_t i = 0; i < model->parameters().size(); ++i) {
      const Parameter& parameter = *model->parameters()[i];
      CAPTURE(parameter.name());
      CHECK(loaded->parameters()[i]->name() == parameter.name());
      CHECK(same_bits(loaded->parameters()[i]->value(), parameter.value()));
    }
    CHECK(loaded->pooled() == model->pooled());
    CHECK(loaded->input_size() == model->input_size());
    CHECK(loaded->output_size() == model->output_size());
  }
}

TEST_CASE("deep S4: parameters are those of the experiments") {
  DeepS4Config config;
  // The experiments' files have 512 more, of norms that are never applied.
  CHECK(DeepS4::init(config, 1)->parameter_count() == 34826 - 512);
  config.mode = DeepS4Config::Mode::theory;
  CHECK(DeepS4::init(config, 1)->parameter_count() == 33536);
  config.A_init = "random";
  const auto model = DeepS4::init(config, 1);
  double largest = 0;
  for (const double w : model->layers()[0]->A_imag.base->value().to_vector()) {
    CHECK(std::abs(w / 3.14159265358979 - std::round(w / 3.14159265358979)) <= 1e-5);
    largest = std::max(largest, w);
  }
  CHECK(largest > 30);
  CHECK(largest < 48);
}

TEST_CASE("deep S4: dropout of whole channels acts in training alone") {
  DeepS4Config config = small(DeepS4Config::Mode::standard);
  config.dropout = 0.5;
  const auto model = DeepS4::init(config, 3);
  const Tensor x = Tensor::empty({2, 9, 2});
  fill_uniform(x, -1, 1, 5, 1);
  const Tape::Pause pause;
  const Tensor still = model->forward(x, {}).value();
  CHECK(same_bits(model->forward(x, {.seed = 8}).value(), still));
  const Tensor a = model->forward(x, {.training = true, .seed = 8}).value();
  CHECK(relative_error(a, still) > 1e-3);
  CHECK(same_bits(model->forward(x, {.training = true, .seed = 8}).value(), a));
  const Tensor b = model->forward(x, {.training = true, .seed = 8, .micro_batch = 1}).value();
  CHECK(relative_error(a, b) > 1e-3);
}

TEST_CASE("deep S4: bad configurations, inputs and files are refused with numbers") {
  const auto refused = [](const std::string& text, const char* message) {
    CHECK_THROWS_WITH_AS(DeepS4Config::from_json(text, "c.json"), doctest::Contains(message),
                         ConfigError);
  };
  refused("[]", "c.json: not a JSON object");
  refused("{", "not valid JSON");
  refused(R"({"d_stat": 4})", "unknown key 'd_stat'; did you mean 'd_state'?");
  refused(R"({"d_state": 0})", "'d_state' is 0, expected from 1");
  refused(R"({"d_model": 1.5})", "'d_model' is 1.5, expected a whole number");
  refused(R"({"mode": "theorie"})", "did you mean 'theory'");
  refused(R"({"dropout": 1})", "'dropout' is 1");
  refused(R"({"mode": "theory", "d_input": 3})", "unknown key 'd_input'");

  const auto model = DeepS4::init(small(DeepS4Config::Mode::standard), 3);
  CHECK_THROWS_WITH_AS(model->forward(Tensor::zeros({2, 0, 2}), {}),
                       doctest::Contains("deep_s4: x is [2, 0, 2], expected (B, L, 2)"),
                       ShapeError);
  CHECK_THROWS_AS(model->forward(Tensor::zeros({2, 4, 3}), {}), ShapeError);
  const Tensor x = Tensor::zeros({2, 4, 2});
  const Tensor labels = Tensor::from({2}, std::vector<std::int32_t>{0, 4});
  CHECK_THROWS_WITH_AS(sequence_loss(*model, {x, labels, {}}, {}),
                       doctest::Contains("label 4 at position 1, the model has 4 classes"),
                       ShapeError);
  CHECK_THROWS_AS(sequence_loss(*model, {x, {}, {}}, {}), ShapeError);
  CHECK_THROWS_AS(sequence_loss(*model, {x, {}, Tensor::zeros({2, 3})}, {}), ShapeError);

  const TempDirectory directory;
  model->save(directory.path());
  const std::string weights = join_path(directory.path(), "model.safetensors");
  const SafetensorsFile file = SafetensorsFile::open(weights);
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const SafetensorsEntry& entry : file.entries()) {
    tensors.emplace_back(entry.name, file.load(entry.name).clone());
  }
  const auto with = [&](const std::string& name, const Tensor& value) {
    auto changed = tensors;
    for (auto& [key, tensor] : changed) {
      if (key == name) tensor = value;
    }
    remove_tree(weights);
    write_safetensors(weights, changed);
  };
  with("layers.1.kernel.C", Tensor::zeros({5, 4, 2}));
  CHECK_THROWS_WITH_AS(load_sequence_model(directory.path()),
                       doctest::Contains("layers.1.kernel.C is [5, 4, 2], expected [5, 3, 2]"),
                       IoError);
  with("layers.0.D", Tensor::full({5}, std::nan("")));
  CHECK_THROWS_WITH_AS(load_sequence_model(directory.path()),
                       doctest::Contains("layers.0.D holds NaN"), IoError);
}
