// How adapters find what they act on: linear maps and their slices, and parameters by the names
// that the reference's split form gives them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "models/model.h"

namespace adder {

// A linear map, or a named slice of its output rows.
struct LinearSite {
  LinearMap* map = nullptr;
  std::string name;  // dotted: "backbone.layers.0.mixer.in_proj.in_proj_x"
  std::int64_t row_begin = 0;
  std::int64_t row_end = 0;
  bool is_slice = false;
};

std::vector<LinearSite> linear_sites(Model& model);

// Whether a dotted name is `target` or ends with "." and it. Numbers in the name may be left out:
// "output_linear" stands for "output_linear.0", the first module of a sequence.
bool module_matches(const std::string& name, const std::string& target);
// The part of a dotted name after its last dot.
std::string last_part(const std::string& name);
// The same without numbers at the end: "output_linear" of "s4_layers.0.output_linear.0".
std::string plain_name(const std::string& name);

// Makes all of a parameter trainable, converting half-precision storage to float32. Throws
// ConfigError when another method trains some of it already.
void train_whole(Parameter& parameter, const std::string& method);
// The same for an index set; see Parameter::train_selection.
std::shared_ptr<Selection> train_part(Parameter& parameter, const std::string& name, IndexSet index,
                                      double scale);

// Trains every parameter that `wanted` accepts by one of its names: the model's own, the original
// checkpoints' ("backbone.embedding.weight"), or, for slices of a linear map, those of the split
// form ("…mixer.x_proj.x_proj_B.weight"). Returns how many it found.
std::int64_t train_by_name(Model& model, const std::string& method,
                           const std::function<bool(const std::string&)>& wanted);
// What such names may end in, for suggestions: "A_log", "x_proj_B", "conv1d.bias", …
std::vector<std::string> name_endings(Model& model);

}  // namespace adder
