// Steps that are recorded and replayed against steps that are not, and what neither may do.
#include <cmath>

#include "models/train_step.h"
#include "peft/adapter.h"
#include "tests/cuda/device_test.h"
#include "tests/support/tiny_mamba.h"

#if __has_include("simt/control.h")  // the emulator's: a device of any size
#include "simt/control.h"
#endif

using namespace adder;
using namespace adder::test;

namespace {

constexpr const char* kSdt =
    R"({"peft_type": "SD_LORA", "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"],
        "num_zero": {"state": 0, "channel": 1}, "num_freeze": {"state": 0.5, "channel": 0.5},
        "proj_lora_r": 2, "proj_lora_dropout": 0.1, "num_warmup_it": 9, "sdlora_alpha": {"global": 3}})";

struct Run {
  Run(Device device, bool record, bool sgd, bool dense) : model(tiny_mamba()) {
    model->to(device);
    if (dense) {
      for (const ParameterPtr& parameter : model->parameters()) parameter->train_dense();
    } else {
      adapter = Adapter::attach(*model, PeftConfig::parse(kSdt, "test"), 3);
    }
    start(record, sgd);
  }
  void start(bool record, bool sgd) {
    step.reset();
    auto trainables = collect_trainables(model->parameters());
    optimizer = sgd ? make_sgd(std::move(trainables), {.momentum = 0.9, .weight_decay = 0.01})
                    : make_adamw(std::move(trainables), {.weight_decay = 0.01});
    step = std::make_unique<TrainStep>(
        *model, *optimizer, TrainStepOptions{.seed = 4, .max_norm = 1, .record = record});
  }
  // {loss, right answers, norm, clip factor} of step k; lengths alternate.
  std::vector<double> run(int k, std::int64_t batches = 1) {
    std::vector<StepBatch> all;
    for (std::int64_t i = 0; i < batches; ++i) {
      const Shape shape{2, k % 3 == 1 ? 7 : 5};
      const auto seed = static_cast<std::uint64_t>(1000 * i + k);
      const Tensor labels = random_ids(shape, 29, 500 + seed);
      labels.slice(1, 0, 2).fill(kIgnoreLabel);
      all.push_back({random_ids(shape, 29, 50 + seed), labels});
    }
    StepResult result = step->run(all, static_cast<std::uint64_t>(k * batches), 1e-2 / (k + 1));
    // What else a run does between steps must not lie where a replay writes.
    keep.push_back(Tensor::full({40 + k}, k, Dtype::f32, model->device()));
    std::vector<double> numbers;
    for (Readback& each : result.losses) {
      for (const double value : each.values()) numbers.push_back(value);
    }
    for (const double value : result.clip.values()) numbers.push_back(value);
    return numbers;
  }
  std::vector<std::vector<double>> weights() const {
    std::vector<std::vector<double>> all;
    for (const ParameterPtr& parameter : model->parameters()) {
      all.push_back(parameter->value().to_vector());
    }
    for (const auto& [name, tensor] : optimizer->state()) all.push_back(tensor.to_vector());
    return all;
  }
  std::unique_ptr<Mamba> model;
  std::unique_ptr<Adapter> adapter;
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<TrainStep> step;
  std::vector<Tensor> keep;
};

}  // namespace

TEST_CASE("recorded steps give the same bits as plain ones") {
  if (!has_device()) return;
  for (const bool sgd : {false, true}) {
    for (const bool dense : {false, true}) {
      CAPTURE(sgd);
      CAPTURE(dense);
      Run plain(kCuda, false, sgd, dense);
      Run recorded(kCuda, true, sgd, dense);
      for (int k = 0; k < 8; ++k) {
        CAPTURE(k);
        if (k == 4 && !dense) {  // another set of trainables: everything starts anew
          for (Run* each : {&plain, &recorded}) {
            each->step.reset();
            each->adapter->finish_warmup();
          }
          plain.start(false, sgd);
          recorded.start(true, sgd);
        }
        CHECK(recorded.run(k) == plain.run(k));
        if (k == 3 || k == 7) CHECK(recorded.step->replays() >= 1);
      }
      CHECK(plain.step->replays() == 0);
      CHECK(recorded.optimizer->steps() == plain.optimizer->steps());
      CHECK(recorded.weights() == plain.weights());
      for (std::size_t i = 0; i < recorded.keep.size(); ++i) {
        const auto k = static_cast<double>(i);
        CHECK(recorded.keep[i].to_vector() == std::vector<double>(40 + i, k));
      }
    }
  }
}

TEST_CASE("a step on the device follows the CPU's, with accumulated gradients too") {
  if (!has_device()) return;
  for (const std::int64_t batches : {1, 3}) {
    Run cpu({}, true, false, false);
    Run device(kCuda, true, false, false);
    for (int k = 0; k < 5; ++k) {
      const std::vector<double> expected = cpu.run(k, batches);
      const std::vector<double> got = device.run(k, batches);
      REQUIRE(got.size() == expected.size());
      for (std::size_t i = 0; i < got.size(); ++i) {
        CAPTURE(i);
        const double tolerance = i + 2 < got.size() ? 2e-4 : 1e-3;  // losses; norm and factor
        CHECK(std::abs(got[i] - expected[i]) <= tolerance * std::abs(expected[i]));
      }
    }
    CHECK(cpu.step->replays() == 0);
    CHECK((device.step->replays() > 0) == (batches == 1));  // only single batches are recorded
  }
}

TEST_CASE("a step whose gradient is not finite says so and changes nothing") {
  if (!has_device()) return;
  for (const Device device : {Device{}, kCuda}) {
    Run run(device, true, false, false);
    for (const int k : {0, 2}) run.run(k);
    const Tensor norm = run.model->find_parameter("backbone.norm_f.weight")->value();
    const Tensor good = norm.clone();
    norm.slice(0, 0, 1).fill(std::nan(""));
    const auto before = run.weights();
    for (const int k : {3, 4, 5}) {  // recorded and plain
      const std::vector<double> numbers = run.run(k);
      CHECK(std::isnan(numbers[0]));
      CHECK(std::isnan(numbers[2]));
    }
    norm.copy_from(good);
    const auto after = run.weights();
    for (std::size_t i = 0; i < before.size(); ++i) {
      CAPTURE(i);
      const bool poisoned_one = std::isnan(before[i].front());
      CHECK((poisoned_one || before[i] == after[i]));
    }
    CHECK(std::isfinite(run.run(6)[0]));
  }
}

TEST_CASE("a step refuses ids and labels outside the vocabulary") {
  Run run({}, true, false, false);
  const Tensor good = random_ids({1, 4}, 29, 1);
  const Tensor bad = Tensor::full({1, 4}, 29, Dtype::i32);
  CHECK_THROWS_AS(run.step->run({{bad, good}}, 0, 0.1), ShapeError);
  CHECK_THROWS_AS(run.step->run({{good, bad}}, 0, 0.1), ShapeError);
  CHECK_THROWS_AS(run.step->run({{good, random_ids({1, 5}, 29, 1)}}, 0, 0.1), ShapeError);
}

TEST_CASE("memory that recordings hold goes to who needs it, and training goes on without them") {
  if (!has_device()) return;
  Run plain(kCuda, false, false, false);
  Run recorded(kCuda, true, false, false);
  for (const int k : {0, 2, 3, 5}) CHECK(recorded.run(k) == plain.run(k));
  const std::int64_t replays = recorded.step->replays();
  CHECK(replays == 3);
  release_cached_memory(kCuda);
  const std::int64_t aside = memory_stats(kCuda).cached_bytes;
  REQUIRE(aside > 0);
#if __has_include("simt/control.h")
  struct Restore {
    ~Restore() { simt::set_device_memory(std::size_t{4} << 30U); }
  } restore;
  simt::set_device_memory(simt::device_bytes_in_use());
  const Tensor needed = Tensor::full({aside / 2}, 7, Dtype::u8, kCuda);
  CHECK(needed.to_vector().back() == 7);
  CHECK(memory_stats(kCuda).cached_bytes < aside);
  simt::set_device_memory(std::size_t{4} << 30U);
#else
  CHECK_THROWS_AS(Tensor::empty({std::int64_t{1} << 50}, Dtype::u8, kCuda), DeviceError);
  CHECK(memory_stats(kCuda).cached_bytes == 0);
#endif
  CHECK(recorded.step->recorded_launches() == 0);
  for (const int k : {6, 8, 9}) CHECK(recorded.run(k) == plain.run(k));
  CHECK(recorded.step->replays() == replays);
  CHECK(recorded.weights() == plain.weights());
}
