// A comparison of fine-tuning runs as one HTML file that needs nothing else: no scripts, no
// external resources, light and dark.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace adder::tools {

struct CurvePoint {
  double x = 0, y = 0;
};

// One run in a chart: a line of the training loss and markers where it was evaluated. Curves of the
// same colour (0 to 3) belong together; only those with a name get a legend entry and a label.
struct Curve {
  std::string name;
  int colour = 0;
  bool dashed = false;
  std::vector<CurvePoint> line;
  std::vector<CurvePoint> marks;
};

// The loss axis is logarithmic; values that are not positive and finite are left out.
struct LineChart {
  std::string title;
  std::string caption;
  std::string x_label = "step";
  std::string y_label = "loss";
  std::vector<Curve> curves;
};

// The trained entries of one layer's state matrix.
struct LayerMap {
  std::string name;
  std::int64_t channels = 0, states = 0;
  // (channels, states), how strongly each entry moved; may be empty, or NaN where unknown.
  std::vector<float> strength;
  std::vector<std::pair<std::int32_t, std::int32_t>> selected;  // (channel, state)
};

struct ResultRow {
  std::string method;
  std::string trains;  // what of the model trains, in words
  int colour = -1;     // of the method's curves; -1: none
  std::int64_t trainable = 0, total = 0;
  double loss = 0, exact_match = 0;  // exact match 0 to 1
  double seconds = 0;
};

struct SampleOutput {
  std::string input, target;
  std::vector<std::pair<std::string, std::string>> outputs;  // (method, text)
};

struct Report {
  std::string title;
  std::string headline;
  std::vector<std::string> summary;  // paragraphs
  std::string results_title;
  std::string results_caption;
  std::vector<ResultRow> results;
  std::vector<LineChart> charts;
  std::string maps_caption;
  std::vector<LayerMap> maps;
  std::string samples_caption;
  std::vector<SampleOutput> samples;
  using Pairs = std::vector<std::pair<std::string, std::string>>;
  std::vector<std::pair<std::string, Pairs>> configuration;  // titled lists
  Pairs timing;
};

// The whole file. Every text is escaped; the Report's own texts are plain text, not HTML.
std::string render_report(const Report& report);

// A running mean that starts unbiased: each value weighs `weight` less than the one after it.
std::vector<CurvePoint> smoothed(const std::vector<CurvePoint>& points, double weight);

}  // namespace adder::tools
