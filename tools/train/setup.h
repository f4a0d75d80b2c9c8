// What a training run is made of: tokenizer, data, model and adapter of a configuration.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "engine/text/tokenizer.h"
#include "models/mamba.h"
#include "peft/adapter.h"
#include "tools/data/dataset.h"
#include "tools/train/train_config.h"

namespace adder::tools {

struct RunSetup {
  std::optional<Tokenizer> tokenizer;
  Dataset train;
  std::optional<Dataset> validation;
  std::unique_ptr<Mamba> model;
  std::unique_ptr<Adapter> adapter;  // null: all parameters train
  std::int64_t total_steps = 0;      // optimiser steps of the main phase
  std::int64_t batches_per_epoch = 0;
};

// Loads and connects everything. Throws ConfigError, IoError and ShapeError.
RunSetup set_up_run(const TrainConfig& config);

// With bf16 precision, matrices that do not train (and will not, `keep_selectable`) are stored in
// half the space, and on a CUDA device activations too; everything that trains stays float32.
void apply_precision(const TrainConfig& config, Mamba& model, bool keep_selectable);

}  // namespace adder::tools
