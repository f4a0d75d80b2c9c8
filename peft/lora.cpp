#include "peft/lora.h"

#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "engine/random.h"
#include "engine/text/suggest.h"

namespace adder {
namespace {

// A target that names no map: says whether it names something else.
[[noreturn]] void fail_target(Model& model, const std::vector<LinearSite>& sites,
                              const std::string& target) {
  for (const ParameterPtr& parameter : model.parameters()) {
    const std::string& name = parameter->name();
    const std::string module = name.substr(0, name.rfind('.'));
    const bool same = module_matches(module, target) ||
                      (parameter->role() == Role::embedding && target == "embedding");
    if (same || module_matches(name, target)) {
      throw ConfigError(str("LORA: target_modules holds '", target,
                            "', but LoRA is not available on ", role_name(parameter->role()), " (",
                            name, ")"));
    }
  }
  std::vector<std::string> valid;
  for (const LinearSite& site : sites) valid.push_back(plain_name(site.name));
  for (const StateMap* map : model.state_maps()) valid.push_back(last_part(map->name));
  throw ConfigError(str("LORA: target_modules holds '", target,
                        "', which is no linear or state map of the model",
                        did_you_mean(target, valid)));
}

}  // namespace

std::uint64_t stream_of(const std::string& name) {
  std::uint64_t hash = 14695981039346656037U;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
  return hash;
}

void add_lora_branch(Model& model, const LinearSite& site, std::int64_t r, double scale,
                     double dropout, std::uint64_t seed) {
  std::uint64_t branches = 0;
  for (const LinearMap* map : model.linear_maps()) branches += map->branches.size();
  for (const LoraBranch& other : site.map->branches) {
    const std::int64_t end = other.row_begin + other.B->value().dim(0);
    if (other.row_begin < site.row_end && site.row_begin < end) {
      throw ConfigError(str("LoRA on ", site.name, " (rows ", site.row_begin, " to ", site.row_end,
                            "): ", other.A->name(), " covers some of these rows already"));
    }
  }
  const Tensor& weight = site.map->weight->value();
  const Dtype dtype = weight.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  const std::int64_t width = weight.dim(1);
  LoraBranch branch;
  branch.A = std::make_shared<Parameter>(site.name + ".lora_A.weight", Role::adapter,
                                         Tensor::empty({r, width}, dtype));
  branch.B = std::make_shared<Parameter>(
      site.name + ".lora_B.weight", Role::adapter,
      Tensor::zeros({site.row_end - site.row_begin, r}, dtype, weight.device()));
  const double bound = 1 / std::sqrt(static_cast<double>(width));
  fill_uniform(branch.A->value(), -bound, bound, seed, stream_of(branch.A->name()));
  branch.A->set_value(branch.A->value().to(weight.device()));
  branch.row_begin = site.row_begin;
  branch.scale = scale;
  branch.dropout = dropout;
  branch.site = branches;
  for (const ParameterPtr& parameter : {branch.A, branch.B}) {
    parameter->train_dense();
    model.add_parameter(parameter);
  }
  site.map->branches.push_back(std::move(branch));
}

void add_state_branch(Model& model, StateMap& map, std::int64_t r, double scale,
                      std::uint64_t seed) {
  if (!map.branches.empty()) {
    throw ConfigError(
        str("LoRA on ", map.name, ": ", map.branches[0].U->name(), " adds to it already"));
  }
  const Tensor& value = map.base->value();
  Shape left{map.rows(), r};
  Shape right{r, map.states()};
  if (map.is_complex()) {
    left.push_back(2);
    right.push_back(2);
  }
  StateBranch branch;
  branch.U = std::make_shared<Parameter>(map.name + ".lora_U", Role::adapter,
                                         Tensor::zeros(left, value.dtype(), value.device()));
  branch.V = std::make_shared<Parameter>(map.name + ".lora_V", Role::adapter,
                                         Tensor::empty(right, value.dtype()));
  fill_normal(branch.V->value(), 0, map.is_complex() ? std::sqrt(0.5) : 1, seed,
              stream_of(branch.V->name()));
  branch.V->set_value(branch.V->value().to(value.device()));
  branch.scale = scale;
  for (const ParameterPtr& parameter : {branch.U, branch.V}) {
    parameter->train_dense();
    model.add_parameter(parameter);
  }
  map.branches.push_back(std::move(branch));
}

void attach_lora(Model& model, const LoraConfig& config, std::uint64_t seed) {
  const std::vector<LinearSite> sites = linear_sites(model);
  const auto add = [&](const LinearSite& site) {
    add_lora_branch(model, site, config.r, config.scale(), config.dropout, seed);
  };
  if (config.all_linear) {
    for (const LinearSite& site : sites) {
      if (!site.is_slice) add(site);
    }
  }
  std::vector<bool> taken(sites.size(), false);
  std::vector<const StateMap*> taken_states;
  for (const std::string& target : config.target_modules) {
    bool found = false;
    for (std::size_t i = 0; i < sites.size(); ++i) {
      if (!module_matches(sites[i].name, target)) continue;
      found = true;
      // Two targets of one list may name the same module, as in Hugging Face PEFT.
      if (!taken[i]) add(sites[i]);
      taken[i] = true;
    }
    for (StateMap* map : model.state_maps()) {
      if (!module_matches(map->name, target) && !module_matches(map->alias, target)) continue;
      found = true;
      if (std::find(taken_states.begin(), taken_states.end(), map) != taken_states.end()) continue;
      add_state_branch(model, *map, config.r, config.scale(), seed);
      taken_states.push_back(map);
    }
    if (!found) fail_target(model, sites, target);
  }
}

}  // namespace adder
