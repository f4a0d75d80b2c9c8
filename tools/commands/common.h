// What several commands share: loading a model with its adapter and tokenizer, and printing.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/tokenizer.h"
#include "peft/adapter.h"
#include "tools/model_directory.h"

namespace CLI {
class App;
}

namespace adder::tools {

using OrderedJson = nlohmann::ordered_json;

struct ModelOptions {
  std::string model;
  std::string adapter;
  std::string tokenizer;
  std::string precision = "fp32";
  std::string device = "auto";
  int threads = 0;
};

// --model, --adapter, --tokenizer, --precision, --device, --threads.
void add_model_options(CLI::App& app, ModelOptions& options);
void add_machine_options(CLI::App& app, std::string& device, int& threads);

struct LoadedModel {
  AnyModel any;
  std::unique_ptr<Adapter> adapter;    // null without --adapter
  std::optional<Tokenizer> tokenizer;  // absent when there is none

  Model& model() const { return *any.model; }
  const Tokenizer* tokenizer_or_null() const { return tokenizer ? &*tokenizer : nullptr; }
};

// Throws what the loaders throw.
LoadedModel load_model(const ModelOptions& options);

// Throws DeviceError for a device that this build has not, ConfigError for one that no build has.
Device choose_device(const std::string& device, int threads);

// A tokenizer.json, a directory with one, or "byte" for the built-in tokenizer.
Tokenizer load_tokenizer(const std::string& path);

// Throws ConfigError when `path`, the target of a command, exists already.
void require_absent(const std::string& path);

// One JSON object on stdout; bytes that are not UTF-8 become U+FFFD.
void print_json(const OrderedJson& json);
std::string dump_json(const OrderedJson& json, int indent = 2);

// Two columns, the first one as wide as its widest cell.
void print_pairs(const std::vector<std::pair<std::string, std::string>>& rows);

// "0.9231", "3.21e-07", "42": up to six significant digits.
std::string number_text(double value);

}  // namespace adder::tools
