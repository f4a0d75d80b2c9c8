// The training loop: fine-tuning and pretraining with checkpoints, evaluation and the two phases of
// sparse dimension tuning.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "tools/train/train_config.h"

namespace adder::tools {

// What a run reports while it goes; all to be shown on stderr.
struct TrainProgress {
  std::string phase;  // "train" or "warm-up"
  std::int64_t step = 0;
  std::int64_t total_steps = 0;
  double epoch = 0;
  double loss = 0;
  double lr = 0;
  double grad_norm = 0;
  double rate = 0;              // per second, without padding, …
  std::string unit = "tokens";  // … of these: tokens, or positions of sequences of numbers
  double seconds_left = 0;
};

struct TrainCallbacks {
  std::function<void(const TrainProgress&)> progress;  // at every step
  std::function<void(const std::string&)> message;     // a line worth reading
  const std::atomic<bool>* interrupted = nullptr;      // Ctrl-C: checkpoint and stop
};

struct TrainOutcome {
  bool interrupted = false;
  std::string summary_json;  // the content of summary.json
};

// Runs (or resumes) the configuration. Throws ConfigError, IoError, NumericError (non-finite loss
// or gradient, naming step and batch) and DeviceError.
TrainOutcome train(const TrainConfig& config, const TrainCallbacks& callbacks);

// What --dry-run prints, as a JSON object: effective configuration, trainable parameters, memory
// estimate.
std::string describe_run(const TrainConfig& config);

}  // namespace adder::tools
