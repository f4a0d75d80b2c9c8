// The official S4 model against PyTorch, its directories, and what it refuses.
#include <cmath>
#include <doctest/doctest.h>

#include "autograd/op_cases.h"
#include "autograd/optim.h"
#include "models/s4_stack.h"
#include "tests/support/differences.h"
#include "tests/support/golden.h"
#include "tests/support/tiny_mamba.h"

using namespace adder;
using namespace adder::test;

namespace {

struct Run {
  // `smooth`: without a ReLU's edge, which differences may step over.
  explicit Run(const std::string& name, Dtype dtype = Dtype::f32, bool smooth = false)
      : golden(SafetensorsFile::open(golden_path("s4_stack_" + name + ".safetensors"))),
        model(config_of(golden, smooth), dtype),
        batch{golden.contains("x") ? golden.load("x") : Tensor(), golden.load("right"), {}} {
    for (const ParameterPtr& parameter : model.parameters()) {
      const Tensor value = golden.load("param/" + parameter->name());
      parameter->value().copy_from(value.reshape(parameter->value().shape()));
      parameter->train_dense();
    }
    for (const BufferPtr& buffer : model.buffers()) {
      buffer->value.copy_from(golden.load("buffer/" + buffer->name));
    }
  }

  static S4StackConfig config_of(const SafetensorsFile& file, bool smooth) {
    S4StackConfig config = S4StackConfig::from_json(file.metadata().at("config"), "golden");
    if (smooth) config.activation = "gelu";
    return config;
  }

  double loss() const {
    const Tape::Pause pause;
    return sequence_loss(model, batch, {}).loss.value().item();
  }

  SafetensorsFile golden;
  S4Stack model;
  SequenceBatch batch;
};

S4StackConfig small() {
  S4StackConfig config;
  config.d_input = 2;
  config.d_output = 3;
  config.d_model = 6;
  config.n_layers = 2;
  config.d_state = 4;
  config.l_max = 16;
  return config;
}

Tensor random_sequence(Shape shape) {
  const Tensor x = Tensor::empty(shape);
  fill_uniform(x, -1, 1, 5, 1);
  return x;
}

SequenceBatch small_batch() {
  return {random_sequence({2, 13, 2}), Tensor::from({2}, std::vector<std::int32_t>{2, 0}), {}};
}

double loss_of(const SequenceModel& model) {
  const Tape::Pause pause;
  return sequence_loss(model, small_batch(), {}).loss.value().item();
}

// Trains for 20 steps, saves and loads, and checks that every bit came back. Returns the last loss.
double train_to_save(S4Stack& model) {
  for (const ParameterPtr& parameter : model.parameters()) parameter->train_dense();
  const auto optimizer = make_adamw(collect_trainables(model.parameters()));
  for (int step = 0; step < 20; ++step) {
    Tape tape;
    tape.backward(sequence_loss(model, small_batch(), {}).loss);
    optimizer->step(1e-2);
  }
  const TempDirectory directory;
  model.save(directory.path());
  const auto loaded = load_sequence_model(directory.path());
  for (std::size_t i = 0; i < model.parameters().size(); ++i) {
    CHECK(loaded->parameters()[i]->name() == model.parameters()[i]->name());
    CHECK(same_bits(loaded->parameters()[i]->value(), model.parameters()[i]->value()));
  }
  const Tape::Pause pause;
  const Tensor x = small_batch().x;
  CHECK(same_bits(loaded->forward(x, {}).value(), model.forward(x, {}).value()));
  return loss_of(model);
}

}  // namespace

TEST_CASE("S4 model: outputs, losses and gradients are PyTorch's") {
  for (const char* name :
       {"diagonal", "low_rank", "instance", "group", "scalar", "gated", "no_linear", "minimal"}) {
    for (const bool recompute : {false, true}) {
      CAPTURE(name);
      CAPTURE(recompute);
      Run run(name);
      Tape tape;
      const SequenceLoss result = sequence_loss(run.model, run.batch, {.recompute = recompute});
      const double expected = run.golden.load("loss").item();
      CHECK(std::abs(result.loss.value().item() - expected) <= 1e-6 * expected);
      tape.backward(result.loss);
      for (const ParameterPtr& parameter : run.model.parameters()) {
        CAPTURE(parameter->name());
        const Tensor gradient = run.golden.load("grad/" + parameter->name());
        CHECK(relative_error(parameter->var().grad(),
                             gradient.reshape(parameter->value().shape())) <= 1e-4);
      }
      const Tape::Pause pause;
      CHECK(relative_error(run.model.forward(run.batch.x, {}).value(), run.golden.load("y")) <=
            2e-5);
    }
  }
}

TEST_CASE("S4 model: every parameter's gradient by differences in float64") {
  for (const char* name : {"diagonal", "low_rank", "batch", "instance", "group", "scalar", "gated",
                           "no_linear", "minimal"}) {
    CAPTURE(name);
    Run run(name, Dtype::f64, true);
    {
      Tape tape;
      tape.backward(sequence_loss(run.model, run.batch, {}).loss);
    }
    // All entries would take a minute.
    check_differences(run.model.parameters(), 5, [&] { return run.loss(); });
  }
}

TEST_CASE("S4 model: every initial state trains, saves and loads to the same bits") {
  for (const auto& [mode, init, disc] : {std::tuple{"diag", "legs", "zoh"},
                                         {"diag", "diag-lin", "bilinear"},
                                         {"diag", "diag-inv", "dss"},
                                         {"dplr", "legs", "bilinear"},
                                         {"dplr", "fourier", "bilinear"}}) {
    CAPTURE(mode);
    CAPTURE(init);
    S4StackConfig config = small();
    config.mode = mode;
    config.init = init;
    config.disc = disc;
    const auto model = S4Stack::init(config, 3);
    const double first = loss_of(*model);
    CHECK(train_to_save(*model) < 0.5 * first);
  }
}

TEST_CASE("S4 model: the minimal S4D keeps its checkpoints' names and shapes") {
  Run run("minimal");
  const TempDirectory directory;
  run.model.save(directory.path());
  const auto file = SafetensorsFile::open(join_path(directory.path(), "model.safetensors"));
  std::size_t parameters = 0;
  for (const SafetensorsEntry& entry : run.golden.entries()) {
    if (entry.name.rfind("param/", 0) != 0) continue;
    ++parameters;
    CAPTURE(entry.name);
    REQUIRE(file.contains(entry.name.substr(6)));
    CHECK(same_bits(file.load(entry.name.substr(6)), run.golden.load(entry.name)));
  }
  CHECK(file.entries().size() == parameters);
  CHECK(file.load("s4_layers.1.output_linear.0.weight").shape() == Shape{12, 6, 1});
  const auto loaded = load_sequence_model(directory.path());
  const Tape::Pause pause;
  CHECK(same_bits(loaded->forward(run.batch.x, {}).value(),
                  run.model.forward(run.batch.x, {}).value()));
  CHECK(loaded->description() == "minimal S4D, 2 layers, 6 channels, 8 states");
}

TEST_CASE("S4 model: every kind of block trains, saves and loads to the same bits") {
  for (
      const char* text :
      {R"({"layer": "s4d", "d_model": 6, "d_state": 4, "n_layers": 2, "d_input": 2, "d_output": 3})",
       R"({"bottleneck": 3, "d_model": 6, "d_state": 4, "n_layers": 2, "d_input": 2, "d_output": 3,
            "mode": "dplr", "l_max": 16})",
       R"({"gate": 2, "mult_act": "gelu", "bidirectional": true, "d_model": 6, "d_state": 4,
            "n_layers": 2, "d_input": 2, "d_output": 3, "final_act": "none"})",
       R"({"gate": 1, "bottleneck": 2, "gate_act": "elu", "d_model": 6, "d_state": 4, "n_layers": 2,
            "d_input": 2, "d_output": 3, "final_act": null})"}) {
    CAPTURE(std::string(text));
    const auto model = S4Stack::init(S4StackConfig::from_json(text, "c.json"), 3);
    const double first = loss_of(*model);
    CHECK(train_to_save(*model) < 0.75 * first);
  }
}

TEST_CASE("S4 model: a low-rank layer's stored length doubles without changing the function") {
  S4StackConfig config = small();
  config.mode = "dplr";
  config.disc = "bilinear";
  const auto model = S4Stack::init(config, 3);
  const Tape::Pause pause;
  const Tensor x = random_sequence({2, 16, 2});
  const Tensor before = model->forward(x, {}).value();
  CHECK_THROWS_WITH_AS(model->forward(random_sequence({1, 40, 2}), {}),
                       doctest::Contains("stored for sequences of up to 16, this one has 40"),
                       ShapeError);
  model->reserve_length(40);
  CHECK(model->blocks()[0]->l_kernel == 64);
  CHECK(relative_error(model->forward(x, {}).value(), before) <= 1e-5);
  CHECK(model->forward(random_sequence({1, 40, 2}), {}).shape() == Shape{1, 3});
  const TempDirectory directory;
  model->save(directory.path());
  const auto loaded = S4Stack::load(directory.path());
  CHECK(loaded->blocks()[1]->l_kernel == 64);
}

TEST_CASE("S4 model: both kinds of dropout act in training alone") {
  for (const bool tied : {false, true}) {
    S4StackConfig config = small();
    config.dropout = 0.5;
    config.tie_dropout = tied;
    const auto model = S4Stack::init(config, 3);
    const Tensor x = random_sequence({2, 9, 2});
    const Tape::Pause pause;
    const Tensor still = model->forward(x, {}).value();
    const Tensor a = model->forward(x, {.training = true, .seed = 8}).value();
    CHECK(relative_error(a, still) > 1e-3);
    CHECK(same_bits(model->forward(x, {.training = true, .seed = 8}).value(), a));
  }
}

TEST_CASE("S4 model: bad configurations and files are refused with numbers") {
  const auto refused = [](const std::string& text, const char* message) {
    CHECK_THROWS_WITH_AS(S4StackConfig::from_json(text, "c.json"), doctest::Contains(message),
                         ConfigError);
  };
  refused(R"({"d_state": 7})", "'d_state' is 7, expected an even number");
  refused(R"({"d_model": 6, "n_ssm": 4})", "'n_ssm' is 4, which does not divide d_model 6");
  refused(R"({"mode": "dplr", "disc": "zoh"})", "'disc' is \"zoh\", expected one of bilinear");
  refused(R"({"norm": "bach"})",
          "expected one of layer, layer_scalar, batch, instance, group, none");
  refused(R"({"d_model": 6, "bottleneck": 4})",
          "'bottleneck' is 4, which does not divide d_model 6");
  refused(R"({"d_model": 6, "bottleneck": 2, "n_ssm": 6})",
          "'n_ssm' is 6, which does not divide d_model / bottleneck 3");
  refused(R"({"bottleneck": 0})", "'bottleneck' is 0");
  refused(R"({"gate": -1})", "'gate' is -1");
  refused(R"({"gate_act": "gelu"})", "'gate_act' is given without 'gate'");
  refused(R"({"d_model": 6, "gate": 2, "final_act": null})", "12 features come out of the layer");
  refused(R"({"final_act": "gluu"})", "did you mean 'glu'");
  refused(R"({"activation": "glu"})", "'activation' is \"glu\", expected one of gelu, relu");
  refused(R"({"layer": "s5"})", "expected one of s4, s4d");
  refused(R"({"layer": "s4d", "mode": "dplr"})", "unknown key 'mode'");
  refused(R"({"pool": "mean"})", "unknown key 'pool'");
  CHECK_THROWS_AS(S4Stack::init(S4StackConfig::from_json(R"({"init": "lags"})", "c.json"), 1),
                  ConfigError);

  S4StackConfig config = small();
  config.mode = "dplr";
  config.disc = "bilinear";
  const auto model = S4Stack::init(config, 3);
  const TempDirectory directory;
  model->save(directory.path());
  const std::string weights = join_path(directory.path(), "model.safetensors");
  std::vector<std::pair<std::string, Tensor>> tensors;
  const SafetensorsFile file = SafetensorsFile::open(weights);
  for (const SafetensorsEntry& entry : file.entries()) {
    Tensor value = file.load(entry.name).clone();
    if (entry.name == "s4_layers.1.layer.kernel.l_kernel") value.fill(-3);
    tensors.emplace_back(entry.name, value);
  }
  remove_tree(weights);
  write_safetensors(weights, tensors);
  CHECK_THROWS_WITH_AS(load_sequence_model(directory.path()),
                       doctest::Contains("l_kernel is [] starting with -3"), IoError);
}
