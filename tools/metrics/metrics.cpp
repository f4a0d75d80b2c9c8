#include "tools/metrics/metrics.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "engine/error.h"

namespace adder::tools {
namespace {

void check_sizes(const char* metric, size_t predictions, size_t answers) {
  if (predictions != answers || predictions == 0) {
    throw ShapeError(str(metric, ": ", predictions, " predictions for ", answers, " answers"));
  }
}

}  // namespace

double accuracy(std::span<const int32_t> predictions, std::span<const int32_t> answers) {
  check_sizes("accuracy", predictions.size(), answers.size());
  int64_t right = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    right += answers[i] >= 0 && predictions[i] == answers[i] ? 1 : 0;
  }
  return static_cast<double>(right) / static_cast<double>(answers.size());
}

double matthews_correlation(std::span<const int32_t> predictions,
                            std::span<const int32_t> answers) {
  check_sizes("matthews", predictions.size(), answers.size());
  std::map<int32_t, std::pair<double, double>> counts;  // class -> (predicted, true)
  double right = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    counts[predictions[i]].first += 1;
    counts[answers[i]].second += 1;
    right += predictions[i] == answers[i] ? 1 : 0;
  }
  const double n = static_cast<double>(answers.size());
  double cross = 0, predicted = 0, truth = 0;
  for (const auto& [label, count] : counts) {
    cross += count.first * count.second;
    predicted += count.first * count.first;
    truth += count.second * count.second;
  }
  const double spread = (n * n - predicted) * (n * n - truth);
  return spread > 0 ? (right * n - cross) / std::sqrt(spread) : 0.0;
}

double exact_match(std::span<const std::string> predictions,
                   std::span<const std::vector<std::string>> references) {
  check_sizes("exact_match", predictions.size(), references.size());
  int64_t right = 0;
  for (size_t i = 0; i < predictions.size(); ++i) {
    const std::vector<std::string>& accepted = references[i];
    right += std::find(accepted.begin(), accepted.end(), predictions[i]) != accepted.end() ? 1 : 0;
  }
  return static_cast<double>(right) / static_cast<double>(predictions.size());
}

double perplexity(double mean_loss) {
  return std::exp(mean_loss);
}

}  // namespace adder::tools
