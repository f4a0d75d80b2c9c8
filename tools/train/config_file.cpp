#include "tools/train/config_file.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>

#include "engine/error.h"
#include "engine/io/file.h"
#include "engine/text/suggest.h"

namespace adder::tools {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

TrainField text_field(const char* name, std::string TrainConfig::*member, const char* help,
                      const std::vector<std::string>& choices = {}) {
  return {
      name, FieldKind::text, help,
      [=](TrainConfig& config, const Json& value) {
        const std::string text = value.get<std::string>();
        if (!choices.empty() && std::find(choices.begin(), choices.end(), text) == choices.end()) {
          std::string list;
          for (const std::string& choice : choices) {
            list += (list.empty() ? "" : ", ") + choice;
          }
          throw ConfigError(
              str("is \"", text, "\", must be one of ", list, did_you_mean(text, choices)));
        }
        config.*member = text;
      },
      [=](const TrainConfig& config) { return Json(config.*member); }};
}

template <typename T>
TrainField integer_field(const char* name, T TrainConfig::*member, const char* help,
                         std::int64_t least = 0) {
  return {name, FieldKind::integer, help,
          [=](TrainConfig& config, const Json& value) {
            // A value that is not negative may come as signed or as unsigned.
            const bool negative = !value.is_number_unsigned() && value.get<std::int64_t>() < 0;
            const std::uint64_t number = negative ? 0 : value.get<std::uint64_t>();
            if (negative || number < static_cast<std::uint64_t>(least)) {
              throw ConfigError(str("is ", value.dump(), ", must be at least ", least));
            }
            if (number > static_cast<std::uint64_t>(std::numeric_limits<T>::max())) {
              throw ConfigError(str("is ", value.dump(), ", which is too large"));
            }
            config.*member = static_cast<T>(number);
          },
          [=](const TrainConfig& config) { return Json(config.*member); }};
}

TrainField number_field(const char* name, double TrainConfig::*member, const char* help,
                        bool zero_allowed = true) {
  return {name, FieldKind::number, help,
          [=](TrainConfig& config, const Json& value) {
            const double number = value.get<double>();
            if (!std::isfinite(number) || number < 0 || (number == 0 && !zero_allowed)) {
              throw ConfigError(str("is ", value.dump(), ", must be a ",
                                    zero_allowed ? "number not below 0" : "positive number"));
            }
            config.*member = number;
          },
          [=](const TrainConfig& config) { return Json(config.*member); }};
}

TrainField boolean_field(const char* name, bool TrainConfig::*member, const char* help) {
  return {name, FieldKind::boolean, help,
          [=](TrainConfig& config, const Json& value) { config.*member = value.get<bool>(); },
          [=](const TrainConfig& config) { return Json(config.*member); }};
}

std::vector<TrainField> make_fields() {
  using C = TrainConfig;
  return {
      text_field("model", &C::model, "model directory"),
      text_field("data", &C::data, "FILE.jsonl, FILE.txt, TASK:FOLDER or synthetic-s4"),
      text_field("val", &C::val_data, "validation data (default: the data set's own split)"),
      text_field("val_split", &C::val_split, "split of the data set to validate on",
                 {"train", "val", "test"}),
      text_field("out", &C::out, "the run's directory"),
      text_field("adapter", &C::adapter, "start from this saved adapter"),
      text_field("tokenizer", &C::tokenizer, "a tokenizer.json (default: the model directory's)"),
      number_field("epochs", &C::epochs, "passes over the data", false),
      integer_field("steps", &C::steps, "optimiser steps; 0: from --epochs"),
      integer_field("batch_size", &C::batch_size, "sequences in a batch", 1),
      integer_field("grad_accum", &C::grad_accum, "batches in an optimiser step", 1),
      number_field("lr", &C::lr, "learning rate"),
      text_field("schedule", &C::schedule, "of the learning rate: linear, cosine or constant",
                 {"linear", "cosine", "constant"}),
      integer_field("warmup", &C::warmup, "steps over which the learning rate rises"),
      number_field("weight_decay", &C::weight_decay, "decoupled weight decay"),
      number_field("clip", &C::clip, "largest gradient norm; 0: no clipping"),
      text_field("optimizer", &C::optimizer, "adamw or sgd", {"adamw", "sgd"}),
      number_field("momentum", &C::momentum, "of sgd"),
      text_field("precision", &C::precision,
                 "fp32, or bf16 for frozen matrices and, on a GPU, activations", {"fp32", "bf16"}),
      integer_field("max_length", &C::max_length, "longest sequence; 0: no limit (text: 256)"),
      integer_field("seed", &C::seed, "of the data order, dropout and new parameters"),
      boolean_field("shuffle", &C::shuffle, "take the examples in random order"),
      integer_field("bucket_batches", &C::bucket_batches,
                    "sort by length within this many batches; 0: not at all"),
      integer_field("log_every", &C::log_every, "steps between lines of log.jsonl", 1),
      integer_field("eval_every", &C::eval_every, "steps between evaluations; 0: --eval-epochs"),
      number_field("eval_epochs", &C::eval_epochs, "epochs between evaluations", false),
      integer_field("save_every", &C::save_every,
                    "steps between checkpoints; 0: at every evaluation (synthetic-s4: 100)"),
      boolean_field("skip_eval", &C::skip_eval, "never evaluate"),
      boolean_field("no_save", &C::no_save, "write no checkpoints, only the result"),
      boolean_field("recompute", &C::recompute, "trade time for memory"),
      integer_field("threads", &C::threads, "0: all cores"),
      text_field("device", &C::device, "auto, cpu, cuda or cuda:N"),
      integer_field("max_train_examples", &C::max_train_examples, "a fixed subset; 0: all"),
      integer_field("max_val_examples", &C::max_val_examples, "a fixed subset; 0: all"),
      boolean_field("resume", &C::resume, "go on from the last checkpoint of --out"),
      boolean_field("overwrite", &C::overwrite, "replace --out if it exists"),
      boolean_field("dry_run", &C::dry_run,
                    "print configuration, trainable parameters and memory estimate, then stop"),
  };
}

bool is_action(const std::string& name) {
  return name == "resume" || name == "overwrite" || name == "dry_run";
}

std::string with_underscores(std::string key) {
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

const TrainField* find_field(const std::string& name) {
  for (const TrainField& field : train_fields()) {
    if (field.name == name) return &field;
  }
  return nullptr;
}

const char* kind_name(FieldKind kind) {
  switch (kind) {
    case FieldKind::text:
      return "a string";
    case FieldKind::integer:
      return "a whole number";
    case FieldKind::number:
      return "a number";
    case FieldKind::boolean:
      return "true or false";
  }
  return "";
}

// The number that makes up all of `text`, if it does.
template <typename T>
bool parse_whole(const std::string& text, T& value) {
  const char* const end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  return result.ec == std::errc() && result.ptr == end;
}

std::int64_t integer_of(const Json& value, const std::string& place, std::int64_t least) {
  if (!value.is_number_integer()) {
    throw ConfigError(str(place, " is ", value.dump(), ", must be a whole number"));
  }
  const std::int64_t number = value.get<std::int64_t>();
  if (number < least) throw ConfigError(str(place, " is ", number, ", must be at least ", least));
  return number;
}

void apply_eval_gen(TrainConfig& config, const Json& value, const std::string& place) {
  if (value.is_null()) {
    config.eval_gen.reset();
    return;
  }
  if (!value.is_object()) throw ConfigError(str(place, " must be an object or null"));
  const std::vector<std::string> keys = {"num_beams", "min_length", "max_length"};
  TrainConfig::Generation generation;
  for (const auto& [key, item] : value.items()) {
    const std::string where = str(place, ".", key);
    const std::string name = with_underscores(key);
    if (name == "num_beams") {
      generation.num_beams = integer_of(item, where, 1);
    } else if (name == "min_length") {
      generation.min_length = integer_of(item, where, 0);
    } else if (name == "max_length") {
      generation.max_length = integer_of(item, where, 1);
    } else {
      throw ConfigError(str(place, ": unknown key \"", key, "\"", did_you_mean(name, keys)));
    }
  }
  config.eval_gen = generation;
}

}  // namespace

const std::vector<TrainField>& train_fields() {
  static const std::vector<TrainField> fields = make_fields();
  return fields;
}

void set_field(TrainConfig& config, const TrainField& field, const Json& value,
               const std::string& place) {
  const bool fits = field.kind == FieldKind::text      ? value.is_string()
                    : field.kind == FieldKind::integer ? value.is_number_integer()
                    : field.kind == FieldKind::number  ? value.is_number()
                                                       : value.is_boolean();
  if (!fits) {
    throw ConfigError(str(place, " is ", value.dump(), ", must be ", kind_name(field.kind)));
  }
  try {
    field.set(config, value);
  } catch (const ConfigError& error) {
    throw ConfigError(str(place, " ", error.what()));
  }
}

void set_field(TrainConfig& config, const TrainField& field, const std::string& text,
               const std::string& place) {
  const auto wrong = [&] {
    return ConfigError(str(place, " is \"", text, "\", must be ", kind_name(field.kind)));
  };
  if (field.kind == FieldKind::text) {
    set_field(config, field, Json(text), place);
  } else if (field.kind == FieldKind::boolean) {
    if (text != "true" && text != "false") throw wrong();
    set_field(config, field, Json(text == "true"), place);
  } else if (field.kind == FieldKind::integer) {
    std::int64_t number = 0;
    std::uint64_t wide = 0;
    if (parse_whole(text, wide)) {
      set_field(config, field, Json(wide), place);
    } else if (parse_whole(text, number)) {
      set_field(config, field, Json(number), place);
    } else {
      throw wrong();
    }
  } else {
    double number = 0;
    if (!parse_whole(text, number)) throw wrong();
    set_field(config, field, Json(number), place);
  }
}

void apply_json_config(TrainConfig& config, const std::string& text, const std::string& path) {
  Json root;
  try {
    root = Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw ConfigError(str(path, ":", error.byte, ": not JSON"));
  } catch (const Json::exception&) {
    throw ConfigError(str(path, ": not JSON (a number is out of range)"));
  }
  if (!root.is_object()) throw ConfigError(str(path, ": must be a JSON object"));
  for (const auto& [key, value] : root.items()) {
    const std::string place = str(path, ": ", key);
    std::string name = with_underscores(key);
    if (name == "val_data") name = "val";
    if (const TrainField* field = find_field(name)) {
      set_field(config, *field, value, place);
    } else if (name == "no_shuffle" && value.is_boolean()) {
      config.shuffle = !value.get<bool>();
    } else if (name == "peft") {
      if (value.is_string()) {
        load_peft_file(config, value.get<std::string>(), path);
      } else if (value.is_object() || value.is_array()) {
        config.peft_json = value.dump(2);
        config.peft_path = place;
      } else if (value.is_null()) {
        config.peft_json.clear();
        config.peft_path.clear();
      } else {
        throw ConfigError(str(place, " must be a path, an object, an array or null"));
      }
    } else if (name == "eval_gen") {
      apply_eval_gen(config, value, place);
    } else if (name == "data_options") {
      if (!value.is_object()) throw ConfigError(str(place, " must be an object of strings"));
      for (const auto& [option, item] : value.items()) {
        if (!item.is_string()) throw ConfigError(str(place, ".", option, " must be a string"));
        config.data_options[option] = item.get<std::string>();
      }
    } else {
      std::vector<std::string> keys = {"peft", "eval_gen", "data_options", "no_shuffle"};
      for (const TrainField& known : train_fields()) keys.push_back(known.name);
      throw ConfigError(str(path, ": unknown key \"", key, "\"", did_you_mean(name, keys)));
    }
  }
}

void apply_config_file(TrainConfig& config, const std::string& path) {
  const std::string text = read_file(path);
  const std::string extension = fs::path(path).extension().string();
  if (extension == ".yaml" || extension == ".yml") {
    apply_experiment_yaml(config, text, path);
  } else {
    apply_json_config(config, text, path);
  }
}

void load_peft_file(TrainConfig& config, const std::string& path, const std::string& beside) {
  fs::path found = path;
  if (!fs::path(path).is_absolute() && !exists(path) && !beside.empty()) {
    fs::path folder = fs::absolute(beside).lexically_normal().parent_path();
    while (true) {
      if (exists((folder / path).string())) {
        found = folder / path;
        break;
      }
      if (folder == folder.parent_path()) break;
      folder = folder.parent_path();
    }
  }
  std::string text;
  try {
    text = read_file(found.string());
  } catch (const IoError& error) {
    if (beside.empty()) throw;
    throw IoError(str(beside, ": peft: ", error.what(),
                      "; looked in the working directory, beside this file and in its parents"));
  }
  Json root;
  try {
    root = Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw ConfigError(str(found.string(), ":", error.byte, ": not JSON"));
  } catch (const Json::exception&) {
    throw ConfigError(str(found.string(), ": not JSON (a number is out of range)"));
  }
  if (!root.is_object() && !root.is_array()) {
    throw ConfigError(str(found.string(), ": must be a JSON object, or an array of them"));
  }
  config.peft_json = text;
  config.peft_path = found.string();
}

void resolve_names(TrainConfig& config, const std::string& config_path) {
  const std::string from = config_path.empty() ? "" : config_path + ": ";
  if (!config.model.empty() && !is_directory(config.model)) {
    std::vector<fs::path> candidates;
    const fs::path name = config.model;
    if (!config_path.empty()) candidates.push_back(fs::path(config_path).parent_path() / name);
    const char* models = std::getenv("ADDER_MODELS");
    if (models != nullptr && *models != '\0') {
      candidates.push_back(fs::path(models) / name);
      candidates.push_back(fs::path(models) / name.filename());
    }
    const auto found = std::find_if(candidates.begin(), candidates.end(),
                                    [](const fs::path& p) { return is_directory(p.string()); });
    if (found == candidates.end()) {
      throw ConfigError(str(from, "model \"", config.model,
                            "\" is not a directory on this machine; nothing is downloaded: pass "
                            "--model DIR, or set ADDER_MODELS to the folder that holds ",
                            name.filename().string()));
    }
    config.model = found->string();
  }
  const char* data = std::getenv("ADDER_DATA");
  if (data != nullptr && *data != '\0') config.data_options.try_emplace("data_root", data);
}

void check_config(const TrainConfig& config) {
  const auto require = [](bool ok, const std::string& message) {
    if (!ok) throw ConfigError(message);
  };
  require(!config.model.empty(), "train: --model DIR is missing (a model directory)");
  require(!config.data.empty(), "train: --data DATA is missing (what to train on)");
  require(config.dry_run || !config.out.empty(),
          "train: --out RUN is missing (where the run's files go)");
  require(!(config.resume && config.overwrite),
          "train: --resume and --overwrite exclude each other");
  require(config.momentum < 1, str("train: --momentum is ", config.momentum, ", must be below 1"));
  if (config.eval_gen && config.eval_gen->min_length > config.eval_gen->max_length) {
    throw ConfigError(str("train: eval_gen.min_length ", config.eval_gen->min_length,
                          " is more than eval_gen.max_length ", config.eval_gen->max_length));
  }
}

std::string to_json(const TrainConfig& config) {
  Json root = Json::object();
  for (const TrainField& field : train_fields()) {
    if (is_action(field.name)) continue;
    root[field.name] = field.get(config);
  }
  root["peft"] = config.peft_json.empty() ? Json() : Json::parse(config.peft_json);
  root["eval_gen"] = nullptr;
  if (config.eval_gen) {
    root["eval_gen"] = {{"num_beams", config.eval_gen->num_beams},
                        {"min_length", config.eval_gen->min_length},
                        {"max_length", config.eval_gen->max_length}};
  }
  root["data_options"] = Json::object();
  for (const auto& [key, value] : config.data_options) root["data_options"][key] = value;
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace adder::tools
