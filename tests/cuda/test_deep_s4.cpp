// Training of S4 models on the device, against the same runs on the CPU.
#include <cmath>

#include "autograd/optim.h"
#include "models/deep_s4.h"
#include "models/s4_stack.h"
#include "peft/adapter.h"
#include "tests/cuda/device_test.h"

using namespace adder;
using namespace adder::test;

namespace {

constexpr const char* kSdt = R"([
  {"peft_type": "SDT_S4", "select_channels": 3, "update_channels": 2, "select_states": 2,
   "update_states": 1, "warmup_steps": 8, "columns": ["output_linear"],
   "finetune_parameters": ["log_dt", "D", "output_linear.bias"]},
  {"peft_type": "LORA", "target_modules": ["encoder", "decoder"], "r": 2, "lora_alpha": 2}])";

constexpr const char* kOfficialSdt = R"([
  {"peft_type": "SDT_S4", "select_channels": 3, "update_channels": 2, "select_states": 2,
   "update_states": 1, "warmup_steps": 8, "columns": ["output_linear"],
   "finetune_parameters": ["inv_dt", "D", "output_linear.bias"]},
  {"peft_type": "LORA", "target_modules": ["encoder", "decoder"], "r": 2, "lora_alpha": 2}])";

constexpr const char* kLowRank = R"({"peft_type": "LORA", "r": 2, "lora_alpha": 2,
  "target_modules": ["C", "A_real", "A_imag", "output_linear"]})";

SequenceBatch batch_of(std::uint64_t step) {
  const Tensor x = Tensor::empty({3, 19, 2});
  fill_uniform(x, -1, 1, 40, step);
  Random random(41, step);
  std::vector<std::int32_t> labels(3);
  for (auto& label : labels) label = static_cast<std::int32_t>(random.below(4));
  return {x, Tensor::from({3}, labels), {}};
}

struct Run {
  Run(std::unique_ptr<SequenceModel> of, Device device, const char* peft) : model(std::move(of)) {
    model->to(device);
    if (peft != nullptr) {
      adapter = Adapter::attach(*model, PeftConfig::parse(peft, "test"), 3);
    } else {
      for (const ParameterPtr& parameter : model->parameters()) parameter->train_dense();
    }
    restart();
  }
  void restart() { optimizer = make_adamw(collect_trainables(model->parameters())); }
  double step(int k) {
    if (adapter && adapter->needs_warmup() && k == 8) {
      adapter->finish_warmup();
      restart();
    }
    Tape tape;
    const SequenceLoss loss =
        sequence_loss(*model, batch_of(static_cast<std::uint64_t>(k)),
                      {.training = true, .seed = 4, .micro_batch = static_cast<std::uint64_t>(k)});
    tape.backward(loss.loss);
    optimizer->step(5e-3);
    return loss.loss.value().item();
  }
  std::unique_ptr<SequenceModel> model;
  std::unique_ptr<Adapter> adapter;
  std::unique_ptr<Optimizer> optimizer;
};

// The sizes that the batch has, and what else is small.
template <typename Config>
Config small(std::int64_t d_state) {
  Config config;
  config.d_model = 6;
  config.n_layers = 2;
  config.d_state = d_state;
  config.d_input = 2;
  config.d_output = 4;
  return config;
}

void check_same_selections(const Run& cpu, const Run& device) {
  REQUIRE(cpu.adapter->selections().size() == 2);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(device.adapter->selections()[i].channels == cpu.adapter->selections()[i].channels);
    CHECK(device.adapter->selections()[i].states == cpu.adapter->selections()[i].states);
  }
}

void follow(Run& cpu, Run& device) {
  for (int k = 0; k < 30; ++k) {
    const double expected = cpu.step(k);
    CAPTURE(k);
    CHECK(std::abs(device.step(k) / expected - 1) <= 2e-4);
  }
  for (std::size_t i = 0; i < cpu.model->parameters().size(); ++i) {
    CAPTURE(cpu.model->parameters()[i]->name());
    CHECK(relative_error(device.model->parameters()[i]->value(),
                         cpu.model->parameters()[i]->value()) <= 5e-3);
  }
}

}  // namespace

TEST_CASE("30 steps of SDT and LoRA on a deep S4 on the device follow the CPU's") {
  if (!has_device()) return;
  auto config = small<DeepS4Config>(3);
  config.dropout = 0.1;
  Run cpu(DeepS4::init(config, 5), {}, kSdt);
  Run device(DeepS4::init(config, 5), kCuda, kSdt);
  follow(cpu, device);
  check_same_selections(cpu, device);
}

TEST_CASE("30 steps of the official S4 model on the device follow the CPU's") {
  if (!has_device()) return;
  for (const char* mode : {"diag", "dplr"}) {
    CAPTURE(mode);
    auto config = small<S4StackConfig>(4);
    config.l_max = 20;
    config.mode = mode;
    if (config.mode == "dplr") config.disc = "bilinear";
    config.prenorm = true;
    config.dropout = 0.1;
    for (const char* peft : {static_cast<const char*>(nullptr), kLowRank}) {
      CAPTURE(peft != nullptr);
      Run cpu(S4Stack::init(config, 5), {}, peft);
      Run device(S4Stack::init(config, 5), kCuda, peft);
      follow(cpu, device);
    }
  }
}

TEST_CASE("30 steps of SDT on the official S4 model on the device follow the CPU's") {
  if (!has_device()) return;
  for (const char* disc : {"zoh", "bilinear"}) {
    CAPTURE(disc);
    auto config = small<S4StackConfig>(6);
    config.channels = 2;
    config.bidirectional = true;
    config.disc = disc;
    Run cpu(S4Stack::init(config, 5), {}, kOfficialSdt);
    Run device(S4Stack::init(config, 5), kCuda, kOfficialSdt);
    follow(cpu, device);
    check_same_selections(cpu, device);
  }
}

TEST_CASE("30 steps with each norm on the device follow the CPU's, running statistics included") {
  if (!has_device()) return;
  for (const char* norm : {"batch", "instance", "group", "layer_scalar"}) {
    CAPTURE(norm);
    auto config = small<S4StackConfig>(4);
    config.norm = norm;
    config.pooling = "last";
    Run cpu(S4Stack::init(config, 5), {}, nullptr);
    Run device(S4Stack::init(config, 5), kCuda, nullptr);
    follow(cpu, device);
    for (std::size_t i = 0; i < cpu.model->buffers().size(); ++i) {
      CAPTURE(cpu.model->buffers()[i]->name);
      CHECK(relative_error(device.model->buffers()[i]->value.to(Device{}).to(Dtype::f64),
                           cpu.model->buffers()[i]->value.to(Dtype::f64)) <= 2e-3);
    }
    const Tape::Pause pause;
    CHECK(relative_error(device.model->forward(batch_of(50).x, {}).value(),
                         cpu.model->forward(batch_of(50).x, {}).value()) <= 5e-3);
  }
}
