#include "peft/config_json.h"

#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "engine/text/suggest.h"

namespace adder {
namespace {

constexpr NeutralKey kCommonKeys[] = {
    {"task_type", nullptr}, {"inference_mode", nullptr}, {"auto_mapping", nullptr},
    {"revision", nullptr},  {"peft_version", nullptr},   {"base_model_name_or_path", nullptr}};

bool is_neutral(const std::string& key, const ConfigJson& value) {
  if (value.is_null() || (value.is_boolean() && !value.get<bool>()))
    return key != "init_lora_weights";
  if ((value.is_object() || value.is_array()) && value.empty()) return true;
  if (key == "init_lora_weights") return value.is_boolean();
  if (key == "bias") return value == "none";
  return value.is_number() && value.get<double>() == 0;
}

}  // namespace

const ConfigJson* MethodReader::find(const char* key) {
  known_.emplace_back(key);
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void MethodReader::fail(const std::string& key, const std::string& what) const {
  throw ConfigError(str(place_, ": ", key, " ", what));
}

std::optional<std::int64_t> MethodReader::integer(const char* key) {
  const ConfigJson* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_integer())
    fail(key, str("is ", value->dump(), ", expected a whole number"));
  return value->get<std::int64_t>();
}

std::optional<double> MethodReader::number(const char* key) {
  const ConfigJson* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) fail(key, str("is ", value->dump(), ", expected a number"));
  return value->get<double>();
}

double MethodReader::not_negative(const char* key, double otherwise) {
  const double value = number(key).value_or(otherwise);
  if (!(value >= 0 && std::isfinite(value))) fail(key, str("is ", value, ", expected 0 or more"));
  return value;
}

double MethodReader::probability(const char* key, double otherwise) {
  const double p = number(key).value_or(otherwise);
  if (!(p >= 0 && p < 1)) fail(key, str("is ", p, ", expected at least 0 and below 1"));
  return p;
}

std::optional<bool> MethodReader::boolean(const char* key) {
  const ConfigJson* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) fail(key, "must be true or false");
  return value->get<bool>();
}

std::size_t MethodReader::choice(const char* key, const std::vector<std::string>& names) {
  const ConfigJson* value = find(key);
  if (value == nullptr) return 0;
  const std::string name = value->is_string() ? value->get<std::string>() : value->dump();
  const auto it = std::find(names.begin(), names.end(), name);
  if (it == names.end()) fail(key, str("is '", name, "'", did_you_mean(name, names)));
  return static_cast<std::size_t>(it - names.begin());
}

std::vector<std::string> MethodReader::strings(const char* key) {
  const ConfigJson* value = find(key);
  if (value == nullptr) return {};
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array()) fail(key, str("is ", value->dump(), ", expected a list of names"));
  std::vector<std::string> list;
  for (const ConfigJson& item : *value) {
    if (!item.is_string() || item.get<std::string>().empty()) {
      fail(key, str("holds ", item.dump(), ", expected names"));
    }
    list.push_back(item.get<std::string>());
  }
  return list;
}

AxisCount MethodReader::amount(const std::string& name, const ConfigJson& value) const {
  if (!value.is_number()) fail(name, str("is ", value.dump(), ", expected a number"));
  const AxisCount count{value.get<double>(), value.is_number_float()};
  if (!(count.value >= 0) || (count.fraction && count.value > 1)) {
    fail(name, str("is ", value.dump(), ", expected a count or a fraction from 0.0 to 1.0"));
  }
  return count;
}

std::optional<AxisCount> MethodReader::count(const char* key) {
  const ConfigJson* value = find(key);
  if (value == nullptr) return std::nullopt;
  return amount(key, *value);
}

DimensionCounts MethodReader::counts(const char* key) {
  const ConfigJson* value = find(key);
  if (value == nullptr || !value->is_object()) {
    fail(key, R"(is required: {"state": count or fraction, "channel": count or fraction})");
  }
  DimensionCounts counts;
  for (const auto& [axis, given] : value->items()) {
    const std::string name = str(key, ".", axis);
    if (axis != "state" && axis != "channel") {
      fail(name, "is not a key; expected state and channel");
    }
    (axis == "state" ? counts.state : counts.channel) = amount(name, given);
  }
  if (value->size() != 2) fail(key, "needs both state and channel");
  return counts;
}

void MethodReader::neutral(const NeutralKey& key) {
  const auto it = object_.find(key.key);
  known_.emplace_back(key.key);
  if (it != object_.end() && key.missing != nullptr && !is_neutral(key.key, *it)) {
    fail(key.key, str("is ", it->dump(), ": ", key.missing, " is not available"));
  }
}

void MethodReader::finish() {
  neutral(kCommonKeys);
  known_.emplace_back("peft_type");
  for (const auto& [key, value] : object_.items()) {
    if (std::find(known_.begin(), known_.end(), key) == known_.end()) {
      throw ConfigError(str(place_, ": unknown key '", key, "'", did_you_mean(key, known_)));
    }
  }
}

ConfigJson amount_json(const AxisCount& count) {
  return count.fraction ? ConfigJson(count.value)
                        : ConfigJson(static_cast<std::int64_t>(count.value));
}

ConfigJson number_json(double value) {
  const bool whole = value == std::nearbyint(value) && std::abs(value) < 1e15;
  return whole ? ConfigJson(static_cast<std::int64_t>(value)) : ConfigJson(value);
}

}  // namespace adder
