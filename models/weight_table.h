// Parameters from the files of a model directory or a checkpoint.
#pragma once

#include <string>

#include "autograd/parameter.h"
#include "engine/io/safetensors.h"

namespace adder {

// Copies the checkpoint's tensor `name` into a parameter of its shape. Throws IoError
// naming a tensor that is missing, has a wrong shape or type, or holds NaN or infinite values.
void load_parameter(const Parameter& parameter, const WeightFiles& files, const std::string& name);

}  // namespace adder
