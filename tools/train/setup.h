// What a training run is made of: model, data and adapter of a configuration.
#pragma once

#include <memory>

#include "models/mamba.h"
#include "peft/adapter.h"
#include "tools/train/objective.h"
#include "tools/train/train_config.h"

namespace adder::tools {

struct RunSetup {
  std::unique_ptr<Model> model;
  std::unique_ptr<Objective> objective;  // the data and what a step does with the model
  std::unique_ptr<Adapter> adapter;      // null: all parameters train
  std::int64_t total_steps = 0;          // optimiser steps of the main phase
};

// Loads and connects everything. Throws ConfigError, IoError and ShapeError.
RunSetup set_up_run(const TrainConfig& config);

// With bf16 precision, matrices that do not train (and will not, `keep_selectable`) are stored in
// half the space, and on a CUDA device activations too; everything that trains stays float32.
void apply_precision(const TrainConfig& config, Mamba& model, bool keep_selectable);

}  // namespace adder::tools
