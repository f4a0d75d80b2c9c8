// Low rank on states and SDT on S4 models against PyTorch: outputs, gradients, what is selected,
// and whole runs of AdamW.
#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <fstream>
#include <nlohmann/json.hpp>

#include "autograd/optim.h"
#include "models/deep_s4.h"
#include "models/s4_stack.h"
#include "peft/adapter.h"
#include "peft/sdt_s4_selection.h"
#include "tests/support/differences.h"
#include "tests/support/golden.h"
#include "tests/support/golden_json.h"
#include "tests/support/tiny_mamba.h"

using namespace adder;
using namespace adder::test;
using nlohmann::json;

namespace {

using Indices = std::vector<std::int32_t>;

struct Run {
  explicit Run(const std::string& name, Dtype dtype = Dtype::f32)
      : golden(SafetensorsFile::open(golden_path("s4_adapter_" + name + ".safetensors"))) {
    const std::string config = golden.metadata().at("config");
    if (json::parse(config)["model_type"] == "s4") {
      model = std::make_unique<S4Stack>(S4StackConfig::from_json(config, name), dtype);
    } else {
      model = std::make_unique<DeepS4>(DeepS4Config::from_json(config, name), dtype);
    }
    for (const ParameterPtr& parameter : model->parameters()) {
      parameter->value().copy_from(golden.load("param/" + parameter->name()));
    }
    const PeftConfig peft = PeftConfig::parse(golden.metadata().at("adapter"), name);
    adapter = Adapter::attach(*model, peft, 3);
    for (const Trainable& trainable : collect_trainables(model->parameters())) {
      const std::string start = "start/" + trainable.name;
      if (golden.contains(start)) trainable.value.copy_from(golden.load(start));
    }
  }

  SequenceBatch batch(std::int64_t step) const {
    return {golden.load("x").select(0, step).contiguous(),
            golden.load("right").select(0, step).contiguous(),
            {}};
  }
  double loss(std::int64_t step) const {
    const Tape::Pause pause;
    return sequence_loss(*model, batch(step), {}).loss.value().item();
  }

  void train(const std::string& losses_name, double lr, double decay) const {
    const auto optimizer =
        make_adamw(collect_trainables(model->parameters()), {.weight_decay = decay});
    const Tensor losses = golden.load(losses_name);
    double worst = 0;
    for (std::int64_t step = 0; step < losses.numel(); ++step) {
      Tape tape;
      Var loss = sequence_loss(*model, batch(step), {.training = true}).loss;
      worst = std::max(worst, std::abs(loss.value().item() / losses.item(step) - 1));
      CHECK(std::abs(loss.value().item() - losses.item(step)) <= 2e-4 * losses.item(step));
      const Var penalty = adapter->warmup_penalty();
      if (penalty.defined()) loss = add(loss, penalty);
      tape.backward(loss);
      optimizer->step(lr);
    }
    MESSAGE(losses_name << ": largest relative error of a loss " << worst);
  }

  Indices integers(const std::string& name) const {
    Indices values;
    for (const double v : golden.load(name).to_vector()) values.push_back(static_cast<int>(v));
    return values;
  }
  void check_rows(const std::vector<Indices>& rows, const std::string& name, std::size_t i) const {
    Indices flat;
    Indices lengths;
    for (const Indices& row : rows) {
      flat.insert(flat.end(), row.begin(), row.end());
      lengths.push_back(static_cast<std::int32_t>(row.size()));
    }
    CHECK(flat == integers(str(name, "/", i)));
    CHECK(lengths == integers(str(name, "_lengths/", i)));
  }

  // The warm-up, if there is one, and the selection.
  void select() const {
    if (!adapter->needs_warmup()) return;
    const std::int64_t steps = adapter->warmup_forwards(1000);
    if (steps > 0) {
      REQUIRE(golden.load("warmup_losses").numel() == steps);
      train("warmup_losses", adapter->warmup_lr().value(), adapter->warmup_weight_decay().value());
    }
    adapter->set_probe(
        [this, trial = 0]() mutable { return loss(trial++ % golden.load("losses").numel()); });
    adapter->finish_warmup();
    for (std::size_t i = 0; i < adapter->selections().size(); ++i) {
      const LayerSelection& selection = adapter->selections()[i];
      CHECK(selection.select_channels == integers(str("select_channels/", i)));
      CHECK(selection.channels == integers(str("channels/", i)));
      check_rows(selection.states, "states", i);
      check_rows(selection.select_states, "select_states", i);
    }
  }

  SafetensorsFile golden;
  std::unique_ptr<SequenceModel> model;
  std::unique_ptr<Adapter> adapter;
};

const char* const kRuns[] = {"low_rank", "dplr", "sdt", "sdt_bilinear", "deep_soft", "deep_loss"};

}  // namespace

TEST_CASE("s4 adapters: outputs, gradients and 30 steps of AdamW are PyTorch's") {
  for (const char* name : kRuns) {
    CAPTURE(name);
    const Run run(name);
    run.select();
    const auto trainables = collect_trainables(run.model->parameters());
    {
      Tape tape;
      const Var loss = sequence_loss(*run.model, run.batch(0), {}).loss;
      const double expected = run.golden.load("loss").item();
      CHECK(std::abs(loss.value().item() - expected) <= 1e-6 * expected);
      tape.backward(loss);
    }
    std::size_t golden_gradients = 0;
    for (const auto& entry : run.golden.entries()) {
      golden_gradients += entry.name.rfind("grad/", 0) == 0;
    }
    CHECK(trainables.size() == golden_gradients);
    for (const Trainable& trainable : trainables) {
      CAPTURE(trainable.name);
      const Tensor gradient = run.golden.load("grad/" + trainable.name);
      CHECK(relative_error(trainable.grad(), gradient) <= 1e-4);
      trainable.clear_grad();
    }
    {
      const Tape::Pause pause;
      CHECK(relative_error(run.model->forward(run.batch(0).x, {}).value(), run.golden.load("y")) <=
            2e-5);
    }
    run.train("losses", std::stod(run.golden.metadata().at("lr")),
              std::stod(run.golden.metadata().at("decay")));
    for (const Trainable& trainable : trainables) {
      CAPTURE(trainable.name);
      CHECK(relative_error(trainable.value, run.golden.load("final/" + trainable.name)) <= 2e-3);
    }
  }
}

TEST_CASE("s4 adapters: every gradient of the official model by differences in float64") {
  for (const char* name : {"low_rank", "dplr", "sdt"}) {
    CAPTURE(name);
    const Run run(name, Dtype::f64);
    const auto trainables = collect_trainables(run.model->parameters());
    // Away from zero displacements; low rank starts there anyway.
    for (const Trainable& trainable : trainables) {
      if (trainable.selection) fill_uniform(trainable.value, -0.1, 0.1, 5, 1);
      trainable.apply();
    }
    {
      Tape tape;
      tape.backward(sequence_loss(*run.model, run.batch(0), {}).loss);
    }
    check_differences(trainables, 8, [&] { return run.loss(0); });
  }
}

TEST_CASE("sdt of s4: an independent implementation selects the same in the official model") {
  std::ifstream file(golden_path("sdt_s4_official_cases.json"));
  REQUIRE(file);
  const json cases = json::parse(file);
  CHECK(cases.size() == 26);
  for (const json& c : cases) {
    CAPTURE(c.dump());
    const std::int64_t H = c["channels"];
    const std::int64_t N = c["states"];
    const std::int64_t M = c["kernels"];
    const std::string rule = c["rule"];
    const Dtype dtype = rule == "compat" ? Dtype::f32 : Dtype::f64;
    const auto layer = [&](const json& value) {
      return S4Tensors{
          tensor(value["log_dt"], {H, 1}, dtype), tensor(value["log_A_real"], {H, N}, dtype),
          tensor(value["A_imag"], {H, N}, dtype), tensor(value["C"], {M, H, N, 2}, dtype),
          tensor(value["B"], {1, H, N, 2}, dtype)};
    };
    const S4Tensors now = layer(c["now"]);
    const S4Tensors before = layer(c["before"]);
    S4Options options;
    options.imag_sign = -1;
    S4Scores scores;
    if (rule == "displacement") {
      if (c["disc"] == "bilinear") options.method = S4Method::bilinear;
      scores = displacement_scores(now, before, c["power"], options);
    } else if (rule == "compat") {
      scores = compat_scores(now, before, c["power"], options);
    } else if (rule == "gradient") {
      scores = gradient_scores(now, tensor(c["output"], {3, 2 * H}, dtype));
    } else {
      scores = soft_scores(now, before, c["threshold"]);
    }
    const S4Counts counts{c["counts"][0], c["counts"][1], c["counts"][2], c["counts"][3]};
    const LayerSelection selection = select_s4("s4_layers.0.layer", scores, counts, rule == "soft");
    selection.check();
    const json& expected = c["expected"];
    CHECK(selection.select_channels == expected["select_channels"].get<Indices>());
    CHECK(selection.select_states == expected["select_states"].get<std::vector<Indices>>());
    CHECK(selection.channels == expected["channels"].get<Indices>());
    CHECK(selection.states == expected["states"].get<std::vector<Indices>>());
  }
}
