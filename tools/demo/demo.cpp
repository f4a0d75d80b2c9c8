#include "tools/demo/demo.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/cpu/parallel.h"
#include "engine/error.h"
#include "engine/io/file.h"
#include "engine/text/tokenizer.h"
#include "models/mamba.h"
#include "peft/adapter.h"
#include "tools/console.h"
#include "tools/demo/demo_report.h"
#include "tools/demo/plan.h"
#include "tools/eval/evaluate.h"
#include "tools/exit_codes.h"
#include "tools/report/html.h"
#include "tools/train/trainer.h"

namespace adder::tools {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Demo {
 public:
  explicit Demo(const DemoOptions& options)
      : options_(options), plan_(make_plan(options.quick, options.seed, options.threads)) {
    results_.plan = &plan_;
  }

  int run() {
    const auto start = Clock::now();
    cpu::set_num_threads(options_.threads);
    prepare_directory();
    write_data();
    write_initial_model();
    if (!pretrain()) return kExitInterrupted;
    for (const DemoMethod& method : plan_.methods) {
      if (!adapt(method)) return kExitInterrupted;
    }
    results_.total_seconds = seconds_since(start);
    write_file_atomic(in("results.json"), results_json(results_));
    write_file_atomic(in("report.html"), render_report(demo_report(results_)));
    status_.clear();
    print(results_table(results_));
    print(str("\nreport: ",
              std::filesystem::absolute(in("report.html")).lexically_normal().string(), "\n"));
    return kExitOk;
  }

 private:
  std::string in(const std::string& name) const { return join_path(options_.out, name); }
  std::string data(Dialect dialect, const char* split) const {
    return in(str("data/dialect_", dialect == Dialect::a ? "a" : "b", "_", split, ".jsonl"));
  }

  void prepare_directory() {
    const char* const marker = "demo.json";
    if (exists(options_.out) && !exists(in(marker)) &&
        !(is_directory(options_.out) && std::filesystem::is_empty(options_.out))) {
      throw IoError(
          str(options_.out, ": exists already and no demo wrote it; choose another --out"));
    }
    for (const char* name :
         {"results.json", "report.html", "data", "model", "pretrained", "runs", "predictions"}) {
      remove_tree(in(name));
    }
    for (const char* name : {"data", "model", "runs", "predictions"}) make_directories(in(name));
    const Json json = {{"seed", options_.seed}, {"quick", options_.quick}};
    write_file_atomic(in(marker), json.dump(2) + "\n");
  }

  void write_data() {
    const LanguageData language = make_language(plan_.a, plan_.b, options_.seed);
    for (const Dialect dialect : {Dialect::a, Dialect::b}) {
      const DialectData& splits = dialect == Dialect::a ? language.a : language.b;
      write_file_atomic(data(dialect, "train"), to_jsonl(splits.train));
      write_file_atomic(data(dialect, "val"), to_jsonl(splits.val));
      write_file_atomic(data(dialect, "test"), to_jsonl(splits.test));
    }
    const Pair& example = language.b.test.front();
    status_.message(str("language: ", plan_.a.train, " sentences of dialect A, ", plan_.b.train,
                        " of dialect B to learn from; for example\n  ", example.input, "\n  ",
                        example.target));
  }

  void write_initial_model() {
    const auto model = Mamba::init(plan_.model, options_.seed);
    model->save(in("model"));
    write_file_atomic(in("model/tokenizer.json"), Tokenizer::byte_level().json());
    status_.message(str("model: ", grouped(model->parameter_count(), "parameter")));
  }

  // False when interrupted. `outcome` receives the run's summary.
  bool train_run(const TrainConfig& config, const std::string& label, Json& summary) {
    TrainCallbacks callbacks;
    callbacks.interrupted = &interrupt_.flag();
    callbacks.progress = [&](const TrainProgress& p) {
      if (!status_.due()) return;
      status_.update(str(label, p.phase == "warm-up" ? " (warm-up)" : "", "  step ", p.step, "/",
                         p.total_steps, "  loss ", fixed_number(p.loss, 4), "  ",
                         grouped(static_cast<std::int64_t>(p.rate)), " ", p.unit, "/s  ",
                         clock_time(p.seconds_left), " left"));
    };
    const TrainOutcome outcome = train(config, callbacks);
    if (outcome.interrupted) return false;
    summary = Json::parse(outcome.summary_json);
    return true;
  }

  bool pretrain() {
    TrainConfig config = plan_.pretraining;
    config.model = in("model");
    config.data = data(Dialect::a, "train");
    config.val_data = data(Dialect::a, "val");
    config.out = in("pretrained");
    Json summary;
    const auto start = Clock::now();
    if (!train_run(config, "pretraining", summary)) return false;
    results_.pretraining_run = config.out;
    results_.pretraining_seconds = seconds_since(start);
    results_.parameters = summary.at("total_parameters").get<std::int64_t>();
    const auto result = test(in("pretrained/model"), "", Dialect::a, "pretrained_on_a");
    if (!result) return false;
    results_.base_on_a = *result;
    status_.message(str("pretrained on dialect A in ", clock_time(results_.pretraining_seconds),
                        ": exact match ", fixed_number(100 * result->exact_match, 1), " %"));
    return true;
  }

  bool adapt(const DemoMethod& method) {
    DemoResult result;
    result.method = &method;
    std::string model = in("pretrained/model");
    std::string adapter;
    if (method.adapts) {
      TrainConfig config = method.config;
      config.model = model;
      config.data = data(Dialect::b, "train");
      config.val_data = data(Dialect::b, "val");
      config.out = in("runs/" + method.key);
      config.peft_json = method.peft;
      config.peft_path = method.key;
      Json summary;
      const auto start = Clock::now();
      if (!train_run(config, method.name, summary)) return false;
      result.seconds = seconds_since(start);
      result.run = config.out;
      result.trainable = summary.at("trainable_parameters").get<std::int64_t>();
      (method.peft.empty() ? model : adapter) =
          join_path(config.out, method.peft.empty() ? "model" : "adapter");
    }
    auto tested = test(model, adapter, Dialect::b, method.key);
    if (!tested) return false;
    result.test = std::move(*tested);
    status_.message(str(method.name, ": ", fixed_number(100 * result.test.exact_match, 1),
                        " % exact on dialect B, ", clock_time(result.seconds)));
    results_.methods.push_back(std::move(result));
    return true;
  }

  // Loss and greedy generation on a dialect's test split; nothing when interrupted.
  std::optional<TestResult> test(const std::string& model_path, const std::string& adapter_path,
                                 Dialect dialect, const std::string& key) {
    const auto start = Clock::now();
    const auto model = Mamba::load(model_path);
    const Tokenizer tokenizer = Tokenizer::from_file(join_path(model_path, "tokenizer.json"));
    std::unique_ptr<Adapter> adapter;
    if (!adapter_path.empty()) adapter = Adapter::load(*model, adapter_path);
    DataOptions data_options;
    data_options.generation = true;
    const Dataset dataset = load_dataset(data(dialect, "test"), &tokenizer, data_options);
    EvalOptions eval;
    eval.batch_size = 32;
    eval.keep_predictions = true;
    eval.generation = GenerationOptions{.max_new_tokens = plan_.max_new_tokens};
    eval.interrupted = &interrupt_.flag();
    eval.progress = [&](std::int64_t done, std::int64_t total) {
      status_.update(str("testing ", done, " of ", total));
    };
    EvalResult evaluated = evaluate(*model, dataset, &tokenizer, eval);
    if (evaluated.interrupted) return std::nullopt;
    TestResult result;
    result.loss = *evaluated.find("loss");
    result.exact_match = *evaluated.find("exact_match");
    result.predictions = std::move(evaluated.predictions);
    std::string lines;
    for (const Prediction& p : result.predictions) {
      const Json json = {
          {"input", p.input}, {"prediction", p.prediction}, {"references", p.references}};
      lines += json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    }
    write_file_atomic(in("predictions/" + key + ".jsonl"), lines);
    result.seconds = seconds_since(start);
    return result;
  }

  DemoOptions options_;
  DemoPlan plan_;
  DemoResults results_;
  Status status_;
  InterruptScope interrupt_;
};

}  // namespace

int run_demo(const DemoOptions& options) {
  return Demo(options).run();
}

}  // namespace adder::tools
