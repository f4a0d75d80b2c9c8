// Fine-tunes a small Mamba with sparse dimension tuning (SDT) and LoRA through the library: a
// warm-up in which all state parameters move, the selection of the dimensions that moved most, and
// the training of these alone. Usage: finetune_sdt ADAPTER_DIRECTORY
#include <cstdio>

#include "autograd/optim.h"
#include "engine/io/file.h"
#include "models/mamba.h"
#include "peft/adapter.h"

constexpr const char* kMethod = R"({"peft_type": "SD_LORA", "proj_lora_r": 8, "num_warmup_it": 9,
  "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"],
  "num_zero": {"state": 0, "channel": 0}, "num_freeze": {"state": 0.75, "channel": 0.9}})";

int main(int argc, char** argv) try {
  using namespace adder;
  const char* directory = argc > 1 ? argv[1] : "adapter";
  // Mamba::load("mamba-130m") would read a published model; this one starts from random weights.
  const auto model = Mamba::init(
      {.hidden_size = 32, .num_layers = 2, .vocab_size = 64, .inner_size = 64, .time_step_rank = 2},
      /*seed=*/1);
  const auto adapter = Adapter::attach(*model, PeftConfig::parse(kMethod, "kMethod"), /*seed=*/42);
  const Tensor ids = Tensor::from<std::int32_t>({1, 6}, {5, 9, 13, 5, 9, 13});
  const Tensor labels = Tensor::from<std::int32_t>({1, 6}, {kIgnoreLabel, 13, 5, 9, 13, 5});
  const std::int64_t steps = 60;
  const std::int64_t warmup = adapter->warmup_forwards(steps);
  auto optimizer = make_adamw(collect_trainables(model->parameters()));
  for (std::int64_t step = 0; step < warmup + steps; ++step) {
    if (step == warmup) {
      adapter->finish_warmup();  // back to the start, with the chosen dimensions
      optimizer = make_adamw(collect_trainables(model->parameters()));
    }
    Tape tape;
    const Var loss = model->loss(ids, labels, {.training = true, .seed = 42}).loss;
    tape.backward(loss);
    optimizer->step(5e-3);
    if (step % 10 == 0) std::printf("loss %.4f\n", loss.value().item());
  }
  make_directories(directory);
  adapter->save(directory);
} catch (const adder::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
