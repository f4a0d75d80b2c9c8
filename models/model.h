// What adapters, optimisers, checkpoints and reports need of a model: named parameters with roles,
// linear maps and state maps.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "models/diagonal_states.h"

namespace adder {

// A tensor of a model that no gradient reaches, but a forward pass of training may change: running
// statistics.
struct Buffer {
  std::string name;
  Tensor value;
};
using BufferPtr = std::shared_ptr<Buffer>;

class Model {
 public:
  virtual ~Model() = default;

  // Every parameter once, in checkpoint order, adapters' own parameters last.
  virtual const std::vector<ParameterPtr>& parameters() const = 0;
  virtual const std::vector<LinearMap*>& linear_maps() = 0;
  // Matrices (rows, states) that may carry a low-rank branch; none in Mamba.
  virtual const std::vector<StateMap*>& state_maps();
  // The S4 layers in order; none in Mamba.
  virtual std::vector<DiagonalStates> diagonal_states() { return {}; }
  // S4 with low rank: the length that C is stored for, which the longest sequence may have; 0:
  // none. What trains in such a model is relative to it, so an adapter belongs to one length.
  virtual std::int64_t stored_length() const { return 0; }
  // Makes the model take sequences of this length, if it has a longest one; what it computes stays
  // the same, a low-rank branch on it included. Before training is set up.
  virtual void reserve_length(std::int64_t /*length*/) {}
  // The bias of a module by name ("backbone.layers.0.mixer.conv1d"); created as zeros when the
  // module has none. Null when there is no such module.
  virtual ParameterPtr ensure_bias(const std::string& module) = 0;
  // Modules that ensure_bias accepts.
  virtual std::vector<std::string> biasable_modules() const = 0;
  // Every buffer once, in checkpoint order; saved and loaded with the model. None in most.
  virtual const std::vector<BufferPtr>& buffers() const;
  // From now on forward passes of training use buffers as those of evaluation do, and leave them as
  // they are: an adapter's files then need not carry them.
  void freeze_buffers() { buffers_frozen_ = true; }
  bool buffers_frozen() const { return buffers_frozen_; }
  // Makes the model own an adapter's parameter, so that it is trained, counted and moved with it.
  virtual void add_parameter(ParameterPtr parameter) = 0;

  // Writes config.json and model.safetensors into an existing directory, in the layout that load
  // reads; low-rank branches are folded in. `dtype` f32, bf16 or f16 (state parameters stay f32).
  // Throws IoError.
  virtual void save(const std::string& directory, Dtype dtype = Dtype::f32) const = 0;

  // Moves every parameter and buffer; before training is set up or an adapter is attached.
  void to(Device device);
  Device device() const;

  ParameterPtr find_parameter(const std::string& name) const;  // null when absent
  std::int64_t parameter_count() const;  // the base model's, adapters excluded
  std::int64_t trainable_count() const;

 private:
  bool buffers_frozen_ = false;
};

}  // namespace adder
