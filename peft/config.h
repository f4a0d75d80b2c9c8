// PeftConfig: what an adapter_config.json (or a reference experiment's JSON) asks for.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "peft/sdt_selection.h"

namespace adder {

// LORA (Hu et al. 2021): y += scale B A dropout(x), scale = alpha / r, or alpha / sqrt(r) with
// rslora. A target matches a map or slice whose dotted name is it or ends with "." and it.
struct LoraConfig {
  std::vector<std::string> target_modules;
  bool all_linear = false;  // "target_modules": "all-linear"
  std::int64_t r = 8;
  double alpha = 8;
  double dropout = 0;
  bool rslora = false;

  double scale() const;
};

// LAYER_FREEZE: a parameter trains when its name contains one of these.
struct LayerFreezeConfig {
  std::vector<std::string> trainable_layers;
};

// BITFIT (Ben Zaken et al. 2021): biases train, made where there are none.
struct BitfitConfig {
  std::vector<std::string> target_modules;  // empty: every module that can have a bias
};

// By what SDT ranks channels and states.
enum class SdtRule : std::uint8_t {
  displacement,  // square of the displacement of A_log after the warm-up (default)
  gradient,      // sum of the gradient's magnitudes over the warm-up
  random,        // the control; no warm-up
  weight         // |A| = exp(A_log) of the pretrained model; no warm-up
};
const char* sdt_rule_name(SdtRule rule);

// SD_LORA: sparse dimension tuning, alone or with LoRA on the projections.
struct SdtConfig {
  std::vector<std::string> target_modules;  // A_log, x_proj_B, x_proj_C, in_proj_x, …
  DimensionCounts num_zero;
  DimensionCounts num_freeze;
  // The warm-up has num_warmup_it + 1 forward passes, or this fraction of the run.
  std::optional<std::int64_t> num_warmup_it;
  std::optional<double> warmup_ratio;
  std::int64_t proj_lora_r = 0;  // 0: in_proj and out_proj train sparse rows and columns instead
  double proj_lora_dropout = 0.1;
  std::map<std::string, double> alpha;  // "A_log", "x_proj_B", …, and "global"
  std::vector<std::string> finetune_parameters;
  SdtRule rule = SdtRule::displacement;

  bool needs_warmup() const { return rule == SdtRule::displacement || rule == SdtRule::gradient; }
  double scale(const std::string& target) const;
};

using PeftMethod = std::variant<LoraConfig, LayerFreezeConfig, BitfitConfig, SdtConfig>;

struct PeftConfig {
  std::vector<PeftMethod> methods;  // they act together
  std::string base_model;           // "base_model_name_or_path"; informative

  // One object, a list of objects, or MULTI_PEFT with "configs". `name` is used in messages.
  // Throws ConfigError for anything that is not understood or not available.
  static PeftConfig parse(const std::string& text, const std::string& name);
  // As Hugging Face PEFT writes it for a single LORA; otherwise with our own peft_type.
  std::string to_json() const;
  std::string description() const;  // "SDT + LoRA"
  const SdtConfig* sdt() const;     // null when absent
};

}  // namespace adder
