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
// rslora. A target matches a map, slice or state map ("C", "log_A_real", "A_imag" of S4) whose
// dotted name is it or ends with "." and it. State maps have no input that dropout could act on.
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

// By what SDT_S4 ranks the channels and states of an S4 layer; see peft/sdt_s4_selection.h.
enum class SdtS4Rule : std::uint8_t {
  displacement,  // after a warm-up: what the kernel holds, and how far A moved (default)
  compat,        // the same with the slips of the reference's code
  loss,          // how much the loss grows without a channel or state; no warm-up steps
  gradient,      // the gradient of one batch; nothing is zeroed
  random         // the control; no warm-up
};

// The dimensions of one layer, given by hand.
struct S4Dimensions {
  std::vector<std::int32_t> channels;
  std::vector<std::vector<std::int32_t>> states;         // of each of these
  std::vector<std::int32_t> select_channels;             // empty: all
  std::vector<std::vector<std::int32_t>> select_states;  // of each of these; empty: all
};

// SDT_S4: sparse dimension tuning of S4 layers. Selected channels and states stay in use, of these
// the update set trains: C, log_A_real and A_imag of each chosen (channel, state).
struct SdtS4Config {
  // Absent: all are selected, and all that are selected train.
  std::optional<AxisCount> select_channels;
  std::optional<AxisCount> update_channels;
  std::optional<AxisCount> select_states;  // of each channel
  std::optional<AxisCount> update_states;
  // C = 0 for channels that are not selected, and for states that are not of channels that train.
  bool zero_unselected = true;
  SdtS4Rule rule = SdtS4Rule::displacement;
  std::int64_t power = 1;  // displacement, compat: the position of the kernel that is looked at
  // An L1 penalty in the warm-up decides how many of the counted dimensions are taken.
  bool soft = false;
  double select_penalty = 0;
  double update_penalty = 0;
  std::optional<double> soft_threshold;      // what counts as zero after it; absent: warmup_lr
  std::optional<std::int64_t> warmup_steps;  // forward passes
  std::optional<double> warmup_ratio;        // or this fraction of the run
  double warmup_lr = 0.01;
  double warmup_weight_decay = 0.01;
  bool warmup_ssm_only = false;      // "warmup_parameters": "ssm"
  std::vector<std::string> columns;  // linear maps whose columns of the channels train
  std::vector<std::string> finetune_parameters;
  std::vector<S4Dimensions> dimensions;  // of each layer; instead of a selection

  bool has_steps() const {  // in the warm-up, chosen by warmup_steps or warmup_ratio
    return dimensions.empty() && (rule == SdtS4Rule::displacement || rule == SdtS4Rule::compat);
  }
  bool needs_warmup() const { return dimensions.empty() && rule != SdtS4Rule::random; }
};

using PeftMethod =
    std::variant<LoraConfig, LayerFreezeConfig, BitfitConfig, SdtConfig, SdtS4Config>;

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
  const SdtS4Config* sdt_s4() const;
};

}  // namespace adder
