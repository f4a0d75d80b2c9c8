// adder info on a run directory.
#include <algorithm>

#include "engine/io/file.h"
#include "engine/text/counted.h"
#include "tools/commands/common.h"
#include "tools/commands/info.h"
#include "tools/console.h"
#include "tools/train/checkpoint.h"

namespace adder::tools {
namespace {

constexpr const char* kLog = "log.jsonl";

// The members of a run's log that say where it is; each null until there is one.
struct LogState {
  OrderedJson header;      // the first line
  OrderedJson selection;   // of the end of a warm-up
  OrderedJson step;        // the last step that was logged
  OrderedJson evaluation;  // the last one
};

LogState read_log(const std::string& path) {
  const std::string text = read_file(path);
  LogState log;
  std::size_t begin = 0;
  for (int number = 1; begin < text.size(); ++number) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // it is being written, or its writer was killed
    OrderedJson json =
        OrderedJson::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                           text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (!json.is_object()) throw IoError(str(path, ":", number, ": not a line of a training log"));
    const OrderedJson phase = json.value("phase", OrderedJson());
    OrderedJson& kind = number == 1            ? log.header
                        : phase == "selection" ? log.selection
                        : phase == "eval"      ? log.evaluation
                                               : log.step;
    kind = std::move(json);
    begin = end + 1;
  }
  return log;
}

OrderedJson read_json(const std::string& path) {
  OrderedJson json = OrderedJson::parse(read_file(path), nullptr, false);
  if (!json.is_object()) throw IoError(str(path, ": not a JSON object"));
  return json;
}

struct Run {
  OrderedJson config, log_header;
  bool finished = false;
  std::string checkpoint;  // the newest, without its folder; empty when there is none
  std::string result;      // "adapter", "model", or empty
  std::string phase = "train";
  std::int64_t step = 0, total_steps = 0, warm_up_steps = 0;
  std::int64_t trainable = 0, total = 0;
  OrderedJson best_step, best = OrderedJson::object();  // where something was evaluated
  OrderedJson last = OrderedJson::object();             // the last evaluation
  OrderedJson loss;                                     // of the last steps that were logged
  double seconds = 0;
};

// "best_loss" and "best_accuracy" of the steps, where data is endless and nothing is evaluated.
void take_best(const OrderedJson& from, const char* metrics, Run& run) {
  if (from.value("has_best", from.contains("best_step"))) {
    run.best_step = from.at("best_step");
    run.best = from.at(metrics);
  }
  for (const char* key : {"best_loss", "best_accuracy"}) {
    if (from.contains(key)) run.best[std::string(key).substr(5)] = from.at(key);
  }
}

void take_log(const LogState& log, Run& run) {
  run.log_header = log.header;
  if (log.header.is_object()) {
    run.total_steps = log.header.at("total_steps").get<std::int64_t>();
    run.trainable = log.header.at("trainable_parameters").get<std::int64_t>();
    run.total = log.header.at("total_parameters").get<std::int64_t>();
  }
  if (log.step.is_object()) {
    run.phase = log.step.at("phase").get<std::string>();
    run.step = log.step.at("step").get<std::int64_t>();
    run.loss = log.step.at("loss");
    run.seconds = log.step.at("seconds").get<double>();
  }
  if (log.selection.is_object()) {
    run.warm_up_steps = log.selection.at("warm_up_steps").get<std::int64_t>();
    run.trainable = log.selection.at("trainable_parameters").get<std::int64_t>();
    run.seconds = std::max(run.seconds, log.selection.at("seconds").get<double>());
    if (run.phase == "warm-up") run.step = 0;
    run.phase = "train";
  }
  if (log.evaluation.is_object()) {
    if (run.phase == "train") {
      run.step = std::max(run.step, log.evaluation.at("step").get<std::int64_t>());
    }
    for (const auto& [key, value] : log.evaluation.items()) {
      if (key == "step" || key.rfind("eval_", 0) == 0) run.last[key] = value;
    }
    run.seconds = std::max(run.seconds, log.evaluation.at("seconds").get<double>());
  }
}

// Runs `read` on a file of JSON; a member that is absent or of another kind is an IoError.
template <typename Read>
void checked(const std::string& path, const Read& read) {
  try {
    read();
  } catch (const OrderedJson::exception& error) {
    throw IoError(str(path, ": not as `adder train` writes it: ", error.what()));
  }
}

Run read_run(const std::string& directory) {
  Run run;
  const std::string log = join_path(directory, kLog);
  const std::string config = join_path(directory, "config.json");
  run.config = read_json(config);
  checked(log, [&] { take_log(read_log(log), run); });
  const std::string checkpoint = latest_checkpoint(directory);
  if (!checkpoint.empty()) {
    run.checkpoint = checkpoint.substr(checkpoint.find_last_of('/') + 1);
    const std::string path = join_path(checkpoint, "training_state.json");
    checked(path, [&] {
      const OrderedJson state = read_json(path);
      take_best(state, "best_metrics", run);
      // Fewer steps are logged than done.
      const auto step = state.at("step").get<std::int64_t>();
      if (state.at("phase") == run.phase) {
        run.step = std::max(run.step, step);
      } else if (run.phase == "warm-up") {
        run.phase = "train";
        run.step = step;
        run.warm_up_steps = state.at("warm_up_steps").get<std::int64_t>();
      }
    });
  }
  for (const char* result : {"adapter", "model"}) {
    if (is_directory(join_path(directory, result))) run.result = result;
  }
  const std::string path = join_path(directory, "summary.json");
  run.finished = exists(path);
  if (!run.finished) return run;
  checked(path, [&] {
    const OrderedJson summary = read_json(path);
    run.step = summary.at("steps").get<std::int64_t>();
    run.warm_up_steps = summary.at("warm_up_steps").get<std::int64_t>();
    run.seconds = summary.at("wall_seconds").get<double>();
    run.trainable = summary.at("trainable_parameters").get<std::int64_t>();
    run.total = summary.at("total_parameters").get<std::int64_t>();
    take_best(summary, "best", run);
  });
  return run;
}

std::string method_of(const Run& run, const std::string& config) {
  const OrderedJson peft = run.config.value("peft", OrderedJson());
  if (!peft.is_null()) return PeftConfig::parse(peft.dump(), config).description();
  const std::string adapter = run.config.value("adapter", "");
  return adapter.empty() ? "all parameters" : "the adapter " + adapter + ", trained on";
}

// "loss 2.29, accuracy 0.1"
std::string metrics_text(const OrderedJson& metrics) {
  std::string text;
  for (const auto& [key, value] : metrics.items()) {
    if (!value.is_number() || key == "step") continue;
    const std::string name = key.rfind("eval_", 0) == 0 ? key.substr(5) : key;
    text += str(text.empty() ? "" : ", ", name, " ", number_text(value.get<double>()));
  }
  return text;
}

std::string state_text(const Run& run) {
  std::string warm_up;
  if (run.warm_up_steps > 0) {
    warm_up = " after a warm-up of " + counted(run.warm_up_steps, "step");
  }
  if (run.finished) return "finished: " + counted(run.step, "step") + warm_up;
  const std::string where = run.phase == "train"
                                ? str("step ", run.step, " of ", run.total_steps, warm_up)
                                : str("step ", run.step, " of the warm-up");
  return str("not finished: ", where, ", ",
             run.checkpoint.empty() ? "no checkpoint to resume from"
                                    : "to be resumed from " + run.checkpoint);
}

void print_run(const Run& run, const std::string& directory, const std::string& method) {
  InfoRows rows = {{"run", state_text(run)}};
  if (!run.finished && !run.checkpoint.empty()) {
    rows.emplace_back("to resume", str("adder train --config ", join_path(directory, "config.json"),
                                       " --out ", directory, " --resume"));
  }
  rows.emplace_back("base model", run.config.value("model", ""));
  std::string data = run.config.value("data", "");
  const OrderedJson examples = run.log_header.is_object()
                                   ? run.log_header.value("train_examples", OrderedJson())
                                   : OrderedJson();
  if (examples.is_number_integer()) {
    data += ", " + grouped(examples.get<std::int64_t>(), "example");
  }
  rows.emplace_back("data", data);
  rows.emplace_back("trains", method);
  if (run.total > 0) {
    const double percent =
        100 * static_cast<double>(run.trainable) / static_cast<double>(run.total);
    rows.emplace_back("trainable", str(grouped(run.trainable), " of ", grouped(run.total), " (",
                                       number_text(percent), " %)"));
  }
  const auto batch = run.config.value("batch_size", std::int64_t{0});
  const auto accumulated = run.config.value("grad_accum", std::int64_t{1});
  rows.emplace_back("each step", str(counted(batch * accumulated, "example"), ", learning rate ",
                                     number_text(run.config.value("lr", 0.0)), " (",
                                     run.config.value("schedule", ""), "), seed ",
                                     run.config.value("seed", std::int64_t{0})));
  if (run.loss.is_number()) rows.emplace_back("training", metrics_text({{"loss", run.loss}}));
  if (!run.best.empty()) {
    const std::string at =
        run.best_step.is_number() ? str(" at step ", run.best_step.get<std::int64_t>()) : "";
    rows.emplace_back("best", metrics_text(run.best) + at);
  }
  if (run.last.contains("step")) {
    rows.emplace_back("last", str(metrics_text(run.last), " at step ", run.last["step"]));
  }
  rows.emplace_back("time", clock_time(run.seconds));
  rows.emplace_back("result", run.result.empty()
                                  ? "none yet"
                                  : join_path(directory, run.result) +
                                        (run.best_step.is_number() ? ", of the best step" : ""));
  print_pairs(rows);
}

void print_run_json(const Run& run, const std::string& directory, const std::string& method) {
  OrderedJson json;
  json["kind"] = "run";
  json["finished"] = run.finished;
  json["resumable"] = !run.finished && !run.checkpoint.empty();
  json["phase"] = run.phase;
  json["step"] = run.step;
  json["total_steps"] = run.total_steps;
  json["warm_up_steps"] = run.warm_up_steps;
  json["base_model"] = run.config.value("model", "");
  json["data"] = run.config.value("data", "");
  json["method"] = method;
  json["trainable"] = run.trainable;
  json["total"] = run.total;
  json["loss"] = run.loss;
  json["best_step"] = run.best_step;
  json["best"] = run.best;
  json["last"] = run.last;
  json["seconds"] = run.seconds;
  json["checkpoint"] =
      run.checkpoint.empty() ? OrderedJson() : OrderedJson(join_path(directory, run.checkpoint));
  json["result"] =
      run.result.empty() ? OrderedJson() : OrderedJson(join_path(directory, run.result));
  json["config"] = run.config;
  print_json(json);
}

}  // namespace

bool is_run_directory(const std::string& directory) {
  return exists(join_path(directory, kLog)) && exists(join_path(directory, "config.json"));
}

void show_run(const InfoOptions& options) {
  const Run run = read_run(options.path);
  const std::string config = join_path(options.path, "config.json");
  checked(config, [&] {
    const std::string method = method_of(run, config);
    (options.json ? print_run_json : print_run)(run, options.path, method);
  });
}

}  // namespace adder::tools
