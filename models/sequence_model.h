// Models that read sequences of real vectors: classifiers and regressors, and their losses.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/model.h"

namespace adder {

class SequenceModel : public Model {
 public:
  virtual std::int64_t input_size() const = 0;   // values at each position
  virtual std::int64_t output_size() const = 0;  // classes or values
  // One output for a whole sequence (B, output_size) instead of one at each position
  // (B, L, output_size).
  virtual bool pooled() const = 0;
  // x is (B, L, input_size). Throws ShapeError otherwise, also for an empty sequence.
  virtual Var forward(const Tensor& x, const ForwardContext& context) const = 0;
  // What a person would call it: "deep S4, 4 layers, 64 channels, 16 states".
  virtual std::string description() const = 0;

  const std::vector<ParameterPtr>& parameters() const override { return parameters_; }
  const std::vector<LinearMap*>& linear_maps() override { return linear_maps_; }
  const std::vector<StateMap*>& state_maps() override { return state_maps_; }
  const std::vector<BufferPtr>& buffers() const override { return buffers_; }
  ParameterPtr ensure_bias(const std::string& module) override;  // all maps have one
  std::vector<std::string> biasable_modules() const override;
  void add_parameter(ParameterPtr parameter) override;

 protected:
  explicit SequenceModel(Dtype dtype) : dtype_(dtype) {}
  // Parameters are made in checkpoint order.
  ParameterPtr make(const std::string& name, Role role, Shape shape);
  LinearMap make_linear(const std::string& name, Role role, std::int64_t out, std::int64_t in);
  BufferPtr make_buffer(const std::string& name, Shape shape, Dtype dtype);
  // What save() writes: low-rank branches folded in, matrices of linear maps as `dtype`, other
  // parameters float32, then the buffers.
  std::vector<std::pair<std::string, Tensor>> stored_tensors(Dtype dtype) const;

  Dtype dtype_;
  std::vector<ParameterPtr> parameters_;
  std::vector<LinearMap*> linear_maps_;
  std::vector<StateMap*> state_maps_;
  std::vector<BufferPtr> buffers_;
};

// One batch and what is right for it.
struct SequenceBatch {
  Tensor x;       // (B, L, input_size) float32
  Tensor labels;  // int32 classes: (B) for a pooled model, else (B, L); undefined for regression
  Tensor target;  // (B, output_size) or (B, L, output_size) float32; undefined for classes
};

struct SequenceLoss {
  Var loss;  // mean over what is counted (cross entropy), or over all values (square error)
  std::int64_t count = 0;
  // (2) float64 on the device: the sum over what is counted, and how many argmaxes are right (0 for
  // regression).
  Tensor sums;
};
// Cross entropy where the batch has labels, mean square error where it has a target. The mean is
// over `denominator` items when that is positive (gradient accumulation over several batches).
// Throws ShapeError when the batch does not fit the model.
SequenceLoss sequence_loss(const SequenceModel& model, const SequenceBatch& batch,
                           const ForwardContext& context, std::int64_t denominator = 0);

// A sequence model's directory, whichever of them its config.json names ("model_type": deep_s4 or
// s4). Throws IoError and ConfigError as the models' own load functions.
std::unique_ptr<SequenceModel> load_sequence_model(const std::string& directory);
// Random weights for the text of a config.json; `name` is used in messages. Throws ConfigError.
std::unique_ptr<SequenceModel> init_sequence_model(const std::string& config_json,
                                                   const std::string& name, std::uint64_t seed);
// Whether the text of a config.json names a sequence model rather than a language model.
bool names_sequence_model(const std::string& config_json);

}  // namespace adder
