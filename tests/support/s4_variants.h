// Variants of the official S4 model's block for tests of adapters, each with what a test expects of
// it: names and sizes written out, not read from the model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/tiny_s4.h"

namespace adder::test {

struct S4Variant {
  std::string name;
  S4StackConfig config;
  std::int64_t channels;     // H
  std::int64_t kernels;      // M
  std::string behind;        // the map behind layer i, after "s4_layers.i.", or empty
  std::int64_t rows, width;  // of its weight

  bool minimal() const { return config.layer == "s4d"; }
  std::string layer(std::size_t i) const {
    return "s4_layers." + std::to_string(i) + (minimal() ? "" : ".layer");
  }
  std::string dt() const { return minimal() ? "log_dt" : "inv_dt"; }
  std::string log_A_real() const { return minimal() ? "log_A_real" : "A_real"; }
  // The name that `columns` takes.
  std::string column() const { return behind.substr(0, behind.find('.')); }

  // Low rank on the states and the map behind, or behind the model where the layer has none.
  std::string lora() const {
    return R"({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["C", ")" +
           log_A_real() + R"(", "A_imag", ")" + (behind.empty() ? "decoder" : column()) + "\"]}";
  }
  // SDT of 2 of 3 selected channels and 2 of 3 selected states, with what is behind them.
  std::string sdt(const std::string& rule, const std::string& more = "") const {
    const std::string steps =
        rule == "displacement" || rule == "compat" ? R"(, "warmup_steps": 3)" : "";
    const std::string columns = behind.empty() ? "" : R"(, "columns": [")" + column() + "\"]";
    return R"({"peft_type": "SDT_S4", "select_channels": 3, "update_channels": 2,
        "select_states": 3, "update_states": 2, "finetune_parameters": ["D", ")" +
           dt() + R"("], "rule": ")" + rule + "\"" + steps + columns + more + "}";
  }
};

inline S4Variant minimal_variant(const std::string& norm = "layer") {
  S4StackConfig config = tiny_stack_config();
  config.layer = "s4d";
  config.norm = norm;
  // The mean over positions of what the instance norm returns is 0.
  if (norm == "instance") config.pooling = "last";
  return {"minimal, norm " + norm, config, 6, 1, "output_linear.0", 12, 6};
}

inline S4Variant bottleneck_variant() {
  S4StackConfig config = tiny_stack_config();
  config.bottleneck = 2;
  config.channels = 2;
  config.bidirectional = true;
  return {"bottleneck", config, 3, 4, "output_linear.0", 12, 6};
}

inline S4Variant gated_variant() {
  S4StackConfig config = tiny_stack_config();
  config.gate = 2;
  config.gate_act = "sigmoid";
  config.mult_act = "tanh";
  config.norm = "group";
  return {"gate", config, 6, 1, "output_gate", 12, 6};
}

// Nothing between the activation and the residual connection.
inline S4Variant bare_variant() {
  S4StackConfig config = tiny_stack_config();
  config.final_act.clear();
  config.norm = "instance";
  config.pooling = "none";
  return {"no map", config, 6, 1, "", 0, 0};
}

inline std::vector<S4Variant> s4_variants() {
  S4StackConfig config = tiny_stack_config();
  config.bottleneck = 2;
  config.channels = 2;
  config.gate = 1;
  config.final_act.clear();
  config.norm = "batch";
  config.prenorm = true;
  config.pooling = "none";
  std::vector<S4Variant> all = {{"bottleneck and gate", config, 3, 2, "output_gate", 6, 6}};
  config.gate = 0;
  config.norm = "layer_scalar";
  all.push_back({"bottleneck, no map", config, 3, 2, "", 0, 0});
  for (const char* norm : {"layer", "layer_scalar", "batch", "instance", "group"}) {
    all.push_back(minimal_variant(norm));
  }
  all.insert(all.end(), {bottleneck_variant(), gated_variant(), bare_variant()});
  return all;
}

// With running statistics as training leaves them, where there are some.
inline std::unique_ptr<S4Stack> variant_model(const S4Variant& variant) {
  auto model = tiny_stack(variant.config);
  std::uint64_t stream = 1;
  for (const BufferPtr& buffer : model->buffers()) {
    if (buffer->value.numel() > 1) fill_uniform(buffer->value, 0.5, 1.5, 7, stream++);
  }
  return model;
}

inline std::unique_ptr<Adapter> attach(Model& model, const std::string& json) {
  return Adapter::attach(model, PeftConfig::parse(json, "test"), 3);
}

}  // namespace adder::test
