// The effective configuration of `adder train`.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace adder::tools {

struct TrainConfig {
  std::string model;     // model directory
  std::string data;      // DATA
  std::string val_data;  // empty: the data set's own validation split, or none for plain files
  std::string val_split = "val";
  std::string out;        // RUN
  std::string peft_json;  // the text of the PEFT configuration; empty: all parameters train
  std::string peft_path;  // where it came from, for messages
  std::string adapter;    // start from this saved adapter
  std::string tokenizer;  // a tokenizer.json; empty: the model directory's
  double epochs = 10;
  std::int64_t steps = 0;  // optimiser steps; 0: from epochs
  std::int64_t batch_size = 4;
  std::int64_t grad_accum = 1;
  double lr = 5e-4;
  std::string schedule = "linear";  // linear, cosine, constant
  std::int64_t warmup = 0;          // steps of linear learning-rate warm-up
  double weight_decay = 0;
  double clip = 1;                  // gradient norm; 0: no clipping
  std::string optimizer = "adamw";  // adamw, sgd
  double momentum = 0.9;            // of sgd
  std::string precision = "fp32";   // fp32, bf16 (frozen matrices; on a GPU activations too)
  std::int64_t max_length = 0;      // 0: no limit (text: 256)
  std::uint64_t seed = 42;
  bool shuffle = true;
  std::int64_t bucket_batches = 50;  // length bucketing within this many batches; 0: none
  std::int64_t log_every = 50;
  std::int64_t eval_every = 0;  // steps; 0: every eval_epochs epochs
  double eval_epochs = 1;
  std::int64_t save_every = 0;  // steps; 0: at every evaluation
  bool skip_eval = false;
  bool no_save = false;  // no checkpoints (the result is written all the same)
  bool resume = false;
  bool overwrite = false;
  bool recompute = false;  // trade time for memory
  int threads = 0;         // 0: all cores
  std::string device = "auto";
  bool dry_run = false;
  std::int64_t max_train_examples = 0;  // 0: all
  std::int64_t max_val_examples = 0;
  // Generation during evaluation (null in the reference: none).
  struct Generation {
    std::int64_t num_beams = 5;
    std::int64_t min_length = 5;
    std::int64_t max_length = 1024;
  };
  std::optional<Generation> eval_gen;
  std::map<std::string, std::string> data_options;  // "instruction", "separator", "train_from", …
};

}  // namespace adder::tools
