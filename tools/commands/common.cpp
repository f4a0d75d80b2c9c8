#include "tools/commands/common.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "engine/cpu/parallel.h"
#include "engine/io/file.h"
#include "tools/console.h"
#include "tools/train/setup.h"

namespace adder::tools {

void add_machine_options(CLI::App& app, std::string& device, int& threads) {
  app.add_option("--device", device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--threads", threads, "0: all cores")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

void add_model_options(CLI::App& app, ModelOptions& options) {
  app.add_option("--model", options.model, "model directory")->required();
  app.add_option("--adapter", options.adapter, "adapter directory");
  app.add_option("--tokenizer", options.tokenizer,
                 "a tokenizer.json, or \"byte\" (default: the model directory's)");
  app.add_option("--precision", options.precision,
                 "fp32, or bf16 for matrices and, on a GPU, activations")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  add_machine_options(app, options.device, options.threads);
}

Device choose_device(const std::string& device, int threads) {
  if (threads > 0) cpu::set_num_threads(threads);
  return parse_device(device);
}

Tokenizer load_tokenizer(const std::string& path) {
  if (path == "byte" && !exists(path)) return Tokenizer::byte_level();
  return Tokenizer::from_file(is_directory(path) ? join_path(path, "tokenizer.json") : path);
}

LoadedModel load_model(const ModelOptions& options) {
  const Device device = choose_device(options.device, options.threads);
  LoadedModel loaded;
  // An adapter may train entries of a matrix, which then has to stay float32.
  const bool narrow = options.precision == "bf16" && options.adapter.empty();
  loaded.any = load_any_model(options.model, narrow ? Dtype::bf16 : Dtype::f32);
  loaded.model().to(device);
  if (loaded.any.sequence != nullptr) {
    if (options.precision != "fp32") {
      throw ConfigError(str("--precision ", options.precision, " is for language models; ",
                            options.model, " (", loaded.any.sequence->description(),
                            ") is computed in fp32"));
    }
    if (!options.tokenizer.empty()) {
      throw ConfigError(str("--tokenizer is for language models; ", options.model, " (",
                            loaded.any.sequence->description(), ") reads numbers"));
    }
  }
  const std::string beside = join_path(options.model, "tokenizer.json");
  if (!options.tokenizer.empty()) {
    loaded.tokenizer = load_tokenizer(options.tokenizer);
  } else if (loaded.any.mamba != nullptr && exists(beside)) {
    loaded.tokenizer = load_tokenizer(beside);
  }
  if (!options.adapter.empty()) {
    loaded.adapter = Adapter::load(loaded.model(), options.adapter);
  }
  if (loaded.any.mamba != nullptr) {
    TrainConfig config;
    config.precision = options.precision;
    apply_precision(config, *loaded.any.mamba, false);
  }
  return loaded;
}

void require_absent(const std::string& path) {
  if (!exists(path)) return;
  throw ConfigError(str(path, ": exists already; choose another name or remove it"));
}

std::string dump_json(const OrderedJson& json, int indent) {
  return json.dump(indent, ' ', false, OrderedJson::error_handler_t::replace);
}

void print_json(const OrderedJson& json) {
  print(dump_json(json) + "\n");
}

void print_pairs(const std::vector<std::pair<std::string, std::string>>& rows) {
  std::size_t width = 0;
  for (const auto& [name, value] : rows) width = std::max(width, name.size());
  for (const auto& [name, value] : rows) {
    print(name + std::string(width - name.size() + 2, ' ') + value + "\n");
  }
}

std::string number_text(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

}  // namespace adder::tools
