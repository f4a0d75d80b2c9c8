// SDT and LoRA on a deep S4: masks given by hand, what is counted, and mistakes.
#include <cmath>
#include <doctest/doctest.h>
#include <string>

#include "engine/error.h"
#include "tests/support/tiny_mamba.h"
#include "tests/support/tiny_s4.h"

using namespace adder;
using namespace adder::test;

namespace {

std::unique_ptr<Adapter> attach(Model& model, const std::string& json) {
  return Adapter::attach(model, PeftConfig::parse(json, "test"), 3);
}

std::string error_of(const std::string& json) {
  const auto model = tiny_s4();
  try {
    const auto adapter = attach(*model, json);
    s4_warm_up(*model, *adapter);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("sdt of s4: masks given by hand") {
  const std::string layer = R"({"channels": [4, 1], "states": [[3], [0]],
      "select_channels": [1, 5, 4], "select_states": [[0, 2], [1], [3, 1]]})";
  const std::string head = R"({"peft_type": "SDT_S4", "dimensions": [)";
  const auto model = tiny_s4();
  const auto base = s4_values(*model);
  const auto adapter = attach(*model, head + layer + "," + layer + "]}");
  CHECK_FALSE(adapter->needs_warmup());
  CHECK(model->trainable_count() == 2 * 8);
  const auto C = model->find_parameter("layers.1.kernel.C")->value().to_vector();
  const auto was = base.at("layers.1.kernel.C").to_vector();
  for (std::size_t i = 0; i < C.size(); ++i) {
    const std::size_t channel = i / 8;
    const std::size_t state = i / 2 % 4;
    // The states of channel 5 stay, for it is selected but does not train.
    const bool kept = channel == 5 || (channel == 1 && (state == 0 || state == 2)) ||
                      (channel == 4 && (state == 3 || state == 1));
    CHECK(C[i] == (kept ? was[i] : 0));
  }
  CHECK(PeftConfig::parse(adapter->config().to_json(), "again").to_json() ==
        adapter->config().to_json());

  const std::string all = R"({"channels": [0], "states": [[0, 1]]})";
  const auto whole = tiny_s4();
  const auto plain = attach(*whole, head + all + "," + all + "]}");
  CHECK(
      same_bits(whole->find_parameter("layers.0.kernel.C")->value(), base.at("layers.0.kernel.C")));
  CHECK(whole->trainable_count() == 2 * 8);

  const auto counted = [&](const std::string& counts) {
    return error_of(head + all + "," + all + "], " + counts + "}");
  };
  CHECK(counted(R"("update_channels": 1, "update_states": 2, "select_channels": 6)").empty());
  CHECK(contains(counted(R"("update_states": 3)"), "update_states is 3, but dimensions give 2"));
  CHECK(
      contains(counted(R"("select_channels": 5)"), "select_channels is 5, but dimensions give 6"));
  CHECK(contains(error_of(head + layer + "]}"), "1 layers for a model of 2"));
  CHECK(contains(error_of(head + all + R"(, {"channels": [6], "states": [[0]]}]})"),
                 "channel 6 of 6"));
  CHECK(contains(error_of(head + all + R"(, {"channels": [0], "states": [[0]],
      "select_channels": [1]}]})"),
                 "trains but is not selected"));
  CHECK(contains(error_of(head + all + R"(, {"channels": [1], "states": [[0]],
      "select_channels": [1], "select_states": [[2]]}]})"),
                 "state 0 of channel 1 trains but is not selected"));
  CHECK(contains(error_of(head + all + R"(, {"channels": [1], "states": [[0]],
      "select_channels": [0, 1], "select_states": [[0]]}]})"),
                 "states of 1 channels for 2 selected channels"));
  CHECK(contains(error_of(head + all + R"(, {"channels": [1], "state": [[0]]}]})"),
                 "did you mean 'states'"));
}

TEST_CASE("s4 adapters: trainable parameters and percentages of the reference's figure") {
  // Deep S4 of 4 layers, 64 channels, 16 states: 33,536 parameters.
  const auto count = [](const std::string& json) {
    DeepS4Config config;
    config.mode = DeepS4Config::Mode::theory;
    const auto model = DeepS4::init(config, 1);
    CHECK(model->parameter_count() == 33536);
    const auto adapter = attach(*model, json);
    return adapter->trainable_count();
  };
  const auto percent = [](std::int64_t trainable) {
    return std::round(100000.0 * static_cast<double>(trainable) / 33536) / 1000;
  };
  const auto lora = [](int r, const std::string& target) {
    return str(R"({"peft_type": "LORA", "target_modules": [)", target, R"(], "r": )", r, "}");
  };
  const auto freeze = [](const std::string& names) {
    return str(R"({"peft_type": "LAYER_FREEZE", "trainable_layers": [)", names, "]}");
  };
  const auto list = [](const std::string& a, const std::string& b) {
    return "[" + a + "," + b + "]";
  };
  const auto tuned = [](int channels, int states, const std::string& more) {
    return str(R"({"peft_type": "SDT_S4", "rule": "random", "select_channels": )", channels,
               R"(, "select_states": )", states, more, "}");
  };
  const std::string biases = R"("output_linear.bias", ".D")";
  CHECK(percent(count(freeze(R"(".D")"))) == 0.763);
  CHECK(percent(count(list(lora(4, R"("output_linear")"), freeze(biases)))) == 7.634);
  CHECK(percent(count(list(lora(8, R"("output_linear")"), freeze(biases)))) == 13.740);
  CHECK(percent(count(list(lora(16, R"("output_linear")"), freeze(biases)))) == 25.954);
  CHECK(percent(count(list(lora(4, R"("output_linear")"), freeze(biases + R"(, "log_dt")")))) ==
        8.397);
  const std::string rest = R"(, "finetune_parameters": [".D", "output_linear.bias", "log_dt"])";
  CHECK(percent(count(list(tuned(8, 4, rest), lora(4, R"("output_linear")")))) == 9.924);
  CHECK(percent(count(list(tuned(16, 8, rest), lora(16, R"("output_linear")")))) == 32.824);
  const std::string columns = rest + R"(, "columns": ["output_linear"])";
  CHECK(percent(count(tuned(8, 4, columns))) == 9.924);
  CHECK(percent(count(tuned(8, 8, columns))) == 11.450);
  CHECK(percent(count(tuned(16, 4, columns))) == 17.557);
  CHECK(percent(count(tuned(16, 8, columns))) == 20.611);
  // Low rank on the state parameters, which the reference's figure lacks: 320 r for each layer.
  for (const int r : {1, 4}) {
    CHECK(count(lora(r, R"("C", "log_A_real", "A_imag")")) == 4 * 320 * r);
  }
  CHECK(count(lora(4, R"("output_linear")")) == 4 * 128 * 4);
}

TEST_CASE("s4 adapters: mistakes in the configuration") {
  const std::string head = R"({"peft_type": "SDT_S4", "warmup_steps": 2)";
  CHECK(contains(error_of(R"({"peft_type": "LORA", "target_modules": ["log_A_rael"]})"),
                 "did you mean 'log_A_real'"));
  CHECK(contains(error_of(R"({"peft_type": "LORA", "target_modules": ["log_dt"]})"),
                 "not available on log_dt"));
  CHECK(contains(error_of(head + R"(, "select_chanels": 2})"), "did you mean 'select_channels'"));
  CHECK(contains(error_of(head + R"(, "rule": "displacment"})"), "did you mean 'displacement'"));
  CHECK(
      contains(error_of(head + R"(, "select_channels": 7})"), "layers.0 has 6 channels (d_model)"));
  CHECK(contains(error_of(head + R"(, "select_channels": 2, "update_channels": 3})"),
                 "update_channels is 3, more than select_channels, 2"));
  CHECK(contains(error_of(head + R"(, "update_states": 0})"), "nothing would be left"));
  CHECK(contains(error_of(head + R"(, "update_states": 0.01})"), "leaves none of 4"));
  CHECK(contains(error_of(head + R"(, "columns": ["output_linaer"]})"),
                 "did you mean 'output_linear'"));
  CHECK(contains(error_of(head + R"(, "finetune_parameters": ["log_td"]})"),
                 "did you mean 'log_dt'"));
  CHECK(contains(error_of(head + R"(, "finetune_parameters": ["C"]})"), "kernel.C is trained by"));
  CHECK(contains(error_of(head + R"(, "warmup_ratio": 0.1})"), "exclude each other"));
  CHECK(contains(error_of(R"({"peft_type": "SDT_S4"})"), "warmup_steps"));
  CHECK(contains(error_of(R"({"peft_type": "SDT_S4", "select_chanels": 3})"), "select_channels"));
  CHECK(contains(error_of(head + R"(, "mode": "soft", "rule": "random"})"), "'displacement' only"));
  CHECK(contains(error_of(head + R"(, "select_penalty": 1})"), "\"mode\": \"soft\""));
  CHECK(contains(error_of(head + R"(, "warmup_lr": 0})"), "learning rate"));
  CHECK(contains(error_of("[" + head + "}," + head + "}]"), "two SD_LORA or SDT_S4"));
  const auto mamba = tiny_mamba();
  CHECK_THROWS_AS(attach(*mamba, head + "}"), ConfigError);
  // The rule "loss" without something to measure the loss with.
  const auto model = tiny_s4();
  const auto adapter = attach(*model, R"({"peft_type": "SDT_S4", "rule": "loss"})");
  CHECK(adapter->needs_probe());
  CHECK(adapter->warmup_forwards(10) == 0);
  CHECK_THROWS_AS(adapter->finish_warmup(), ConfigError);
}
