// The official S4 model (Gu et al. 2021, 2022): blocks of an S4 layer, activation, linear map and
// GLU with norm and residual connection, between an encoder and a decoder.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "autograd/s4_ops.h"
#include "models/s4_norm.h"
#include "models/sequence_model.h"

namespace adder {

struct S4StackConfig {
  // s4: the official block around an S4 layer; s4d: the repository's minimal S4D, for which the
  // keys from `mode` to `final_act` but for dt_min and dt_max keep their defaults.
  std::string layer = "s4";
  std::int64_t d_input = 1;
  std::int64_t d_output = 10;
  std::int64_t d_model = 128;  // H
  std::int64_t n_layers = 4;
  std::int64_t d_state = 64;  // even: the number of stored modes is half of it
  std::string mode = "diag";  // of the state matrix: diag (S4D) or dplr (S4)
  std::string init = "legs";  // as S4InitOptions
  std::string disc = "zoh";   // diag: zoh, bilinear or dss; dplr: bilinear
  std::int64_t rank = 1;      // dplr
  std::int64_t n_ssm = 0;     // copies of A and B, divides d_inner(); 0: as many
  std::int64_t channels = 1;
  std::int64_t l_max = 1024;  // dplr: the length that C is stored for, and the longest sequence
  double dt_min = 1e-3;
  double dt_max = 1e-1;
  double bandlimit = 0;
  bool bidirectional = false;
  std::int64_t bottleneck = 0;  // the S4 layer has d_model / bottleneck features; 0: no bottleneck
  std::int64_t gate = 0;        // a multiplicative branch of gate * d_model features; 0: none
  // Each gelu, relu, silu, tanh, elu, sigmoid or none: of the layer, of the gate's branch, behind
  // the product, and behind the linear map. The last may be glu; empty: there is no linear map
  // either.
  std::string activation = "gelu";
  std::string gate_act = "none";
  std::string mult_act = "none";
  std::string final_act = "glu";
  double dropout = 0;
  bool tie_dropout = true;  // whole channels instead of single values
  bool prenorm = false;
  std::string norm = "layer";    // layer, layer_scalar, batch, instance, group or none
  std::string pooling = "mean";  // mean, last, or none: an output at each position

  // Throws ConfigError for an unknown key, a wrong type or a number out of range.
  static S4StackConfig from_json(const std::string& text, const std::string& name);
  std::string to_json() const;
  std::int64_t d_inner() const { return bottleneck > 0 ? d_model / bottleneck : d_model; }
  std::int64_t copies() const { return n_ssm > 0 ? n_ssm : d_inner(); }
};

// Names of the official checkpoints, and behind a semicolon those of the minimal S4D where they
// differ. M is channels, doubled when bidirectional; H is d_inner() and E d_model.
struct S4Block {
  LinearMap input_linear;   // input_linear (H, E), with a bottleneck
  LinearMap input_gate;     // input_gate, or input_gate.0 where it is activated (gate E, E)
  LinearMap output_gate;    // output_gate (gate E, channels H)
  ParameterPtr D;           // layer.D (channels, H); D (H)
  ParameterPtr inv_dt;      // layer.kernel.inv_dt (H, 1); kernel.log_dt (H)
  StateMap C;               // layer.kernel.C (M, H, N, 2), dplr: the stored one; kernel.C (H, N, 2)
  ParameterPtr B;           // layer.kernel.B (1, S, N, 2); none
  StateMap A_real, A_imag;  // layer.kernel.A_real, .A_imag (S, N); kernel.log_A_real, .A_imag
  ParameterPtr P;           // layer.kernel.P (R, S, N, 2), dplr only
  LinearMap output_linear;  // output_linear.0 (E or 2 E, channels H or gate E), or none
  S4Norm norm;              // norms.i
  std::int64_t l_kernel = 0;  // dplr: the length that C is stored for
};

class S4Stack final : public SequenceModel {
 public:
  // Uninitialised weights; see init and load. float32 or float64.
  explicit S4Stack(const S4StackConfig& config, Dtype dtype = Dtype::f32);
  static std::unique_ptr<S4Stack> init(const S4StackConfig& config, std::uint64_t seed);
  static std::unique_ptr<S4Stack> load(const std::string& directory);
  void save(const std::string& directory, Dtype dtype = Dtype::f32) const override;

  const S4StackConfig& config() const { return config_; }
  std::vector<std::unique_ptr<S4Block>>& blocks() { return blocks_; }
  // dplr: doubles the stored length of every layer until it is at least `length`. The function that
  // the model computes stays the same.
  void reserve_length(std::int64_t length) override;
  std::int64_t stored_length() const override;  // the shortest one of the layers

  std::int64_t input_size() const override { return config_.d_input; }
  std::int64_t output_size() const override { return config_.d_output; }
  bool pooled() const override { return config_.pooling != "none"; }
  std::string description() const override;
  std::vector<DiagonalStates> diagonal_states() override;
  // Throws ShapeError also for a sequence that is longer than a dplr model's stored length.
  Var forward(const Tensor& x, const ForwardContext& context) const override;

 private:
  StateMap make_state(const std::string& name, Role role, const Shape& shape);
  void make_s4(S4Block& block, const std::string& prefix);
  void make_minimal(S4Block& block, const std::string& prefix);
  void init_layer(S4Block& block, std::uint64_t seed, std::uint64_t& stream) const;
  // (B, L, d_inner) to (B, L, channels, d_inner).
  Var state_space(const S4Block& block, const Var& u) const;
  // x (B, L, H) to (B, L, H): the layer, without norm and residual connection.
  Var block(std::size_t index, const Var& x, const ForwardContext& context) const;
  Var drop(const Var& x, std::size_t site, const ForwardContext& context) const;
  S4Options options() const;
  S4Norm make_norm(const std::string& name);

  S4StackConfig config_;
  LinearMap encoder_;
  std::vector<std::unique_ptr<S4Block>> blocks_;
  S4Norm norm_;  // after the last block when prenorm
  LinearMap decoder_;
};

}  // namespace adder
