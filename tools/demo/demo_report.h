// The demo's results as a table, as JSON and as a report.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/demo/plan.h"
#include "tools/eval/evaluate.h"
#include "tools/report/report.h"

namespace adder::tools {

struct TestResult {
  double loss = 0, exact_match = 0;
  double seconds = 0;
  std::vector<Prediction> predictions;
};

struct DemoResult {
  const DemoMethod* method = nullptr;
  std::string run;  // its directory; empty where nothing trained
  std::int64_t trainable = 0;
  double seconds = 0;  // of training, warm-up and validation included
  TestResult test;     // on dialect B
};

struct DemoResults {
  const DemoPlan* plan = nullptr;
  std::int64_t parameters = 0;  // of the pretrained model
  std::string pretraining_run;
  double pretraining_seconds = 0;
  TestResult base_on_a;
  std::vector<DemoResult> methods;
  double total_seconds = 0;
};

std::string results_table(const DemoResults& results);
std::string results_json(const DemoResults& results);

// Reads the curves and selections from the runs' directories; throws what that throws.
Report demo_report(const DemoResults& results);

}  // namespace adder::tools
