#include "engine/text/tokenizer_json.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "engine/error.h"

namespace adder::text {
namespace {

using Json = nlohmann::json;

// One value of the file with the way to it, for messages: "tokenizer.json: model.merges[3]".
struct Value {
  const Json& json;
  std::string where;

  bool has(const char* key) const {
    return json.is_object() && json.contains(key) && !json[key].is_null();
  }
  Value operator[](const char* key) const {
    static const Json null;
    const auto it = json.find(key);
    return {it == json.end() ? null : *it, str(where, where.ends_with(':') ? " " : ".", key)};
  }
  std::string place() const { return str(where, where.ends_with(':') ? " " : ": "); }
  Value at(size_t i) const { return {json[i], str(where, "[", i, "]")}; }
};

std::string shown(const Json& json) {
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  constexpr size_t kLongest = 60;
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "…";
  return text;
}

[[noreturn]] void malformed(const Value& value, const char* expected) {
  const bool nested = value.json.is_structured();  // printing it could recurse deeply
  throw IoError(str(value.place(), "expected ", expected, ", found ",
                    nested ? std::string(value.json.type_name()) : shown(value.json)));
}

[[noreturn]] void unsupported(const Value& value, std::string_view known) {
  const bool nested = value.json.is_structured();
  throw ConfigError(str(value.place(),
                        nested ? str("this ", value.json.type_name()) : shown(value.json),
                        " is not supported; understood: ", known));
}

void check_object(const Value& value, std::initializer_list<const char*> keys) {
  if (!value.json.is_object()) malformed(value, "an object");
  for (const auto& item : value.json.items()) {
    const std::string& key = item.key();
    const auto same = [&key](const char* known) { return key == known; };
    if (std::any_of(keys.begin(), keys.end(), same)) continue;
    std::string list;
    for (const char* known : keys) list += str(list.empty() ? "" : ", ", known);
    throw ConfigError(str(value.place(), "unknown option '", key, "'; known: ", list));
  }
}

const Value& array(const Value& value) {
  if (!value.json.is_array()) malformed(value, "an array");
  return value;
}

const std::string& text(const Value& value) {
  if (!value.json.is_string()) malformed(value, "a string");
  return value.json.get_ref<const std::string&>();
}

bool flag(const Value& object, const char* key, bool fallback) {
  if (!object.has(key)) return fallback;
  const Value value = object[key];
  if (!value.json.is_boolean()) malformed(value, "true or false");
  return value.json.get<bool>();
}

int32_t token_id(const Value& value) {
  if (!value.json.is_number_unsigned()) malformed(value, "a token id");
  const auto id = value.json.get<uint64_t>();
  if (id >= static_cast<uint64_t>(kMaxTokens)) {
    throw IoError(str(value.place(), "token id ", id, " is not below ", kMaxTokens));
  }
  return static_cast<int32_t>(id);
}

// The option must be absent, null or equal to one of the values without effect.
void check_unused(const Value& object, const char* key, std::initializer_list<Json> no_effect) {
  if (!object.has(key)) return;
  const Value value = object[key];
  for (const Json& allowed : no_effect) {
    if (value.json == allowed) return;
  }
  unsupported(value, no_effect.size() == 0 ? "null" : str("null, ", shown(*no_effect.begin())));
}

const std::string& type_of(const Value& component) {
  if (!component.json.is_object()) malformed(component, "an object");
  return text(component["type"]);
}

// Calls f for the component itself, or for those of a Sequence under `key`.
template <typename F>
void for_each_component(const Value& component, const char* key, F&& f) {
  if (type_of(component) != "Sequence") return f(component);
  check_object(component, {"type", key});
  const Value list = component[key];
  for (size_t i = 0; i < array(list).json.size(); ++i) {
    const Value part = list.at(i);
    if (type_of(part) == "Sequence") unsupported(part["type"], "components other than Sequence");
    f(part);
  }
}

void check_byte_level(const Value& component) {
  check_object(component, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
  flag(component, "trim_offsets", true);  // offsets are not reported, so either value will do
}

void read_normalizer(const Value& root, TokenizerSpec& spec) {
  if (!root.has("normalizer")) return;
  for_each_component(root["normalizer"], "normalizers", [&](const Value& component) {
    if (type_of(component) != "NFC") unsupported(component["type"], "NFC, Sequence");
    check_object(component, {"type"});
    spec.nfc = true;
  });
}

SplitStep read_split(const Value& component) {
  check_object(component, {"type", "pattern", "behavior", "invert"});
  SplitStep step;
  const Value pattern = component["pattern"];
  check_object(pattern, {"Regex", "String"});
  if (pattern.json.size() != 1) malformed(pattern, "one of Regex and String");
  step.literal = pattern.json.contains("String");
  step.pattern = text(pattern[step.literal ? "String" : "Regex"]);
  step.invert = flag(component, "invert", false);
  constexpr std::pair<const char*, SplitBehavior> kBehaviors[] = {
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous}};
  const Value behavior = component["behavior"];
  for (const auto& [known, value] : kBehaviors) {
    if (text(behavior) != known) continue;
    step.behavior = value;
    return step;
  }
  unsupported(behavior, "Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
}

void read_pre_tokenizer(const Value& root, TokenizerSpec& spec) {
  const Value value = root["pre_tokenizer"];
  bool byte_level = false;
  if (!value.json.is_null()) {
    for_each_component(value, "pretokenizers", [&](const Value& component) {
      const std::string& type = type_of(component);
      if (byte_level) unsupported(component["type"], "ByteLevel as the last component");
      if (type == "Split") {
        spec.pre_tokenizer.splits.push_back(read_split(component));
      } else if (type == "ByteLevel") {
        check_byte_level(component);
        spec.pre_tokenizer.add_prefix_space = flag(component, "add_prefix_space", true);
        spec.pre_tokenizer.use_regex = flag(component, "use_regex", true);
        byte_level = true;
      } else {
        unsupported(component["type"], "ByteLevel, Split, Sequence");
      }
    });
  }
  if (!byte_level) throw ConfigError(str(value.place(), "a ByteLevel component is required"));
}

// Post-processors that leave the ids as they are.
void check_post_processor(const Value& root) {
  if (!root.has("post_processor")) return;
  for_each_component(root["post_processor"], "processors", [](const Value& component) {
    const std::string& type = type_of(component);
    if (type == "ByteLevel") return check_byte_level(component);
    if (type != "TemplateProcessing") {
      unsupported(component["type"], "ByteLevel, Sequence, TemplateProcessing");
    }
    check_object(component, {"type", "single", "pair", "special_tokens"});
    const Value single = array(component["single"]);
    const bool plain = single.json.size() == 1 && single.json[0].is_object() &&
                       single.json[0].contains("Sequence");
    if (!plain) unsupported(single, "one Sequence without special tokens");
  });
}

void check_decoder(const Value& root) {
  const Value decoder = root["decoder"];
  if (type_of(decoder) != "ByteLevel") unsupported(decoder["type"], "ByteLevel");
  check_byte_level(decoder);
}

std::pair<std::string, std::string> read_merge(const Value& value) {
  if (value.json.is_array()) {
    if (value.json.size() != 2) malformed(value, "two tokens");
    return {text(value.at(0)), text(value.at(1))};
  }
  const std::string& both = text(value);
  const size_t space = both.find(' ');
  if (space == std::string::npos || both.find(' ', space + 1) != std::string::npos) {
    malformed(value, "two tokens with a space between");
  }
  return {both.substr(0, space), both.substr(space + 1)};
}

void read_model(const Value& model, TokenizerSpec& spec) {
  check_object(model,
               {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  // Early files lack the type.
  if (model.json.contains("type") && type_of(model) != "BPE") unsupported(model["type"], "BPE");
  check_unused(model, "dropout", {0.0});
  check_unused(model, "continuing_subword_prefix", {""});
  check_unused(model, "end_of_word_suffix", {""});
  check_unused(model, "byte_fallback", {false});
  if (model.has("unk_token")) spec.unk_token = text(model["unk_token"]);
  spec.fuse_unk = flag(model, "fuse_unk", false);
  spec.ignore_merges = flag(model, "ignore_merges", false);

  const Value vocab = model["vocab"];
  if (!vocab.json.is_object()) malformed(vocab, "an object");
  std::unordered_set<int32_t> ids;
  for (const auto& [token, id] : vocab.json.items()) {
    spec.vocab.emplace_back(token, 0);
    if (id.is_number_unsigned() && id.get<uint64_t>() < static_cast<uint64_t>(kMaxTokens)) {
      spec.vocab.back().second = id.get<int32_t>();
    } else {
      token_id({id, str(vocab.where, ".", shown(token))});  // throws
    }
    if (!ids.insert(spec.vocab.back().second).second) {
      throw IoError(str(vocab.where, ": ", shown(token), " has the id ", id.get<int32_t>(),
                        " of another token"));
    }
  }
  const Value merges = array(model["merges"]);
  spec.merges.reserve(merges.json.size());
  for (size_t i = 0; i < merges.json.size(); ++i) {
    const Json& merge = merges.json[i];
    // Left over from the text files of merges.
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    spec.merges.push_back(read_merge(merges.at(i)));
  }
}

void read_added_tokens(const Value& root, TokenizerSpec& spec) {
  if (!root.has("added_tokens")) return;
  const Value list = array(root["added_tokens"]);
  for (size_t i = 0; i < list.json.size(); ++i) {
    const Value value = list.at(i);
    check_object(value,
                 {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    AddedToken token;
    token.id = token_id(value["id"]);
    token.content = text(value["content"]);
    if (token.content.empty()) malformed(value["content"], "a string that is not empty");
    token.special = flag(value, "special", false);
    token.single_word = flag(value, "single_word", false);
    token.lstrip = flag(value, "lstrip", false);
    token.rstrip = flag(value, "rstrip", false);
    token.normalized = flag(value, "normalized", !token.special);
    spec.added_tokens.push_back(std::move(token));
  }
}

}  // namespace

TokenizerSpec parse_tokenizer_json(std::string_view json, const std::string& name) {
  Json document;
  try {
    document = Json::parse(json);
  } catch (const Json::parse_error& error) {
    throw IoError(str(name, ":", error.byte == 0 ? 0 : error.byte - 1, ": ", error.what()));
  } catch (const Json::exception& error) {
    throw IoError(str(name, ": ", error.what()));
  }
  TokenizerSpec spec;
  const Value root{document, str(name, ":")};
  check_object(root, {"version", "truncation", "padding", "added_tokens", "normalizer",
                      "pre_tokenizer", "post_processor", "decoder", "model"});
  check_unused(root, "version", {"1.0"});
  check_unused(root, "truncation", {});
  check_unused(root, "padding", {});
  read_added_tokens(root, spec);
  read_normalizer(root, spec);
  read_pre_tokenizer(root, spec);
  check_post_processor(root);
  check_decoder(root);
  read_model(root["model"], spec);
  return spec;
}

}  // namespace adder::text
