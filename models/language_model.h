// What training, evaluation, generation and adapters need of a language model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/linear_map.h"

namespace adder {

// The recurrent state of a batch of sequences between two tokens.
class DecodingState {
 public:
  virtual ~DecodingState() = default;
  virtual std::int64_t batch() const = 0;
  // Row i becomes what row rows[i] was (beam search); the batch may change size.
  virtual void reorder(const std::vector<std::int64_t>& rows) = 0;
};

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;

  virtual std::int64_t vocab_size() const = 0;  // rows of the head, padding included
  // Every parameter once, in checkpoint order, adapters' own parameters last.
  virtual const std::vector<ParameterPtr>& parameters() const = 0;
  virtual const std::vector<LinearMap*>& linear_maps() = 0;
  // The bias of a module by name ("backbone.layers.0.mixer.conv1d"); created as zeros when the
  // module has none. Null when there is no such module.
  virtual ParameterPtr ensure_bias(const std::string& module) = 0;
  // Modules that ensure_bias accepts.
  virtual std::vector<std::string> biasable_modules() const = 0;
  // Makes the model own an adapter's parameter, so that it is trained, counted and moved with it.
  virtual void add_parameter(ParameterPtr parameter) = 0;

  // Writes config.json and model.safetensors into an existing directory, in the layout that
  // transformers reads; low-rank branches are folded in. `dtype` f32, bf16 or f16 (A_log and D stay
  // f32). Throws IoError.
  virtual void save(const std::string& directory, Dtype dtype = Dtype::f32) const = 0;

  // Final hidden states (B, L, D) of int32 ids (B, L). Throws ShapeError for ids outside the
  // vocabulary.
  virtual Var hidden(const Tensor& ids, const ForwardContext& context) const = 0;
  virtual Var head_table() const = 0;  // (V, D)

  // Recurrent form, without gradients.
  virtual std::unique_ptr<DecodingState> new_state(std::int64_t batch) const = 0;
  // Feeds whole prompts in the parallel form; returns the logits after the last token (B, V).
  virtual Tensor prefill(const Tensor& ids, DecodingState& state) const = 0;
  // Feeds one token per sequence: ids (B) int32; returns logits (B, V).
  virtual Tensor step(const Tensor& ids, DecodingState& state) const = 0;

  // Mean cross entropy of labels (B, L); see head_loss.
  HeadLossResult loss(const Tensor& ids, const Tensor& labels, const ForwardContext& context,
                      std::int64_t denominator = 0) const;
  // The same where ids and rows may lie on the device already; ids there are not checked.
  HeadLossResult loss(const Tensor& ids, const SupervisedRows& rows, const ForwardContext& context,
                      std::int64_t denominator = 0) const;
  // Logits (rows, V) of final hidden states (rows, D), float32 also where those are bfloat16;
  // without gradients.
  Tensor head_logits(const Tensor& rows) const;
  // Logits (B, L, V), without gradients.
  Tensor logits(const Tensor& ids) const;

  // Moves every parameter; before training is set up or an adapter is attached.
  void to(Device device);
  Device device() const;

  ParameterPtr find_parameter(const std::string& name) const;  // null when absent
  std::int64_t parameter_count() const;  // the base model's, adapters excluded
  std::int64_t trainable_count() const;
};

}  // namespace adder
