// What adapters refuse on the variants of the official S4 model, with names and numbers.
#include <doctest/doctest.h>

#include "engine/error.h"
#include "tests/support/s4_variants.h"
#include "tests/support/temp_directory.h"

using namespace adder;
using namespace adder::test;

namespace {

std::string error_of(const S4StackConfig& config, const std::string& json) {
  const auto model = tiny_stack(config);
  try {
    attach(*model, json);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

std::string error_of(const S4Variant& variant, const std::string& json) {
  return error_of(variant.config, json);
}

std::string sdt(const std::string& more) {
  return R"({"peft_type": "SDT_S4", "rule": "random")" + more + "}";
}

std::string lora(const std::string& target) {
  return R"({"peft_type": "LORA", "target_modules": [")" + target + "\"]}";
}

S4Variant bare_gate() {
  S4Variant variant = gated_variant();
  variant.config.gate = 1;
  variant.config.final_act.clear();
  return variant;
}

// A failed check shows the whole message.
#define CHECK_HAS(message, part)                  \
  do {                                            \
    const std::string whole = message;            \
    CAPTURE(whole);                               \
    CHECK(whole.find(part) != std::string::npos); \
  } while (false)

}  // namespace

TEST_CASE("s4 variants: a column that is not behind the layer is refused with the one that is") {
  const std::string json = sdt(R"(, "columns": ["output_linear"])");
  for (const S4Variant& variant : {gated_variant(), bare_gate()}) {
    CHECK_HAS(error_of(variant, json),
              "SDT_S4: columns holds 'output_linear', but the linear map behind s4_layers.0.layer "
              "is 'output_gate'");
  }
  CHECK_HAS(error_of(bottleneck_variant(), sdt(R"(, "columns": ["output_gate"])")),
            "behind s4_layers.0.layer is 'output_linear'");
  CHECK_HAS(error_of(minimal_variant(), sdt(R"(, "columns": ["output_gate"])")),
            "behind s4_layers.0 is 'output_linear'");
  CHECK_HAS(error_of(bare_variant(), json),
            "SDT_S4: columns holds 'output_linear', but no linear map follows s4_layers.0.layer");
  CHECK_HAS(error_of(minimal_variant(), sdt(R"(, "columns": ["output_linaer"])")),
            "did you mean 'output_linear'?");
}

TEST_CASE("s4 variants: counts beyond a bottleneck are refused with the layer's own number") {
  const auto of_channels = [](std::int64_t count) {
    return sdt(R"(, "select_channels": )" + std::to_string(count));
  };
  CHECK_HAS(error_of(bottleneck_variant(), of_channels(4)),
            "SDT_S4: select_channels is 4, but s4_layers.0.layer has 3 channels (d_model / "
            "bottleneck)");
  CHECK_HAS(error_of(gated_variant(), of_channels(7)),
            "select_channels is 7, but s4_layers.0.layer has 6 channels (d_model)");
  CHECK_HAS(error_of(minimal_variant(), of_channels(7)),
            "select_channels is 7, but s4_layers.0 has 6 channels (d_model)");
  CHECK_HAS(error_of(minimal_variant(), sdt(R"(, "update_states": 5)")),
            "update_states is 5, but s4_layers.0 has 4 states");
  CHECK_HAS(
      error_of(bottleneck_variant(), sdt(R"(, "dimensions": [{"channels": [3], "states": [[0]]},
                              {"channels": [0], "states": [[0]]}])")),
      "s4_layers.0.layer");
  S4Variant shared = bottleneck_variant();
  shared.config.n_ssm = 1;
  CHECK_HAS(error_of(shared, sdt("")),
            "s4_layers.0.layer has 1 row of A (n_ssm), which its 3 channels (d_model / "
            "bottleneck) share");
  S4Variant low_rank = bottleneck_variant();
  low_rank.config.mode = "dplr";
  low_rank.config.disc = "bilinear";
  CHECK_HAS(error_of(low_rank, sdt("")), "s4_layers.0.layer: the state matrix has a low-rank");
}

TEST_CASE("s4 variants: names that a variant lacks are refused with one that it has") {
  // The suggestion is a name that works, not the number at the end of a module's.
  CHECK_HAS(error_of(minimal_variant(), lora("output_linaer")), "did you mean 'output_linear'?");
  CHECK_HAS(error_of(gated_variant(), lora("input_gaet")), "did you mean 'input_gate'?");
  CHECK_HAS(error_of(minimal_variant(),
                     R"({"peft_type": "BITFIT", "target_modules": ["output_linaer"]})"),
            "did you mean 'output_linear'?");
  CHECK_HAS(error_of(minimal_variant(),
                     R"({"peft_type": "LAYER_FREEZE", "trainable_layers": ["output_linaer"]})"),
            "did you mean 'output_linear");
  for (const std::string name : {"output_linaer.bias", "output_linear.bais"}) {
    CHECK_HAS(error_of(gated_variant(), sdt(R"(, "finetune_parameters": [")" + name + "\"]")),
              "did you mean 'output_linear.0.bias'?");
  }
  CHECK_HAS(error_of(minimal_variant(), lora("input_linear")),
            "'input_linear', which is no linear or state map of the model");
  CHECK_HAS(error_of(bare_variant(), lora("output_linear")),
            "'output_linear', which is no linear or state map of the model");
  CHECK_HAS(error_of(minimal_variant(), lora("log_dt")), "not available on");
  CHECK_HAS(error_of(minimal_variant(), lora("D")), "(s4_layers.0.D)");
  CHECK_HAS(error_of(minimal_variant(), lora("log_A_rael")), "did you mean 'log_A_real'?");
  CHECK_HAS(error_of(minimal_variant(), sdt(R"(, "finetune_parameters": ["inv_dt"])")),
            "finetune_parameters holds 'inv_dt', with which no parameter's name ends; did you mean "
            "'log_dt'?");
  // Running statistics are no parameters.
  CHECK_HAS(error_of(minimal_variant("batch"),
                     R"({"peft_type": "LAYER_FREEZE", "trainable_layers": ["running_mean"]})"),
            "no parameter's name contains 'running_mean'");
}

TEST_CASE("s4 variants: either name of the real part's logarithm is taken") {
  for (const S4Variant& variant : {minimal_variant(), gated_variant()}) {
    for (const std::string name : {"A_real", "log_A_real"}) {
      CAPTURE(variant.name);
      CAPTURE(name);
      CHECK(error_of(variant, lora(name)) == "no error");
    }
  }
}

TEST_CASE("s4 variants: an adapter of another variant does not load") {
  const auto saved = [](const S4Variant& variant, const std::string& json) {
    auto directory = std::make_unique<TempDirectory>();
    const auto model = tiny_stack(variant.config);
    attach(*model, json)->save(directory->path());
    return directory;
  };
  S4Variant plain = gated_variant();
  plain.config.gate = 0;
  plain.config.gate_act = "none";
  const auto load = [](const S4Variant& variant, const TempDirectory& directory) -> std::string {
    const auto model = tiny_stack(variant.config);
    try {
      Adapter::load(*model, directory.path());
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const std::string json = sdt(R"(, "select_channels": 3)");
  CHECK_HAS(load(minimal_variant(), *saved(plain, json)),
            "dimensions selected for s4_layers.0.layer [6, 4] do not fit s4_layers.0 [6, 4]");
  CHECK_HAS(load(bottleneck_variant(), *saved(plain, json)),
            "dimensions selected for s4_layers.0.layer [6, 4] do not fit s4_layers.0.layer [3, 4]");
  CHECK_HAS(load(bottleneck_variant(), *saved(plain, lora("C"))),
            "s4_layers.0.layer.kernel.C.lora_U is [6, 8, 2], expected [12, 8, 2]");
  CHECK_HAS(load(plain, *saved(gated_variant(), lora("output_linear"))),
            "s4_layers.0.output_linear.0.lora_A.weight is [8, 12], expected [8, 6]");
  CHECK_HAS(load(plain, *saved(gated_variant(), gated_variant().sdt("random"))),
            "but the linear map behind s4_layers.0.layer is 'output_linear'");
}
