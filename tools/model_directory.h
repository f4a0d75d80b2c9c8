// A model directory of any family: which it is, and loading it.
#pragma once

#include <memory>
#include <string>

#include "models/mamba.h"
#include "models/sequence_model.h"

namespace adder::tools {

// A model as its family's type; one of the two pointers is null.
struct AnyModel {
  std::unique_ptr<Model> model;
  Mamba* mamba = nullptr;
  SequenceModel* sequence = nullptr;
};

// Whether the directory's config.json names a model that reads sequences of numbers.
bool holds_sequence_model(const std::string& directory);

// Throws what the family's own loader throws. `dtype` is of Mamba's matrices; sequence models are
// float32.
AnyModel load_any_model(const std::string& directory, Dtype dtype = Dtype::f32);

// Throws ConfigError when `data` (DATA of the commands) is no text that a language model reads.
void refuse_sequence_data(const std::string& data, const std::string& model);

}  // namespace adder::tools
