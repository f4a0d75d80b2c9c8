// The methods that add nothing: training chosen parameters (LAYER_FREEZE) or biases (BITFIT).
#pragma once

#include "peft/config.h"
#include "peft/targets.h"

namespace adder {

// A parameter trains when one of its names (see train_by_name) contains one of the substrings; of a
// linear map whose slices match in part, those slices. Throws ConfigError for a substring that
// matches nothing.
void attach_layer_freeze(Model& model, const LayerFreezeConfig& config);

// The biases of the targets train, zeros where the model has none. Returns whether one was made.
// Throws ConfigError for a target that cannot have a bias.
bool attach_bitfit(Model& model, const BitfitConfig& config);

}  // namespace adder
