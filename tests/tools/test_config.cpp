#include <cstdlib>
#include <doctest/doctest.h>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/error.h"
#include "engine/io/file.h"
#include "peft/config.h"
#include "tests/support/temp_directory.h"
#include "tools/train/config_file.h"

using adder::ConfigError;
using adder::IoError;
using adder::join_path;
using adder::PeftConfig;
using adder::str;
using adder::test::TempDirectory;
using adder::tools::TrainConfig;
using adder::tools::TrainField;

namespace {

void write(const std::string& path, const std::string& text) {
  adder::make_directories(path.substr(0, path.rfind('/')));
  std::ofstream(path) << text;
}

template <typename E, typename Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  FAIL("no error was thrown");
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE(text);
  return found;
}

TrainConfig from_json(const std::string& text) {
  TrainConfig config;
  adder::tools::apply_json_config(config, text, "run.json");
  return config;
}

TrainConfig from_yaml(const std::string& text, const std::string& path = "exp.yaml") {
  TrainConfig config;
  adder::tools::apply_experiment_yaml(config, text, path);
  return config;
}

std::string json_error(const std::string& text) {
  return message_of<ConfigError>([&] { from_json(text); });
}

std::string yaml_error(const std::string& text) {
  return message_of<ConfigError>([&] { from_yaml(text); });
}

const TrainField& field(const std::string& name) {
  for (const TrainField& item : adder::tools::train_fields()) {
    if (item.name == name) return item;
  }
  throw ConfigError("no field " + name);
}

// The JSON that a benchmark's `peft` path stands for.
std::string peft_json(const std::string& name) {
  const std::string all_lora = R"("in_proj_x", "in_proj_z", "out_proj")";
  if (name.starts_with("lora/")) {
    const std::string r = name.substr(6, 1);
    return str(R"({"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "r": )", r,
               R"(, "lora_alpha": )", r,
               R"(, "lora_dropout": 0.1, "bias": "none", "target_modules": [)", all_lora, "]}");
  }
  if (name.starts_with("layer_freeze/")) {
    return R"({"peft_type": "LAYER_FREEZE", "trainable_layers": ["A_log", "x_proj_B", "x_proj_C"]})";
  }
  if (name.starts_with("bitfit/")) {
    return R"({"peft_type": "BITFIT", "target_modules": ["conv1d", "dt_proj"]})";
  }
  if (name.starts_with("sd_lora/")) {
    return R"({"peft_type": "SD_LORA", "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"],
      "num_warmup_it": 499, "proj_lora_r": 8, "num_zero": {"state": 0, "channel": 0},
      "num_freeze": {"state": 0.75, "channel": 0.99}})";
  }
  return R"({"peft_type": "SSMPEFT", "scan": {"type": "init_state", "init": "zero"}})";
}

// A row of comma-separated values; cells may be quoted with "" for a quote.
std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells(1);
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '"') {
      if (quoted && i + 1 < line.size() && line[i + 1] == '"') {
        cells.back() += line[i++];
      } else {
        quoted = !quoted;
      }
    } else if (line[i] == ',' && !quoted) {
      cells.emplace_back();
    } else {
      cells.back() += line[i];
    }
  }
  return cells;
}

struct Experiment {
  std::string group, file, data, model, peft, lr, epochs, batch, prec, seed, eval_gen, no_save;
};

std::string yaml_of(const Experiment& e) {
  std::string text = str("model: state-spaces/", e.model, "\ndata: ", e.data, "\n");
  text += e.peft == "full" ? "peft: null\n" : str("peft: cfg/peft/", e.peft, ".json\n");
  text += str("num_epochs: ", e.epochs, "\nprec: ", e.prec, "\nlearning_rate: ", e.lr,
              "\nbatch_size: ", e.batch, "\nnum_data_workers: 8\nbackend: cuda\n");
  if (!e.seed.empty()) text += "seed: " + e.seed + "\n";
  if (!e.no_save.empty()) text += "no_save: " + e.no_save + "\n";
  return text + "eval_gen: " + (e.eval_gen.empty() ? "null" : e.eval_gen) + "\n";
}

void check_experiment(const TempDirectory& root, const Experiment& e) {
  CAPTURE(e.group);
  CAPTURE(e.file);
  const std::string path = join_path(root.path(), "cfg/exps/" + e.group + "/" + e.file);
  write(path, yaml_of(e));
  if (e.peft != "full") {
    write(join_path(root.path(), "cfg/peft/" + e.peft + ".json"), peft_json(e.peft));
  }
  TrainConfig config;
  adder::tools::apply_config_file(config, path);
  CHECK(config.model == "state-spaces/" + e.model);
  CHECK(config.data == e.data);
  CHECK(config.lr == std::stod(e.lr));
  CHECK(config.epochs == std::stod(e.epochs));
  CHECK(config.batch_size == std::stoi(e.batch));
  CHECK(config.precision == e.prec);
  CHECK(config.seed == 42);
  CHECK(config.val_split == "val");
  CHECK(config.out == "weights/" + e.group + "/" + e.file.substr(0, e.file.rfind('.')));
  CHECK(config.eval_gen.has_value() == (e.eval_gen.find("num_beams") != std::string::npos));
  if (config.eval_gen) CHECK(config.eval_gen->num_beams == 5);
  CHECK(config.peft_json.empty() == (e.peft == "full"));
  if (e.peft == "full") return;
  if (e.peft.starts_with("ssm_peft")) {
    const std::string message =
        message_of<ConfigError>([&] { PeftConfig::parse(config.peft_json, config.peft_path); });
    CHECK(contains(message, "SSMPEFT"));
  } else {
    CHECK(PeftConfig::parse(config.peft_json, config.peft_path).methods.size() == 1);
  }
}

}  // namespace

TEST_CASE("a JSON configuration sets what it names and keeps the rest") {
  const TrainConfig config = from_json(R"({"lr": 1e-3, "batch-size": 7, "val_data": "v.jsonl",
      "no-shuffle": true, "epochs": 2, "seed": 18446744073709551615, "precision": "bf16",
      "peft": {"peft_type": "LORA", "r": 4}, "eval_gen": {"num_beams": 2},
      "data_options": {"instruction": "Do: "}, "resume": true})");
  CHECK(config.lr == 1e-3);
  CHECK(config.batch_size == 7);
  CHECK(config.val_data == "v.jsonl");
  CHECK_FALSE(config.shuffle);
  CHECK(config.epochs == 2);
  CHECK(config.seed == 18446744073709551615ULL);
  CHECK(config.precision == "bf16");
  CHECK(config.resume);
  CHECK(contains(config.peft_json, "LORA"));
  REQUIRE(config.eval_gen.has_value());
  CHECK(config.eval_gen->num_beams == 2);
  CHECK(config.eval_gen->max_length == 1024);
  CHECK(config.data_options.at("instruction") == "Do: ");
  CHECK(config.schedule == "linear");
  CHECK(config.grad_accum == 1);
}

TEST_CASE("the effective configuration reads back as it was") {
  TrainConfig config = from_json(R"({"model": "m", "data": "d.jsonl", "out": "r", "lr": 0.1,
      "clip": 0, "warmup": 12, "seed": 18446744073709551615, "threads": 2, "eval_epochs": 0.5,
      "schedule": "cosine", "optimizer": "sgd", "shuffle": false, "recompute": true,
      "peft": [{"peft_type": "LORA", "r": 4}, {"peft_type": "BITFIT"}],
      "data_options": {"separator": "|"}, "eval_gen": {"num_beams": 3, "max_length": 9}})");
  config.overwrite = config.resume = config.dry_run = true;
  const std::string text = adder::tools::to_json(config);
  const TrainConfig again = from_json(text);
  CHECK(adder::tools::to_json(again) == text);
  CHECK(again.seed == config.seed);
  CHECK(again.lr == config.lr);
  CHECK(again.eval_gen->max_length == 9);
  // Actions are no part of a run: a resumed run has the same configuration.
  CHECK_FALSE(again.overwrite);
  CHECK_FALSE(again.resume);
  CHECK_FALSE(again.dry_run);
  const auto json = nlohmann::ordered_json::parse(text);
  CHECK(json.begin().key() == "model");
  CHECK(json.at("peft").size() == 2);
  // Every setting leaves its default and comes back.
  for (const TrainField& item : adder::tools::train_fields()) {
    CAPTURE(item.name);
    TrainConfig changed;
    const auto before = item.get(changed);
    nlohmann::ordered_json value = before;
    if (before.is_boolean()) value = !before.get<bool>();
    if (before.is_number_integer()) value = before.get<std::int64_t>() + 3;
    if (before.is_number_float()) value = before.get<double>() + 0.05;
    if (before.is_string()) {
      value = item.name == "schedule"    ? "cosine"
              : item.name == "optimizer" ? "sgd"
              : item.name == "precision" ? "bf16"
              : item.name == "val_split" ? "test"
                                         : "x";
    }
    adder::tools::set_field(changed, item, value, item.name);
    CHECK(item.get(changed) == value);
    CHECK(item.get(changed) != before);
  }
}

TEST_CASE("mistakes in a JSON configuration are named") {
  CHECK(contains(json_error(R"({"batchsize": 3})"),
                 "run.json: unknown key \"batchsize\"; did you mean 'batch_size'?"));
  CHECK(contains(json_error(R"({"lr": "fast"})"), "run.json: lr is \"fast\", must be a number"));
  CHECK(contains(json_error(R"({"batch_size": 0})"), "batch_size is 0, must be at least 1"));
  CHECK(contains(json_error(R"({"batch_size": 1.5})"), "must be a whole number"));
  CHECK(contains(json_error(R"({"steps": -1})"), "steps is -1, must be at least 0"));
  CHECK(contains(json_error(R"({"threads": 99999999999})"), "too large"));
  CHECK(contains(json_error(R"({"steps": 18446744073709551615})"), "too large"));
  CHECK(contains(json_error(R"({"lr": -1})"), "lr is -1"));
  CHECK(contains(json_error(R"({"schedule": "linar"})"), "did you mean 'linear'?"));
  CHECK(contains(json_error(R"({"shuffle": "yes"})"), "must be true or false"));
  CHECK(contains(json_error(R"({"eval_gen": {"beams": 1}})"), "did you mean 'num_beams'?"));
  CHECK(contains(json_error(R"({"eval_gen": {"num_beams": 0}})"), "eval_gen.num_beams is 0"));
  CHECK(contains(json_error(R"({"data_options": {"a": 1}})"), "data_options.a must be a string"));
  CHECK(contains(json_error(R"({"peft": 3})"), "peft must be"));
  CHECK(contains(json_error("{\"lr\": }"), "run.json:8: not JSON"));
  CHECK(contains(json_error("[]"), "must be a JSON object"));
  CHECK(contains(json_error("{\"lr\": 1e999}"), "not JSON"));
  CHECK_THROWS_AS(adder::tools::load_peft_file(*std::make_unique<TrainConfig>(), "no/such.json"),
                  IoError);
}

TEST_CASE("flag texts obey the same rules") {
  TrainConfig config;
  const auto set = [&](const std::string& name, const std::string& text) {
    adder::tools::set_field(config, field(name), text, "--" + name);
  };
  set("lr", "3e-4");
  set("steps", "120");
  set("seed", "18446744073709551615");
  set("resume", "true");
  set("model", "dir");
  CHECK(config.lr == 3e-4);
  CHECK(config.steps == 120);
  CHECK(config.seed == 18446744073709551615ULL);
  CHECK(config.resume);
  CHECK(config.model == "dir");
  for (const auto& [name, text] :
       std::vector<std::pair<std::string, std::string>>{{"lr", "1e-3x"},
                                                        {"lr", "nan"},
                                                        {"lr", "inf"},
                                                        {"lr", ""},
                                                        {"steps", "1.5"},
                                                        {"steps", "ten"},
                                                        {"steps", "99999999999999999999"},
                                                        {"epochs", "0"},
                                                        {"seed", "-1"},
                                                        {"schedule", "up"}}) {
    CAPTURE(name);
    CAPTURE(text);
    const std::string message = message_of<ConfigError>([&] { set(name, text); });
    CHECK(contains(message, "--" + name + " is "));
  }
}

TEST_CASE("what no single setting can judge") {
  TrainConfig config = from_json(R"({"model": "m", "data": "d", "out": "o"})");
  adder::tools::check_config(config);
  const auto rejects = [&](auto change, const std::string& part) {
    TrainConfig wrong = config;
    change(wrong);
    CHECK(contains(message_of<ConfigError>([&] { adder::tools::check_config(wrong); }), part));
  };
  rejects([](TrainConfig& c) { c.model.clear(); }, "--model");
  rejects([](TrainConfig& c) { c.data.clear(); }, "--data");
  rejects([](TrainConfig& c) { c.out.clear(); }, "--out");
  rejects([](TrainConfig& c) { c.resume = c.overwrite = true; }, "exclude each other");
  rejects([](TrainConfig& c) { c.momentum = 1; }, "--momentum");
  rejects(
      [](TrainConfig& c) {
        c.eval_gen.emplace();
        c.eval_gen->max_length = 2;
      },
      "min_length");
  config.out.clear();
  config.dry_run = true;
  adder::tools::check_config(config);
}

TEST_CASE("published names resolve to what is on the machine") {
  const TempDirectory root;
  const std::string models = join_path(root.path(), "models");
  adder::make_directories(join_path(models, "mamba-130m"));
  adder::make_directories(join_path(root.path(), "cfg/state-spaces/mamba-370m"));
  setenv("ADDER_MODELS", models.c_str(), 1);
  setenv("ADDER_DATA", "sets", 1);
  TrainConfig config;
  config.model = "state-spaces/mamba-130m";
  adder::tools::resolve_names(config);
  CHECK(config.model == join_path(models, "mamba-130m"));
  CHECK(config.data_options.at("data_root") == "sets");
  config.model = "state-spaces/mamba-370m";
  adder::tools::resolve_names(config, join_path(root.path(), "cfg/e.yaml"));
  CHECK(adder::is_directory(config.model));
  config.model = "state-spaces/mamba-2.8b";
  const std::string message =
      message_of<ConfigError>([&] { adder::tools::resolve_names(config, "cfg/e.yaml"); });
  CHECK(contains(message, "cfg/e.yaml: model \"state-spaces/mamba-2.8b\""));
  CHECK(contains(message, "--model DIR"));
  CHECK(contains(message, "ADDER_MODELS"));
  unsetenv("ADDER_MODELS");
  unsetenv("ADDER_DATA");
}

TEST_CASE("an experiment file's keys, defaults and flags") {
  const TrainConfig bare = from_yaml("model: m\ndata: dart\npeft: null\n");
  CHECK(bare.precision == "bf16");
  CHECK(bare.epochs == 10);
  CHECK(bare.batch_size == 4);
  CHECK(bare.lr == 5e-4);
  CHECK(bare.seed == 42);
  CHECK(bare.out == "weights/exp");
  CHECK_FALSE(bare.eval_gen.has_value());
  const TrainConfig full = from_yaml(
      "model: m\ndata: glue-tvt_sst2\npeft:\nval_data: dart\nval_data_split: test\n"
      "tokenizer: EleutherAI/gpt-neox-20b\nnum_epochs: 3\nprec: fp32\noptim: adamw_torch\n"
      "learning_rate: 1.0e-3\ngradient_accumulation_steps: 2\nnum_data_workers: 8\n"
      "batch_size: 2\neval_gen: {num_beams: 4, min_length: 1, max_length: 64}\nbackend: cuda\n"
      "no_save: true\nskip_eval: false\neval_epochs: 2\nmin_eval_metric_after_epoch: null\n"
      "seed: 7\ndebug: true\nresume: false\noverwrite: true\nlock: true\n",
      "repo/cfg/exps/a/b.yaml");
  CHECK(full.val_data == "dart");
  CHECK(full.val_split == "test");
  CHECK(full.tokenizer.empty());
  CHECK(full.precision == "fp32");
  CHECK(full.optimizer == "adamw");
  CHECK(full.lr == 1e-3);
  CHECK(full.grad_accum == 2);
  CHECK(full.batch_size == 2);
  CHECK(full.eval_gen->num_beams == 4);
  CHECK(full.eval_gen->max_length == 64);
  CHECK(full.no_save);
  CHECK(full.eval_epochs == 2);
  CHECK(full.seed == 7);
  CHECK(full.overwrite);
  CHECK(full.epochs == 1);  // debug
  CHECK(full.max_train_examples == 8);
  CHECK(full.max_val_examples == 2);
  CHECK(full.out == "weights/a/b");
}

TEST_CASE("mistakes in an experiment file are named") {
  const std::string base = "model: m\ndata: d\npeft: null\n";
  CHECK(contains(yaml_error(base + "learning_rat: 1\n"),
                 "exp.yaml:4: unknown key \"learning_rat\"; did you mean 'learning_rate'?"));
  CHECK(contains(yaml_error("model: m\ndata: d\n"), "the key peft is missing"));
  CHECK(contains(yaml_error(base + "batch_size: many\n"), "exp.yaml:4: batch_size is \"many\""));
  CHECK(contains(yaml_error(base + "batch_size: [1]\n"), "must be a single value"));
  CHECK(contains(yaml_error(base + "prec: fp8\n"), "must be bf16"));
  CHECK(contains(yaml_error(base + "optim: lion\n"), "adamw_torch"));
  CHECK(contains(yaml_error(base + "no_save: perhaps\n"), "true or false"));
  CHECK(contains(yaml_error(base + "eval_gen: 5\n"), "must be a map"));
  CHECK(contains(yaml_error(base + "eval_gen: {num_beam: 5}\n"), "did you mean 'num_beams'?"));
  CHECK(contains(yaml_error(base + "min_eval_metric_after_epoch: {1: 0.5}\n"), "not available"));
  CHECK(contains(yaml_error(base + "seed: 1\nseed: 2\n"), "given twice"));
  CHECK(contains(yaml_error("model: [\n"), "not YAML"));
  CHECK(contains(yaml_error(""), "must be a map"));
  const std::string message = message_of<IoError>(
      [&] { from_yaml("model: m\ndata: d\npeft: cfg/peft/none.json\n", "cfg/exps/e.yaml"); });
  CHECK(contains(message, "cfg/exps/e.yaml: peft: "));
  CHECK(contains(message, "none.json"));
}

TEST_CASE("experiments of the published grids parse with their adapters") {
  const TempDirectory root;
  const std::string beams = R"({"max_length": 1024, "min_length": 5, "num_beams": 5})";
  for (const char* peft :
       {"full", "lora/r8/lora_inoutproj", "layer_freeze/A_log_B_C_D_delta_conv", "bitfit/conv_dt",
        "sd_lora/250it/n0.75_d0.99", "ssm_peft/init_state_zero"}) {
    check_experiment(root, {"benchmark/dart", "001.yaml", "dart", "mamba-130m", peft, "0.004", "10",
                            "4", "bf16", "", beams, "false"});
    check_experiment(root, {"sdlora/glue_rte", "002.yaml", "glue-tvt_rte", "mamba-130m", peft,
                            "0.001", "3", "4", "fp32", "42", "null", "False"});
  }
}

TEST_CASE("all 286 published experiments parse") {
  const char* given = std::getenv("ADDER_SHARED");
  const std::string shared = given != nullptr ? given : ADDER_SOURCE_DIR "/../shared";
  const std::string list = join_path(shared, "reference/experiments.csv");
  if (!adder::exists(list)) {
    MESSAGE("skipped: no " << list);
    return;
  }
  const TempDirectory root;
  std::istringstream lines(adder::read_file(list));
  std::string line;
  std::getline(lines, line);
  int count = 0;
  while (std::getline(lines, line)) {
    if (line.ends_with('\r')) line.pop_back();
    const std::vector<std::string> c = cells_of(line);
    REQUIRE(c.size() == 12);
    check_experiment(root,
                     {c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11]});
    ++count;
  }
  CHECK(count == 286);
}
