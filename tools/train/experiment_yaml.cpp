// The experiment files of the published Mamba PEFT benchmark.
#include <algorithm>
#include <filesystem>
#include <set>
#include <yaml-cpp/yaml.h>

#include "engine/error.h"
#include "engine/text/suggest.h"
#include "tools/train/config_file.h"

namespace adder::tools {
namespace {

namespace fs = std::filesystem;

constexpr const char* kReferenceTokenizer = "EleutherAI/gpt-neox-20b";

const std::vector<std::string>& known_keys() {
  static const std::vector<std::string> keys = {"model",
                                                "data",
                                                "peft",
                                                "val_data",
                                                "val_data_split",
                                                "tokenizer",
                                                "num_epochs",
                                                "prec",
                                                "optim",
                                                "learning_rate",
                                                "gradient_accumulation_steps",
                                                "num_data_workers",
                                                "batch_size",
                                                "eval_gen",
                                                "backend",
                                                "no_save",
                                                "skip_eval",
                                                "eval_epochs",
                                                "min_eval_metric_after_epoch",
                                                "seed",
                                                "debug",
                                                "resume",
                                                "overwrite",
                                                "lock"};
  return keys;
}

std::string scalar(const YAML::Node& node, const std::string& place) {
  if (!node.IsScalar()) throw ConfigError(str(place, " must be a single value"));
  return node.Scalar();
}

// Sets the field of TrainConfig that a key stands for.
void set(TrainConfig& config, const char* name, const YAML::Node& node, const std::string& place) {
  for (const TrainField& field : train_fields()) {
    if (field.name != name) continue;
    std::string text = scalar(node, place);
    if (field.kind == FieldKind::boolean) {
      try {
        text = node.as<bool>() ? "true" : "false";
      } catch (const YAML::Exception&) {
        throw ConfigError(str(place, " is \"", text, "\", must be true or false"));
      }
    }
    set_field(config, field, text, place);
    return;
  }
}

std::int64_t count(const YAML::Node& node, const std::string& place, std::int64_t least) {
  std::int64_t value = 0;
  try {
    value = node.as<std::int64_t>();
  } catch (const YAML::Exception&) {
    throw ConfigError(str(place, " must be a whole number"));
  }
  if (value < least) throw ConfigError(str(place, " is ", value, ", must be at least ", least));
  return value;
}

void apply_eval_gen(TrainConfig& config, const YAML::Node& node, const std::string& place) {
  if (!node.IsMap()) throw ConfigError(str(place, " must be a map or null"));
  const std::vector<std::string> keys = {"num_beams", "min_length", "max_length"};
  TrainConfig::Generation generation;
  for (const auto& item : node) {
    const std::string key = scalar(item.first, place);
    const std::string where = str(place, ".", key);
    if (key == "num_beams") {
      generation.num_beams = count(item.second, where, 1);
    } else if (key == "min_length") {
      generation.min_length = count(item.second, where, 0);
    } else if (key == "max_length") {
      generation.max_length = count(item.second, where, 1);
    } else {
      throw ConfigError(str(place, ": unknown key \"", key, "\"", did_you_mean(key, keys)));
    }
  }
  config.eval_gen = generation;
}

// weights/<path without its folders up to cfg/exps/ and without its extension>, as the benchmark
// names its runs.
std::string default_out(const std::string& path) {
  const std::string generic = fs::path(path).replace_extension().generic_string();
  const std::string marker = "cfg/exps/";
  const std::size_t at = generic.rfind(marker);
  const std::string tail = at == std::string::npos ? fs::path(generic).filename().string()
                                                   : generic.substr(at + marker.size());
  return "weights/" + tail;
}

}  // namespace

void apply_experiment_yaml(TrainConfig& config, const std::string& text, const std::string& path) {
  YAML::Node root;
  try {
    root = YAML::Load(text);
  } catch (const YAML::Exception& error) {
    throw ConfigError(str(path, ":", error.mark.line + 1, ": not YAML: ", error.msg));
  }
  if (!root.IsMap()) throw ConfigError(str(path, ": must be a map of settings"));
  std::set<std::string> seen;
  bool debug = false;
  for (const auto& item : root) {
    if (!item.first.IsScalar()) throw ConfigError(str(path, ": a key must be a word"));
    const std::string key = item.first.Scalar();
    const YAML::Node& value = item.second;
    const std::string place = str(path, ":", item.first.Mark().line + 1, ": ", key);
    if (!seen.insert(key).second) throw ConfigError(str(place, " is given twice"));
    if (std::find(known_keys().begin(), known_keys().end(), key) == known_keys().end()) {
      throw ConfigError(str(path, ":", item.first.Mark().line + 1, ": unknown key \"", key, "\"",
                            did_you_mean(key, known_keys())));
    }
    if (value.IsNull()) continue;  // the default
    if (key == "model" || key == "data" || key == "batch_size" || key == "no_save" ||
        key == "skip_eval" || key == "eval_epochs" || key == "seed" || key == "resume" ||
        key == "overwrite") {
      set(config, key.c_str(), value, place);
    } else if (key == "peft") {
      load_peft_file(config, scalar(value, place), path);
    } else if (key == "val_data") {
      set(config, "val", value, place);
    } else if (key == "val_data_split") {
      set(config, "val_split", value, place);
    } else if (key == "tokenizer") {
      const std::string name = scalar(value, place);
      if (name != kReferenceTokenizer) set(config, "tokenizer", value, place);
    } else if (key == "num_epochs") {
      set(config, "epochs", value, place);
    } else if (key == "learning_rate") {
      set(config, "lr", value, place);
    } else if (key == "gradient_accumulation_steps") {
      set(config, "grad_accum", value, place);
    } else if (key == "prec") {
      const std::string name = scalar(value, place);
      if (name != "bf16" && name != "fp16" && name != "fp32") {
        throw ConfigError(
            str(place, " is \"", name, "\", must be bf16, fp16 (run as bf16) or fp32"));
      }
      config.precision = name == "fp32" ? "fp32" : "bf16";
    } else if (key == "optim") {
      const std::string name = scalar(value, place);
      if (name != "adamw_torch" && name != "adamw" && name != "sgd") {
        throw ConfigError(str(place, " is \"", name, "\", must be adamw_torch or sgd"));
      }
      config.optimizer = name == "sgd" ? "sgd" : "adamw";
    } else if (key == "eval_gen") {
      apply_eval_gen(config, value, place);
    } else if (key == "min_eval_metric_after_epoch") {
      throw ConfigError(str(place, " is not available: no run stops early on a metric"));
    } else if (key == "debug") {
      try {
        debug = value.as<bool>();
      } catch (const YAML::Exception&) {
        throw ConfigError(str(place, " must be true or false"));
      }
    }
    // backend, num_data_workers and lock say how, not what, the benchmark computes.
  }
  for (const char* required : {"model", "data", "peft"}) {
    if (!seen.contains(required))
      throw ConfigError(str(path, ": the key ", required, " is missing"));
  }
  if (!seen.contains("prec")) config.precision = "bf16";  // the benchmark's default
  if (debug) {
    config.max_train_examples = 8;
    config.max_val_examples = 2;
    config.epochs = 1;
  }
  if (config.out.empty()) config.out = default_out(path);
}

}  // namespace adder::tools
