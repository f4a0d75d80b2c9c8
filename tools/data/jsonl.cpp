// The JSONL reader: one object per line, one of three forms throughout a file.
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "engine/error.h"
#include "tools/data/dataset.h"
#include "tools/data/example_builder.h"

namespace adder::tools {
namespace {

using Json = nlohmann::json;

enum class Form { none, pair, text, tokenised };

const char* describe(Form form) {
  switch (form) {
    case Form::pair:
      return "\"input\" and \"target\"";
    case Form::text:
      return "\"text\"";
    case Form::tokenised:
      return "\"input_ids\" and \"labels\"";
    default:
      return "nothing";
  }
}

Json parse_line(std::string_view line, const std::string& place) {
  Json object;
  try {
    object = Json::parse(line.begin(), line.end());
  } catch (const Json::parse_error& error) {
    throw IoError(str(place, ": not JSON (byte ", error.byte, " of the line)"));
  } catch (const Json::exception&) {
    throw IoError(str(place, ": not JSON (a number is out of range)"));
  }
  if (!object.is_object()) {
    throw IoError(str(place, ": a JSON object is needed, this is a JSON ", object.type_name()));
  }
  return object;
}

// The value of `key`, which must be there because the form calls for it.
const Json& member(const Json& object, const char* key, Form form, const std::string& place) {
  const auto found = object.find(key);
  if (found == object.end()) {
    throw IoError(str(place, ": \"", key, "\" is missing, this form needs ", describe(form)));
  }
  return *found;
}

const std::string& text_member(const Json& object, const char* key, Form form,
                               const std::string& place) {
  const Json& value = member(object, key, form, place);
  if (!value.is_string()) {
    throw IoError(str(place, ": \"", key, "\" must be a string, it is a JSON ", value.type_name()));
  }
  return value.get_ref<const std::string&>();
}

std::vector<int32_t> ids_member(const Json& object, const char* key, const std::string& place) {
  const Json& value = member(object, key, Form::tokenised, place);
  if (!value.is_array()) {
    throw IoError(str(place, ": \"", key, "\" must be an array of integers, it is a JSON ",
                      value.type_name()));
  }
  std::vector<int32_t> ids;
  ids.reserve(value.size());
  for (const Json& entry : value) {
    const bool fits = entry.is_number_unsigned()
                          ? entry.get<uint64_t>() <= uint64_t{INT32_MAX}
                          : entry.is_number_integer() && entry.get<int64_t>() >= INT32_MIN;
    if (!fits) {
      throw IoError(str(place, ": ", key, "[", ids.size(), "] is ", entry.type_name(),
                        entry.is_number() ? str(" ", entry.dump()) : std::string(),
                        ", a 32-bit integer is needed"));
    }
    ids.push_back(entry.get<int32_t>());
  }
  return ids;
}

Form form_of(const Json& object, const std::string& place) {
  if (object.contains("input_ids") || object.contains("labels")) return Form::tokenised;
  if (object.contains("input") || object.contains("target")) return Form::pair;
  if (object.contains("text")) return Form::text;
  std::string found;
  for (const auto& entry : object.items()) {
    found += (found.empty() ? "" : ", ") + Json(entry.key()).dump();
    if (found.size() > 200) break;
  }
  throw IoError(str(place, ": a line needs ", describe(Form::pair), ", or ", describe(Form::text),
                    ", or ", describe(Form::tokenised), "; it has ",
                    found.empty() ? "no keys" : found));
}

Example pair_example(const Json& object, const ExampleBuilder& builder,
                     const std::vector<int32_t>& prefix, const std::string& separator,
                     const std::string& place) {
  const std::string& input = text_member(object, "input", Form::pair, place);
  const std::string& target = text_member(object, "target", Form::pair, place);
  std::vector<int32_t> prompt = prefix;
  const std::vector<int32_t> input_ids = builder.encode(input + separator, place);
  prompt.insert(prompt.end(), input_ids.begin(), input_ids.end());
  std::vector<int32_t> target_ids = builder.encode(target, place);
  target_ids.push_back(builder.end_mark());
  Example example = builder.supervised(std::move(prompt), target_ids, place);
  example.input = input;
  example.target = target;
  example.references = {target};
  return example;
}

}  // namespace

Dataset parse_jsonl(std::string_view text, const std::string& name, const Tokenizer* tokenizer,
                    const DataOptions& options) {
  const ExampleBuilder builder(name, tokenizer, options);
  Dataset data;
  data.name = name;
  Form form = Form::none;
  std::string first_place;
  std::vector<int32_t> prefix;
  std::unordered_map<std::string, size_t> by_input;  // generation: lines of one input are merged
  const std::string separator = builder.option("separator", "");
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);  // a byte-order mark is not content
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string place = str(name, ":", number);
    const Json object = parse_line(line, place);
    const Form this_form = form_of(object, place);
    if (form == Form::none) {
      form = this_form;
      first_place = place;
      if (form == Form::pair) {
        const std::string instruction = builder.option("instruction", "");
        if (!instruction.empty()) prefix = builder.encode(instruction + separator, place);
      }
    }
    if (this_form != form) {
      throw IoError(str(place, ": has ", describe(this_form), " but the file began with ",
                        describe(form), " (", first_place, "); a file holds one form"));
    }
    if (form == Form::pair) {
      Example example = pair_example(object, builder, prefix, separator, place);
      if (options.generation) {
        const auto [seen, is_new] = by_input.try_emplace(example.input, data.examples.size());
        if (!is_new) {
          data.examples[seen->second].references.push_back(std::move(example.target));
          continue;
        }
      }
      data.examples.push_back(std::move(example));
    } else if (form == Form::text) {
      const std::string& line_text = text_member(object, "text", form, place);
      if (line_text.empty()) throw IoError(str(place, ": \"text\" is empty"));
      std::vector<int32_t> ids = builder.encode(line_text, place);
      ids.push_back(builder.end_mark());
      builder.append_pieces(ids, options.max_length, place, data.examples);
    } else {
      data.examples.push_back(builder.tokenised(ids_member(object, "input_ids", place),
                                                ids_member(object, "labels", place), place));
    }
  }
  if (data.examples.empty()) throw IoError(str(name, ": the data file is empty"));
  builder.keep_subset(data.examples);
  data.metrics = {"loss"};
  if (form == Form::pair) {
    data.kind = TaskKind::generation;
    if (options.generation) {
      data.metrics = {"exact_match", "bleu"};
      data.higher_is_better = true;
    }
  }
  return data;
}

}  // namespace adder::tools
