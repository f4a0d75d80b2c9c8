#include <cmath>
#include <doctest/doctest.h>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/error.h"
#include "engine/io/file.h"
#include "peft/sdt_selection.h"

using adder::AxisCount;
using adder::DimensionCounts;
using adder::LayerSelection;
using adder::Tensor;
using Json = nlohmann::json;

namespace {

AxisCount amount(const Json& json) {
  return {json.get<double>(), json.is_number_float()};
}

DimensionCounts counts_of(const Json& json) {
  return {amount(json["state"]), amount(json["channel"])};
}

// Squares of a displacement given as (state, channel), in the (channel, state) layout of A_log.
Tensor squared(const Json& delta, std::int64_t n, std::int64_t e) {
  std::vector<double> scores(static_cast<std::size_t>(n * e));
  for (std::int64_t s = 0; s < n; ++s) {
    for (std::int64_t c = 0; c < e; ++c) {
      const double d = delta[static_cast<std::size_t>(s * e + c)].get<double>();
      scores[static_cast<std::size_t>(c * n + s)] = d * d;
    }
  }
  return Tensor::from({e, n}, scores);
}

LayerSelection run(const Json& test) {
  const auto n = test["N"].get<std::int64_t>();
  const auto e = test["E"].get<std::int64_t>();
  const auto counts =
      adder::sdt_counts(e, n, counts_of(test["num_zero"]), counts_of(test["num_freeze"]));
  CHECK(counts.freeze_channels == static_cast<std::int64_t>(test["freeze_channels"].size()));
  return adder::select_dimensions("layer", squared(test["delta"], n, e), counts);
}

// Returns whether everything agrees, checking each part.
void compare(const LayerSelection& got, const Json& test) {
  CHECK(got.channels == test["train_channels"].get<std::vector<std::int32_t>>());
  CHECK(got.zero_channels == test["zero_channels"].get<std::vector<std::int32_t>>());
  CHECK(got.states == test["states"].get<std::vector<std::vector<std::int32_t>>>());
  CHECK(got.sorted_channels() == test["columns"].get<std::vector<std::int32_t>>());
  std::vector<std::int64_t> state_major;
  for (const std::int64_t position : got.entry_positions()) {
    state_major.push_back(position % got.num_states * got.num_channels + position / got.num_states);
  }
  CHECK(state_major == test["mask_flat"].get<std::vector<std::int64_t>>());
  CHECK_NOTHROW(got.check());
}

Json golden() {
  return Json::parse(
      adder::read_file(std::string(ADDER_SOURCE_DIR) + "/tests/golden/data/sdt_cases.json"));
}

}  // namespace

TEST_CASE("sdt selection: 200 golden cases") {
  const Json cases = golden()["cases"];
  REQUIRE(cases.size() == 200);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    CAPTURE(i);
    compare(run(cases[i]), cases[i]);
  }
}

TEST_CASE("sdt selection: the worked example, with the effective A_log") {
  const Json example = golden()["worked_example"];
  const LayerSelection got = run(example);
  compare(got, example);
  CHECK(got.channels == std::vector<std::int32_t>{1, 0});
  CHECK(got.states == std::vector<std::vector<std::int32_t>>{{2, 0}, {1, 2}});
  CHECK(got.zero_channels == std::vector<std::int32_t>{2});
  // A_log = ln(1..3), zero channel at 10, adapter added in the order of entry_positions().
  std::vector<double> a_log;
  for (int channel = 0; channel < 4; ++channel) {
    for (int state = 0; state < 3; ++state) {
      a_log.push_back(channel == 2 ? 10.0 : std::log(state + 1.0));
    }
  }
  const auto positions = got.entry_positions();
  REQUIRE(positions.size() == 4);
  for (std::size_t i = 0; i < 4; ++i) {
    a_log[static_cast<std::size_t>(positions[i])] += example["adapter"][i].get<double>();
  }
  for (std::size_t channel = 0; channel < 4; ++channel) {
    for (std::size_t state = 0; state < 3; ++state) {
      const double expected = example["A_log_effective"][state * 4 + channel].get<double>();
      CHECK(std::abs(a_log[channel * 3 + state] - expected) <= 1e-12);
    }
  }
}

TEST_CASE("sdt selection: refused counts name their numbers") {
  const Json refused = golden()["refused"];
  REQUIRE(refused.size() == 5);
  for (const Json& test : refused) {
    CAPTURE(test.dump());
    CHECK_THROWS_AS(adder::sdt_counts(test["E"].get<std::int64_t>(), test["N"].get<std::int64_t>(),
                                      counts_of(test["num_zero"]), counts_of(test["num_freeze"])),
                    adder::ConfigError);
  }
  const DimensionCounts none;
  CHECK_THROWS_WITH_AS(adder::sdt_counts(6, 4, none, {{0, false}, {0.99, true}}),
                       "sdt: no channel is left to train: 6 channels, num_freeze 6, num_zero 0",
                       adder::ConfigError);
  CHECK_THROWS_AS(adder::sdt_counts(6, 4, none, {{5, false}, {0, false}}), adder::ConfigError);
  CHECK_THROWS_AS(adder::sdt_counts(6, 4, none, {{-1, false}, {0, false}}), adder::ConfigError);
  CHECK_THROWS_AS(adder::sdt_counts(6, 4, none, {{1.5, true}, {0, false}}), adder::ConfigError);
}

TEST_CASE("sdt counts: the sizes of the published models, halves to even") {
  const DimensionCounts zero;
  for (const auto& [share, states] : {std::pair{0.75, 4}, {0.9, 2}, {0.95, 1}}) {
    for (const auto& [width, channels] : {std::pair{1536, 15}, {4096, 41}, {5120, 51}}) {
      const auto counts = adder::sdt_counts(width, 16, zero, {{share, true}, {0.99, true}});
      CHECK(counts.train_states == states);
      CHECK(counts.train_channels == channels);
    }
  }
  CHECK(AxisCount{0.5, true}.resolve(1, "x") == 0);
  CHECK(AxisCount{0.5, true}.resolve(3, "x") == 2);
  CHECK(AxisCount{0.5, true}.resolve(5, "x") == 2);
  CHECK(AxisCount{3, false}.resolve(5, "x") == 3);
}

TEST_CASE("sdt selection: ties keep the order of the indices") {
  const auto counts = adder::sdt_counts(4, 3, {}, {{1, false}, {2, false}});
  const auto got = adder::select_dimensions("layer", Tensor::full({4, 3}, 1), counts);
  CHECK(got.channels == std::vector<std::int32_t>{0, 1});
  CHECK(got.states == std::vector<std::vector<std::int32_t>>{{0, 1}, {0, 1}});
}

TEST_CASE("sdt selection: nothing to go by, and contradictions") {
  const auto counts = adder::sdt_counts(4, 3, {}, {});
  CHECK_THROWS_AS(adder::select_dimensions("layer", Tensor::zeros({4, 3}), counts),
                  adder::ConfigError);
  const Tensor bad = Tensor::full({4, 3}, 1);
  bad.data<float>()[7] = std::nanf("");
  CHECK_THROWS_WITH_AS(adder::select_dimensions("layer", bad, counts),
                       "layer: the score of channel 2, state 1 is nan", adder::NumericError);
  LayerSelection selection;
  selection.layer = "layer";
  selection.num_channels = 4;
  selection.num_states = 3;
  CHECK_THROWS_AS(selection.check(), adder::ConfigError);
  selection.channels = {1, 3};
  selection.states = {{0}, {2}};
  CHECK_NOTHROW(selection.check());
  selection.zero_channels = {3};
  CHECK_THROWS_WITH_AS(selection.check(), "layer: channel 3 is both trained and zeroed",
                       adder::ConfigError);
  selection.zero_channels = {4};
  CHECK_THROWS_AS(selection.check(), adder::ConfigError);
  selection.zero_channels = {};
  selection.states = {{0}, {3}};
  CHECK_THROWS_AS(selection.check(), adder::ConfigError);
  selection.states = {{0, 0}, {1}};
  CHECK_THROWS_AS(selection.check(), adder::ConfigError);
}
