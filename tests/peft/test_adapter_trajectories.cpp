// Fine-tuning runs with adapters against PyTorch and Hugging Face PEFT, step by step.
#include <cmath>
#include <doctest/doctest.h>
#include <string>
#include <vector>

#include "autograd/optim.h"
#include "peft/adapter.h"
#include "tests/support/golden.h"
#include "tests/support/tiny_mamba.h"

using adder::Adapter;
using adder::SafetensorsFile;
using adder::Tensor;
using namespace adder::test;

namespace {

struct Run {
  SafetensorsFile shared = SafetensorsFile::open(golden_path("traj_shared.safetensors"));
  std::unique_ptr<adder::Mamba> model = golden_model(shared, "traj_shared");
  Tensor ids = as_ids(shared.load("batches/input_ids"));
  Tensor labels = as_ids(shared.load("batches/labels"));
  std::unique_ptr<Adapter> adapter;

  void attach(const std::string& json) {
    adapter = Adapter::attach(*model, adder::PeftConfig::parse(json, "test"), 1);
    // The golden runs' initial A, wherever the adapter keeps it.
    auto state = adapter->state();
    for (auto& [name, tensor] : state) {
      const std::string key = name.substr(name.rfind("backbone"));
      const std::string ending = ".lora_A.weight";
      if (key.size() > ending.size() && key.ends_with(ending)) {
        tensor = shared.load("lora_init/" + key.substr(0, key.size() - 7));
      }
    }
    adapter->load_state(state);
  }

  // Steps 0, 1, … of a 30-step schedule; every loss and gradient norm must agree.
  void train(std::int64_t steps, double lr, const Tensor& losses, const Tensor& norms) const {
    const auto optimizer = adder::make_adamw(adder::collect_trainables(model->parameters()));
    double worst = 0;
    double worst_norm = 0;
    for (std::int64_t k = 0; k < steps; ++k) {
      adder::Tape tape;
      adder::ForwardContext context;
      context.training = true;
      const auto loss =
          model->loss(ids.select(0, k).contiguous(), labels.select(0, k).contiguous(), context);
      tape.backward(loss.loss);
      adapter->accumulate_warmup_statistics();
      const double norm = adder::gradient_norm(optimizer->trainables());
      const double factor = adder::schedule_factor(adder::Schedule::linear, k, 30, 0);
      optimizer->step(lr * factor, adder::clip_factor(norm, 1));
      const double error = std::abs(loss.loss.value().item() / losses.item(k) - 1);
      const double norm_error = std::abs(norm / norms.item(k) - 1);
      CHECK(error <= 2e-4);
      CHECK(norm_error <= 1e-3);
      worst = std::max(worst, error);
      worst_norm = std::max(worst_norm, norm_error);
    }
    MESSAGE("largest relative error of a loss " << worst << ", of a gradient norm " << worst_norm);
  }

  Tensor trained(const std::string& name) const {
    for (const auto& [key, tensor] : adapter->state()) {
      if (key == name) return tensor;
    }
    return {};
  }

  void check_lora(const SafetensorsFile& golden) const {
    int compared = 0;
    for (const auto& entry : golden.entries()) {
      if (entry.name.rfind("final/backbone", 0) != 0) continue;
      CAPTURE(entry.name);
      const Tensor ours = trained(entry.name.substr(6) + ".weight");
      REQUIRE(ours.defined());
      CHECK(relative_error(ours, golden.load(entry.name)) <= 1e-3);
      ++compared;
    }
    CHECK(compared > 0);
  }
};

std::vector<std::int32_t> integers(const Tensor& tensor) {
  std::vector<std::int32_t> values;
  for (const double v : tensor.to_vector()) values.push_back(static_cast<std::int32_t>(v));
  return values;
}

void check_sdt(const std::string& name, int zero_channels) {
  const auto golden = SafetensorsFile::open(golden_path("traj_" + name + ".safetensors"));
  Run run;
  run.attach(adder::str(R"({"peft_type": "SD_LORA", "num_warmup_it": 9, "proj_lora_r": 4,
      "proj_lora_dropout": 0, "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"],
      "num_freeze": {"state": 0.5, "channel": 0.75}, "num_zero": {"state": 0, "channel": )",
                        zero_channels, "}}"));
  REQUIRE(run.adapter->warmup_forwards(30) == 10);
  run.train(10, 5e-3, golden.load("warmup_losses"), golden.load("warmup_grad_norms"));
  for (int i = 0; i < 2; ++i) {
    const auto parameter =
        run.model->find_parameter(adder::str("backbone.layers.", i, ".mixer.A_log"));
    const Tensor displacement = parameter->selections()[0]->delta.transpose(0, 1);
    CHECK(relative_error(displacement, golden.load(adder::str("displacement/", i))) <= 1e-3);
  }
  run.adapter->finish_warmup();
  for (int i = 0; i < 2; ++i) {
    const auto& selection = run.adapter->selections()[static_cast<std::size_t>(i)];
    CHECK(selection.channels == integers(golden.load(adder::str("train_channels/", i))));
    CHECK(selection.zero_channels == integers(golden.load(adder::str("zero_channels/", i))));
    std::vector<std::int32_t> states;
    for (const auto& kept : selection.states) {
      states.insert(states.end(), kept.begin(), kept.end());
    }
    CHECK(states == integers(golden.load(adder::str("train_states/", i))));
  }
  run.train(30, 5e-3, golden.load("losses"), golden.load("grad_norms"));
  run.check_lora(golden);
  for (int i = 0; i < 2; ++i) {
    const std::string mixer = adder::str("backbone.layers.", i, ".mixer.");
    for (const auto& [ours, theirs] :
         {std::pair{"A_log", "A_log"}, {"x_proj.x_proj_B", "B"}, {"x_proj.x_proj_C", "C"}}) {
      const Tensor trained = run.trained(mixer + ours + ".sdt_adapter");
      REQUIRE(trained.defined());
      CHECK(relative_error(trained.reshape({-1}),
                           golden.load(adder::str("final/sdt/", i, "/", theirs))) <= 1e-3);
    }
  }
}

}  // namespace

TEST_CASE("LoRA follows PEFT for 30 steps") {
  const auto golden = SafetensorsFile::open(golden_path("traj_lora.safetensors"));
  Run run;
  run.attach(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8,
                 "target_modules": ["in_proj", "out_proj"]})");
  run.train(30, 1e-2, golden.load("losses"), golden.load("grad_norms"));
  run.check_lora(golden);
}

TEST_CASE("SDT + LoRA follows PyTorch through both phases") {
  check_sdt("sdt", 0);
}

TEST_CASE("SDT with zeroed channels follows PyTorch through both phases") {
  check_sdt("sdt_zero", 2);
}
