#include <doctest/doctest.h>
#include <string>

#include "engine/error.h"
#include "peft/config.h"

using adder::PeftConfig;

namespace {

// The message of the ConfigError that parsing throws; empty when it does not.
std::string error_of(const std::string& text) {
  try {
    PeftConfig::parse(text, "peft.json");
  } catch (const adder::ConfigError& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

const std::string kSdt = R"({"peft_type": "SD_LORA", "num_zero": {"state": 0, "channel": 0},
  "num_freeze": {"state": 0.75, "channel": 0.99}, "num_warmup_it": 499, "proj_lora_r": 8,
  "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"])";

}  // namespace

TEST_CASE("peft config: the reference's files") {
  const auto lora = PeftConfig::parse(R"({"peft_type": "LORA", "auto_mapping": null,
    "base_model_name_or_path": null, "revision": null, "task_type": "SEQ_2_SEQ_LM",
    "inference_mode": false, "r": 8, "target_modules": ["in_proj_x", "in_proj_z"],
    "lora_alpha": 8, "lora_dropout": 0.1, "fan_in_fan_out": false, "bias": "none",
    "modules_to_save": null, "init_lora_weights": true, "layers_to_transform": null,
    "layers_pattern": null, "rank_pattern": {}, "alpha_pattern": {}, "use_dora": false,
    "use_rslora": false, "megatron_core": "megatron.core", "loftq_config": {}})",
                                      "lora.json");
  REQUIRE(lora.methods.size() == 1);
  const auto& config = std::get<adder::LoraConfig>(lora.methods[0]);
  CHECK(config.r == 8);
  CHECK(config.scale() == 1);
  CHECK(config.dropout == 0.1);
  CHECK(config.target_modules == std::vector<std::string>{"in_proj_x", "in_proj_z"});

  const auto sdt = PeftConfig::parse(kSdt + "}", "sdt.json");
  REQUIRE(sdt.sdt() != nullptr);
  CHECK(sdt.description() == "SDT + LoRA");
  CHECK(*sdt.sdt()->num_warmup_it == 499);
  CHECK(sdt.sdt()->num_freeze.channel.fraction);
  CHECK_FALSE(sdt.sdt()->num_zero.channel.fraction);
  CHECK(sdt.sdt()->proj_lora_dropout == 0.1);
  CHECK(sdt.sdt()->scale("A_log") == 1);

  const auto scaled = PeftConfig::parse(
      kSdt + R"(, "sdlora_alpha": {"A_log_adapter": 2, "global": 3, "x_proj_B": 0.5}})", "s.json");
  CHECK(scaled.sdt()->scale("A_log") == 6);
  CHECK(scaled.sdt()->scale("x_proj_B") == 1.5);
  CHECK(scaled.sdt()->scale("x_proj_C") == 3);

  const auto list = PeftConfig::parse(
      R"([{"peft_type": "BITFIT", "target_modules": ["conv1d", "dt_proj"]},
          {"peft_type": "LAYER_FREEZE", "trainable_layers": ["D", "norm"]}])",
      "list.json");
  CHECK(list.description() == "BitFit + layer freezing");
}

TEST_CASE("peft config: what is written is read back the same") {
  for (const std::string& text :
       {kSdt + R"(, "selection": "gradient", "sdlora_alpha": {"A_log": 0.5}})",
        std::string(R"({"peft_type": "LORA", "target_modules": "all-linear", "r": 3,
                        "lora_alpha": 6.5, "use_rslora": true})"),
        std::string(R"([{"peft_type": "BITFIT"},
                        {"peft_type": "LORA", "target_modules": ["out_proj"], "r": 2}])")}) {
    const std::string once = PeftConfig::parse(text, "a").to_json();
    CHECK(PeftConfig::parse(once, "b").to_json() == once);
  }
  CHECK(contains(PeftConfig::parse(kSdt + "}", "a").to_json(), "\"state\": 0.75"));
  CHECK(contains(PeftConfig::parse(kSdt + "}", "a").to_json(), "\"channel\": 0\n"));
}

TEST_CASE("peft config: mistakes are named with the nearest valid word") {
  const std::string lora = R"({"peft_type": "LORA", "target_modules": ["out_proj"])";
  CHECK(contains(error_of(lora + R"(, "lora_alfa": 8})"), "lora_alpha"));
  CHECK(contains(error_of(lora + R"(, "lora_alfa": 8})"), "peft.json"));
  CHECK(contains(error_of(lora + R"(, "r": 0})"), "r is 0"));
  CHECK(contains(error_of(lora + R"(, "r": 2.5})"), "r is 2.5"));
  CHECK(contains(error_of(lora + R"(, "lora_dropout": 1.0})"), "lora_dropout is 1"));
  CHECK(contains(error_of(R"({"peft_type": "LORAX", "target_modules": ["a"]})"), "'LORA'"));
  CHECK(contains(error_of(R"({"target_modules": ["a"]})"), "peft_type is missing"));
  CHECK(contains(error_of(R"({"peft_type": "LORA"})"), "target_modules is required"));
  CHECK(contains(error_of("{"), "not a JSON text"));
  CHECK(contains(error_of("[]"), "empty"));
  CHECK(contains(error_of("3"), "expected a JSON object"));
  CHECK(contains(error_of(R"([{"peft_type": "LORA", "r": 3}])"), "peft.json[0]"));
}

TEST_CASE("peft config: what does not exist yet says so") {
  for (const char* type : {"SSMPEFT", "STATE_OFFSET_TUNING", "PARAM_TRANSFORM", "PROMPT_TUNING"}) {
    const std::string message = error_of(adder::str(R"({"peft_type": ")", type, R"("})"));
    CHECK(contains(message, std::string("the method ") + type + " is not available"));
  }
  const std::string lora = R"({"peft_type": "LORA", "target_modules": ["out_proj"])";
  CHECK(contains(error_of(lora + R"(, "use_dora": true})"), "DoRA is not available"));
  CHECK(contains(error_of(lora + R"(, "bias": "all"})"), "bias"));
  CHECK(contains(error_of(lora + R"(, "rank_pattern": {"out_proj": 4}})"), "rank per module"));
  CHECK(contains(error_of(lora + R"(, "layers_to_transform": [1]})"), "layers_to_transform"));
  CHECK(contains(error_of(lora + R"(, "init_lora_weights": "pissa"})"), "initialisation"));
  CHECK(error_of(lora + R"(, "use_dora": false, "peft_version": "0.17.0"})").empty());
}

TEST_CASE("peft config: SDT's own mistakes") {
  CHECK(error_of(kSdt + "}").empty());
  CHECK(contains(error_of(kSdt + R"(, "warmup_ratio": 0.1})"), "exclude each other"));
  CHECK(contains(error_of(kSdt + R"(, "selection": "gradiant"})"), "'gradient'"));
  CHECK(contains(error_of(kSdt + R"(, "select_mode": "STATES"})"), "CHANNELS_PER_STATE_CHANNELS"));
  CHECK(contains(error_of(kSdt + R"(, "reg_scale": 0.1})"), "not available"));
  CHECK(error_of(kSdt + R"(, "reg_scale": 0, "select_mode": "CHANNELS_PER_STATE_CHANNELS"})")
            .empty());
  const std::string counts = R"(, "num_zero": {"state": 0, "channel": 0},
    "num_freeze": {"state": 0, "channel": 0})";
  const std::string head = R"({"peft_type": "SD_LORA")" + counts;
  CHECK(contains(error_of(head + R"(, "num_warmup_it": 5, "target_modules": ["x_proj_B"]})"),
                 "must hold A_log"));
  CHECK(
      contains(error_of(head + R"(, "num_warmup_it": 5, "target_modules": ["A_log", "x_proj_D"]})"),
               "x_proj_B"));
  CHECK(contains(error_of(head + R"(, "target_modules": ["A_log"]})"), "is required"));
  CHECK(contains(error_of(head + R"(, "num_warmup_it": -1, "target_modules": ["A_log"]})"),
                 "needs a warm-up"));
  CHECK(error_of(head + R"(, "selection": "random", "target_modules": ["A_log"]})").empty());
  CHECK(contains(error_of(R"({"peft_type": "SD_LORA", "num_warmup_it": 5,
      "target_modules": ["A_log"], "num_zero": {"state": 0, "channel": 0},
      "num_freeze": {"state": 0, "channel": 1.5}})"),
                 "num_freeze.channel"));
  CHECK(contains(error_of(R"({"peft_type": "SD_LORA", "num_warmup_it": 5,
      "target_modules": ["A_log"], "num_zero": {"state": 0, "channels": 0},
      "num_freeze": {"state": 0, "channel": 1}})"),
                 "num_zero.channels"));
}
