// Reads a configuration's keys with checks; what was never read is an unknown key. Private to
// models/.
#pragma once

#include <cmath>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "engine/error.h"
#include "engine/text/suggest.h"

namespace adder {

class JsonReader {
 public:
  // Throws ConfigError, naming `name`, when the text is no JSON object.
  JsonReader(const std::string& text, std::string name) : name_(std::move(name)) {
    try {
      json_ = nlohmann::ordered_json::parse(text);
    } catch (const nlohmann::ordered_json::parse_error& error) {
      fail(str("byte ", error.byte, ": not valid JSON"));
    } catch (const nlohmann::ordered_json::exception&) {
      fail("not valid JSON (a number is out of range)");
    }
    if (!json_.is_object()) fail("not a JSON object");
  }

  // The object under a key; an empty one where that is absent or null.
  JsonReader object(const char* key) {
    const auto* found = find(key);
    if (found != nullptr && !found->is_object()) wrong(key, *found, "an object");
    return JsonReader(found == nullptr ? nlohmann::ordered_json::object() : *found,
                      name_ + ": " + key);
  }

  bool has(const char* key) const { return json_.contains(key); }
  void require(std::initializer_list<const char*> keys) const {
    for (const char* key : keys) {
      if (!has(key)) fail(str("'", key, "' is missing"));
    }
  }
  // Whether the key's value is this text.
  bool says(const char* key, const char* text) {
    const auto* found = find(key);
    return found != nullptr && *found == text;
  }

  [[noreturn]] void fail(const std::string& what) const { throw ConfigError(name_ + ": " + what); }

  // Absent and null leave the default.
  void read(const char* key, std::int64_t& value, std::int64_t least,
            std::int64_t most = std::int64_t{1} << 31) {
    const auto* found = find(key);
    if (found == nullptr) return;
    if (!found->is_number_integer()) wrong(key, *found, "a whole number");
    const bool large = found->is_number_unsigned() && found->get<std::uint64_t>() > std::uint64_t{1}
                                                                                        << 62;
    value = large ? std::numeric_limits<std::int64_t>::max() : found->get<std::int64_t>();
    if (value < least || value > most) {
      wrong(key, *found, str("from ", least, " to ", most));
    }
  }
  void read(const char* key, double& value, double least, double most) {
    const auto* found = find(key);
    if (found == nullptr) return;
    if (!found->is_number()) wrong(key, *found, "a number");
    value = found->get<double>();
    if (!(value >= least && value <= most)) wrong(key, *found, str("from ", least, " to ", most));
  }
  void read(const char* key, bool& value) {
    const auto* found = find(key);
    if (found == nullptr) return;
    if (!found->is_boolean()) wrong(key, *found, "true or false");
    value = found->get<bool>();
  }
  void read(const char* key, std::string& value, const std::vector<std::string>& choices) {
    const auto* found = find(key);
    if (found == nullptr) return;
    std::string list;
    for (const std::string& choice : choices) {
      if (found->is_string() && *found == choice) {
        value = choice;
        return;
      }
      list += (list.empty() ? "" : ", ") + choice;
    }
    wrong(key, *found,
          "one of " + list +
              (found->is_string() ? did_you_mean(found->get<std::string>(), choices) : ""));
  }
  void read_text(const char* key, std::string& value) {
    const auto* found = find(key);
    if (found == nullptr) return;
    if (!found->is_string()) wrong(key, *found, "a text");
    value = found->get<std::string>();
  }
  // What is right by itself and not available here.
  [[noreturn]] void refuse(const char* key, const std::string& available) {
    const auto* found = find(key);
    fail(str("'", key, "' is ", found == nullptr ? "absent" : found->dump(),
             ", which is not available; ", available));
  }
  // Whether the key is there as null, for one whose null means something.
  bool is_null(const char* key) const {
    const auto found = json_.find(key);
    return found != json_.end() && found->is_null();
  }
  // Throws for a key that was never asked for, naming the nearest one that was.
  void finish() const {
    for (const auto& [key, value] : json_.items()) {
      if (known_.count(key) > 0) continue;
      fail(str("unknown key '", key, "'",
               did_you_mean(key, std::vector<std::string>(known_.begin(), known_.end()))));
    }
  }

 private:
  JsonReader(nlohmann::ordered_json json, std::string name)
      : json_(std::move(json)), name_(std::move(name)) {}

  const nlohmann::ordered_json* find(const char* key) {
    known_.insert(key);
    const auto found = json_.find(key);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] void wrong(const char* key, const nlohmann::ordered_json& value,
                          const std::string& expected) const {
    fail(str("'", key, "' is ", value.dump(), ", expected ", expected));
  }

  nlohmann::ordered_json json_;
  std::string name_;
  std::set<std::string> known_;
};

}  // namespace adder
