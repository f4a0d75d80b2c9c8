#include "tools/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <nlohmann/json.hpp>

#include "engine/cpu/parallel.h"
#include "engine/io/file.h"
#include "engine/kernels/matmul.h"
#include "engine/text/counted.h"
#include "tools/train/checkpoint.h"
#include "tools/train/config_file.h"
#include "tools/train/run_log.h"
#include "tools/train/setup.h"

namespace adder::tools {
namespace {

using Json = nlohmann::ordered_json;
constexpr int kKeptCheckpoints = 2;
constexpr const char* kAdvice = "; a lower --lr or a smaller --clip may help";
constexpr std::int64_t kEndlessSaveEvery = 100;  // steps, where there are no epochs

double rounded(double value, double unit) {
  return std::round(value / unit) * unit;
}

class Trainer {
 public:
  Trainer(const TrainConfig& config, const TrainCallbacks& callbacks)
      : config_(config), callbacks_(callbacks), setup_(set_up_run(config)) {
    schedule_ = parse_schedule(config.schedule);
    const auto per_epoch = static_cast<double>(setup_.objective->batches_per_epoch());
    eval_every_ = config.eval_every > 0
                      ? config.eval_every
                      : std::max<std::int64_t>(
                            1, static_cast<std::int64_t>(config.eval_epochs * per_epoch /
                                                         static_cast<double>(config.grad_accum)));
    save_every_ = setup_.objective->endless() ? kEndlessSaveEvery : eval_every_;
    if (config.save_every > 0) save_every_ = config.save_every;
  }

  TrainOutcome run() {
    prepare_run_directory(config_.out, config_.resume, config_.overwrite);
    start_or_resume();
    if (state_.warm_up && !train_phase(warm_up_steps())) return stop_early();
    if (state_.warm_up) end_warm_up();
    if (!train_phase(setup_.total_steps)) return stop_early();
    return finish();
  }

 private:
  void say(const std::string& text) const {
    if (callbacks_.message) callbacks_.message(text);
  }
  bool interrupted() const { return callbacks_.interrupted && *callbacks_.interrupted; }
  std::string in_run(const std::string& name) const { return join_path(config_.out, name); }

  void start_or_resume() {
    state_.warm_up = setup_.adapter && setup_.adapter->needs_warmup();
    const std::string checkpoint = config_.resume ? latest_checkpoint(config_.out) : "";
    if (checkpoint.empty()) {
      write_file_atomic(in_run("config.json"), to_json(config_));
      // A rule that tries dimensions out takes no steps, and nothing may train before it has
      // chosen.
      if (!state_.warm_up || warm_up_steps() > 0) make_optimizer();
      log_.emplace(RunLog::create(in_run("log.jsonl"), header()));
      return;
    }
    LoadedCheckpoint loaded = load_checkpoint(checkpoint, *setup_.model, !setup_.adapter);
    state_ = loaded.state;
    if (setup_.adapter) setup_.adapter->load_state(with_prefix(loaded.tensors, "adapter/"));
    if (!state_.warm_up) setup_.objective->settle_precision(false);
    make_optimizer();
    optimizer_->load_state(with_prefix(loaded.tensors, "optimizer/"), state_.step);
    log_.emplace(RunLog::resume(in_run("log.jsonl"), loaded.log_state));
    say(str("resuming from ", checkpoint));
  }

  Json header() const {
    return {{"config", Json::parse(to_json(config_))},
            {"version", ADDER_VERSION},
            {"matmul", matmul_library()},
            {"threads", cpu::num_threads()},
            {"trainable_parameters", setup_.model->trainable_count()},
            {"total_parameters", setup_.model->parameter_count()},
            {"train_examples",
             setup_.objective->endless() ? Json() : Json(setup_.objective->train_examples())},
            {"total_steps", setup_.total_steps}};
  }

  void make_optimizer() {
    setup_.objective->end_phase();  // it holds on to the optimiser and to recorded memory
    auto trainables = collect_trainables(setup_.model->parameters());
    if (trainables.empty())
      throw ConfigError("nothing trains: the PEFT configuration selects no parameter");
    double decay = config_.weight_decay;
    if (state_.warm_up) decay = setup_.adapter->warmup_weight_decay().value_or(decay);
    if (config_.optimizer == "sgd") {
      optimizer_ = make_sgd(std::move(trainables), {config_.momentum, decay});
    } else {
      optimizer_ = make_adamw(std::move(trainables), {.weight_decay = decay});
    }
    PhaseOptions options;
    if (state_.warm_up && setup_.adapter->needs_warmup_gradients()) {
      options.before_update = [this] { setup_.adapter->accumulate_warmup_statistics(); };
    }
    if (state_.warm_up && setup_.adapter->warmup_penalty().defined()) {
      options.penalty = [this] { return setup_.adapter->warmup_penalty(); };
    }
    setup_.objective->begin_phase(*optimizer_, std::move(options));
  }

  std::int64_t warm_up_steps() const {
    const std::int64_t forwards =
        setup_.adapter->warmup_forwards(setup_.total_steps * config_.grad_accum);
    const std::int64_t steps = (forwards + config_.grad_accum - 1) / config_.grad_accum;
    return steps;
  }

  // What was asked of the device, and at which learning rate.
  struct Asked {
    std::int64_t step = 0;
    double lr = 0;
    AskedStep numbers;
  };

  // A warm-up may have a learning rate of its own, which is constant.
  double learning_rate(std::int64_t step) const {
    const auto own = state_.warm_up ? setup_.adapter->warmup_lr() : std::nullopt;
    return own.value_or(config_.lr *
                        schedule_factor(schedule_, step, setup_.total_steps, config_.warmup));
  }

  // Asks for one step. Nothing here waits for a device: the optimiser itself leaves everything as
  // it is when the norm is not finite, and look() ends the run when the host learns of it.
  void ask() {
    const std::int64_t step = state_.step;
    const double lr = learning_rate(step);
    at_step(step, [&] {
      asked_.push_back(
          {step, lr, setup_.objective->ask(step * config_.grad_accum, config_.grad_accum, lr)});
    });
    ++state_.step;
  }

  // Looks at the numbers of all steps but the last `left`.
  void look(std::size_t left, std::int64_t end) {
    while (asked_.size() > left) {
      Asked asked = std::move(asked_.front());
      asked_.pop_front();
      std::vector<AskedBatch>& batches = asked.numbers.batches;
      StepResult& result = asked.numbers.result;
      const auto count = static_cast<double>(std::max<std::int64_t>(result.supervised, 1));
      double total = 0;
      double right = 0;
      for (std::size_t i = 0; i < batches.size(); ++i) {
        const std::vector<double> sums = result.losses[i].values();
        if (!std::isfinite(sums[0])) fail_numerically("loss", sums[0], asked.step, batches[i]);
        total += sums[0];
        right += sums[1];
        log_->tokens += batches[i].units;
      }
      const double norm = result.clip.values()[0];
      if (!std::isfinite(norm)) {
        fail_numerically("gradient norm", norm, asked.step, batches.back());
      }
      note_best(total / count, right / count);
      report(total / count, asked.lr, norm, asked.step + 1, end);
    }
  }

  // Endless fresh data have no validation set: what a step makes of its batch, before it has
  // learnt from it, is as good.
  void note_best(double loss, double accuracy) {
    if (!setup_.objective->endless() || state_.warm_up) return;
    state_.best_loss = std::min(state_.best_loss.value_or(loss), loss);
    if (!setup_.objective->counts_right_answers()) return;
    accuracy_ = accuracy;
    state_.best_accuracy = std::max(state_.best_accuracy.value_or(accuracy), accuracy);
  }

  // "best_loss" and, of classes, "best_accuracy" of the steps so far.
  void add_best_steps(Json& json) const {
    if (state_.best_loss) json["best_loss"] = *state_.best_loss;
    if (state_.best_accuracy) json["best_accuracy"] = *state_.best_accuracy;
  }

  [[noreturn]] void fail_numerically(const char* what, double value, std::int64_t step,
                                     const AskedBatch& batch) const {
    throw NumericError(str("the ", what, " is ", value, " at step ", step + 1, " of the ", phase(),
                           " phase, batch of ", batch.describe(), kAdvice));
  }

  // Runs `work`; where an operation met numbers that are not finite, its error says when.
  template <typename Work>
  void at_step(std::int64_t step, const Work& work) const {
    try {
      work();
    } catch (const NumericError& error) {
      throw NumericError(
          str(error.what(), "; at step ", step + 1, " of the ", phase(), " phase", kAdvice));
    }
  }

  const char* phase() const { return state_.warm_up ? "warm-up" : "train"; }

  // Steps until `end`; false when interrupted (a checkpoint has been written).
  bool train_phase(std::int64_t end) {
    // A device is one step ahead of what the host looks at, but never when something is saved.
    const std::size_t ahead = setup_.model->device().is_cpu() ? 0 : 1;
    while (state_.step < end) {
      ask();
      const bool last = state_.step == end;
      const bool evaluate = !state_.warm_up && (last || state_.step % eval_every_ == 0);
      const bool save = !config_.no_save && state_.step % save_every_ == 0;
      look(last || evaluate || save ? 0 : ahead, end);
      if (evaluate) evaluate_now();
      if (last) break;
      if (interrupted()) {
        look(0, end);
        checkpoint();
        return false;
      }
      if (save) checkpoint();
    }
    if (!state_.warm_up && !config_.no_save) checkpoint();
    return true;
  }

  void report(double loss, double lr, double norm, std::int64_t step, std::int64_t end) {
    log_->loss_sum += loss;
    ++log_->loss_count;
    const double now = log_->seconds();
    const double span = std::max(now - log_->since, 1e-9);
    const double epoch = static_cast<double>(step * config_.grad_accum) /
                         static_cast<double>(setup_.objective->batches_per_epoch());
    const double rate = static_cast<double>(log_->tokens) / span;
    if (callbacks_.progress) {
      callbacks_.progress({.phase = phase(),
                           .step = step,
                           .total_steps = end,
                           .epoch = epoch,
                           .loss = loss,
                           .lr = lr,
                           .grad_norm = norm,
                           .rate = rate,
                           .unit = setup_.objective->unit(),
                           .seconds_left = span / static_cast<double>(log_->loss_count) *
                                           static_cast<double>(end - step)});
    }
    if (step % config_.log_every != 0 && step != end) return;
    Json line = {{"phase", phase()},
                 {"step", step},
                 {"epoch", epoch},
                 {"loss", log_->loss_sum / static_cast<double>(log_->loss_count)},
                 {"lr", lr},
                 {"grad_norm", norm},
                 {"tokens_per_s", rounded(rate, 0.1)},
                 {"seconds", rounded(now, 0.001)}};
    if (accuracy_) line["accuracy"] = *accuracy_;
    add_best_steps(line);
    log_->write(line);
    log_->loss_sum = 0;
    log_->loss_count = 0;
    log_->tokens = 0;
    log_->since = now;
  }

  void evaluate_now() {
    std::optional<EvalResult> evaluated;
    at_step(state_.step - 1,
            [&] { evaluated = setup_.objective->evaluate(callbacks_.interrupted); });
    if (!evaluated) return;
    const EvalResult& result = *evaluated;
    if (result.interrupted) return;  // the checkpoint that follows is evaluated again on resuming
    Json line = {{"phase", "eval"}, {"step", state_.step}};
    for (const auto& [name, value] : result.metrics) line["eval_" + name] = value;
    line["seconds"] = rounded(log_->seconds(), 0.001);
    log_->write(line);
    log_->since = log_->seconds();

    const auto [metric, higher_is_better] = setup_.objective->choice();
    const double* chosen = result.find(metric);
    if (chosen == nullptr) chosen = result.find("loss");
    if (chosen == nullptr || !std::isfinite(*chosen)) {
      throw NumericError(str("the validation ", metric, " is not finite at step ", state_.step));
    }
    const bool higher = higher_is_better && metric != "loss";
    const bool better =
        !state_.has_best || (higher ? *chosen > state_.best : *chosen < state_.best);
    std::string text = str("step ", state_.step, ":");
    for (const auto& [name, value] : result.metrics)
      text += str(" ", name, " ", rounded(value, 1e-4));
    say(text + (better ? "  (best so far)" : ""));
    last_metrics_ = line;
    if (!better) return;
    state_.has_best = true;
    state_.best = *chosen;
    state_.best_step = state_.step;
    state_.best_metrics = Json::object();
    for (const auto& [name, value] : result.metrics) state_.best_metrics["eval_" + name] = value;
    write_result();
  }

  void write_result() const {
    AtomicDirectory directory(in_run(setup_.adapter ? "adapter" : "model"));
    if (setup_.adapter) {
      setup_.adapter->save(directory.path());
    } else {
      setup_.model->save(directory.path());
      setup_.objective->save_beside(directory.path());
    }
    directory.commit(true);
  }

  void checkpoint() const {
    save_checkpoint(config_.out, state_, *setup_.model, setup_.adapter.get(), *optimizer_,
                    log_->state(), kKeptCheckpoints);
  }

  void end_warm_up() {
    // A rule that tries dimensions out takes the batches that come next.
    std::int64_t next = state_.step * config_.grad_accum;
    setup_.adapter->set_probe([&] { return setup_.objective->probe(next++); });
    setup_.adapter->finish_warmup();
    setup_.adapter->set_probe({});
    setup_.objective->settle_precision(false);
    state_.warm_up_steps = state_.step;
    state_.warm_up = false;
    state_.step = 0;
    make_optimizer();
    log_->write({{"phase", "selection"},
                 {"warm_up_steps", state_.warm_up_steps},
                 {"trainable_parameters", setup_.model->trainable_count()},
                 {"seconds", rounded(log_->seconds(), 0.001)}});
    const std::int64_t trainable = setup_.model->trainable_count();
    say(str("warm-up of ", counted(state_.warm_up_steps, "step"), " done: dimensions selected, ",
            counted(trainable, "parameter"), trainable == 1 ? " trains" : " train"));
    if (!config_.no_save) checkpoint();
  }

  TrainOutcome stop_early() {
    say(str("interrupted; go on with --resume from ", latest_checkpoint(config_.out)));
    return {.interrupted = true, .summary_json = ""};
  }

  TrainOutcome finish() {
    if (!state_.has_best) write_result();
    const std::int64_t trainable = setup_.model->trainable_count();
    const std::int64_t total = setup_.model->parameter_count();
    Json summary = {
        {"steps", state_.step},
        {"warm_up_steps", state_.warm_up_steps},
        {"wall_seconds", rounded(log_->seconds(), 0.001)},
        {"peak_memory_bytes", memory_stats(setup_.model->device()).peak_bytes},
        {"trainable_parameters", trainable},
        {"total_parameters", total},
        {"trainable_percent", 100.0 * static_cast<double>(trainable) / static_cast<double>(total)},
        {"result", setup_.adapter ? "adapter" : "model"}};
    if (state_.has_best) {
      summary["best_step"] = state_.best_step;
      summary["best"] = state_.best_metrics;
      Json last = Json::object();
      for (const auto& [key, value] : last_metrics_.items()) {
        if (key.rfind("eval_", 0) == 0) last[key] = value;
      }
      summary["final"] = last;
    }
    add_best_steps(summary);
    const std::string text = summary.dump(2) + "\n";
    write_file_atomic(in_run("summary.json"), text);
    return {.interrupted = false, .summary_json = text};
  }

  TrainConfig config_;
  TrainCallbacks callbacks_;
  RunSetup setup_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<RunLog> log_;
  TrainState state_;
  Schedule schedule_ = Schedule::linear;
  std::int64_t eval_every_ = 0;
  std::int64_t save_every_ = 0;
  std::deque<Asked> asked_;
  std::optional<double> accuracy_;  // of the last step looked at, on endless data with classes
  Json last_metrics_ = Json::object();
};

}  // namespace

TrainOutcome train(const TrainConfig& config, const TrainCallbacks& callbacks) {
  if (config.resume) {
    const std::string summary = join_path(config.out, "summary.json");
    if (exists(summary)) {
      if (callbacks.message) callbacks.message(config.out + " is complete already");
      return {.interrupted = false, .summary_json = read_file(summary)};
    }
  }
  return Trainer(config, callbacks).run();
}

}  // namespace adder::tools
