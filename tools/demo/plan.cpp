#include "tools/demo/plan.h"

#include <algorithm>

#include "engine/text/tokenizer.h"

namespace adder::tools {
namespace {

// The same LoRA on the projections in both methods that have one, so that their difference is SDT
// alone.
constexpr const char* kLora = R"json({
  "peft_type": "LORA",
  "target_modules": ["in_proj_x", "in_proj_z", "out_proj"],
  "r": 4, "lora_alpha": 4, "lora_dropout": 0.0
})json";

constexpr const char* kSdt = R"json({
  "peft_type": "SD_LORA",
  "target_modules": ["A_log", "x_proj_B", "x_proj_C", "in_proj_x", "in_proj_z", "out_proj"],
  "num_zero": {"state": 0, "channel": 0},
  "num_freeze": {"state": 0.75, "channel": 0.9},
  "num_warmup_it": 49,
  "proj_lora_r": 4, "proj_lora_dropout": 0.0
})json";

}  // namespace

DemoPlan make_plan(bool quick, std::uint64_t seed, int threads) {
  DemoPlan plan;
  plan.model.hidden_size = quick ? 48 : 64;
  plan.model.inner_size = 2 * plan.model.hidden_size;
  plan.model.time_step_rank = plan.model.hidden_size / 16;
  plan.model.num_layers = quick ? 2 : 4;
  // A row more than tokens would do; a multiple of 8 suits the kernels.
  plan.model.vocab_size = (std::int64_t{Tokenizer::byte_level().vocab_size()} + 7) / 8 * 8;
  plan.max_new_tokens = 120;  // the longest sentence has under 100 bytes

  plan.a = quick ? SplitSizes{400, 32, 16} : SplitSizes{8000, 100, 200};
  plan.b = quick ? SplitSizes{128, 32, 16} : SplitSizes{600, 100, 200};

  TrainConfig& pre = plan.pretraining;
  pre.seed = seed;
  pre.threads = threads;
  pre.batch_size = 16;
  pre.epochs = quick ? 2 : 7;
  pre.lr = 4e-3;
  pre.schedule = "cosine";
  pre.warmup = quick ? 5 : 50;
  pre.log_every = quick ? 1 : 10;
  pre.no_save = true;

  TrainConfig adapting = pre;
  adapting.batch_size = 8;
  adapting.epochs = quick ? 2 : 20;
  adapting.schedule = "linear";
  adapting.warmup = 0;
  adapting.log_every = quick ? 1 : 4;
  // Only the last checkpoint matters: the report reads SDT's displacements from it.
  adapting.no_save = false;
  adapting.save_every = 1 << 30;

  DemoMethod nothing{.key = "nothing",
                     .name = "Nothing",
                     .trains = "the pretrained model as it is",
                     .peft = "",
                     .config = adapting,
                     .adapts = false};
  DemoMethod lora{.key = "lora",
                  .name = "LoRA",
                  .trains = "low-rank updates (rank 4) of the input and output projections",
                  .peft = kLora,
                  .colour = 1,
                  .config = adapting};
  lora.config.lr = 2e-2;
  DemoMethod sdt{.key = "sdt-lora",
                 .name = "SDT + LoRA",
                 .trains = "the same, and selected channels and states of the state space layers",
                 .peft = kSdt,
                 .colour = 2,
                 .config = adapting};
  sdt.config.lr = 2e-2;
  if (quick) sdt.peft.replace(sdt.peft.find("49"), 2, "7");
  DemoMethod full{.key = "full",
                  .name = "Full fine-tuning",
                  .trains = "every weight",
                  .peft = "",
                  .colour = 3,
                  .config = adapting};
  full.config.lr = 3e-3;
  plan.methods = {nothing, lora, sdt, full};
  return plan;
}

}  // namespace adder::tools
