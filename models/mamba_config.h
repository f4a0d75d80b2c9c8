// The hyper-parameters of a Mamba-1 language model.
#pragma once

#include <cstdint>
#include <string>

namespace adder {

struct MambaConfig {
  std::int64_t hidden_size = 768;
  std::int64_t num_layers = 24;
  std::int64_t vocab_size = 50280;  // as many rows as the embedding has
  std::int64_t state_size = 16;
  std::int64_t conv_kernel = 4;
  std::int64_t inner_size = 1536;  // E, usually expand * hidden_size
  std::int64_t time_step_rank = 48;
  bool use_bias = false;  // of in_proj and out_proj
  bool use_conv_bias = true;
  bool residual_in_fp32 = true;
  bool tie_embeddings = true;
  bool rescale_prenorm_residual = true;
  double norm_epsilon = 1e-5;
  double initializer_range = 0.02;
  double time_step_min = 1e-3;
  double time_step_max = 0.1;
  double time_step_scale = 1;
  double time_step_floor = 1e-4;
  bool time_step_init_constant = false;
  std::int64_t eos_token_id = 0;

  // Reads transformers' config.json or the original state-spaces one (d_model, n_layer, ssm_cfg,
  // …). `name` is used in messages. Throws ConfigError for a missing key, another architecture, or
  // values that make no model.
  static MambaConfig from_json(const std::string& text, const std::string& name);
  // In the layout of transformers' MambaForCausalLM.
  std::string to_json() const;
};

}  // namespace adder
