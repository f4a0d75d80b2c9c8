// What the demo does and with which sizes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/mamba_config.h"
#include "tools/demo/language.h"
#include "tools/train/train_config.h"

namespace adder::tools {

// A way of adapting the pretrained model.
struct DemoMethod {
  std::string key;     // of its files
  std::string name;    // in table and report
  std::string trains;  // in words
  std::string peft;    // PEFT configuration; empty: all parameters
  int colour = -1;     // of its curves in the report
  TrainConfig config;  // without paths
  bool adapts = true;  // false: the pretrained model as it is
};

struct DemoPlan {
  MambaConfig model;
  SplitSizes a, b;
  TrainConfig pretraining;  // without paths
  std::vector<DemoMethod> methods;
  std::int64_t max_new_tokens = 0;
};

DemoPlan make_plan(bool quick, std::uint64_t seed, int threads);

}  // namespace adder::tools
