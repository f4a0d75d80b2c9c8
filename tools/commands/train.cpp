// adder train: fine-tunes or pretrains.
#include <CLI/CLI.hpp>
#include <algorithm>

#include "tools/commands/commands.h"
#include "tools/commands/common.h"
#include "tools/console.h"
#include "tools/exit_codes.h"
#include "tools/train/config_file.h"
#include "tools/train/trainer.h"

namespace adder::tools {
namespace {

struct Options {
  std::string config;
  std::string peft;
  std::vector<std::pair<const TrainField*, std::string>> given;  // in the order of the flags
  bool no_shuffle = false;
  bool json = false;
  std::vector<std::string> data_options;
  std::optional<std::int64_t> num_beams, min_length, max_length;  // of eval_gen
};

std::string flag_of(const std::string& field) {
  std::string flag = "--" + field;
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

TrainConfig effective_config(const Options& options) {
  TrainConfig config;
  if (!options.config.empty()) apply_config_file(config, options.config);
  for (const auto& [field, text] : options.given) {
    set_field(config, *field, text, "train: " + flag_of(field->name));
  }
  if (options.no_shuffle) config.shuffle = false;
  if (!options.peft.empty()) load_peft_file(config, options.peft);
  for (const std::string& pair : options.data_options) {
    const std::size_t equals = pair.find('=');
    if (equals == std::string::npos) {
      throw ConfigError(str("train: --data-option ", pair, ": KEY=VALUE is needed"));
    }
    config.data_options[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  if (options.num_beams || options.min_length || options.max_length) {
    TrainConfig::Generation generation = config.eval_gen.value_or(TrainConfig::Generation{});
    generation.num_beams = options.num_beams.value_or(generation.num_beams);
    generation.min_length = options.min_length.value_or(generation.min_length);
    generation.max_length = options.max_length.value_or(generation.max_length);
    config.eval_gen = generation;
  }
  resolve_names(config, options.config);
  check_config(config);
  return config;
}

std::string progress_line(const TrainProgress& p) {
  return str(p.phase, " ", p.step, "/", p.total_steps, "  epoch ", number_text(p.epoch), "  loss ",
             number_text(p.loss), "  lr ", number_text(p.lr), "  grad ", number_text(p.grad_norm),
             "  ", grouped(static_cast<std::int64_t>(p.rate)), " ", p.unit, "/s  ",
             clock_time(p.seconds_left), " left");
}

// The scalars of a JSON object as rows; those of inner objects as "outer.inner".
void flatten(const OrderedJson& json, const std::string& prefix,
             std::vector<std::pair<std::string, std::string>>& rows) {
  for (const auto& [key, value] : json.items()) {
    const std::string name = prefix.empty() ? key : prefix + "." + key;
    if (value.is_object()) {
      flatten(value, name, rows);
    } else if (value.is_number_float()) {
      rows.emplace_back(name, number_text(value.get<double>()));
    } else if (value.is_number_integer()) {
      rows.emplace_back(name, grouped(value.get<std::int64_t>()));
    } else if (value.is_string()) {
      rows.emplace_back(name, value.get<std::string>());
    } else if (!value.is_null()) {
      rows.emplace_back(name, dump_json(value, -1));
    }
  }
}

void print_result(const std::string& text, bool as_json) {
  const OrderedJson json = OrderedJson::parse(text);
  if (as_json) {
    print_json(json);
    return;
  }
  std::vector<std::pair<std::string, std::string>> rows;
  flatten(json, "", rows);
  print_pairs(rows);
}

int run(const Options& options) {
  const TrainConfig config = effective_config(options);
  choose_device(config.device, config.threads);
  if (config.dry_run) {
    print_result(describe_run(config), options.json);
    return kExitOk;
  }
  const InterruptScope interrupt;
  Status status;
  TrainCallbacks callbacks;
  callbacks.progress = [&](const TrainProgress& progress) {
    if (status.due()) status.update(progress_line(progress));
  };
  callbacks.message = [&](const std::string& line) { status.message(line); };
  callbacks.interrupted = &interrupt.flag();
  const TrainOutcome outcome = train(config, callbacks);
  status.clear();
  if (outcome.interrupted) {
    status.message(str("interrupted; continue with --resume (", config.out, ")"));
    return kExitInterrupted;
  }
  print_result(outcome.summary_json, options.json);
  return kExitOk;
}

// One flag for each field of TrainConfig; its text is judged when the configuration is put
// together, so that flags and files obey the same rules.
void add_fields(CLI::App& app, const std::shared_ptr<Options>& options) {
  const TrainConfig defaults;
  for (const TrainField& field : train_fields()) {
    const std::string flag = flag_of(field.name);
    Options* target = options.get();
    const TrainField* known = &field;
    if (field.kind == FieldKind::boolean) {
      if (field.name == "shuffle") continue;  // --no-shuffle
      app.add_flag_callback(
          flag, [target, known] { target->given.emplace_back(known, "true"); }, field.help);
      continue;
    }
    const OrderedJson value = field.get(defaults);
    const std::string shown = value.is_string() ? value.get<std::string>() : value.dump();
    CLI::Option* option = app.add_option_function<std::string>(
        flag, [target, known](const std::string& text) { target->given.emplace_back(known, text); },
        field.help);
    option->type_name(field.kind == FieldKind::text      ? "TEXT"
                      : field.kind == FieldKind::integer ? "N"
                                                         : "X");
    if (!shown.empty()) option->default_str(shown);
  }
}

}  // namespace

Command add_train(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("train", "Fine-tune or pretrain a model");
  app->add_option("--config", options->config,
                  "settings: JSON with the flags' names as keys, or a published experiment's YAML; "
                  "flags beat it");
  app->add_option("--peft", options->peft,
                  "adapter configuration, JSON; absent: all parameters train");
  add_fields(*app, options);
  app->add_flag("--no-shuffle", options->no_shuffle, "take the examples in file order");
  app->add_option("--data-option", options->data_options, "KEY=VALUE, e.g. instruction=…");
  const auto least = [](std::int64_t low) { return CLI::Range(low, std::int64_t{1} << 30); };
  app->add_option("--eval-num-beams", options->num_beams,
                  "decode the validation prompts when evaluating, with this many beams")
      ->check(least(1));
  app->add_option("--eval-min-length", options->min_length, "… with at least this many new tokens")
      ->check(least(0));
  app->add_option("--eval-max-length", options->max_length, "… with at most this many new tokens")
      ->check(least(1));
  app->add_flag("--json", options->json, "print one JSON object");
  app->footer(
      "Example:\n  adder train --model model --data sst2:glue_sst2 --peft lora.json --out run "
      "--epochs 3");
  return {app, [options] { return run(*options); }};
}

}  // namespace adder::tools
