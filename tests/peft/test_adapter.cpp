// Every method: saving and loading, the recurrent form, merging, and what must not move.
#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <map>
#include <string>
#include <vector>

#include "autograd/optim.h"
#include "engine/io/safetensors.h"
#include "peft/adapter.h"
#include "tests/support/golden.h"
#include "tests/support/tiny_mamba.h"

using adder::Adapter;
using adder::Mamba;
using adder::PeftConfig;
using adder::Tensor;
using namespace adder::test;

namespace {

std::string sdt_json(const std::string& targets, const std::string& more) {
  return R"({"peft_type": "SD_LORA", "num_freeze": {"state": 0.4, "channel": 0.75},
    "num_zero": {"state": 0, "channel": 2}, "target_modules": )" +
         targets + more + "}";
}

const std::string kAllTargets =
    R"(["A_log", "x_proj_B", "x_proj_C", "in_proj_x", "in_proj_z", "out_proj"])";
const std::string kUsual = R"(["A_log", "x_proj_B", "x_proj_C", "out_proj"])";

struct Method {
  const char* name;
  std::string json;
  bool mergeable = true;
};

// The methods that train at once, and SDT with a rule that needs no warm-up.
std::vector<Method> methods() {
  return {
      {"LoRA on whole maps",
       R"({"peft_type": "LORA", "r": 3, "lora_alpha": 6, "lora_dropout": 0.1,
           "target_modules": ["in_proj", "x_proj", "dt_proj", "out_proj"]})"},
      {"LoRA on slices", R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": true,
           "target_modules": ["in_proj_x", "in_proj_z", "x_proj_dt", "x_proj_B", "x_proj_C"]})"},
      {"LoRA on all linear maps",
       R"({"peft_type": "LORA", "r": 1, "target_modules": "all-linear"})"},
      {"layer freezing", R"({"peft_type": "LAYER_FREEZE", "trainable_layers":
           ["A_log", "x_proj_B", "in_proj_z", "conv1d", "D", "norm", "embedding"]})"},
      {"BitFit, present biases",
       R"({"peft_type": "BITFIT", "target_modules": ["conv1d", "dt_proj"]})"},
      {"BitFit, all modules", R"({"peft_type": "BITFIT"})", false},
      {"SDT + LoRA", sdt_json(kUsual, R"(, "selection": "random", "proj_lora_r": 4)")},
      {"SDT, sparse projections",
       sdt_json(kAllTargets, R"(, "selection": "weight", "sdlora_alpha": {"global": 0.5},
                                  "finetune_parameters": ["dt_proj.bias", "mixer.D"])")},
      {"a list", "[" + sdt_json(R"(["A_log", "x_proj_C"])", R"(, "selection": "random")") +
                     R"(, {"peft_type": "BITFIT", "target_modules": ["conv1d"]},
            {"peft_type": "LORA", "r": 2, "target_modules": ["x_proj_dt", "in_proj_x"]},
            {"peft_type": "LAYER_FREEZE", "trainable_layers": ["x_proj_B"]}])"},
  };
}

std::unique_ptr<Adapter> attach(Mamba& model, const std::string& json, std::uint64_t seed = 3) {
  return Adapter::attach(model, PeftConfig::parse(json, "test"), seed);
}

Tensor logits_of(const Mamba& model) {
  return model.logits(random_ids({2, 11}, model.vocab_size(), 5));
}

std::map<std::string, Tensor> values_of(const Mamba& model) {
  std::map<std::string, Tensor> values;
  for (const auto& parameter : model.parameters()) {
    values[parameter->name()] = parameter->value().clone();
  }
  return values;
}

double train_step(Mamba& model, adder::Optimizer& optimizer, Adapter& adapter, int step,
                  double lr = 1e-2) {
  const Tensor ids = random_ids({2, 9}, model.vocab_size(), 100 + static_cast<unsigned>(step));
  const Tensor labels = random_ids({2, 9}, model.vocab_size(), 200 + static_cast<unsigned>(step));
  adder::Tape tape;
  adder::ForwardContext context;
  context.training = true;
  context.seed = 4;
  context.micro_batch = static_cast<std::uint64_t>(step);
  const auto result = model.loss(ids, labels, context);
  tape.backward(result.loss);
  adapter.accumulate_warmup_statistics();
  optimizer.step(lr);
  return result.loss.value().item();
}

std::unique_ptr<adder::Optimizer> optimizer_of(const Mamba& model) {
  return adder::make_adamw(adder::collect_trainables(model.parameters()));
}

}  // namespace

TEST_CASE("adapters: a fresh adapter changes nothing but zero channels") {
  for (const Method& method : methods()) {
    CAPTURE(method.name);
    const auto model = tiny_mamba();
    const Tensor before = logits_of(*model);
    const auto adapter = attach(*model, method.json);
    CHECK(adapter->trainable_count() > 0);
    if (adapter->selections().empty()) CHECK(relative_error(logits_of(*model), before) <= 1e-6);
  }
}

TEST_CASE("adapters: saving and loading keeps every value and goes on training") {
  for (const Method& method : methods()) {
    CAPTURE(method.name);
    const auto model = tiny_mamba();
    const auto adapter = attach(*model, method.json);
    redraw_trainables(*model, 11);
    const TempDirectory directory;
    adapter->save(directory.path());
    const auto other = tiny_mamba();
    const auto loaded = Adapter::load(*other, directory.path());
    CHECK(loaded->description() == adapter->description());
    CHECK(loaded->trainable_count() == adapter->trainable_count());
    CHECK(same_bits(logits_of(*other), logits_of(*model)));
    CHECK(relative_error(logits_of(*model), logits_of(*tiny_mamba())) >= 1e-4);
    REQUIRE(loaded->selections().size() == adapter->selections().size());
    for (std::size_t i = 0; i < adapter->selections().size(); ++i) {
      CHECK(loaded->selections()[i].channels == adapter->selections()[i].channels);
      CHECK(loaded->selections()[i].states == adapter->selections()[i].states);
      CHECK(loaded->selections()[i].zero_channels == adapter->selections()[i].zero_channels);
    }
    const auto saved = adder::SavedAdapter::read(directory.path());
    CHECK(saved.trainable_count() == adapter->trainable_count());
    CHECK(saved.selections().size() == adapter->selections().size());
    // Both go on alike, and a second copy is the same files.
    const auto first = optimizer_of(*model);
    const auto second = optimizer_of(*other);
    for (int step = 0; step < 2; ++step) {
      CHECK(train_step(*model, *first, *adapter, step) ==
            train_step(*other, *second, *loaded, step));
    }
    const TempDirectory again;
    const TempDirectory again_loaded;
    adapter->save(again.path());
    loaded->save(again_loaded.path());
    for (const char* file : {"/adapter_config.json", "/adapter_model.safetensors"}) {
      CHECK(adder::read_file(again.path() + file) == adder::read_file(again_loaded.path() + file));
    }
  }
}

TEST_CASE("adapters: the step form equals the parallel form") {
  for (const Method& method : methods()) {
    CAPTURE(method.name);
    const auto model = tiny_mamba();
    const auto adapter = attach(*model, method.json);
    redraw_trainables(*model, 12);
    const Tensor ids = random_ids({2, 13}, model->vocab_size(), 6);
    const Tensor parallel = model->logits(ids);
    for (std::int64_t prompt = 1; prompt <= 9; ++prompt) {
      CAPTURE(prompt);
      const auto state = model->new_state(2);
      Tensor logits = model->prefill(ids.slice(1, 0, prompt).contiguous(), *state);
      CHECK(relative_error(logits, parallel.select(1, prompt - 1)) <= 1e-4);
      for (std::int64_t t = prompt; t < ids.dim(1); ++t) {
        logits = model->step(ids.select(1, t).contiguous(), *state);
        CHECK(relative_error(logits, parallel.select(1, t)) <= 1e-4);
      }
    }
  }
}

TEST_CASE("adapters: merged weights give the adapter's logits, also from a saved model") {
  for (const Method& method : methods()) {
    CAPTURE(method.name);
    const auto model = tiny_mamba();
    const auto adapter = attach(*model, method.json);
    redraw_trainables(*model, 13);
    const Tensor with_adapter = logits_of(*model);
    CHECK(adapter->mergeable() == method.mergeable);
    if (!method.mergeable) {
      CHECK_THROWS_AS(adapter->merge_into_weights(), adder::ConfigError);
      continue;
    }
    adapter->merge_into_weights();
    CHECK(model->trainable_count() == 0);
    CHECK(relative_error(logits_of(*model), with_adapter) <= 1e-5);
    CHECK_THROWS_AS(adapter->merge_into_weights(), adder::ConfigError);
    CHECK_THROWS_AS(adapter->state(), adder::ConfigError);
    const TempDirectory directory;
    model->save(directory.path());
    CHECK(relative_error(logits_of(*Mamba::load(directory.path())), with_adapter) <= 1e-5);
  }
}

TEST_CASE("adapters: what is not selected stays as it was, to the bit") {
  for (const Method& method : methods()) {
    CAPTURE(method.name);
    const auto model = tiny_mamba();
    const auto adapter = attach(*model, method.json);
    const auto before = values_of(*model);
    const auto optimizer = optimizer_of(*model);
    for (int step = 0; step < 3; ++step) train_step(*model, *optimizer, *adapter, step);
    std::int64_t moved = 0;
    for (const auto& parameter : model->parameters()) {
      std::vector<bool> free(static_cast<std::size_t>(parameter->value().numel()),
                             parameter->trains_dense());
      for (const auto& selection : parameter->selections()) {
        for (const auto position : selection->index.flat_positions()) {
          free[static_cast<std::size_t>(position)] = true;
        }
      }
      const auto old_values = before.at(parameter->name()).to_vector();
      const auto new_values = parameter->value().to_vector();
      bool fixed_moved = false;
      for (std::size_t i = 0; i < free.size(); ++i) {
        const bool changed = old_values[i] != new_values[i];
        fixed_moved = fixed_moved || (changed && !free[i]);
        moved += changed ? 1 : 0;
      }
      CAPTURE(parameter->name());
      CHECK_FALSE(fixed_moved);
    }
    // Nearly everything that may train does (an embedding row that no batch holds does not).
    CHECK(moved * 10 >= adapter->trainable_count() * 8);
  }
}

TEST_CASE("adapters: initial values depend on the seed and the name alone") {
  const std::string whole = R"({"peft_type": "LORA", "r": 3, "target_modules": ["out_proj"]})";
  const std::string more = R"({"peft_type": "LORA", "r": 3,
                               "target_modules": ["in_proj", "out_proj"]})";
  const std::string name = "backbone.layers.1.mixer.out_proj.lora_A.weight";
  const auto a = tiny_mamba();
  const auto b = tiny_mamba();
  const auto c = tiny_mamba();
  const auto adapter_a = attach(*a, whole, 3);
  const auto adapter_b = attach(*b, more, 3);
  const auto adapter_c = attach(*c, whole, 4);
  const Tensor drawn = a->find_parameter(name)->value();
  CHECK(same_bits(drawn, b->find_parameter(name)->value()));
  CHECK_FALSE(same_bits(drawn, c->find_parameter(name)->value()));
  double largest = 0;
  for (const double v : drawn.to_vector()) largest = std::max(largest, std::abs(v));
  CHECK(largest <= 1 / std::sqrt(24.0));
  CHECK(largest >= 0.8 / std::sqrt(24.0));
  CHECK(b->find_parameter("backbone.layers.0.mixer.in_proj.lora_B.weight")->value().shape() ==
        adder::Shape{48, 3});
}

TEST_CASE("adapters: an adapter saved by Hugging Face PEFT") {
  const auto model = Mamba::load(golden_path("tiny_hf"));
  const auto expected = adder::SafetensorsFile::open(golden_path("peft_lora/expected.safetensors"));
  const auto adapter = Adapter::load(*model, golden_path("peft_lora"));
  CHECK(adapter->description() == "LoRA");
  const Tensor ids = as_ids(expected.load("input_ids"));
  CHECK(relative_error(model->logits(ids), expected.load("logits")) <= 1e-5);
  const TempDirectory directory;
  adapter->save(directory.path());
  const auto ours = adder::SafetensorsFile::open(directory.path() + "/adapter_model.safetensors");
  const auto theirs =
      adder::SafetensorsFile::open(golden_path("peft_lora/adapter_model.safetensors"));
  CHECK(ours.entries().size() == theirs.entries().size());
  for (const auto& entry : theirs.entries()) {
    REQUIRE(ours.contains(entry.name));
    CHECK(same_bits(ours.load(entry.name), theirs.load(entry.name)));
  }
  adapter->merge_into_weights();
  CHECK(relative_error(model->logits(ids), expected.load("logits_merged")) <= 1e-5);
}

TEST_CASE("adapters: half-precision storage trains where it must and stays where it can") {
  const auto source = tiny_mamba();
  const TempDirectory directory;
  source->save(directory.path());
  const auto model = Mamba::load(directory.path(), adder::Dtype::bf16);
  const auto adapter =
      attach(*model, sdt_json(kUsual, R"(, "selection": "random", "proj_lora_r": 4)"));
  CHECK(model->find_parameter("backbone.layers.0.mixer.x_proj.weight")->value().dtype() ==
        adder::Dtype::f32);
  CHECK(model->find_parameter("backbone.layers.0.mixer.out_proj.weight")->value().dtype() ==
        adder::Dtype::bf16);
  const auto optimizer = optimizer_of(*model);
  CHECK(std::isfinite(train_step(*model, *optimizer, *adapter, 0)));
}
