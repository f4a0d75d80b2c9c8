// Parameters from the files of a model directory or a checkpoint.
#pragma once

#include <string>

#include "engine/io/safetensors.h"
#include "models/model.h"

namespace adder {

// Copies the checkpoint's tensor `name` into a parameter of its shape. Throws IoError
// naming a tensor that is missing, has a wrong shape or type, or holds NaN or infinite values.
void load_parameter(const Parameter& parameter, const WeightFiles& files, const std::string& name);
// The same for a buffer, which is an integer or a floating type as it is in the model. Throws
// IoError.
void load_buffer(const Buffer& buffer, const WeightFiles& files);

}  // namespace adder
