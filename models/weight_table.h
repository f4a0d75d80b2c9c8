// Parameters from and into a model directory's files. Private to models/.
#pragma once

#include <vector>

#include "autograd/parameter.h"
#include "engine/io/safetensors.h"

namespace adder {

// Copies a tensor of a checkpoint into a parameter, which has its shape and type. Throws IoError
// naming a tensor that is missing, has a wrong shape or type, or holds NaN or infinite values.
void load_parameter(const Parameter& parameter, const WeightFiles& files);

}  // namespace adder
