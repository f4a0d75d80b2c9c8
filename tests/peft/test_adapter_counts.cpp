// Trainable parameters of the reference's methods on mamba-130m, from one layer of its widths.
#include <doctest/doctest.h>
#include <memory>
#include <string>
#include <vector>

#include "peft/adapter.h"
#include "tests/support/tiny_mamba.h"

namespace {

constexpr std::int64_t kLayers = 24;

std::unique_ptr<adder::Mamba> one_layer() {
  adder::MambaConfig config;
  config.num_layers = 1;
  config.vocab_size = 8;
  return std::make_unique<adder::Mamba>(config);  // values do not matter
}

// Of all 24 layers and the final norm.
std::int64_t count(adder::Mamba& model) {
  std::int64_t layer = 0;
  std::int64_t outside = 0;
  for (const auto& parameter : model.parameters()) {
    const bool in_layer = parameter->name().find("layers.0.") != std::string::npos;
    (in_layer ? layer : outside) += parameter->trainable_count();
  }
  return kLayers * layer + outside;
}

std::int64_t count_of(const std::string& json) {
  const auto model = one_layer();
  const auto adapter = adder::Adapter::attach(*model, adder::PeftConfig::parse(json, "test"), 1);
  CHECK(adapter->trainable_count() > 0);
  return count(*model);
}

std::string names(const std::vector<std::string>& list) {
  std::string text;
  for (const std::string& name : list) text += (text.empty() ? "\"" : ", \"") + name + "\"";
  return "[" + text + "]";
}

struct Row {
  std::vector<std::string> targets;
  std::int64_t expected;
};

}  // namespace

TEST_CASE("trainable parameters: LoRA's layouts at rank 2, and rank 8 as four times that") {
  const std::vector<Row> rows = {
      {{"in_proj_x", "in_proj_z", "out_proj", "dt_proj", "x_proj_C", "x_proj_B", "x_proj_dt"},
       632832},
      {{"x_proj_dt", "dt_proj"}, 152064},
      {{"dt_proj"}, 76032},
      {{"in_proj_x", "in_proj_z", "out_proj"}, 331776},
      {{"in_proj_x", "in_proj_z", "out_proj", "dt_proj"}, 407808},
      {{"in_proj_x", "in_proj_z"}, 221184},
      {{"in_proj_x", "in_proj_z", "x_proj_dt", "dt_proj"}, 373248},
      {{"in_proj_x", "in_proj_z", "dt_proj"}, 297216},
      {{"in_proj_x"}, 110592},
      {{"in_proj_x", "in_proj_z", "x_proj_B", "x_proj_C", "x_proj_dt"}, 446208},
      {{"in_proj_x", "in_proj_z", "x_proj_B", "x_proj_C", "x_proj_dt", "dt_proj"}, 522240},
      {{"in_proj_z"}, 110592},
      {{"out_proj"}, 110592},
      {{"out_proj", "x_proj_dt", "dt_proj"}, 262656},
      {{"out_proj", "dt_proj"}, 186624},
      {{"out_proj", "x_proj_B", "x_proj_C", "x_proj_dt"}, 335616},
      {{"out_proj", "x_proj_B", "x_proj_C", "x_proj_dt", "dt_proj"}, 411648},
      {{"x_proj_C", "x_proj_B", "x_proj_dt"}, 225024},
      {{"x_proj_B"}, 74496},
      {{"x_proj_B", "x_proj_C"}, 148992},
      {{"x_proj_C"}, 74496},
      {{"x_proj_dt"}, 76032},
      {{"dt_proj", "x_proj_C", "x_proj_B", "x_proj_dt"}, 301056},
      {{"x_proj_C", "x_proj_B", "x_proj_dt", "in_proj_x", "in_proj_z", "out_proj"}, 556800},
  };
  for (const auto& [targets, expected] : rows) {
    CAPTURE(names(targets));
    for (const std::int64_t r : {2, 8}) {
      CHECK(count_of(adder::str(R"({"peft_type": "LORA", "r": )", r, R"(, "target_modules": )",
                                names(targets), "}")) == expected * r / 2);
    }
  }
}

TEST_CASE("trainable parameters: layer freezing and BitFit") {
  const std::vector<Row> rows = {
      {{"A_log"}, 589824},
      {{"A_log", "x_proj_B", "x_proj_C"}, 1769472},
      {{"A_log", "D", "x_proj_B", "x_proj_C", "x_proj_dt", "dt_proj"}, 5382144},
      {{"A_log", "D", "x_proj_B", "x_proj_C", "x_proj_dt", "dt_proj", "conv1d"}, 5566464},
      {{"A_log", "x_proj_B", "x_proj_C", "x_proj_dt", "dt_proj"}, 5345280},
      {{"A_log", "x_proj_B", "x_proj_C", "x_proj_dt", "dt_proj", "conv1d"}, 5529600},
      {{"A_log", "x_proj_dt", "dt_proj"}, 4165632},
      {{"D", "norm.weight", "norm_f.weight"}, 56064},
      {{"D", "norm.weight", "norm_f.weight", "conv1d.bias", "dt_proj.bias"}, 129792},
      {{"conv1d"}, 184320},
      {{"x_proj_dt", "dt_proj"}, 3575808},
      {{"dt_proj"}, 1806336},
      {{"in_proj", "out_proj"}, 84934656},
      {{"out_proj"}, 28311552},
      {{"x_proj_B", "x_proj_C", "x_proj_dt"}, 2949120},
  };
  for (const auto& [targets, expected] : rows) {
    CAPTURE(names(targets));
    CHECK(count_of(adder::str(R"({"peft_type": "LAYER_FREEZE", "trainable_layers": )",
                              names(targets), "}")) == expected);
  }
  CHECK(count_of(R"({"peft_type": "BITFIT", "target_modules": ["conv1d", "dt_proj"]})") == 73728);
}

TEST_CASE("trainable parameters: SDT in its training phase") {
  for (const auto& [share, expected] :
       {std::pair{"0.75", 455328}, std::pair{"0.9", 454608}, std::pair{"0.95", 454248}}) {
    // The random rule needs no warm-up and selects as many.
    CHECK(count_of(adder::str(R"({"peft_type": "SD_LORA", "selection": "random", "proj_lora_r": 8,
        "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"],
        "num_zero": {"state": 0, "channel": 0}, "num_freeze": {"state": )",
                              share, R"(, "channel": 0.99}})")) == expected);
  }
  const auto model = one_layer();
  const auto adapter = adder::Adapter::attach(
      *model,
      adder::PeftConfig::parse(R"({"peft_type": "SD_LORA", "num_warmup_it": 499,
          "target_modules": ["A_log", "out_proj"], "num_zero": {"state": 0, "channel": 0},
          "num_freeze": {"state": 0.75, "channel": 0.99}, "selection": "random"})",
                               "test"),
      1);
  CHECK(count(*model) == 24 * 4 * 15 + 276480);
}
