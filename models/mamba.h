// Mamba-1 (Gu & Dao 2023) as a language model, in its parallel and its recurrent form.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/language_model.h"
#include "models/mamba_config.h"

namespace adder {

struct MambaLayer {
  ParameterPtr norm;         // (d)
  LinearMap in_proj;         // (2E, d); slices in_proj_x, in_proj_z
  ParameterPtr conv_weight;  // (E, K); (E, 1, K) in files
  ParameterPtr conv_bias;    // (E) or null
  LinearMap x_proj;          // (R + 2N, E); slices x_proj_dt, x_proj_B, x_proj_C
  LinearMap dt_proj;         // (E, R), bias (E) added in the scan
  ParameterPtr A_log;        // (E, N)
  ParameterPtr D;            // (E)
  LinearMap out_proj;        // (d, E)
};

class Mamba final : public LanguageModel {
 public:
  // Uninitialised weights; see init and load.
  explicit Mamba(const MambaConfig& config, Dtype dtype = Dtype::f32);
  // Random weights by the original recipe, a pure function of the seed.
  static std::unique_ptr<Mamba> init(const MambaConfig& config, std::uint64_t seed);
  // A model directory in either published layout. Throws IoError naming a tensor that is missing,
  // has a wrong shape or holds NaN, and ConfigError for its config.json. `matrix_dtype` (f32 or
  // bf16) is how frozen-size matrices (projections, embedding) are stored.
  static std::unique_ptr<Mamba> load(const std::string& directory, Dtype matrix_dtype = Dtype::f32);
  void save(const std::string& directory, Dtype dtype = Dtype::f32) const override;

  // What is computed for each token between two residual sums is kept in this type: float32, or
  // bfloat16 on a CUDA device (else DtypeError). Parameters, scan states, residual sums and logits
  // stay what they are.
  void set_activations(Dtype dtype);
  Dtype activations() const { return activations_; }

  const MambaConfig& config() const { return config_; }
  std::vector<std::unique_ptr<MambaLayer>>& layers() { return layers_; }

  std::int64_t vocab_size() const override { return config_.vocab_size; }
  const std::vector<ParameterPtr>& parameters() const override { return parameters_; }
  const std::vector<LinearMap*>& linear_maps() override { return linear_maps_; }
  ParameterPtr ensure_bias(const std::string& module) override;
  std::vector<std::string> biasable_modules() const override;
  void add_parameter(ParameterPtr parameter) override;
  Var hidden(const Tensor& ids, const ForwardContext& context) const override;
  Var head_table() const override;
  std::unique_ptr<DecodingState> new_state(std::int64_t batch) const override;
  Tensor prefill(const Tensor& ids, DecodingState& state) const override;
  Tensor step(const Tensor& ids, DecodingState& state) const override;

 private:
  ParameterPtr make(const std::string& name, Role role, Shape shape, Dtype dtype);
  // The mixer of one layer on normed input (B, L, d); fills the state of the layer when given.
  Var mixer(const MambaLayer& layer, const Var& x, const ForwardContext& context,
            Tensor* conv_window, Tensor* scan_state) const;
  Var run(const Tensor& ids, const ForwardContext& context, class MambaState* state) const;

  MambaConfig config_;
  Dtype activations_;
  ParameterPtr embedding_;
  std::vector<std::unique_ptr<MambaLayer>> layers_;
  ParameterPtr norm_f_;
  ParameterPtr head_;  // null when tied
  std::vector<ParameterPtr> parameters_;
  std::vector<LinearMap*> linear_maps_;
};

}  // namespace adder
