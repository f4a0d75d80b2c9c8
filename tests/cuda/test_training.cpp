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

// bfloat16 as `--precision bf16` sets it up: activations, and the matrices that do not train.
void narrow(Mamba& model) {
  model.set_activations(Dtype::bf16);
  for (const ParameterPtr& parameter : model.parameters()) {
    const bool frozen_matrix = parameter->value().rank() == 2 && !parameter->trainable() &&
                               parameter->role() != Role::A_log &&
                               parameter->role() != Role::conv_weight;
    if (frozen_matrix) parameter->set_value(parameter->value().to(Dtype::bf16));
  }
}

struct Run {
  explicit Run(Device device, bool half = false) : model(tiny_mamba()) {
    model->to(device);
    adapter = Adapter::attach(*model, PeftConfig::parse(kSdt, "test"), 3);
    if (half) narrow(*model);
    optimizer = make_adamw(collect_trainables(model->parameters()));
  }
  double step(int k) { return step(k, k); }
  double step(int k, int batch) {
    if (k == 10) {  // the warm-up is over: select, start again
      adapter->finish_warmup();
      optimizer = make_adamw(collect_trainables(model->parameters()));
    }
    const Tensor ids = random_ids({3, 11}, 29, 50 + static_cast<std::uint64_t>(batch));
    const Tensor labels = random_ids({3, 11}, 29, 90 + static_cast<std::uint64_t>(batch));
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

// Every activation is rounded by up to one part in 512, and these errors are independent, so a loss
// that averages them moves by less; what is left is that of weights that learned from such
// gradients: a few parts in ten thousand.
TEST_CASE("30 steps in bfloat16 follow those in float32") {
  if (!has_device()) return;
  Run single(kCuda);
  Run half(kCuda, true);
  double first[2] = {};
  double last[2] = {};
  bool same = true;
  for (int k = 0; k < kSteps; ++k) {
    const double expected = single.step(k, 0);
    const double got = half.step(k, 0);
    CAPTURE(k);
    CHECK(std::abs(got / expected - 1) <= 1e-2);
    same = same && got == expected;
    if (k == 0) {
      first[0] = expected;
      first[1] = got;
    }
    last[0] = expected;
    last[1] = got;
  }
  CHECK(!same);  // it is another precision
  // What the run learned, on one batch again and again, and not only where it stands.
  const double learned = first[0] - last[0];
  CHECK(learned > 0.05);
  CHECK(std::abs((first[1] - last[1]) / learned - 1) <= 0.15);
  for (const Trainable& trainable : half.optimizer->trainables()) {
    CHECK(trainable.value.dtype() == Dtype::f32);
  }
  for (const auto& [name, tensor] : half.adapter->state()) {
    CAPTURE(name);
    CHECK(tensor.dtype() != Dtype::bf16);
  }
}

TEST_CASE("every parameter's gradient in bfloat16 is that of float64 on the CPU") {
  if (!has_device()) return;
  const Tensor ids = random_ids({2, 33}, 29, 1);
  const Tensor labels = random_ids({2, 33}, 29, 2);
  const auto gradients = [&](Mamba& model, bool recompute) {
    for (const ParameterPtr& parameter : model.parameters()) parameter->train_dense();
    Tape tape;
    tape.backward(model.loss(ids, labels, {.training = true, .recompute = recompute}).loss);
    std::vector<Tensor> all;
    for (const ParameterPtr& parameter : model.parameters()) {
      all.push_back(parameter->var().grad());
    }
    return all;
  };
  const auto start = tiny_mamba();
  Mamba exact(start->config(), Dtype::f64);
  for (std::size_t i = 0; i < start->parameters().size(); ++i) {
    exact.parameters()[i]->value().copy_from(start->parameters()[i]->value());
  }
  const std::vector<Tensor> expected = gradients(exact, false);
  std::vector<Tensor> kept;
  for (const bool recompute : {false, true}) {
    CAPTURE(recompute);
    const auto model = tiny_mamba();
    model->to(kCuda);
    narrow(*model);
    for (const ParameterPtr& parameter : model->parameters()) {
      parameter->set_value(parameter->value().to(Dtype::f32));
    }
    const std::vector<Tensor> got = gradients(*model, recompute);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(model->parameters()[i]->name());
      CHECK(got[i].dtype() == Dtype::f32);
      CHECK(relative_error(got[i], expected[i]) <= 3e-2);
      if (recompute) CHECK(got[i].to_vector() == kept[i].to_vector());
    }
    kept = got;
  }
}

TEST_CASE("generation in bfloat16: the recurrent form is the parallel one") {
  if (!has_device()) return;
  const auto single = tiny_mamba();
  const auto half = tiny_mamba();
  half->to(kCuda);
  narrow(*half);
  const Tensor ids = random_ids({2, 20}, 29, 3);
  const auto state = half->new_state(2);
  Tensor logits = half->prefill(ids.slice(1, 0, 5), *state);
  const Tensor parallel = half->logits(ids);
  const Tensor exact = single->logits(ids);
  CHECK(parallel.dtype() == Dtype::f32);
  CHECK(relative_error(parallel, exact) <= 2e-2);
  for (std::int64_t t = 5; t <= 20; ++t) {
    CAPTURE(t);
    CHECK(logits.dtype() == Dtype::f32);
    CHECK(relative_error(logits, parallel.select(1, t - 1)) <= 2e-2);
    if (t < 20) logits = half->step(ids.select(1, t).contiguous(), *state);
  }
  GenerationOptions options;
  options.max_new_tokens = 12;
  const std::vector<std::int32_t> prompt{4, 5, 6, 7, 8};
  const Generation greedy = generate(*half, prompt, options);
  CHECK(greedy.ids.size() == 12);
  options.num_beams = 3;  // reorders the states
  CHECK(generate(*half, prompt, options).ids.size() == 12);
}

TEST_CASE("bfloat16 activations are for a device") {
  const auto model = tiny_mamba();
  CHECK_THROWS_AS(model->set_activations(Dtype::bf16), DtypeError);
  CHECK_THROWS_AS(model->set_activations(Dtype::f64), DtypeError);
  model->set_activations(Dtype::f32);
  CHECK(model->activations() == Dtype::f32);
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
