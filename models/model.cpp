#include "models/model.h"

namespace adder {

const std::vector<StateMap*>& Model::state_maps() {
  static const std::vector<StateMap*> none;
  return none;
}

const std::vector<BufferPtr>& Model::buffers() const {
  static const std::vector<BufferPtr> none;
  return none;
}

void Model::to(Device device) {
  for (const ParameterPtr& parameter : parameters()) {
    parameter->set_value(parameter->value().to(device));
  }
  for (const BufferPtr& buffer : buffers()) buffer->value = buffer->value.to(device);
}

Device Model::device() const {
  return parameters().front()->value().device();
}

ParameterPtr Model::find_parameter(const std::string& name) const {
  for (const ParameterPtr& parameter : parameters()) {
    if (parameter->name() == name) return parameter;
  }
  return nullptr;
}

std::int64_t Model::parameter_count() const {
  std::int64_t count = 0;
  for (const ParameterPtr& parameter : parameters()) {
    if (parameter->role() != Role::adapter) count += parameter->value().numel();
  }
  return count;
}

std::int64_t Model::trainable_count() const {
  std::int64_t count = 0;
  for (const ParameterPtr& parameter : parameters()) count += parameter->trainable_count();
  return count;
}

}  // namespace adder
