// The selection rules of SDT on S4 layers: against an independent implementation, against the
// example's scores, and inside a model.
#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "engine/error.h"
#include "peft/sdt_s4_selection.h"
#include "tests/support/golden.h"
#include "tests/support/golden_json.h"
#include "tests/support/tiny_mamba.h"
#include "tests/support/tiny_s4.h"

using namespace adder;
using namespace adder::test;
using nlohmann::json;

namespace {

json golden_json(const std::string& name) {
  std::ifstream file(golden_path(name));
  REQUIRE(file);
  return json::parse(file);
}

S4Tensors layer(const json& value, std::int64_t H, std::int64_t N, Dtype dtype) {
  return {tensor(value["log_dt"], {H}, dtype), tensor(value["log_A_real"], {H, N}, dtype),
          tensor(value["A_imag"], {H, N}, dtype), tensor(value["C"], {H, N, 2}, dtype)};
}

double error(const std::vector<double>& actual, const json& expected) {
  std::vector<double> values;
  flatten(expected, values);
  const auto count = static_cast<std::int64_t>(values.size());
  REQUIRE(actual.size() == values.size());
  return relative_error(Tensor::from({count}, actual), Tensor::from({count}, values));
}

std::unique_ptr<Adapter> attach(Model& model, const std::string& json, std::uint64_t seed = 3) {
  return Adapter::attach(model, PeftConfig::parse(json, "test"), seed);
}

using Indices = std::vector<std::int32_t>;

// The largest first.
Indices order_of(const std::vector<double>& values) {
  Indices order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
  });
  return order;
}

}  // namespace

TEST_CASE("sdt of s4: an independent implementation selects the same") {
  const json cases = golden_json("sdt_s4_cases.json");
  int not_finite = 0;
  for (const json& c : cases) {
    CAPTURE(c.dump());
    const std::int64_t H = c["channels"];
    const std::int64_t N = c["states"];
    const std::string rule = c["rule"];
    const Dtype dtype = rule == "compat" ? Dtype::f32 : Dtype::f64;
    const S4Tensors now = layer(c["now"], H, N, dtype);
    const S4Tensors before = layer(c["before"], H, N, dtype);
    S4Scores scores;
    if (rule == "displacement") {
      scores = displacement_scores(now, before, c["power"]);
    } else if (rule == "compat") {
      scores = compat_scores(now, before, c["power"]);
    } else if (rule == "gradient") {
      scores = gradient_scores(now, tensor(c["output"], {H, H}, dtype));
    } else {
      REQUIRE(rule == "soft");
      scores = soft_scores(now, before, c["threshold"]);
    }
    for (const double score : scores.select_states) not_finite += !std::isfinite(score);
    const S4Counts counts{c["counts"][0], c["counts"][1], c["counts"][2], c["counts"][3]};
    const LayerSelection selection = select_s4("layers.0", scores, counts, rule == "soft");
    selection.check();
    const json& expected = c["expected"];
    CHECK(selection.select_channels == expected["select_channels"].get<Indices>());
    CHECK(selection.select_states == expected["select_states"].get<std::vector<Indices>>());
    CHECK(selection.channels == expected["channels"].get<Indices>());
    CHECK(selection.states == expected["states"].get<std::vector<Indices>>());
  }
  CHECK(cases.size() == 56);
  CHECK(not_finite > 100);
}

TEST_CASE("sdt of s4: the example's scores, slips included") {
  const json a = golden_json("s4_example.json")["A_deep_s4_peft_layer"];
  const std::int64_t H = a["H"];
  const std::int64_t N = a["N"];
  const std::int64_t L = a["L"];
  for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
    const S4Tensors before = layer(a["params"], H, N, dtype);
    // The example's tuned layer: its sparse updates applied.
    json tuned = a["params"];
    const json& sdt = a["sdt"];
    for (std::size_t i = 0; i < sdt["update_channels"].size(); ++i) {
      const std::size_t h = sdt["update_channels"][i];
      for (std::size_t k = 0; k < sdt["update_states"][i].size(); ++k) {
        const std::size_t n = sdt["update_states"][i][k];
        const auto add = [](json& to, const json& by) { to = to.get<double>() + by.get<double>(); };
        add(tuned["log_A_real"][h][n], sdt["dlog_A_real"][i][k]);
        add(tuned["A_imag"][h][n], sdt["dA_imag"][i][k]);
        add(tuned["C"][h][n][0], sdt["dC"][i][k][0]);
        add(tuned["C"][h][n][1], sdt["dC"][i][k][1]);
      }
    }
    const S4Scores scores = compat_scores(layer(tuned, H, N, dtype), before, L / 2);
    const json& expected = a["magnitude"];
    const double tolerance = dtype == Dtype::f64 ? 1e-12 : 2e-5;
    CHECK(error(scores.select_states, expected["importance_state"]) <= tolerance);
    CHECK(error(scores.select_channels, expected["importance_channel"]) <= tolerance);
    CHECK(error(scores.update_states, expected["update_state"]) <= tolerance);
    CHECK(error(scores.update_channels, expected["update_channel"]) <= tolerance);
  }
}

TEST_CASE("sdt of s4: displacement holds where A is nothing, and refuses what is not finite") {
  S4Tensors now{Tensor::from({1}, std::vector<double>{-2.0}),
                Tensor::from({1, 2}, std::vector<double>{-INFINITY, -30.0}),
                Tensor::from({1, 2}, std::vector<double>{0.0, 0.0}),
                Tensor::from({1, 2, 2}, std::vector<double>{3, 4, 3, 4})};
  const S4Scores scores = displacement_scores(now, now, 5);
  // (exp(dt A) - 1) / A tends to dt.
  for (const double score : scores.select_states) {
    CHECK(std::abs(score / (5 * std::exp(-2.0)) - 1) <= 1e-12);
  }
  CHECK_NOTHROW(check_finite("layers.0", scores));
  now.C.fill(NAN);
  CHECK_THROWS_AS(check_finite("layers.0", displacement_scores(now, now, 5)), NumericError);
}

TEST_CASE("sdt of s4: a warm-up's displacements decide") {
  // Only one state of one channel of each layer is moved by hand, as if the warm-up had.
  const auto model = tiny_s4();
  const auto adapter = attach(*model, R"({"peft_type": "SDT_S4", "update_channels": 1,
      "update_states": 1, "warmup_steps": 1})");
  for (const int i : {0, 1}) {
    const Tensor A_imag = model->find_parameter(str("layers.", i, ".kernel.A_imag"))->value();
    A_imag.select(0, 2 + i).select(0, 1 + i).fill(9);
  }
  adapter->finish_warmup();
  for (const std::int32_t i : {0, 1}) {
    const LayerSelection& selection = adapter->selections()[static_cast<std::size_t>(i)];
    CHECK(selection.channels == Indices{2 + i});
    CHECK(selection.states == std::vector<Indices>{{1 + i}});
    CHECK(selection.zero_channels.empty());
  }
  CHECK(model->trainable_count() == 2 * 4);
}

TEST_CASE("sdt of s4: the rule 'gradient' ranks by the gradient of one batch") {
  const auto model = tiny_s4();
  const auto adapter = attach(*model, R"({"peft_type": "SDT_S4", "update_channels": 2,
      "update_states": 2, "rule": "gradient"})");
  CHECK(adapter->warmup_forwards(100) == 1);
  CHECK(adapter->needs_warmup_gradients());
  s4_warm_up(*model, *adapter);
  const auto other = tiny_s4();
  for (const auto& parameter : other->parameters()) parameter->train_dense();
  Tape tape;
  tape.backward(sequence_loss(*other, s4_batch(*other, 100), {}).loss);
  for (const LayerSelection& selection : adapter->selections()) {
    const auto grad = [&](const char* name) {
      return other->find_parameter(selection.layer + name)->var().grad().to_vector();
    };
    const auto C = grad(".kernel.C");
    const auto real = grad(".kernel.log_A_real");
    const auto imag = grad(".kernel.A_imag");
    const auto W = grad(".output_linear.weight");
    std::vector<double> channels(6);
    std::vector<std::vector<double>> states(6, std::vector<double>(4));
    for (std::size_t h = 0; h < 6; ++h) {
      for (std::size_t n = 0; n < 4; ++n) {
        const std::size_t i = 4 * h + n;
        states[h][n] = C[2 * i] * C[2 * i] + C[2 * i + 1] * C[2 * i + 1] + real[i] * real[i] +
                       imag[i] * imag[i];
        channels[h] += states[h][n];
      }
      for (std::size_t row = 0; row < 6; ++row) channels[h] += W[6 * row + h] * W[6 * row + h];
    }
    const Indices best = order_of(channels);
    CHECK(selection.channels == Indices(best.begin(), best.begin() + 2));
    for (std::size_t i = 0; i < 2; ++i) {
      const Indices of = order_of(states[static_cast<std::size_t>(selection.channels[i])]);
      CHECK(selection.states[i] == Indices(of.begin(), of.begin() + 2));
    }
    CHECK(selection.select_channels.size() == 6);
  }
}

TEST_CASE("sdt of s4: the rule 'loss' keeps those without which the loss is largest") {
  for (const bool zero : {true, false}) {
    CAPTURE(zero);
    const auto model = tiny_s4();
    const auto adapter =
        attach(*model, str(R"({"peft_type": "SDT_S4", "select_channels": 4, "update_channels": 2,
        "select_states": 3, "update_states": 2, "rule": "loss", "zero_unselected": )",
                           zero ? "true}" : "false}"));
    int probes = 0;
    adapter->set_probe([&] {
      ++probes;
      return s4_loss(*model, 5);
    });
    adapter->finish_warmup();
    CHECK(probes == 2 * (6 + 2 * 4));

    const auto other = tiny_s4();
    for (std::size_t i = 0; i < 2; ++i) {
      const LayerSelection& selection = adapter->selections()[i];
      const Tensor C = other->find_parameter(selection.layer + ".kernel.C")->value();
      const auto without = [&](const Tensor& part) {
        const Tensor kept = part.clone();
        part.fill(0);
        const double loss = s4_loss(*other, 5);
        part.copy_from(kept);
        return loss;
      };
      std::vector<double> losses;
      for (std::int64_t h = 0; h < 6; ++h) losses.push_back(without(C.select(0, h)));
      const Indices order = order_of(losses);
      CHECK(selection.select_channels == Indices(order.begin(), order.begin() + 4));
      CHECK(selection.channels == Indices(order.begin(), order.begin() + 2));
      // The others are zero from here on.
      if (zero) {
        for (const std::size_t k : {4, 5}) C.select(0, order[k]).fill(0);
      }
      for (std::size_t k = 0; k < 2; ++k) {
        losses.clear();
        for (std::int64_t n = 0; n < 4; ++n) {
          losses.push_back(without(C.select(0, order[k]).select(0, n)));
        }
        const Indices states = order_of(losses);
        CHECK(selection.states[k] == Indices(states.begin(), states.begin() + 2));
        CHECK(selection.select_states[k] == Indices(states.begin(), states.begin() + 3));
      }
    }
  }
  const auto model = tiny_s4();
  const auto adapter = attach(*model, R"({"peft_type": "SDT_S4", "rule": "loss"})");
  adapter->set_probe([] { return NAN; });
  CHECK_THROWS_AS(adapter->finish_warmup(), NumericError);
}

TEST_CASE("sdt of s4: the rule 'random' depends on the seed") {
  const auto drawn = [](std::uint64_t seed) {
    const auto model = tiny_s4();
    const auto adapter = attach(*model, R"({"peft_type": "SDT_S4", "rule": "random",
        "select_channels": 3, "select_states": 2})",
                                seed);
    return adapter->selections();
  };
  std::set<Indices> seen;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    const auto once = drawn(seed);
    const auto again = drawn(seed);
    CHECK(once[0].channels == again[0].channels);
    CHECK(once[0].states == again[0].states);
    CHECK(once[0].channels == once[0].select_channels);
    seen.insert(once[0].channels);
    seen.insert(once[1].channels);
  }
  CHECK(seen.size() > 8);
}

TEST_CASE("sdt of s4: the penalty of the soft mode, its gradient, and what it leaves") {
  const auto soft = [](double select, double update) {
    return str(R"({"peft_type": "SDT_S4", "warmup_steps": 30, "mode": "soft",
        "warmup_weight_decay": 0, "select_penalty": )",
               select, R"(, "update_penalty": )", update, "}");
  };
  {
    const auto model = tiny_s4();
    const auto adapter = attach(*model, soft(0.25, 0.5));
    const auto before = s4_values(*model);
    redraw_trainables(*model, 3, 0.7);
    // By hand, of every layer.
    double expected = 0;
    for (const std::string layer : {"layers.0.kernel.", "layers.1.kernel."}) {
      const auto value = [&](const char* name) {
        return model->find_parameter(layer + name)->value().to_vector();
      };
      const auto C = value("C");
      const auto real = value("log_A_real");
      const auto imag = value("A_imag");
      const auto real0 = before.at(layer + "log_A_real").to_vector();
      const auto imag0 = before.at(layer + "A_imag").to_vector();
      for (std::size_t i = 0; i < real.size(); ++i) {
        expected +=
            0.25 * (std::abs(C[2 * i]) * std::exp(real[i]) + std::abs(C[2 * i + 1] * imag[i]));
        expected += 0.5 * (std::abs(real[i] - real0[i]) + std::abs(imag[i] - imag0[i]));
      }
    }
    Tape tape;
    const Var penalty = adapter->warmup_penalty();
    CHECK(std::abs(penalty.value().to_vector()[0] / expected - 1) <= 1e-5);
    tape.backward(penalty);
    const auto parameter = model->find_parameter("layers.1.kernel.C");
    const auto C = parameter->value().to_vector();
    const auto A = model->find_parameter("layers.1.kernel.log_A_real")->value().to_vector();
    const auto gradient = parameter->var().grad().to_vector();
    for (std::size_t i = 0; i < A.size(); ++i) {
      const double slope = 0.25 * std::exp(A[i]) * (C[2 * i] > 0 ? 1 : -1);
      CHECK(std::abs(gradient[2 * i] - slope) <= 1e-6);
    }
  }
  // The stronger the penalty, the fewer entries train; without one nearly all do.
  std::vector<std::size_t> counts;
  for (const double strength : {0.0, 1e-3, 100.0}) {
    const auto model = tiny_s4();
    const auto adapter = attach(*model, soft(0, strength));
    s4_warm_up(*model, *adapter);
    std::size_t count = 0;
    for (const LayerSelection& selection : adapter->selections()) {
      for (const auto& states : selection.states) count += states.size();
    }
    counts.push_back(count);
  }
  CHECK(counts[0] >= 40);
  CHECK(counts[1] < counts[0]);
  CHECK(counts[1] > counts[2]);
  CHECK(counts[2] == 2);  // the first of each layer stays
}
