// Adapters on the variants of the official S4 model: minimal S4D, bottleneck, gate, no linear map,
// the norms. What trains, files, merging, gradients. What is refused: test_s4_variant_errors.cpp.
#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <set>

#include "engine/io/safetensors.h"
#include "peft/selection_state.h"
#include "tests/support/differences.h"
#include "tests/support/s4_variants.h"
#include "tests/support/tiny_mamba.h"

using namespace adder;
using namespace adder::test;

namespace {

const std::string kRules[] = {"displacement", "loss", "gradient"};

std::vector<std::string> methods(const S4Variant& variant) {
  std::vector<std::string> all = {variant.lora()};
  for (const char* rule : {"displacement", "loss", "gradient", "compat", "random"}) {
    all.push_back(variant.sdt(rule));
  }
  all.push_back(variant.sdt("displacement", R"(, "warmup_parameters": "ssm", "mode": "soft",
      "select_penalty": 1e-3, "update_penalty": 1e-3)"));
  all.push_back(variant.sdt("displacement", R"(, "zero_unselected": false)"));
  return all;
}

// Trains on one batch; whether its loss fell.
bool learns(SequenceModel& model, Adapter& adapter) {
  const auto optimizer = s4_optimizer(model);
  const double before = s4_loss(model, 100);
  for (int step = 0; step < 8; ++step) s4_step(model, *optimizer, adapter, 0);
  return s4_loss(model, 100) < before;
}

// What a module adds to the trainable entries of one layer.
std::int64_t expected_sdt_count(const S4Variant& v) {
  const std::int64_t entries = 2 * 2;
  const std::int64_t columns = v.behind.empty() ? 0 : v.rows * 2 * (v.width / v.channels);
  const std::int64_t D = v.minimal() ? v.channels : v.config.channels * v.channels;
  return entries * (2 * v.kernels + 2) + columns + D + v.channels;
}

std::int64_t expected_lora_count(const S4Variant& v) {
  const std::int64_t states = 4;
  const std::int64_t of_layer = 2 * 2 * (v.kernels * v.channels + states)  // C, complex
                                + 2 * 2 * (v.channels + states)            // A
                                + (v.behind.empty() ? 0 : 2 * (v.rows + v.width));
  return 2 * of_layer + (v.behind.empty() ? 2 * (3 + 6) : 0);
}

// The entries of each tensor of a layer that SDT trains.
std::map<std::string, std::set<std::int64_t>> selected_entries(const S4Variant& v, std::size_t i,
                                                               const LayerSelection& selection) {
  std::map<std::string, std::set<std::int64_t>> entries;
  const std::string kernel = v.layer(i) + ".kernel.";
  const std::int64_t states = 4;
  for (std::size_t k = 0; k < selection.channels.size(); ++k) {
    const std::int64_t channel = selection.channels[k];
    for (const auto state : selection.states[k]) {
      const std::int64_t at = channel * states + state;
      entries[kernel + v.log_A_real()].insert(at);
      entries[kernel + "A_imag"].insert(at);
      for (std::int64_t m = 0; m < v.kernels; ++m) {
        const std::int64_t first = 2 * (m * v.channels * states + at);
        entries[kernel + "C"].insert({first, first + 1});
      }
    }
    for (std::int64_t at = channel; at < v.rows * v.width; at += v.channels) {
      entries["s4_layers." + std::to_string(i) + "." + v.behind + ".weight"].insert(at);
    }
  }
  for (std::int64_t at = 0; at < v.channels * std::max<std::int64_t>(1, v.config.channels); ++at) {
    if (at < v.channels) entries[kernel + v.dt()].insert(at);
    entries[v.layer(i) + ".D"].insert(at);
  }
  return entries;
}

}  // namespace

TEST_CASE("s4 variants: an adapter learns, is saved with every value, and merges") {
  for (const S4Variant& variant : s4_variants()) {
    for (const std::string& json : methods(variant)) {
      CAPTURE(variant.name);
      CAPTURE(json);
      const auto model = variant_model(variant);
      const Tensor base = s4_output(*model, 2);
      const auto adapter = attach(*model, json);
      s4_warm_up(*model, *adapter);
      CHECK(learns(*model, *adapter));
      const Tensor attached = s4_output(*model, 2);
      CHECK(relative_error(attached, base) > 1e-3);
      const TempDirectory directory;
      adapter->save(directory.path());

      const auto other = variant_model(variant);
      const auto loaded = Adapter::load(*other, directory.path());
      CHECK(same_bits(s4_output(*other, 2), attached));
      CHECK(s4_loss(*other, 5) == s4_loss(*model, 5));
      const auto first = s4_optimizer(*model);
      const auto second = s4_optimizer(*other);
      for (unsigned step = 0; step < 2; ++step) {
        CHECK(s4_step(*model, *first, *adapter, step) == s4_step(*other, *second, *loaded, step));
      }

      const auto merged = variant_model(variant);
      const auto again = Adapter::load(*merged, directory.path());
      REQUIRE(again->mergeable());
      again->merge_into_weights();
      CHECK(relative_error(s4_output(*merged, 2), attached) <= 1e-5);
      const TempDirectory written;
      merged->save(written.path());
      const auto read = S4Stack::load(written.path());
      CHECK(relative_error(s4_output(*read, 2), attached) <= 1e-5);
      CHECK(read->parameters().size() == tiny_stack(variant.config)->parameters().size());
    }
  }
}

TEST_CASE("s4 variants: counts are those of the layer's own channels, and nothing else moves") {
  for (const S4Variant& variant : s4_variants()) {
    CAPTURE(variant.name);
    const auto plain = variant_model(variant);
    const auto lora = attach(*plain, variant.lora());
    CHECK(lora->trainable_count() == expected_lora_count(variant));
    for (const std::string& rule : kRules) {
      CAPTURE(rule);
      const auto model = variant_model(variant);
      const auto base = s4_values(*model);
      const auto adapter = attach(*model, variant.sdt(rule));
      s4_warm_up(*model, *adapter);
      CHECK(model->trainable_count() == 2 * expected_sdt_count(variant));
      const auto start = s4_values(*model);
      const auto optimizer = s4_optimizer(*model);
      for (unsigned step = 0; step < 4; ++step) s4_step(*model, *optimizer, *adapter, step);

      std::map<std::string, std::set<std::int64_t>> trains;
      REQUIRE(adapter->selections().size() == 2);
      for (std::size_t i = 0; i < 2; ++i) {
        const LayerSelection& selection = adapter->selections()[i];
        CHECK(selection.layer == variant.layer(i));
        CHECK(selection.num_channels == variant.channels);
        CHECK(selection.channels.size() == 2);
        trains.merge(selected_entries(variant, i, selection));
      }
      std::int64_t moved = 0;
      for (const ParameterPtr& parameter : model->parameters()) {
        CAPTURE(parameter->name());
        const auto now = parameter->value().to_vector();
        const auto was = start.at(parameter->name()).to_vector();
        const auto& chosen = trains[parameter->name()];
        std::int64_t others = 0;
        for (std::size_t at = 0; at < now.size(); ++at) {
          if (now[at] == was[at]) continue;
          ++(chosen.count(static_cast<std::int64_t>(at)) > 0 ? moved : others);
        }
        CHECK(others == 0);
        // Only C is set to zero, and only where it is not in use.
        if (parameter->role() != Role::C)
          CHECK(same_bits(start.at(parameter->name()), base.at(parameter->name())));
      }
      // A mode of frequency 0 has no gradient of Im A, nor has a mode that B or C takes away.
      CHECK(moved * 10 >= model->trainable_count() * 7);
      for (std::size_t i = 0; i < 2; ++i) {
        const std::string name = variant.layer(i) + ".kernel.C";
        const auto C = start.at(name).to_vector();
        const auto zeros = std::count(C.begin(), C.end(), 0.0);
        // With a rule that zeroes: one state of two channels; all states of what is not in use.
        const std::int64_t idle = 2 * 1 + (variant.channels - 3) * 4;
        CHECK(zeros == (rule == "gradient" ? 0 : 2 * variant.kernels * idle));
      }
    }
  }
}

TEST_CASE(
    "s4 variants: a run that goes on from a checkpoint takes the same steps, in both phases") {
  for (const S4Variant& variant : s4_variants()) {
    for (const char* rule : {"displacement", "gradient"}) {
      CAPTURE(variant.name);
      const std::string json = variant.sdt(rule);
      CAPTURE(json);
      const auto run = [&](bool interrupted) {
        auto model = variant_model(variant);
        auto adapter = attach(*model, json);
        const auto step = [&](std::uint64_t k) {
          // A new optimiser at each step stands for one that is restored.
          const auto optimizer = s4_optimizer(*model);
          s4_step(*model, *optimizer, *adapter, k);
          if (!interrupted) return;
          NamedTensors state;
          for (const auto& [name, tensor] : adapter->state()) {
            state.emplace_back(name, tensor.clone());
          }
          model = variant_model(variant);
          adapter = attach(*model, json);
          adapter->load_state(state);
        };
        const auto steps = static_cast<std::uint64_t>(adapter->warmup_forwards(100));
        for (std::uint64_t k = 0; k < steps; ++k) step(k);
        adapter->finish_warmup();
        for (std::uint64_t k = 0; k < 2; ++k) step(50 + k);
        return s4_values(*model);
      };
      const auto straight = run(false);
      const auto resumed = run(true);
      for (const auto& [name, value] : straight) {
        CAPTURE(name);
        CHECK(same_bits(resumed.at(name), value));
      }
    }
  }
}

TEST_CASE("s4 variants: the maps around the layer take low rank by their names") {
  S4StackConfig config = bottleneck_variant().config;
  config.gate = 2;
  for (const std::string act : {"none", "silu"}) {
    CAPTURE(act);
    config.gate_act = act;
    const auto model = tiny_stack(config);
    const auto adapter = attach(*model, R"({"peft_type": "LORA", "r": 1, "target_modules":
        ["input_linear", "input_gate", "output_gate", "output_linear"]})");
    // (3, 6), (12, 6), (12, 6) and (12, 12) in two layers.
    CHECK(adapter->trainable_count() == 2 * (9 + 18 + 18 + 24));
    CHECK(learns(*model, *adapter));
  }
}

TEST_CASE("s4 variants: a merged minimal S4D keeps the shapes of its file") {
  const S4Variant variant = minimal_variant();
  for (const std::string& json : methods(variant)) {
    CAPTURE(json);
    const auto model = variant_model(variant);
    const TempDirectory plain;
    model->save(plain.path());
    const auto adapter = attach(*model, json);
    s4_warm_up(*model, *adapter);
    redraw_trainables(*model, 5, 0.05);
    // With the adapter in place and merged.
    for (const bool merge : {false, true}) {
      if (merge) adapter->merge_into_weights();
      const TempDirectory written;
      model->save(written.path());
      const auto before = SafetensorsFile::open(plain.path() + "/model.safetensors");
      const auto after = SafetensorsFile::open(written.path() + "/model.safetensors");
      REQUIRE(after.entries().size() == before.entries().size());
      for (const SafetensorsEntry& entry : before.entries()) {
        CAPTURE(entry.name);
        CHECK(after.load(entry.name).shape() == entry.shape);
      }
      CHECK(after.load("s4_layers.1.output_linear.0.weight").shape() == Shape{12, 6, 1});
      CHECK(after.load("s4_layers.1.kernel.log_dt").shape() == Shape{6});
    }
  }
}

TEST_CASE("s4 variants: every gradient of an adapter by differences in float64") {
  for (const S4Variant& variant : s4_variants()) {
    for (const std::string& json : {variant.lora(), variant.sdt("random")}) {
      CAPTURE(variant.name);
      CAPTURE(json);
      const auto values = variant_model(variant);
      S4Stack model(variant.config, Dtype::f64);
      for (std::size_t i = 0; i < model.parameters().size(); ++i) {
        model.parameters()[i]->value().copy_from(values->parameters()[i]->value());
      }
      for (std::size_t i = 0; i < model.buffers().size(); ++i) {
        model.buffers()[i]->value.copy_from(values->buffers()[i]->value);
      }
      const auto adapter = attach(model, json);
      s4_warm_up(model, *adapter);
      const auto trainables = collect_trainables(model.parameters());
      std::uint64_t stream = 1;
      for (const Trainable& trainable : trainables) {
        // Away from zero displacements and zero branches.
        const bool zero = trainable.selection || trainable.name.find(".lora_") != std::string::npos;
        if (zero) fill_uniform(trainable.value, -0.1, 0.1, 5, stream++);
        trainable.apply();
      }
      SequenceBatch batch = s4_batch(model, 1);
      batch.x = batch.x.to(Dtype::f64);
      batch.target = batch.target.to(Dtype::f64);
      const auto loss = [&] {
        const Tape::Pause pause;
        return sequence_loss(model, batch, {.training = true}).loss.value().item();
      };
      {
        Tape tape;
        tape.backward(sequence_loss(model, batch, {.training = true}).loss);
      }
      check_differences(trainables, 5, loss);
    }
  }
}
