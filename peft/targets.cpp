#include "peft/targets.h"

#include <algorithm>
#include <numeric>
#include <string_view>

#include "engine/error.h"

namespace adder {
namespace {

std::vector<std::int32_t> range(std::int64_t begin, std::int64_t end) {
  std::vector<std::int32_t> indices(static_cast<std::size_t>(end - begin));
  std::iota(indices.begin(), indices.end(), static_cast<std::int32_t>(begin));
  return indices;
}

void make_trainable_storage(Parameter& parameter) {
  const Dtype dtype = parameter.value().dtype();
  if (dtype == Dtype::bf16 || dtype == Dtype::f16) {
    parameter.set_value(parameter.value().to(Dtype::f32));
  }
}

std::vector<std::string> whole_names(const Parameter& parameter) {
  std::vector<std::string> names = {parameter.name()};
  const std::string modern = "backbone.embeddings.";
  if (parameter.name().rfind(modern, 0) == 0) {
    names.push_back("backbone.embedding." + parameter.name().substr(modern.size()));
  }
  return names;
}

LinearMap* map_of(Model& model, const ParameterPtr& weight) {
  for (LinearMap* map : model.linear_maps()) {
    if (map->weight == weight) return map;
  }
  return nullptr;
}

// Cuts "b" off "a.b" and returns it.
std::string_view take_last_part(std::string_view& name) {
  const std::size_t dot = name.rfind('.');
  const std::string_view part = dot == std::string_view::npos ? name : name.substr(dot + 1);
  name = dot == std::string_view::npos ? std::string_view() : name.substr(0, dot);
  return part;
}

bool is_number(std::string_view part) {
  return !part.empty() &&
         std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::string weight_name(const LinearMap& map, const LinearSlice& slice) {
  return map.name + "." + slice.name + ".weight";
}

}  // namespace

std::vector<LinearSite> linear_sites(Model& model) {
  std::vector<LinearSite> sites;
  for (LinearMap* map : model.linear_maps()) {
    sites.push_back({map, map->name, 0, map->weight->value().dim(0), false});
    for (const LinearSlice& slice : map->slices) {
      sites.push_back({map, map->name + "." + slice.name, slice.begin, slice.end, true});
    }
  }
  return sites;
}

bool module_matches(const std::string& name, const std::string& target) {
  if (target.empty() || target[0] == '.') return false;
  // From the end, part by part.
  std::string_view left = name;
  std::string_view wanted = target;
  while (!wanted.empty()) {
    if (left.empty()) return false;
    const std::string_view part = take_last_part(left);
    std::string_view rest = wanted;
    if (take_last_part(rest) == part) {
      wanted = rest;
    } else if (!is_number(part)) {
      return false;
    }
  }
  return true;
}

std::string last_part(const std::string& name) {
  return name.substr(name.rfind('.') + 1);
}

std::string plain_name(const std::string& name) {
  std::string_view left = name;
  std::string_view part = take_last_part(left);
  while (is_number(part) && !left.empty()) part = take_last_part(left);
  return std::string(part);
}

void train_whole(Parameter& parameter, const std::string& method) {
  if (parameter.trainable()) {
    throw ConfigError(str(method, ": ", parameter.name(), " is trained by another method already"));
  }
  make_trainable_storage(parameter);
  parameter.train_dense();
}

std::shared_ptr<Selection> train_part(Parameter& parameter, const std::string& name, IndexSet index,
                                      double scale) {
  make_trainable_storage(parameter);
  return parameter.train_selection(name, std::move(index), scale);
}

std::int64_t train_by_name(Model& model, const std::string& method,
                           const std::function<bool(const std::string&)>& wanted) {
  std::int64_t found = 0;
  for (const ParameterPtr& parameter : model.parameters()) {
    if (parameter->role() == Role::adapter) continue;
    const auto names = whole_names(*parameter);
    const bool whole = std::any_of(names.begin(), names.end(), wanted);
    const LinearMap* map = map_of(model, parameter);
    std::vector<LinearSlice> parts;
    std::int64_t rows = 0;
    if (!whole && map != nullptr) {
      for (const LinearSlice& slice : map->slices) {
        if (!wanted(weight_name(*map, slice))) continue;
        parts.push_back(slice);
        rows += slice.end - slice.begin;
      }
    }
    if (!whole && parts.empty()) continue;
    ++found;
    const Shape shape = parameter->value().shape();
    if (whole || rows == shape[0]) {
      train_whole(*parameter, method);
      continue;
    }
    for (const LinearSlice& slice : parts) {
      train_part(*parameter, weight_name(*map, slice) + ".delta",
                 IndexSet::block(shape, range(slice.begin, slice.end), range(0, shape[1])), 1);
    }
  }
  return found;
}

std::vector<std::string> name_endings(Model& model) {
  std::vector<std::string> endings;
  const auto add = [&](const std::string& ending) {
    if (std::find(endings.begin(), endings.end(), ending) == endings.end()) {
      endings.push_back(ending);
    }
  };
  for (const ParameterPtr& parameter : model.parameters()) {
    const std::string& name = parameter->name();
    const std::string last = last_part(name);
    if (last != "weight" && last != "bias") {
      add(last);
      continue;
    }
    // "output_linear.0.weight": with its number, which some methods do not leave out.
    const std::string module = plain_name(name.substr(0, name.size() - last.size() - 1));
    add(module);
    add(name.substr(name.rfind(module + ".")));
  }
  for (const LinearMap* map : model.linear_maps()) {
    for (const LinearSlice& slice : map->slices) add(slice.name);
  }
  return endings;
}

}  // namespace adder
