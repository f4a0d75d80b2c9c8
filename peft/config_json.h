// Reading and writing the methods of an adapter_config.json. Private to peft/.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "peft/config.h"

namespace adder {

using ConfigJson = nlohmann::ordered_json;

// A key that others write into these files and that is accepted while it asks for nothing.
struct NeutralKey {
  const char* key;
  const char* missing;  // what another value would ask for; null: the value does not matter
};

// Reads the keys of one method and refuses what is left over.
class MethodReader {
 public:
  MethodReader(const ConfigJson& object, std::string place)
      : object_(object), place_(std::move(place)) {}

  // Null where the key is absent or null.
  const ConfigJson* find(const char* key);
  [[noreturn]] void fail(const std::string& key, const std::string& what) const;
  std::optional<std::int64_t> integer(const char* key);
  std::optional<double> number(const char* key);
  // At least 0 and finite; `otherwise` where absent.
  double not_negative(const char* key, double otherwise);
  double probability(const char* key, double otherwise);
  std::optional<bool> boolean(const char* key);
  // A string among `names`: its position; 0 where absent.
  std::size_t choice(const char* key, const std::vector<std::string>& names);
  std::vector<std::string> strings(const char* key);  // a list of names, or one name
  std::optional<AxisCount> count(const char* key);    // a whole number, or a fraction
  DimensionCounts counts(const char* key);            // {"state": …, "channel": …}
  template <std::size_t Count>
  void neutral(const NeutralKey (&keys)[Count]) {
    for (const NeutralKey& key : keys) neutral(key);
  }
  void finish();

 private:
  void neutral(const NeutralKey& key);
  AxisCount amount(const std::string& name, const ConfigJson& value) const;

  const ConfigJson& object_;
  std::string place_;
  std::vector<std::string> known_;
};

ConfigJson amount_json(const AxisCount& count);
ConfigJson number_json(double value);  // without a decimal point where it is whole

LoraConfig read_lora(MethodReader& reader);
LayerFreezeConfig read_layer_freeze(MethodReader& reader);
BitfitConfig read_bitfit(MethodReader& reader);
SdtConfig read_sdt(MethodReader& reader);
SdtS4Config read_sdt_s4(MethodReader& reader);

ConfigJson write_method(const LoraConfig& config);
ConfigJson write_method(const LayerFreezeConfig& config);
ConfigJson write_method(const BitfitConfig& config);
ConfigJson write_method(const SdtConfig& config);
ConfigJson write_method(const SdtS4Config& config);

}  // namespace adder
