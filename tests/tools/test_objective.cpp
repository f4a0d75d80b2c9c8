#include <algorithm>
#include <atomic>
#include <cmath>
#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "autograd/optim.h"
#include "autograd/tape.h"
#include "engine/io/safetensors.h"
#include "models/deep_s4.h"
#include "tests/support/image_bytes.h"
#include "tests/support/temp_directory.h"
#include "tests/support/tiny_mamba.h"
#include "tools/train/sequence_objective.h"
#include "tools/train/trainer.h"

using adder::collect_trainables;
using adder::ConfigError;
using adder::DeepS4;
using adder::DeepS4Config;
using adder::NumericError;
using adder::SequenceBatch;
using adder::Tape;
using adder::Tensor;
using adder::test::same_bits;
using adder::test::TempDirectory;
using adder::tools::AskedStep;
using adder::tools::SequenceObjective;
using adder::tools::TrainConfig;

namespace {

std::unique_ptr<DeepS4> tiny_s4(DeepS4Config::Mode mode) {
  DeepS4Config config;
  config.mode = mode;
  config.d_model = 4;
  config.n_layers = 2;
  config.d_state = 3;
  config.dropout = mode == DeepS4Config::Mode::standard ? 0.2 : 0;
  config.A_init = mode == DeepS4Config::Mode::standard ? "default" : "random";
  auto model = DeepS4::init(config, 11);
  return model;
}

TrainConfig settings(const std::string& data) {
  TrainConfig config;
  config.data = data;
  config.batch_size = 4;
  config.lr = 0.01;
  config.schedule = "constant";
  config.data_options = {};
  return config;
}

void train_all(const DeepS4& model) {
  for (const auto& parameter : model.parameters()) parameter->train_dense();
}

// How far the parameters of two models are apart, relative to their norm.
double distance(const DeepS4& a, const DeepS4& b) {
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < a.parameters().size(); ++i) {
    const auto x = a.parameters()[i]->value().to_vector();
    const auto y = b.parameters()[i]->value().to_vector();
    for (std::size_t j = 0; j < x.size(); ++j) {
      difference += (x[j] - y[j]) * (x[j] - y[j]);
      norm += y[j] * y[j];
    }
  }
  return std::sqrt(difference / norm);
}

std::string text_of(const std::string& path) {
  return adder::read_file(path);
}

}  // namespace

TEST_CASE("a step of the sequence objective is forward, backward, clip and update") {
  const TempDirectory folder;
  adder::test::write_mnist(folder.path(), 40, 4);
  TrainConfig config = settings("mnist:" + folder.path());
  config.shuffle = false;
  const auto model = tiny_s4(DeepS4Config::Mode::standard);
  const auto twin = tiny_s4(DeepS4Config::Mode::standard);
  train_all(*model);
  train_all(*twin);
  SequenceObjective objective(config, *model);
  CHECK(objective.train_examples() == 36);
  CHECK(objective.validation_examples() == 4);
  CHECK(objective.batches_per_epoch() == 9);
  const auto optimizer = adder::make_adamw(collect_trainables(model->parameters()));
  objective.begin_phase(*optimizer, {});
  AskedStep asked = objective.ask(2, 1, 0.01);
  REQUIRE(asked.batches.size() == 1);
  CHECK(asked.batches[0].examples == std::vector<std::int64_t>{8, 9, 10, 11});
  CHECK(asked.batches[0].units == 4 * 784);
  CHECK(asked.batches[0].describe() == "examples 8 to 11");
  CHECK(asked.result.supervised == 4);

  const auto data = adder::tools::open_sequence_data(config.data, *twin, {})->split({});
  const SequenceBatch batch = data->batch(std::vector<std::int64_t>{8, 9, 10, 11});
  const auto hand = adder::make_adamw(collect_trainables(twin->parameters()));
  double loss = 0;
  {
    Tape tape;
    const auto result = adder::sequence_loss(
        *twin, batch, {.training = true, .seed = config.seed, .micro_batch = 2});
    loss = result.loss.value().item();
    tape.backward(result.loss);
  }
  const Tensor clip = adder::clip_gradients(hand->trainables(), 1);
  const double norm = clip.to_vector()[0];
  hand->step(0.01, clip);
  CHECK(std::abs(asked.result.losses[0].values()[0] / 4 - loss) <= 1e-6);
  CHECK(std::abs(asked.result.clip.values()[0] - norm) <= 1e-6 * norm);
  CHECK(distance(*model, *twin) == 0);
  CHECK(distance(*model, *tiny_s4(DeepS4Config::Mode::standard)) > 1e-4);
}

TEST_CASE("accumulated batches are one batch, for classes and for values") {
  for (const char* task : {"regression", "classification"}) {
    TrainConfig config = settings("synthetic-s4");
    config.data_options = {{"length", "9"}, {"states", "2"}, {"task", task}};
    const auto pieces = tiny_s4(DeepS4Config::Mode::theory);
    const auto whole = tiny_s4(DeepS4Config::Mode::theory);
    train_all(*pieces);
    train_all(*whole);
    SequenceObjective a(config, *pieces);
    config.batch_size = 8;
    SequenceObjective b(config, *whole);
    CHECK(a.endless());
    CHECK(a.batches_per_epoch() == 1);
    const auto first = adder::make_sgd(collect_trainables(pieces->parameters()));
    const auto second = adder::make_sgd(collect_trainables(whole->parameters()));
    a.begin_phase(*first, {});
    b.begin_phase(*second, {});
    AskedStep two = a.ask(6, 2, 0.1);
    AskedStep one = b.ask(3, 1, 0.1);
    CHECK(two.result.supervised == one.result.supervised);
    const double sum = two.result.losses[0].values()[0] + two.result.losses[1].values()[0];
    const double expected = one.result.losses[0].values()[0];
    CHECK(std::abs(sum - expected) <= 1e-5 * std::abs(expected));
    CHECK(distance(*pieces, *whole) <= 1e-5);
    CHECK(distance(*pieces, *tiny_s4(DeepS4Config::Mode::theory)) > 1e-4);
  }
}

TEST_CASE("a penalty joins the loss once, however many batches a step has") {
  TrainConfig config = settings("synthetic-s4");
  config.data_options = {{"length", "7"}};
  config.clip = 0;
  const auto with_penalty = [&](std::int64_t batches) {
    auto model = tiny_s4(DeepS4Config::Mode::theory);
    const auto& D = model->parameters().front();
    D->train_dense();
    SequenceObjective objective(config, *model);
    const auto optimizer = adder::make_sgd(collect_trainables(model->parameters()));
    const auto before = D->value().clone();
    objective.begin_phase(*optimizer,
                          {{}, [&] { return adder::scale(adder::sum(D->var()), 1000); }});
    objective.ask(0, batches, 1e-3);
    std::vector<double> moved;
    for (std::int64_t i = 0; i < D->value().numel(); ++i) {
      moved.push_back(D->value().item(i) - before.item(i));
    }
    return moved;
  };
  // The gradient of the penalty is 1000, beside which that of the loss is small.
  for (const std::int64_t batches : {1, 2}) {
    for (const double step : with_penalty(batches)) CHECK(std::abs(step + 1) <= 0.1);
  }
}

TEST_CASE("a probe is the mean loss of the batch with that number") {
  TrainConfig config = settings("synthetic-s4");
  config.data_options = {{"length", "7"}};
  const auto model = tiny_s4(DeepS4Config::Mode::theory);
  SequenceObjective objective(config, *model);
  const auto data =
      adder::tools::open_sequence_data(config.data, *model, config.data_options)->split({});
  const SequenceBatch batch = data->batch(std::vector<std::int64_t>{12, 13, 14, 15});
  const double expected = adder::sequence_loss(*model, batch, {}).loss.value().item();
  CHECK(std::abs(objective.probe(3) - expected) <= 1e-6 * expected);
  CHECK(std::abs(objective.probe(4) - expected) > 1e-6 * expected);
}

TEST_CASE("settings of language models are refused on sequence models") {
  const auto model = tiny_s4(DeepS4Config::Mode::theory);
  const auto refused = [&](const auto& change) {
    TrainConfig config = settings("synthetic-s4");
    change(config);
    CHECK_THROWS_AS(SequenceObjective(config, *model), ConfigError);
  };
  refused([](TrainConfig& c) { c.precision = "bf16"; });
  refused([](TrainConfig& c) { c.max_length = 5; });
  refused([](TrainConfig& c) { c.tokenizer = "byte"; });
  refused([](TrainConfig& c) { c.val_data = "synthetic-s4"; });
  refused([](TrainConfig& c) { c.eval_gen.emplace(); });
  refused([](TrainConfig& c) { c.data = "text.jsonl"; });
}

TEST_CASE("a sequence run that was interrupted resumes to the same bits") {
  const TempDirectory folder;
  const std::string base = folder.path() + "/base";
  adder::make_directories(base);
  tiny_s4(DeepS4Config::Mode::standard)->save(base);
  adder::test::write_mnist(folder.path(), 40, 4);
  TrainConfig config = settings("mnist:" + folder.path());
  config.model = base;
  config.steps = 10;
  config.log_every = 1;
  config.eval_every = 4;
  config.grad_accum = 2;
  const auto run = [&](const std::string& out, std::int64_t stop_after) {
    config.out = folder.path() + "/" + out;
    std::atomic<bool> interrupted = false;
    adder::tools::TrainCallbacks callbacks;
    callbacks.interrupted = &interrupted;
    callbacks.progress = [&](const adder::tools::TrainProgress& progress) {
      CHECK(progress.unit == "positions");
      if (progress.step == stop_after) interrupted = true;
    };
    return adder::tools::train(config, callbacks);
  };
  const auto whole = run("whole", -1);
  CHECK_FALSE(whole.interrupted);
  CHECK(run("parts", 5).interrupted);
  config.resume = true;
  CHECK_FALSE(run("parts", -1).interrupted);
  for (const char* file :
       {"model/model.safetensors", "checkpoint-10/model.safetensors",
        "checkpoint-10/training_state.safetensors", "checkpoint-10/training_state.json"}) {
    CHECK(text_of(folder.path() + "/whole/" + file) == text_of(folder.path() + "/parts/" + file));
  }
  const auto summary = nlohmann::json::parse(whole.summary_json);
  CHECK(summary.at("steps") == 10);
  CHECK(summary.at("best").contains("eval_accuracy"));
  CHECK_FALSE(summary.contains("best_loss"));
}

TEST_CASE("endless data: the best of the steps is in the summary, also after resuming") {
  const TempDirectory folder;
  const std::string base = folder.path() + "/base";
  adder::make_directories(base);
  tiny_s4(DeepS4Config::Mode::theory)->save(base);
  TrainConfig config = settings("synthetic-s4");
  config.data_options = {{"length", "8"}, {"task", "classification"}};
  config.model = base;
  config.steps = 12;
  config.log_every = 1;
  const auto run = [&](const std::string& out, std::int64_t stop_after) {
    config.out = folder.path() + "/" + out;
    std::atomic<bool> interrupted = false;
    adder::tools::TrainCallbacks callbacks;
    callbacks.interrupted = &interrupted;
    std::vector<double> losses;
    callbacks.progress = [&](const adder::tools::TrainProgress& progress) {
      losses.push_back(progress.loss);
      if (progress.step == stop_after) interrupted = true;
    };
    const auto outcome = adder::tools::train(config, callbacks);
    return std::pair(outcome.summary_json, losses);
  };
  const auto [text, losses] = run("whole", -1);
  const auto whole = nlohmann::json::parse(text);
  REQUIRE(losses.size() == 12);
  CHECK(whole.at("best_loss") == *std::min_element(losses.begin(), losses.end()));
  const double best = whole.at("best_accuracy");
  CHECK(best >= 0);
  CHECK(best <= 1);
  run("parts", 11);
  config.resume = true;
  const auto parts = nlohmann::json::parse(run("parts", -1).first);
  CHECK(parts.at("best_loss") == whole.at("best_loss"));
  CHECK(parts.at("best_accuracy") == whole.at("best_accuracy"));
  CHECK(text_of(folder.path() + "/whole/model/model.safetensors") ==
        text_of(folder.path() + "/parts/model/model.safetensors"));
}

TEST_CASE("a loss that is not finite ends the run and names step and examples") {
  const TempDirectory folder;
  const std::string base = folder.path() + "/base";
  adder::make_directories(base);
  const auto model = tiny_s4(DeepS4Config::Mode::theory);
  // Finite weights whose product is not: files with infinities would not load.
  // One of two opposite rows comes through the ReLU.
  const Tensor weight = model->find_parameter("layers.1.output_linear.weight")->value();
  weight.slice(0, 0, 1).fill(3e38);
  weight.slice(0, 1, 2).fill(-3e38);
  model->save(base);
  TrainConfig config = settings("synthetic-s4");
  config.data_options = {{"length", "8"}};
  config.model = base;
  config.steps = 2;
  config.out = folder.path() + "/run";
  std::string message;
  try {
    adder::tools::train(config, {});
  } catch (const NumericError& error) {
    message = error.what();
  }
  CAPTURE(message);
  CHECK(message.find("at step 1 of the train phase, batch of examples 0 to 3") !=
        std::string::npos);
}
