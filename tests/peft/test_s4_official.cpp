// SDT and LoRA on the official S4 model: what trains, files, merging, checkpoints, and what is
// refused. Numbers are held against PyTorch's in test_s4_adapter_golden.cpp.
#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <set>
#include <string>
#include <vector>

#include "engine/error.h"
#include "peft/selection_state.h"
#include "peft/targets.h"
#include "tests/support/tiny_mamba.h"
#include "tests/support/tiny_s4.h"

using namespace adder;
using namespace adder::test;

namespace {

std::unique_ptr<Adapter> attach(Model& model, const std::string& json) {
  return Adapter::attach(model, PeftConfig::parse(json, "test"), 3);
}

// Two outputs for each channel and two directions: four kernels.
S4StackConfig wide() {
  S4StackConfig config = tiny_stack_config();
  config.channels = 2;
  config.bidirectional = true;
  return config;
}

S4StackConfig low_rank() {
  S4StackConfig config = tiny_stack_config();
  config.mode = "dplr";
  config.disc = "bilinear";
  return config;
}

const std::string kLora = R"({"peft_type": "LORA", "r": 2, "lora_alpha": 2,
    "target_modules": ["output_linear", "C", "log_A_real", "A_imag"]})";

// SDT of 3 of 4 selected channels (of 6) and 2 of 3 selected states (of 4).
std::string sdt(const std::string& more) {
  return R"({"peft_type": "SDT_S4", "select_channels": 4, "update_channels": 3,
    "select_states": 3, "update_states": 2, "columns": ["output_linear"], "warmup_steps": 3,
    "finetune_parameters": ["inv_dt", "D", "output_linear.bias"])" +
         more + "}";
}

struct Case {
  S4StackConfig config;
  std::string json;
};

std::vector<Case> cases() {
  S4StackConfig shared = wide();
  shared.n_ssm = 3;
  S4StackConfig dss = tiny_stack_config();
  dss.disc = "dss";
  S4StackConfig bilinear = tiny_stack_config();
  bilinear.disc = "bilinear";
  // Convolved in two directions, with low rank, and scanned.
  std::vector<Case> all = {{shared, kLora}, {low_rank(), kLora}, {tiny_stack_config(), kLora}};
  for (const char* rule : {"displacement", "compat", "loss", "gradient", "random"}) {
    all.push_back({wide(), sdt(str(R"(, "rule": ")", rule, "\""))});
  }
  all.push_back(
      {wide(), sdt(R"(, "mode": "soft", "select_penalty": 1e-3, "update_penalty": 1e-2)")});
  all.push_back({dss, sdt(R"(, "rule": "gradient")")});
  all.push_back({bilinear, "[" + sdt(R"(, "warmup_parameters": "ssm")") +
                               R"(, {"peft_type": "LORA", "target_modules": ["encoder", "A_real"],
                                     "r": 2}, {"peft_type": "BITFIT", "target_modules": ["decoder"]}])"});
  return all;
}

NamedTensors copy(const NamedTensors& state) {
  NamedTensors copies;
  for (const auto& [name, tensor] : state) copies.emplace_back(name, tensor.clone());
  return copies;
}

std::string error_of(const S4StackConfig& config, const std::string& json) {
  const auto model = tiny_stack(config);
  try {
    attach(*model, json);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

bool holds(const std::vector<std::int32_t>& list, std::int64_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

}  // namespace

TEST_CASE("names of modules match by whole parts from the end, numbers left out or not") {
  const std::string name = "s4_layers.1.output_linear.0";
  for (const char* target : {"output_linear", "output_linear.0", "1.output_linear",
                             "s4_layers.output_linear", "s4_layers.1.output_linear.0"}) {
    CAPTURE(target);
    CHECK(module_matches(name, target));
  }
  for (const char* target : {"", "linear", ".output_linear", "output_linear.1", "0.output_linear",
                             "layers.1.output_linear", "x.s4_layers.1.output_linear.0"}) {
    CAPTURE(target);
    CHECK_FALSE(module_matches(name, target));
  }
}

TEST_CASE("official s4: a fresh LoRA changes nothing, and takes the names of either model") {
  for (const S4StackConfig& config : {wide(), low_rank()}) {
    const auto model = tiny_stack(config);
    const Tensor before = s4_output(*model, 1);
    const auto adapter = attach(*model, kLora);
    CHECK(relative_error(s4_output(*model, 1), before) <= 1e-6);
    const auto other = tiny_stack(config);
    const auto own = attach(*other, R"({"peft_type": "LORA", "r": 2, "lora_alpha": 2,
        "target_modules": ["output_linear.0", "kernel.C", "A_real", "A_imag"]})");
    CHECK(own->trainable_count() == adapter->trainable_count());
    // C as a matrix of every kernel's channels, complex; A; the map of the GLU's two halves.
    const std::int64_t kernels = config.bidirectional ? 4 : 1;
    const std::int64_t columns = config.channels * 6;
    CHECK(own->trainable_count() == 2 * 2 * (2 * (kernels * 6 + 4) + 2 * (6 + 4) + 12 + columns));
  }
}

TEST_CASE("official s4: a saved adapter has every value, merges, and goes on training") {
  for (const Case& c : cases()) {
    CAPTURE(c.json);
    CAPTURE(c.config.mode);
    const auto model = tiny_stack(c.config);
    const auto adapter = attach(*model, c.json);
    s4_warm_up(*model, *adapter);
    redraw_trainables(*model, 5, 0.05);
    const TempDirectory directory;
    adapter->save(directory.path());
    const Tensor attached = s4_output(*model, 2);

    const auto other = tiny_stack(c.config);
    const auto loaded = Adapter::load(*other, directory.path());
    CHECK(loaded->trainable_count() == adapter->trainable_count());
    CHECK(same_bits(s4_output(*other, 2), attached));
    const SavedAdapter saved = SavedAdapter::read(directory.path());
    CHECK(saved.trainable_count() == adapter->trainable_count());
    CHECK(saved.config.to_json() == adapter->config().to_json());
    const auto selections = saved.selections();
    REQUIRE(selections.size() == adapter->selections().size());
    for (std::size_t i = 0; i < selections.size(); ++i) {
      CHECK(selections[i].layer == str("s4_layers.", i, ".layer"));
      CHECK(selections[i].states == adapter->selections()[i].states);
      CHECK(selections[i].select_states == adapter->selections()[i].select_states);
    }

    const auto merged = tiny_stack(c.config);
    const auto again = Adapter::load(*merged, directory.path());
    REQUIRE(again->mergeable());
    again->merge_into_weights();
    CHECK(relative_error(s4_output(*merged, 2), attached) <= 1e-5);
    const TempDirectory written;
    merged->save(written.path());
    CHECK(relative_error(s4_output(*S4Stack::load(written.path()), 2), attached) <= 1e-5);

    const auto first = s4_optimizer(*model);
    const auto second = s4_optimizer(*other);
    for (unsigned step = 0; step < 2; ++step) {
      CHECK(s4_step(*model, *first, *adapter, step) == s4_step(*other, *second, *loaded, step));
    }
  }
}

TEST_CASE("official s4: nothing but what SDT selected moves, in every kernel of C") {
  const S4StackConfig config = wide();
  for (const char* rule : {"displacement", "loss"}) {
    CAPTURE(rule);
    const auto model = tiny_stack(config);
    const auto base = s4_values(*model);
    const auto adapter = attach(*model, sdt(str(R"(, "rule": ")", rule, "\"")));
    s4_warm_up(*model, *adapter);
    // 2 states of 3 channels in C (4 kernels, complex) and A; 3 columns of either output for the 12
    // rows; inv_dt, D of two outputs and the bias.
    CHECK(model->trainable_count() == 2 * (6 * (4 * 2 + 2) + 12 * 6 + 6 + 12 + 12));
    const auto start = s4_values(*model);
    const auto optimizer = s4_optimizer(*model);
    for (unsigned step = 0; step < 4; ++step) s4_step(*model, *optimizer, *adapter, step);
    std::int64_t moved = 0;
    const auto compare = [&](const std::string& name, const auto& trains) {
      CAPTURE(name);
      const auto now = model->find_parameter(name)->value().to_vector();
      const auto was = start.at(name).to_vector();
      for (std::size_t i = 0; i < now.size(); ++i) {
        if (now[i] == was[i]) continue;
        ++moved;
        CHECK(trains(static_cast<std::int64_t>(i)));
      }
    };
    std::set<std::string> of_layers;
    for (std::size_t i = 0; i < 2; ++i) {
      const LayerSelection& selection = adapter->selections()[i];
      std::set<std::int64_t> entries;
      for (std::size_t k = 0; k < selection.channels.size(); ++k) {
        for (const auto state : selection.states[k]) {
          entries.insert(selection.channels[k] * 4 + state);
        }
      }
      const std::string kernel = selection.layer + ".kernel.";
      const std::string out = str("s4_layers.", i, ".output_linear.0.");
      const auto entry = [&](std::int64_t at) { return entries.count(at) > 0; };
      const auto any = [](std::int64_t) { return true; };
      compare(kernel + "A_real", entry);
      compare(kernel + "A_imag", entry);
      compare(kernel + "C", [&](std::int64_t at) { return entry(at / 2 % 24); });
      compare(out + "weight",
              [&](std::int64_t at) { return holds(selection.channels, at % 12 % 6); });
      compare(kernel + "inv_dt", any);
      compare(selection.layer + ".D", any);
      compare(out + "bias", any);
      for (const char* name : {"A_real", "A_imag", "C", "inv_dt"}) of_layers.insert(kernel + name);
      of_layers.insert({out + "weight", out + "bias", selection.layer + ".D"});

      // What is not in use is zero in every kernel; the rest is as it was.
      const auto C = start.at(kernel + "C").to_vector();
      const auto C0 = base.at(kernel + "C").to_vector();
      for (std::size_t at = 0; at < C.size(); ++at) {
        const auto channel = static_cast<std::int32_t>(at / 8 % 6);
        const auto state = static_cast<std::int64_t>(at / 2 % 4);
        const bool idle =
            !holds(selection.select_channels, channel) ||
            (holds(selection.channels, channel) && !holds(selection.states_in_use(channel), state));
        CHECK(C[at] == (idle ? 0 : C0[at]));
      }
    }
    CHECK(moved * 10 >= model->trainable_count() * 8);
    for (const auto& [name, value] : base) {
      if (of_layers.count(name) > 0) continue;
      CAPTURE(name);
      CHECK(same_bits(model->find_parameter(name)->value(), value));
    }
  }
}

TEST_CASE("official s4: resuming in both phases ends with the same bits") {
  for (const char* rule : {"displacement", "gradient"}) {
    CAPTURE(rule);
    const std::string json = "[" + sdt(str(R"(, "rule": ")", rule, "\"")) +
                             R"(, {"peft_type": "LORA", "target_modules": ["C"], "r": 1}])";
    const auto run = [&](bool interrupted) {
      auto model = tiny_stack(wide());
      auto adapter = attach(*model, json);
      const auto renew = [&] {
        if (!interrupted) return;
        const NamedTensors state = copy(adapter->state());
        model = tiny_stack(wide());
        adapter = attach(*model, json);
        adapter->load_state(state);
      };
      const std::int64_t steps = adapter->warmup_forwards(100);
      for (std::int64_t step = 0; step < steps; ++step) {
        // A new optimiser at each step stands for one that is restored.
        const auto optimizer = s4_optimizer(*model);
        s4_step(*model, *optimizer, *adapter, static_cast<std::uint64_t>(step));
        renew();
      }
      adapter->finish_warmup();
      for (unsigned step = 0; step < 3; ++step) {
        const auto optimizer = s4_optimizer(*model);
        s4_step(*model, *optimizer, *adapter, 50 + step);
        renew();
      }
      return std::pair{s4_values(*model), copy(adapter->state())};
    };
    const auto straight = run(false);
    const auto resumed = run(true);
    for (const auto& [name, value] : straight.first) {
      CAPTURE(name);
      CHECK(same_bits(resumed.first.at(name), value));
    }
    REQUIRE(straight.second.size() == resumed.second.size());
    for (std::size_t i = 0; i < straight.second.size(); ++i) {
      CAPTURE(straight.second[i].first);
      CHECK(same_bits(resumed.second[i].second, straight.second[i].second));
    }
  }
}

TEST_CASE("official s4: an adapter of a low-rank model belongs to the length C is stored for") {
  for (const std::string& json :
       {kLora, std::string(R"({"peft_type": "LAYER_FREEZE", "trainable_layers": ["inv_dt"]})")}) {
    CAPTURE(json);
    const auto model = tiny_stack(low_rank());
    model->reserve_length(20);
    CHECK(model->stored_length() == 32);
    const auto adapter = attach(*model, json);
    for (const Trainable& trainable : collect_trainables(model->parameters())) {
      const Tensor drawn = Tensor::empty(trainable.value.shape());
      fill_uniform(drawn, -0.05, 0.05, 5, 1);
      auto values = trainable.value.to_vector();
      const auto moves = drawn.to_vector();
      for (std::size_t i = 0; i < values.size(); ++i) values[i] += moves[i];
      trainable.value.copy_from(Tensor::from(trainable.value.shape(), values).to(Dtype::f32));
    }
    const Tensor attached = s4_output(*model, 2);
    const TempDirectory directory;
    adapter->save(directory.path());

    const auto other = tiny_stack(low_rank());
    const auto loaded = Adapter::load(*other, directory.path());
    CHECK(other->stored_length() == 32);
    CHECK(same_bits(s4_output(*other, 2), attached));
    // More room leaves the function with its branches, and the adapter's file, as they are.
    other->reserve_length(100);
    CHECK(other->stored_length() == 128);
    CHECK(relative_error(s4_output(*other, 2), attached) <= 1e-4);
    loaded->merge_into_weights();
    CHECK(relative_error(s4_output(*other, 2), attached) <= 1e-4);

    const auto longer = tiny_stack(low_rank());
    longer->reserve_length(40);
    CHECK_THROWS_WITH_AS(Adapter::load(*longer, directory.path()),
                         doctest::Contains("stored for length 32, this one's is for 64"),
                         ConfigError);
  }
}

TEST_CASE("official s4: an adapter that leaves the kernels alone fits every stored length") {
  const auto model = tiny_stack(low_rank());
  const auto adapter = attach(*model, R"({"peft_type": "LORA", "target_modules": ["output_linear"],
      "r": 2})");
  redraw_trainables(*model, 5, 0.05);
  const TempDirectory directory;
  adapter->save(directory.path());
  const auto longer = tiny_stack(low_rank());
  longer->reserve_length(40);
  const auto loaded = Adapter::load(*longer, directory.path());
  CHECK(relative_error(s4_output(*longer, 2), s4_output(*model, 2)) <= 1e-4);
}

TEST_CASE("official s4: what SDT and low rank cannot do is refused with the numbers") {
  S4StackConfig shared = tiny_stack_config();
  shared.n_ssm = 3;
  const std::string message = error_of(shared, sdt(""));
  CHECK(contains(message, "3 rows of A (n_ssm)"));
  CHECK(contains(message, "6 channels (d_model)"));
  CHECK(contains(error_of(low_rank(), sdt("")),
                 "s4_layers.0.layer: the state matrix has a low-rank"));
  S4StackConfig dss = tiny_stack_config();
  dss.disc = "dss";
  CHECK(contains(error_of(dss, sdt("")),
                 "'displacement' looks at kernels of the discretisation zoh"));
  CHECK(contains(error_of(dss, sdt(R"(, "rule": "compat")")), "has dss"));
  CHECK(error_of(dss, sdt(R"(, "rule": "loss")")).empty());
  S4StackConfig bilinear = tiny_stack_config();
  bilinear.disc = "bilinear";
  CHECK(contains(error_of(bilinear, sdt(R"(, "rule": "compat")")), "has bilinear"));
  CHECK(error_of(bilinear, sdt("")).empty());
  const auto lora = [](const std::string& target) {
    return R"({"peft_type": "LORA", "target_modules": [")" + target + "\"]}";
  };
  CHECK(contains(error_of(wide(), lora("B")), "not available on B"));
  CHECK(contains(error_of(wide(), lora("inv_dt")), "not available on"));
  CHECK(contains(error_of(wide(), lora("A_rael")), "did you mean 'A_real'"));
  CHECK(contains(error_of(wide(), R"({"peft_type": "SDT_S4", "rule": "random",
      "columns": ["output_linaer"]})"),
                 "did you mean 'output_linear'"));
}
