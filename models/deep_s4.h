// The deep S4 of the PEFT experiments (Galim et al. 2025): layers of a complex diagonal SSM per
// channel, a linear map over the channels and a ReLU.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "models/sequence_model.h"

namespace adder {

struct DeepS4Config {
  // theory: x -> relu(W s4(x) + b) in every layer, nothing around; a regressor or a classifier of
  // each position over its d_model channels. standard: an encoder, layers with a residual
  // connection, the mean over the sequence, a decoder. ("default" in files, as in the reference.)
  enum class Mode : std::uint8_t { theory, standard };
  Mode mode = Mode::standard;
  std::int64_t d_model = 64;
  std::int64_t n_layers = 4;
  std::int64_t d_state = 16;  // complex modes of each channel
  std::int64_t d_input = 1;   // standard only
  std::int64_t d_output = 10;
  double dropout = 0;  // of whole channels (standard only)
  // Initial A: "default" (real part -1/2, imaginary pi n) or "random".
  std::string A_init = "default";

  // Throws ConfigError for an unknown key, a wrong type or a number out of range.
  static DeepS4Config from_json(const std::string& text, const std::string& name);
  std::string to_json() const;
};

struct DeepS4Layer {
  ParameterPtr D;           // (H)
  StateMap C;               // (H, N, 2)
  ParameterPtr log_dt;      // (H)
  StateMap log_A_real;      // (H, N)
  StateMap A_imag;          // (H, N)
  LinearMap output_linear;  // (H, H), with bias
};

class DeepS4 final : public SequenceModel {
 public:
  // Uninitialised weights; see init and load. float32 or float64.
  explicit DeepS4(const DeepS4Config& config, Dtype dtype = Dtype::f32);
  static std::unique_ptr<DeepS4> init(const DeepS4Config& config, std::uint64_t seed);
  static std::unique_ptr<DeepS4> load(const std::string& directory);
  void save(const std::string& directory, Dtype dtype = Dtype::f32) const override;

  const DeepS4Config& config() const { return config_; }
  std::vector<std::unique_ptr<DeepS4Layer>>& layers() { return layers_; }

  std::int64_t input_size() const override;
  std::int64_t output_size() const override;
  bool pooled() const override { return config_.mode == DeepS4Config::Mode::standard; }
  std::string description() const override;
  Var forward(const Tensor& x, const ForwardContext& context) const override;
  std::vector<DiagonalStates> diagonal_states() override;

 private:
  // relu(W s4(x) + b), x (B, L, H).
  Var layer(const DeepS4Layer& layer, const Var& x, const ForwardContext& context) const;

  DeepS4Config config_;
  LinearMap encoder_;  // standard only
  std::vector<std::unique_ptr<DeepS4Layer>> layers_;
  LinearMap decoder_;  // standard only
};

}  // namespace adder
