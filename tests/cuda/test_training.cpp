// A whole fine-tuning run on the device, against the same run on the CPU.
#include <cmath>

#include "autograd/optim.h"
#include "models/generate.h"
#include "peft/adapter.h"
#include "tests/cuda/device_test.h"
#include "tests/support/tiny_mamba.h"

using namespace adder;
using namespace adder::test;

namespace {

constexpr const char* kSdt =
    R"({"peft_type": "SD_LORA", "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"],
        "num_zero": {"state": 0, "channel": 1}, "num_freeze": {"state": 0.5, "channel": 0.5},
        "proj_lora_r": 2, "proj_lora_dropout": 0.1, "num_warmup_it": 9})";
constexpr int kSteps = 30;

struct Run {
  explicit Run(Device device) : model(tiny_mamba()) {
    model->to(device);
    adapter = Adapter::attach(*model, PeftConfig::parse(kSdt, "test"), 3);
    optimizer = make_adamw(collect_trainables(model->parameters()));
  }
  double step(int k) {
    if (k == 10) {  // the warm-up is over: select, start again
      adapter->finish_warmup();
      optimizer = make_adamw(collect_trainables(model->parameters()));
    }
    const Tensor ids = random_ids({3, 11}, 29, 50 + static_cast<std::uint64_t>(k));
    const Tensor labels = random_ids({3, 11}, 29, 90 + static_cast<std::uint64_t>(k));
    Tape tape;
    const HeadLossResult loss = model->loss(
        ids, labels, {.training = true, .seed = 4, .micro_batch = static_cast<std::uint64_t>(k)});
    tape.backward(loss.loss);
    adapter->accumulate_warmup_statistics();
    const double norm = gradient_norm(optimizer->trainables());
    optimizer->step(5e-3, clip_factor(norm, 1));
    return loss.loss.value().item();
  }
  std::unique_ptr<Mamba> model;
  std::unique_ptr<Adapter> adapter;
  std::unique_ptr<Optimizer> optimizer;
};

}  // namespace

TEST_CASE("30 steps of LoRA and SDT on the device follow the CPU's") {
  if (!has_device()) return;
  Run cpu({});
  Run device(kCuda);
  double first = 0;
  double last = 0;
  for (int k = 0; k < kSteps; ++k) {
    const double expected = cpu.step(k);
    const double got = device.step(k);
    CAPTURE(k);
    CHECK(std::abs(got / expected - 1) <= 2e-4);
    if (k == 0) first = expected;
    last = expected;
  }
  CHECK(std::isfinite(last));
  CHECK(first != last);
  const auto a = cpu.adapter->state();
  const auto b = device.adapter->state();
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(a[i].first);
    CHECK(relative_error(b[i].second, a[i].second) <= 5e-3);
  }
}

TEST_CASE("generation on the device gives the CPU's tokens") {
  if (!has_device()) return;
  const auto cpu = tiny_mamba();
  const auto device = tiny_mamba();
  device->to(kCuda);
  GenerationOptions options;
  options.max_new_tokens = 12;
  for (const std::vector<std::int32_t>& prompt :
       {std::vector<std::int32_t>{1, 2, 3}, {4, 5, 6, 7, 8}}) {
    CHECK(generate(*device, prompt, options).ids == generate(*cpu, prompt, options).ids);
  }
}

TEST_CASE("memory on the device is counted and given back") {
  if (!has_device()) return;
  release_cached_memory(kCuda);
  const MemoryStats before = memory_stats(kCuda);
  {
    const Tensor tensor = Tensor::zeros({1000}, Dtype::f32, kCuda);
    CHECK(memory_stats(kCuda).current_bytes >= before.current_bytes + 4000);
    CHECK(tensor.to_vector() == std::vector<double>(1000, 0.0));
  }
  CHECK(memory_stats(kCuda).current_bytes == before.current_bytes);
  CHECK(memory_stats(kCuda).cached_bytes > before.cached_bytes);
  CHECK_THROWS_AS(Tensor::empty({std::int64_t{1} << 50}, Dtype::u8, kCuda), DeviceError);
}
