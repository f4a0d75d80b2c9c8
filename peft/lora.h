// LoRA (Hu et al. 2021) on linear maps, on slices of their output rows and on state maps.
#pragma once

#include <cstdint>

#include "peft/config.h"
#include "peft/targets.h"

namespace adder {

// Adds one branch: A uniform in ±1/sqrt(in), a function of the seed and the site's name alone, and
// B zero. Throws ConfigError when the site's rows have a branch already.
void add_lora_branch(Model& model, const LinearSite& site, std::int64_t r, double scale,
                     double dropout, std::uint64_t seed);

// Adds scale U V to a state parameter: U zeros, V standard normal (complex: 1/2 the variance for
// each component), a function of the seed and the name alone. Throws ConfigError when the map has a
// branch already.
void add_state_branch(Model& model, StateMap& map, std::int64_t r, double scale,
                      std::uint64_t seed);

// Adds the branches that the configuration asks for. Throws ConfigError for a target that matches
// nothing (with the nearest that does) and for one that LoRA is not available on.
void attach_lora(Model& model, const LoraConfig& config, std::uint64_t seed);

// A random stream of its own for every name (64-bit FNV-1a).
std::uint64_t stream_of(const std::string& name);

}  // namespace adder
