// SDT and LoRA on a deep S4: what trains, what is zeroed, what stays, files and checkpoints.
#include <cmath>
#include <doctest/doctest.h>
#include <set>
#include <string>
#include <vector>

#include "peft/selection_state.h"
#include "tests/support/tiny_mamba.h"
#include "tests/support/tiny_s4.h"

using namespace adder;
using namespace adder::test;

namespace {

std::unique_ptr<Adapter> attach(Model& model, const std::string& json) {
  return Adapter::attach(model, PeftConfig::parse(json, "test"), 3);
}

// SDT of 3 of 4 selected channels (of 6) and 2 of 3 selected states (of 4).
std::string sdt(const std::string& more) {
  return R"({"peft_type": "SDT_S4", "select_channels": 4, "update_channels": 3,
    "select_states": 3, "update_states": 2, "columns": ["output_linear"], "warmup_steps": 3,
    "finetune_parameters": ["log_dt", "D", "output_linear.bias"])" +
         more + "}";
}

const std::string kLora = R"({"peft_type": "LORA", "target_modules": ["output_linear", "C",
    "log_A_real", "A_imag"], "r": 2, "lora_alpha": 2})";

const std::vector<std::string> kRules = {R"(, "rule": "displacement")", R"(, "rule": "compat")",
                                         R"(, "rule": "loss")", R"(, "rule": "gradient")",
                                         R"(, "rule": "random")"};

std::vector<std::string> methods() {
  std::vector<std::string> all = {kLora};
  for (const std::string& rule : kRules) all.push_back(sdt(rule));
  all.push_back(sdt(R"(, "mode": "soft", "select_penalty": 1e-3, "update_penalty": 1e-2)"));
  all.push_back("[" + sdt(R"(, "warmup_parameters": "ssm")") +
                R"(, {"peft_type": "LORA", "target_modules": ["encoder", "log_A_real"], "r": 2},
                    {"peft_type": "BITFIT", "target_modules": ["decoder"]}])");
  return all;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("s4 adapters: a fresh LoRA changes nothing") {
  const auto model = tiny_s4();
  const Tensor before = s4_output(*model, 1);
  const auto adapter = attach(*model, kLora);
  CHECK(relative_error(s4_output(*model, 1), before) <= 1e-6);
  CHECK(adapter->description() == "LoRA");
  // V standard normal, U zero; complex V has half of the variance in each component.
  const auto large = tiny_s4(DeepS4Config::Mode::standard, 3, 4000);
  const auto wide = attach(*large, kLora);
  for (const auto& [name, deviation] : {std::pair{"C", std::sqrt(0.5)}, std::pair{"A_imag", 1.0}}) {
    const std::string parameter = str("layers.1.kernel.", name);
    double squares = 0;
    const auto V = large->find_parameter(parameter + ".lora_V")->value().to_vector();
    for (const double v : V) squares += v * v;
    CHECK(std::abs(std::sqrt(squares / V.size()) - deviation) <= 0.02);
    for (const double u : large->find_parameter(parameter + ".lora_U")->value().to_vector()) {
      CHECK(u == 0);
    }
  }
}

TEST_CASE("s4 adapters: saving and loading keeps every value and goes on training") {
  for (const std::string& json : methods()) {
    CAPTURE(json);
    const auto model = tiny_s4();
    const auto adapter = attach(*model, json);
    s4_warm_up(*model, *adapter);
    redraw_trainables(*model, 5, 0.05);
    const TempDirectory directory;
    adapter->save(directory.path());
    const auto other = tiny_s4();
    const auto loaded = Adapter::load(*other, directory.path());
    CHECK(loaded->trainable_count() == adapter->trainable_count());
    CHECK(same_bits(s4_output(*other, 2), s4_output(*model, 2)));
    const SavedAdapter saved = SavedAdapter::read(directory.path());
    CHECK(saved.trainable_count() == adapter->trainable_count());
    CHECK(saved.config.to_json() == adapter->config().to_json());
    const auto selections = saved.selections();
    REQUIRE(selections.size() == adapter->selections().size());
    for (std::size_t i = 0; i < selections.size(); ++i) {
      const LayerSelection& now = adapter->selections()[i];
      CHECK(selections[i].layer == str("layers.", i));
      CHECK(selections[i].channels == now.channels);
      CHECK(selections[i].states == now.states);
      CHECK(selections[i].select_channels == now.select_channels);
      CHECK(selections[i].select_states == now.select_states);
      CHECK(selections[i].zero_channels == now.zero_channels);
    }
    const auto first = s4_optimizer(*model);
    const auto second = s4_optimizer(*other);
    for (unsigned step = 0; step < 2; ++step) {
      CHECK(s4_step(*model, *first, *adapter, step) == s4_step(*other, *second, *loaded, step));
    }
  }
}

TEST_CASE("s4 adapters: merged weights give the adapter's output, also from a saved model") {
  for (const std::string& json : methods()) {
    CAPTURE(json);
    const auto model = tiny_s4();
    const auto adapter = attach(*model, json);
    if (adapter->needs_warmup()) CHECK_FALSE(adapter->mergeable());
    s4_warm_up(*model, *adapter);
    redraw_trainables(*model, 5, 0.05);
    const Tensor attached = s4_output(*model, 2);
    REQUIRE(adapter->mergeable());
    adapter->merge_into_weights();
    CHECK(model->trainable_count() == 0);
    CHECK(relative_error(s4_output(*model, 2), attached) <= 1e-5);
    const TempDirectory directory;
    model->save(directory.path());
    CHECK(relative_error(s4_output(*DeepS4::load(directory.path()), 2), attached) <= 1e-5);
  }
}

TEST_CASE("sdt of s4: nothing but what was selected moves, and the rest is zero or as it was") {
  for (const std::string& rule : kRules) {
    for (const bool zero : {true, false}) {
      CAPTURE(rule);
      CAPTURE(zero);
      const auto model = tiny_s4();
      const auto base = s4_values(*model);
      const auto adapter =
          attach(*model, sdt(rule + (zero ? "" : R"(, "zero_unselected": false)")));
      CHECK(adapter->needs_warmup() == !contains(rule, "random"));
      s4_warm_up(*model, *adapter);
      CHECK_FALSE(adapter->needs_warmup());
      CHECK_FALSE(adapter->warmup_penalty().defined());
      const bool all_used = contains(rule, "gradient");

      // The values that training starts from.
      auto start = base;
      REQUIRE(adapter->selections().size() == 2);
      for (const LayerSelection& selection : adapter->selections()) {
        CHECK(selection.channels.size() == 3);
        CHECK(selection.select_channels.size() == (all_used ? 6 : 4));
        CHECK(selection.zero_channels.size() == (zero && !all_used ? 2 : 0));
        const Tensor C = start.at(selection.layer + ".kernel.C");
        for (std::int32_t channel = 0; zero && channel < 6; ++channel) {
          const auto& used = selection.select_channels;
          const bool unused = std::find(used.begin(), used.end(), channel) == used.end();
          const auto& trained = selection.channels;
          const bool trains = std::find(trained.begin(), trained.end(), channel) != trained.end();
          const auto states = selection.states_in_use(channel);
          if (trains) CHECK(states.size() == (all_used ? 4 : 3));
          for (std::int32_t state = 0; state < 4; ++state) {
            const bool idle = std::find(states.begin(), states.end(), state) == states.end();
            if (unused || (trains && idle)) C.select(0, channel).select(0, state).fill(0);
          }
        }
      }
      for (const auto& parameter : model->parameters()) {
        CAPTURE(parameter->name());
        CHECK(same_bits(parameter->value(), start.at(parameter->name())));
      }
      // 2 states of 3 channels in C (twice), A; 3 columns; log_dt, D and the bias.
      CHECK(model->trainable_count() == 2 * (4 * 3 * 2 + 6 * 3 + 6 + 6 + 6));

      const auto optimizer = s4_optimizer(*model);
      for (unsigned step = 0; step < 4; ++step) s4_step(*model, *optimizer, *adapter, step);
      std::int64_t moved = 0;
      for (const LayerSelection& selection : adapter->selections()) {
        std::set<std::int64_t> entries;
        for (std::size_t i = 0; i < selection.channels.size(); ++i) {
          for (const auto state : selection.states[i]) {
            entries.insert(selection.channels[i] * 4 + state);
          }
        }
        const auto compare = [&](const std::string& name, const auto& trains) {
          const auto now = model->find_parameter(selection.layer + name)->value().to_vector();
          const auto was = start.at(selection.layer + name).to_vector();
          for (std::size_t i = 0; i < now.size(); ++i) {
            if (now[i] != was[i]) {
              ++moved;
              CAPTURE(name);
              CAPTURE(i);
              CHECK(trains(static_cast<std::int64_t>(i)));
            }
          }
        };
        const auto entry = [&](std::int64_t i) { return entries.count(i) > 0; };
        compare(".kernel.log_A_real", entry);
        compare(".kernel.A_imag", entry);
        compare(".kernel.C", [&](std::int64_t i) { return entry(i / 2); });
        compare(".output_linear.weight", [&](std::int64_t i) {
          return std::count(selection.channels.begin(), selection.channels.end(), i % 6) > 0;
        });
        const auto any = [](std::int64_t) { return true; };
        compare(".kernel.log_dt", any);
        compare(".D", any);
        compare(".output_linear.bias", any);
      }
      CHECK(moved * 10 >= model->trainable_count() * 8);
      for (const char* name :
           {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}) {
        CHECK(same_bits(model->find_parameter(name)->value(), base.at(name)));
      }
    }
  }
}

TEST_CASE("sdt of s4: the warm-up trains what it says and nothing of it is left") {
  for (const std::string which : {"all", "ssm"}) {
    CAPTURE(which);
    const auto model = tiny_s4();
    const std::int64_t whole = model->parameter_count();
    const auto base = s4_values(*model);
    const auto adapter =
        attach(*model, "[" + sdt(R"(, "warmup_lr": 0.02, "warmup_parameters": ")" + which + "\"") +
                           R"(, {"peft_type": "LORA", "target_modules": ["C"], "r": 1}])");
    CHECK(adapter->warmup_lr() == 0.02);
    CHECK(adapter->warmup_weight_decay() == 0.01);
    CHECK(adapter->warmup_forwards(3) == 3);
    CHECK_THROWS_AS(adapter->warmup_forwards(2), ConfigError);
    CHECK_FALSE(adapter->needs_warmup_gradients());
    // Adapters wait: C, log_A_real, A_imag, log_dt and D of 6 channels and 4 states.
    CHECK(model->trainable_count() == (which == "all" ? whole : 2 * (4 * 24 + 6 + 6)));
    const auto optimizer = s4_optimizer(*model);
    for (unsigned step = 0; step < 3; ++step) s4_step(*model, *optimizer, *adapter, step);
    for (const char* name :
         {"encoder.weight", "layers.0.kernel.C", "layers.1.D", "layers.1.output_linear.weight"}) {
      const bool moves = which == "all" || contains(name, "kernel") || contains(name, ".D");
      CHECK(same_bits(model->find_parameter(name)->value(), base.at(name)) != moves);
    }
    const Tensor V = model->find_parameter("layers.0.kernel.C.lora_V")->value().clone();
    adapter->finish_warmup();
    CHECK_THROWS_AS(adapter->finish_warmup(), ConfigError);
    for (const auto& [name, value] : base) {
      if (contains(name, "kernel.C")) continue;  // zeroed in part
      CAPTURE(name);
      CHECK(same_bits(model->find_parameter(name)->value(), value));
    }
    CHECK(same_bits(model->find_parameter("layers.0.kernel.C.lora_V")->value(), V));
    CHECK(model->trainable_count() == 2 * (4 * 3 * 2 + 6 * 3 + 6 + 6 + 6 + 2 * (6 + 4)));
  }
}

TEST_CASE("sdt of s4: resuming in both phases ends with the same bits") {
  for (const std::string& rule : {kRules[0], kRules[3]}) {
    CAPTURE(rule);
    const std::string json =
        "[" + sdt(rule) + R"(, {"peft_type": "LORA", "target_modules": ["C"], "r": 1}])";
    const auto copy = [](const NamedTensors& state) {
      NamedTensors copies;
      for (const auto& [name, tensor] : state) copies.emplace_back(name, tensor.clone());
      return copies;
    };
    const auto run = [&](bool interrupted) {
      auto model = tiny_s4();
      auto adapter = attach(*model, json);
      const auto renew = [&](bool by_file) {
        if (!interrupted) return;
        const NamedTensors state = copy(adapter->state());
        const TempDirectory directory;
        adapter->save(directory.path());
        model = tiny_s4();
        if (by_file) {
          adapter = Adapter::load(*model, directory.path());
        } else {
          adapter = attach(*model, json);
          adapter->load_state(state);
        }
      };
      const std::int64_t steps = adapter->warmup_forwards(100);
      for (std::int64_t step = 0; step < steps; ++step) {
        // A new optimiser at each step stands for one that is restored.
        const auto optimizer = s4_optimizer(*model);
        s4_step(*model, *optimizer, *adapter, static_cast<std::uint64_t>(step));
        renew(step == 1);
        REQUIRE(adapter->needs_warmup());
      }
      adapter->finish_warmup();
      for (unsigned step = 0; step < 3; ++step) {
        const auto optimizer = s4_optimizer(*model);
        s4_step(*model, *optimizer, *adapter, 50 + step);
        renew(step == 1);
        REQUIRE_FALSE(adapter->needs_warmup());
      }
      return std::pair{s4_values(*model), copy(adapter->state())};
    };
    const auto straight = run(false);
    const auto resumed = run(true);
    CHECK(straight.first.size() == resumed.first.size());
    for (const auto& [name, value] : straight.first) {
      CAPTURE(name);
      CHECK(same_bits(resumed.first.at(name), value));
    }
    // An adapter's file has no scores of single states; all else is there.
    const TensorMap resumed_state(resumed.second.begin(), resumed.second.end());
    for (const auto& [name, tensor] : straight.second) {
      CAPTURE(name);
      const auto it = resumed_state.find(name);
      if (it == resumed_state.end()) {
        CHECK(contains(name, ".sdt_scores"));
      } else {
        CHECK(same_bits(it->second, tensor));
      }
    }
  }
}
