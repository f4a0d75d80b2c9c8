// Checkpoints: everything a run needs to go on exactly where it was.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "autograd/optim.h"
#include "models/model.h"
#include "peft/adapter.h"

namespace adder::tools {

// Where a run stands between two optimiser steps. The data position and the dropout masks follow
// from the step, because both are pure functions of it and the seed.
struct TrainState {
  bool warm_up = false;   // in the first phase of sparse dimension tuning
  std::int64_t step = 0;  // optimiser steps done in this phase
  bool has_best = false;
  double best = 0;  // of the metric that chooses the result
  std::int64_t best_step = 0;
  nlohmann::ordered_json best_metrics;
  std::int64_t warm_up_steps = 0;  // of the finished warm-up
  // Of the steps themselves, on data without a validation set: the smallest loss, and the
  // largest accuracy where there are classes.
  std::optional<double> best_loss, best_accuracy;
};

// The newest complete checkpoint of a run directory, or empty.
std::string latest_checkpoint(const std::string& run);

// Makes the directory of a run. One that is there already is kept for `resume`, but for what a
// killed process was writing when it died (see AtomicDirectory for the names); it is emptied for
// `overwrite`, and a ConfigError otherwise.
void prepare_run_directory(const std::string& run, bool resume, bool overwrite);

// Writes RUN/checkpoint-<step> (checkpoint-warmup-<step> in the warm-up) whole or not at all, and
// removes all but the newest `keep`. The adapter is null for full fine-tuning.
void save_checkpoint(const std::string& run, const TrainState& state, const Model& model,
                     const Adapter* adapter, const Optimizer& optimizer,
                     const nlohmann::ordered_json& log_state, int keep);

struct LoadedCheckpoint {
  TrainState state;
  nlohmann::ordered_json log_state;
  std::vector<std::pair<std::string, Tensor>> tensors;  // adapter and optimiser state
};
// Reads a checkpoint; for full fine-tuning the weights go straight into the model.
LoadedCheckpoint load_checkpoint(const std::string& directory, Model& model, bool full_fine_tuning);

// The tensors whose names start with `prefix`, without it.
std::vector<std::pair<std::string, Tensor>> with_prefix(
    const std::vector<std::pair<std::string, Tensor>>& tensors, const std::string& prefix);

}  // namespace adder::tools
