// Selections as tensors of an adapter file or a checkpoint.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "autograd/variable.h"
#include "peft/sdt_selection.h"

namespace adder {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;
using TensorMap = std::map<std::string, Tensor>;

// Appends the tensors "<prefix>.sdt_…"; prefix is "backbone.layers.0.mixer.A_log".
void append_selection(NamedTensors& tensors, const std::string& prefix,
                      const LayerSelection& selection, bool with_scores);

// The selections among an adapter's tensors, in the order of the names' layers; empty when there
// are none. Throws ConfigError when they contradict themselves.
std::vector<LayerSelection> read_selections(const TensorMap& tensors,
                                            std::vector<std::string>& used);

// The length that a model's C is stored for; see Model::stored_length.
inline const std::string kStoredLength = "stored_length";
// Whether a tensor of this name describes a selection and is not itself trained.
bool describes_selection(const std::string& name);

// The running sums of a parameter's gradient in the warm-up of the rules "gradient".
inline const std::string kSavedGradient = ".sdt_gradient";
// Copies the tensor `name` into `to`. Throws ConfigError when it is missing and ShapeError when it
// does not fit.
void restore_tensor(const TensorMap& tensors, const std::string& name, const Tensor& to,
                    std::vector<std::string>& used);

}  // namespace adder
