// SDT's warm-up, selection and restart, resuming in both phases, and mistakes with adapters.
#include <cmath>
#include <doctest/doctest.h>
#include <map>
#include <string>
#include <vector>

#include "autograd/optim.h"
#include "engine/io/safetensors.h"
#include "peft/adapter.h"
#include "tests/support/tiny_mamba.h"

using adder::Adapter;
using adder::Mamba;
using adder::PeftConfig;
using adder::Tensor;
using namespace adder::test;

namespace {

using State = std::vector<std::pair<std::string, Tensor>>;

std::string sdt(const std::string& more = {}) {
  return R"({"peft_type": "SD_LORA", "num_freeze": {"state": 0.4, "channel": 0.75},
    "num_zero": {"state": 0, "channel": 2}, "num_warmup_it": 2, "proj_lora_r": 4,
    "target_modules": ["A_log", "x_proj_B", "x_proj_C", "in_proj_x", "out_proj"],
    "finetune_parameters": ["dt_proj.bias"])" +
         more + "}";
}

std::unique_ptr<Adapter> attach(Mamba& model, const std::string& json) {
  return Adapter::attach(model, PeftConfig::parse(json, "test"), 3);
}

void train_step(Mamba& model, adder::Optimizer& optimizer, Adapter& adapter, unsigned step,
                double lr = 1e-2) {
  const Tensor ids = random_ids({2, 9}, model.vocab_size(), 100 + step);
  const Tensor labels = random_ids({2, 9}, model.vocab_size(), 200 + step);
  adder::Tape tape;
  const auto result = model.loss(ids, labels, {.training = true, .seed = 4, .micro_batch = step});
  tape.backward(result.loss);
  adapter.accumulate_warmup_statistics();
  optimizer.step(lr);
}

std::unique_ptr<adder::Optimizer> optimizer_of(const Mamba& model) {
  return adder::make_adamw(adder::collect_trainables(model.parameters()));
}

State copy_of(const State& state) {
  State copies;
  for (const auto& [name, tensor] : state) copies.emplace_back(name, tensor.clone());
  return copies;
}

void check_same(const State& a, const State& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(a[i].first);
    CHECK(a[i].first == b[i].first);
    CHECK(same_bits(a[i].second, b[i].second));
  }
}

std::string message_of(const std::string& json) {
  const auto model = tiny_mamba();
  try {
    attach(*model, json);
  } catch (const adder::ConfigError& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

const std::string kALog = "backbone.layers.0.mixer.A_log";

}  // namespace

TEST_CASE("sdt: the warm-up's length is the reference's") {
  const auto model = tiny_mamba();
  const auto adapter = attach(*model, sdt());
  CHECK(adapter->needs_warmup());
  CHECK(adapter->warmup_forwards(100) == 3);
  CHECK(adapter->warmup_forwards(3) == 3);
  CHECK_THROWS_AS(adapter->warmup_forwards(2), adder::ConfigError);
  const std::string ratio = R"({"peft_type": "SD_LORA", "warmup_ratio": 0.1,
      "target_modules": ["A_log"], "num_zero": {"state": 0, "channel": 0},
      "num_freeze": {"state": 0, "channel": 0.5}})";
  const auto other = tiny_mamba();
  const auto by_ratio = attach(*other, ratio);
  CHECK(by_ratio->warmup_forwards(250) == 25);
  CHECK(by_ratio->warmup_forwards(3) == 1);
}

TEST_CASE("sdt: warm-up trains all of A_log, then everything starts again with the selected") {
  for (const char* rule : {"displacement", "gradient"}) {
    CAPTURE(rule);
    const auto model = tiny_mamba();
    std::map<std::string, Tensor> pretrained;
    for (const auto& parameter : model->parameters()) {
      pretrained[parameter->name()] = parameter->value().clone();
    }
    const auto adapter = attach(*model, sdt(adder::str(R"(, "selection": ")", rule, "\"")));
    const std::string lora_a = "backbone.layers.1.mixer.out_proj.lora_A.weight";
    const Tensor first_a = model->find_parameter(lora_a)->value().clone();
    // E N displacement, LoRA on in_proj_x and out_proj, and the time step's bias.
    CHECK(model->trainable_count() == 2 * (24 * 5 + 4 * (24 + 12) + 4 * (12 + 24) + 24));
    CHECK_FALSE(adapter->mergeable());
    auto optimizer = optimizer_of(*model);
    for (unsigned step = 0; step < 3; ++step) train_step(*model, *optimizer, *adapter, step);
    CHECK_FALSE(same_bits(model->find_parameter(kALog)->value(), pretrained[kALog]));
    const Tensor displacement = model->find_parameter(kALog)->selections()[0]->delta.clone();
    adapter->finish_warmup();
    CHECK_FALSE(adapter->needs_warmup());
    CHECK(adapter->warmup_forwards(100) == 0);
    CHECK_THROWS_AS(adapter->finish_warmup(), adder::ConfigError);

    REQUIRE(adapter->selections().size() == 2);
    const auto& selection = adapter->selections()[0];
    CHECK(selection.layer == "backbone.layers.0.mixer");
    CHECK(selection.channels.size() == 4);
    CHECK(selection.zero_channels.size() == 2);
    CHECK(selection.states[0].size() == 3);
    CHECK(selection.channel_scores.size() == 24);
    if (std::string(rule) == "displacement") {
      const auto counts =
          adder::sdt_counts(24, 5, {{0, false}, {2, false}}, {{0.4, true}, {0.75, true}});
      std::vector<double> squares = displacement.to_vector();
      for (double& square : squares) square *= square;
      const auto expected = adder::select_dimensions("x", Tensor::from({24, 5}, squares), counts);
      CHECK(selection.channels == expected.channels);
      CHECK(selection.states == expected.states);
    }
    // Pretrained values, except for the zero channels' A_log; LoRA as at first.
    for (const auto& parameter : model->parameters()) {
      const auto it = pretrained.find(parameter->name());
      if (it == pretrained.end()) continue;
      Tensor expected = it->second;
      if (parameter->name() == kALog) {
        for (const auto zero : selection.zero_channels) expected.select(0, zero).fill(10);
      } else if (parameter->role() == adder::Role::A_log) {
        continue;
      }
      CAPTURE(parameter->name());
      CHECK(same_bits(parameter->value(), expected));
    }
    CHECK(same_bits(model->find_parameter(lora_a)->value(), first_a));
    // A_log 3 x 4, B and C 5 x 4 each, LoRA and the bias.
    CHECK(model->trainable_count() == 2 * (12 + 20 + 20 + 4 * (24 + 12) + 4 * (12 + 24) + 24));
    optimizer = optimizer_of(*model);
    train_step(*model, *optimizer, *adapter, 0);
    CHECK(adapter->mergeable());
  }
}

TEST_CASE("sdt: a run resumed in either phase is the uninterrupted one") {
  for (const char* rule : {"displacement", "gradient"}) {
    for (const unsigned stop : {1U, 4U}) {  // within the warm-up of 3, and after it
      CAPTURE(rule);
      CAPTURE(stop);
      const std::string json = sdt(adder::str(R"(, "selection": ")", rule, "\""));
      // Trains to step 6; interrupted at `stop` when asked to.
      const auto run = [&](bool interrupt) {
        auto model = tiny_mamba();
        auto adapter = attach(*model, json);
        auto optimizer = optimizer_of(*model);
        for (unsigned step = 0; step < 6; ++step) {
          if (adapter->needs_warmup() && step == 3) {
            adapter->finish_warmup();
            optimizer = optimizer_of(*model);
          }
          if (interrupt && step == stop) {
            const State state = copy_of(adapter->state());
            const State moments = copy_of(optimizer->state());
            const auto updates = optimizer->steps();
            adapter.reset();
            model = tiny_mamba();
            adapter = attach(*model, json);
            adapter->load_state(state);
            check_same(adapter->state(), state);
            optimizer = optimizer_of(*model);
            optimizer->load_state(moments, updates);
          }
          train_step(*model, *optimizer, *adapter, step);
        }
        State values = copy_of(adapter->state());
        for (const auto& parameter : model->parameters()) {
          values.emplace_back(parameter->name(), parameter->value().clone());
        }
        return values;
      };
      check_same(run(true), run(false));
    }
  }
}

TEST_CASE("sdt: an adapter saved within its warm-up goes on from there") {
  const auto model = tiny_mamba();
  const auto adapter = attach(*model, sdt());
  auto optimizer = optimizer_of(*model);
  train_step(*model, *optimizer, *adapter, 0);
  const TempDirectory directory;
  adapter->save(directory.path());
  const auto other = tiny_mamba();
  const auto loaded = Adapter::load(*other, directory.path());
  CHECK(loaded->needs_warmup());
  adapter->finish_warmup();
  loaded->finish_warmup();
  check_same(loaded->state(), adapter->state());
}

TEST_CASE("sdt: a warm-up that moved nothing selects nothing") {
  const auto model = tiny_mamba();
  const auto adapter = attach(*model, sdt());
  CHECK_THROWS_AS(adapter->finish_warmup(), adder::ConfigError);
}

TEST_CASE("adapters: targets and combinations that cannot be") {
  const auto lora = [](const std::string& targets) {
    return R"({"peft_type": "LORA", "r": 2, "target_modules": [)" + targets + "]}";
  };
  CHECK(contains(message_of(lora("\"out_porj\"")), "'out_proj'"));
  CHECK(contains(message_of(lora("\"conv1d\"")), "not available on conv"));
  CHECK(contains(message_of(lora("\"embedding\"")), "not available on embedding"));
  CHECK(contains(message_of(lora("\"embeddings\"")), "not available on embedding"));
  CHECK(contains(message_of(lora("\"A_log\"")), "not available on A_log"));
  CHECK(contains(message_of(lora(R"("in_proj", "in_proj_x")")), "some of these rows already"));
  CHECK(contains(message_of("[" + lora("\"out_proj\"") + "," + lora("\"out_proj\"") + "]"),
                 "some of these rows already"));
  CHECK(contains(message_of("[" + sdt() + "," + lora("\"out_proj\"") + "]"), "already"));
  CHECK(contains(message_of("[" + sdt() + "," + sdt() + "]"), "two SD_LORA"));
  CHECK(message_of(lora(R"("in_proj_x", "in_proj_z", "mixer.in_proj.in_proj_x")")).empty());
  CHECK(
      contains(message_of(R"({"peft_type": "BITFIT", "target_modules": ["conv1"]})"), "'conv1d'"));
  CHECK(contains(message_of(R"({"peft_type": "LAYER_FREEZE", "trainable_layers": ["A_lag"]})"),
                 "'A_log'"));
  CHECK(contains(message_of(R"([{"peft_type": "LAYER_FREEZE", "trainable_layers": ["conv1d"]},
                                {"peft_type": "BITFIT", "target_modules": ["conv1d"]}])"),
                 "another method"));
  CHECK(contains(message_of("[" + sdt() + R"(, {"peft_type": "LAYER_FREEZE",
                                "trainable_layers": ["dt_proj"]}])"),
                 "another method"));
  CHECK(contains(message_of(R"({"peft_type": "SD_LORA", "num_warmup_it": 2,
      "target_modules": ["A_log"], "num_zero": {"state": 0, "channel": 0},
      "num_freeze": {"state": 0, "channel": 0.99}})"),
                 "no channel is left to train: 24 channels"));
}

TEST_CASE("adapters: damaged adapter directories are refused by name") {
  const auto model = tiny_mamba();
  const auto adapter = attach(*model, sdt(R"(, "selection": "random")"));
  const TempDirectory directory;
  adapter->save(directory.path());
  const std::string path = directory.path() + "/adapter_model.safetensors";
  State good;
  {
    const auto file = adder::SafetensorsFile::open(path);
    for (const auto& entry : file.entries()) {
      good.emplace_back(entry.name, file.load(entry.name).clone());
    }
  }
  const auto message_with = [&](const State& tensors) {
    adder::write_safetensors(path, tensors);
    const auto fresh = tiny_mamba();
    try {
      Adapter::load(*fresh, directory.path());
    } catch (const adder::Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(message_with(good).empty());
  for (std::size_t i = 0; i < good.size(); ++i) {
    CAPTURE(good[i].first);
    State less = good;
    less.erase(less.begin() + static_cast<std::ptrdiff_t>(i));
    const bool optional =
        contains(good[i].first, "zero_channels") || contains(good[i].first, "channel_scores");
    CHECK(message_with(less).empty() == optional);
    if (!is_floating(good[i].second.dtype())) continue;
    State broken = copy_of(good);
    broken[i].second.data<float>()[0] = std::nanf("");
    CHECK(contains(message_with(broken), "holds NaN"));
    if (contains(good[i].first, "scores")) continue;
    State longer = copy_of(good);
    longer[i].second = Tensor::zeros({3, 7, 2});
    CHECK(contains(message_with(longer), "is [3, 7, 2], expected"));
  }
  State strange = good;
  strange.emplace_back("base_model.model.backbone.layers.0.mixer.in_proj.lora_C",
                       Tensor::zeros({1}));
  CHECK(contains(message_with(strange), "lora_C [1] belongs to nothing"));
  const auto with = [&](const std::string& ending, const std::vector<std::int32_t>& values) {
    State changed = copy_of(good);
    for (auto& [name, tensor] : changed) {
      if (name != "base_model.model." + kALog + ending) continue;
      tensor = Tensor::from(tensor.shape(), values);
    }
    return message_with(changed);
  };
  CHECK(contains(with(".sdt_channels", {0, 1, 2, 24}), "selected channel 24 of 24"));
  CHECK(contains(with(".sdt_channels", {0, 1, 2, 2}), "selected twice"));
  CHECK(contains(with(".sdt_channels", {0, 1, 2, -5}), "holds -5"));
  CHECK_THROWS_AS(Adapter::load(*tiny_mamba(), directory.path() + "/absent"), adder::IoError);
}
