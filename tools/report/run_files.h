// What a report takes from the files of a training run.
#pragma once

#include <string>
#include <vector>

#include "tools/report/report.h"

namespace adder::tools {

struct RunCurves {
  std::vector<CurvePoint> warm_up;      // training loss while SDT selects
  std::vector<CurvePoint> train;        // training loss
  std::vector<CurvePoint> evaluations;  // validation loss
};

// From RUN/log.jsonl. Throws IoError naming the line that cannot be read.
RunCurves read_curves(const std::string& run);

// The dimensions that the adapter of a run selected, one map per layer; empty without SDT. The
// strengths are |displacement| after the warm-up where the run has kept a checkpoint, else those of
// whole channels. Throws what reading these files throws.
std::vector<LayerMap> read_maps(const std::string& run);

}  // namespace adder::tools
