#include "tools/demo/demo_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/cpu/parallel.h"
#include "engine/error.h"
#include "engine/kernels/matmul.h"
#include "tools/console.h"
#include "tools/report/html.h"
#include "tools/report/run_files.h"

namespace adder::tools {
namespace {

using Json = nlohmann::ordered_json;

double share(const DemoResults& results, const DemoResult& result) {
  return 100.0 * static_cast<double>(result.trainable) / static_cast<double>(results.parameters);
}

// With a space that does not break.
std::string percent(double value, int decimals) {
  return fixed_number(value, decimals) + "\u00A0%";
}

std::string duration(double seconds) {
  return seconds < 90 ? fixed_number(seconds, 1) + " s" : clock_time(seconds) + " min";
}

const DemoResult* find(const DemoResults& results, const std::string& key) {
  for (const DemoResult& result : results.methods) {
    if (result.method->key == key) return &result;
  }
  return nullptr;
}

// Headline and explanation, from the numbers alone.
void explain(const DemoResults& results, Report& report) {
  const DemoPlan& plan = *results.plan;
  const DemoResult* sdt = find(results, "sdt-lora");
  if (sdt != nullptr) {
    report.headline =
        str("SDT + LoRA trains ", percent(share(results, *sdt), 1), " of a small Mamba and writes ",
            percent(100 * sdt->test.exact_match, 1), " of a new dialect’s sentences exactly right");
  }
  report.summary.push_back(
      str("A byte-level Mamba with ", grouped(results.parameters),
          " weights was pretrained from nothing to turn records into sentences of an invented "
          "language’s dialect A (",
          percent(100 * results.base_on_a.exact_match, 1),
          " of its test sentences are exactly right). From ", plan.b.train,
          " examples it then had to learn dialect B, which has another word order, other endings "
          "and another spelling: once not at all, once by low-rank updates of projections (LoRA), "
          "once by LoRA together with sparse dimension tuning (SDT) of the state space layers, and "
          "once by training everything."));
  std::string others;
  for (const DemoResult& result : results.methods) {
    if (&result == sdt) continue;
    others += str(others.empty() ? "" : ", ", result.method->name, ": ",
                  percent(100 * result.test.exact_match, 1));
  }
  report.summary.push_back(str("For comparison, exact match of the others: ", others, "."));
}

void add_curves(const DemoResults& results, Report& report) {
  LineChart adapting;
  adapting.title = "Learning dialect B";
  adapting.caption =
      "Lines: training loss, smoothed. Dots: loss on validation records. The dotted line is the "
      "warm-up in which SDT finds out what to train; it starts again from the pretrained weights "
      "afterwards. Logarithmic scale.";
  std::vector<Curve> warm_ups;
  for (const DemoResult& result : results.methods) {
    if (result.run.empty()) continue;
    const RunCurves curves = read_curves(result.run);
    adapting.curves.push_back({.name = result.method->name,
                               .colour = result.method->colour,
                               .line = smoothed(curves.train, 0.8),
                               .marks = curves.evaluations});
    if (curves.warm_up.empty()) continue;
    warm_ups.push_back({.name = result.method->name + ", warm-up",
                        .colour = result.method->colour,
                        .dashed = true,
                        .line = smoothed(curves.warm_up, 0.8),
                        .marks = {}});
  }
  adapting.curves.insert(adapting.curves.end(), warm_ups.begin(), warm_ups.end());
  const RunCurves curves = read_curves(results.pretraining_run);
  LineChart pretraining;
  pretraining.title = "Pretraining on dialect A";
  pretraining.caption = "From random weights; what every method above starts from.";
  pretraining.curves.push_back({.name = "Pretraining",
                                .colour = 0,
                                .line = smoothed(curves.train, 0.8),
                                .marks = curves.evaluations});
  report.charts = {adapting, pretraining};
}

// Test records on which the methods that trained disagree come first; they tell most.
std::vector<std::size_t> interesting_samples(const DemoResults& results, std::size_t count) {
  const std::size_t tested = results.methods.front().test.predictions.size();
  std::vector<std::size_t> chosen;
  std::vector<std::size_t> rest;
  for (std::size_t i = 0; i < tested; ++i) {
    std::size_t right = 0;
    std::size_t trained = 0;
    for (const DemoResult& result : results.methods) {
      if (result.run.empty()) continue;
      const Prediction& p = result.test.predictions[i];
      right += p.prediction == p.references.front() ? 1 : 0;
      ++trained;
    }
    (right > 0 && right < trained && chosen.size() + 1 < count ? chosen : rest).push_back(i);
  }
  for (const std::size_t i : rest) {
    if (chosen.size() < count) chosen.push_back(i);
  }
  return chosen;
}

void add_samples(const DemoResults& results, Report& report) {
  report.samples_caption =
      "Test records and what each method writes, decoded greedily. Records on which the trained "
      "methods disagree come first. What follows the first difference is marked.";
  for (const std::size_t i : interesting_samples(results, 5)) {
    const Prediction& first = results.methods.front().test.predictions[i];
    SampleOutput sample{first.input, first.references.front(), {}};
    for (const DemoResult& result : results.methods) {
      sample.outputs.emplace_back(result.method->name, result.test.predictions[i].prediction);
    }
    report.samples.push_back(std::move(sample));
  }
}

void add_configuration(const DemoResults& results, Report& report) {
  const DemoPlan& plan = *results.plan;
  const MambaConfig& model = plan.model;
  const auto number = [](double value) { return short_number(value, 6); };
  report.configuration.push_back(
      {"Model",
       {{"Weights", grouped(results.parameters)},
        {"Layers", std::to_string(model.num_layers)},
        {"Width, channels per layer", str(model.hidden_size, ", ", model.inner_size)},
        {"States per channel", std::to_string(model.state_size)},
        {"Tokens", "bytes"}}});
  report.configuration.push_back({"Data",
                                  {{"Dialect A: train, validation, test",
                                    str(plan.a.train, ", ", plan.a.val, ", ", plan.a.test)},
                                   {"Dialect B: train, validation, test",
                                    str(plan.b.train, ", ", plan.b.val, ", ", plan.b.test)},
                                   {"Seed", std::to_string(plan.pretraining.seed)}}});
  const auto training = [&](const TrainConfig& config) {
    return Report::Pairs{{"Epochs, batch size", str(config.epochs, ", ", config.batch_size)},
                         {"Learning rate", str(number(config.lr), ", ", config.schedule)}};
  };
  report.configuration.push_back({"Pretraining", training(plan.pretraining)});
  Report::Pairs adapting = {{"Epochs, batch size", str(plan.methods.front().config.epochs, ", ",
                                                       plan.methods.front().config.batch_size)}};
  for (const DemoMethod& method : plan.methods) {
    if (!method.adapts) continue;
    adapting.emplace_back("Learning rate, " + method.name,
                          str(number(method.config.lr), ", ", method.config.schedule));
  }
  report.configuration.push_back({"Adaptation", adapting});
  report.configuration.push_back(
      {"Machine",
       {{"Threads", std::to_string(cpu::num_threads())}, {"Matrix products", matmul_library()}}});
  report.timing.emplace_back("Pretraining", duration(results.pretraining_seconds));
  double testing = results.base_on_a.seconds;
  for (const DemoResult& result : results.methods) {
    testing += result.test.seconds;
    if (!result.run.empty()) {
      report.timing.emplace_back(result.method->name, duration(result.seconds));
    }
  }
  report.timing.emplace_back("All tests", duration(testing));
  report.timing.emplace_back("The whole demo", duration(results.total_seconds));
}

}  // namespace

std::string results_table(const DemoResults& results) {
  char line[160];
  std::snprintf(line, sizeof line, "%-18s %12s %10s %12s %9s\n", "dialect B by", "trainable %",
                "loss", "exact-match", "seconds");
  std::string text = line;
  for (const DemoResult& result : results.methods) {
    std::snprintf(line, sizeof line, "%-18s %12.2f %10.4f %11.1f%% %9.1f\n",
                  result.method->name.c_str(), share(results, result), result.test.loss,
                  100 * result.test.exact_match, result.seconds);
    text += line;
  }
  return text;
}

std::string results_json(const DemoResults& results) {
  Json methods = Json::array();
  for (const DemoResult& result : results.methods) {
    methods.push_back({{"method", result.method->name},
                       {"trainable_parameters", result.trainable},
                       {"trainable_percent", share(results, result)},
                       {"loss", result.test.loss},
                       {"exact_match", result.test.exact_match},
                       {"seconds", result.seconds}});
  }
  const Json json = {
      {"parameters", results.parameters},
      {"pretraining_seconds", results.pretraining_seconds},
      {"dialect_a",
       {{"loss", results.base_on_a.loss}, {"exact_match", results.base_on_a.exact_match}}},
      {"dialect_b", methods},
      {"total_seconds", results.total_seconds}};
  return json.dump(2) + "\n";
}

Report demo_report(const DemoResults& results) {
  Report report;
  report.title = "Adder demo: one small Mamba, two dialects";
  explain(results, report);
  report.results_title = "Results on dialect B";
  report.results_caption =
      str("Loss per byte and exact match over ", results.plan->b.test,
          " test records that appear in no training set of either dialect. Seconds are those of "
          "training; for SDT they include the warm-up.");
  for (const DemoResult& result : results.methods) {
    report.results.push_back({.method = result.method->name,
                              .trains = result.method->trains,
                              .colour = result.method->colour,
                              .trainable = result.trainable,
                              .total = results.parameters,
                              .loss = result.test.loss,
                              .exact_match = result.test.exact_match,
                              .seconds = result.seconds});
  }
  add_curves(results, report);
  for (const DemoResult& result : results.methods) {
    if (result.run.empty() || !report.maps.empty()) continue;
    report.maps = read_maps(result.run);
  }
  report.maps_caption =
      "Each column is a channel of a state space layer and each row one of its states; the shade "
      "says how far the entry of the state matrix A moved in SDT’s warm-up, within its layer. Only "
      "the orange entries train after that, together with their channels’ columns in the "
      "projections to B and C. Point at a column for its numbers.";
  add_samples(results, report);
  add_configuration(results, report);
  return report;
}

}  // namespace adder::tools
