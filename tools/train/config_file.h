// TrainConfig from configuration files and flags.
//
// Two kinds of file are read: JSON whose keys are the flags of `adder train` (with - or _), and the
// YAML experiment files of the published Mamba PEFT benchmark.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/train/train_config.h"

namespace adder::tools {

enum class FieldKind { text, integer, number, boolean };

// One setting: what the flag, the JSON key and the member of TrainConfig have in common.
struct TrainField {
  std::string name;  // as a key: "batch_size"; as a flag: --batch-size
  FieldKind kind;
  std::string help;
  // Takes a value of the field's kind (checked by set_field).
  std::function<void(TrainConfig&, const nlohmann::ordered_json&)> set;
  std::function<nlohmann::ordered_json(const TrainConfig&)> get;
};

// Every plain setting, in the order in which they are written and shown. Beside them configuration
// files have "peft" (a path or the configuration itself), "eval_gen" and "data_options".
const std::vector<TrainField>& train_fields();

// Sets one field; `place` starts the messages ("--lr", "run.json: lr"). Throws ConfigError for a
// value of another kind or outside its range.
void set_field(TrainConfig& config, const TrainField& field, const nlohmann::ordered_json& value,
               const std::string& place);
// The same from a flag's text.
void set_field(TrainConfig& config, const TrainField& field, const std::string& text,
               const std::string& place);

// Applies a file to `config`, keeping what the file does not mention: .yaml and .yml are read as
// experiment files, anything else as JSON. Throws IoError when it cannot be read and ConfigError
// "path: …", with the nearest valid key for an unknown one.
void apply_config_file(TrainConfig& config, const std::string& path);

// The two formats from text; `path` is used in messages and for paths relative to the file.
void apply_json_config(TrainConfig& config, const std::string& text, const std::string& path);
void apply_experiment_yaml(TrainConfig& config, const std::string& text, const std::string& path);

// Reads a PEFT configuration into peft_json and peft_path. A relative path is looked up from the
// working directory, then from `beside`'s folder and that folder's parents.
void load_peft_file(TrainConfig& config, const std::string& path, const std::string& beside = "");

// Replaces published names by what is on this machine: `model` may be a folder below $ADDER_MODELS
// (also by its last component), and bare data set names are looked up in the folder $ADDER_DATA.
// `config_path` is the file the names came from, or empty. Throws ConfigError that says what to
// pass when there is no such model.
void resolve_names(TrainConfig& config, const std::string& config_path = "");

// Checks values that no single field can judge, and that the required ones are there. Throws
// ConfigError naming the flag.
void check_config(const TrainConfig& config);

// The effective configuration, which apply_json_config reads back. The actions resume, overwrite
// and dry_run are left out: they belong to an invocation, not to a run.
std::string to_json(const TrainConfig& config);

}  // namespace adder::tools
