// Access to the golden files made with PyTorch, transformers and peft (tests/golden/README.md).
#pragma once

#include <map>
#include <memory>
#include <string>

#include "engine/io/safetensors.h"
#include "models/mamba.h"

namespace adder::test {

inline std::string golden_path(const std::string& name) {
  return std::string(ADDER_SOURCE_DIR) + "/tests/golden/data/" + name;
}

// A model with the configuration in the file's metadata and the weights under "param/".
inline std::unique_ptr<Mamba> golden_model(const SafetensorsFile& file, const std::string& name) {
  auto model = std::make_unique<Mamba>(MambaConfig::from_json(file.metadata().at("config"), name));
  for (const ParameterPtr& parameter : model->parameters()) {
    parameter->value().copy_from(
        file.load("param/" + parameter->name()).reshape(parameter->value().shape()));
  }
  return model;
}

inline Tensor as_ids(const Tensor& tensor) {
  return tensor.to(Dtype::i32);
}

}  // namespace adder::test
