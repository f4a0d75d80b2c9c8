#include <cmath>

#include "bench/cuda/rows.h"
#include "bench/step.h"
#include "tools/train/setup.h"

namespace adder::bench {
namespace {

struct Size {
  const char* name;
  MambaConfig config;
};

Size size_130m() {
  return {"130m", shape_130m()};
}
Size size_1400m() {
  MambaConfig config;
  config.hidden_size = 2048;
  config.num_layers = 48;
  config.inner_size = 4096;
  config.time_step_rank = 128;
  return {"1.4b", config};
}
Size size_tiny() {
  MambaConfig config;
  config.hidden_size = 12;
  config.num_layers = 2;
  config.vocab_size = 29;
  config.state_size = 5;
  config.inner_size = 128;  // of which SDT leaves two
  config.time_step_rank = 3;
  return {"tiny", config};
}

// Values of the right sizes, drawn on the device: a billion of them would take the host a minute.
std::unique_ptr<Mamba> make_model(const Harness& harness, const MambaConfig& config) {
  auto model = std::make_unique<Mamba>(config);
  model->to(harness.device());
  for (const ParameterPtr& parameter : model->parameters()) {
    const Tensor& value = parameter->value();
    const auto draw = [&](double low, double high) {
      value.copy_from(harness.uniform(value.shape(), value.dtype(), low, high));
    };
    switch (parameter->role()) {
      case Role::norm:
      case Role::D:
        value.fill(1);
        break;
      case Role::A_log:
        draw(0, 2.8);
        break;
      case Role::dt_bias:
        draw(-7, -2);
        break;
      case Role::embedding:
        draw(-0.04, 0.04);
        break;
      default: {
        const double bound = 1 / std::sqrt(static_cast<double>(value.dim(-1)));
        draw(-bound, bound);
      }
    }
  }
  return model;
}

std::unique_ptr<Trainee> make_trainee(const Harness& harness, const MambaConfig& config,
                                      const char* peft, const std::string& precision) {
  auto trainee = std::make_unique<Trainee>(make_model(harness, config), peft);
  tools::TrainConfig options;
  options.precision = precision;
  tools::apply_precision(options, *trainee->model, trainee->adapter->needs_warmup());
  return trainee;
}

// The sum of the floors of a step's parts, which run one after the other: products forward and for
// the gradients of their inputs, scans, convolutions, norms, and the loss.
double floor_seconds(const Ceilings& ceilings, const MambaConfig& c, double tokens,
                     const std::string& precision) {
  const Dtype dtype = precision == "bf16" ? Dtype::bf16 : Dtype::f32;
  const auto size = static_cast<double>(dtype_size(dtype));
  const auto d = static_cast<double>(c.hidden_size);
  const auto e = static_cast<double>(c.inner_size);
  const auto n = static_cast<double>(c.state_size);
  const auto r = static_cast<double>(c.time_step_rank);
  const auto product = [&](double in, double out) {
    return 2 * ceilings
                   .floor({.bytes = size * (tokens * (in + out) + in * out),
                           .flops = 2 * tokens * in * out,
                           .product = dtype})
                   .seconds;
  };
  const double layer = product(d, 2 * e) + product(e, r + 2 * n) + product(r, e) + product(e, d) +
                       ceilings.floor(scan_forward_work(tokens, e, n, size)).seconds +
                       ceilings.floor(scan_backward_work(tokens, e, n, size)).seconds +
                       ceilings.floor(conv_work(tokens * e, size, false)).seconds +
                       ceilings.floor(conv_work(tokens * e, size, true)).seconds +
                       ceilings.floor({.bytes = 2 * tokens * d * (2 * size + 8)}).seconds;
  return static_cast<double>(c.num_layers) * layer + product(d, static_cast<double>(c.vocab_size));
}

struct Batch {
  Batch(const Harness& harness, const MambaConfig& config, std::int64_t batch, std::int64_t length)
      : ids(harness.ids({batch, length}, config.vocab_size, 1).to(Device{})),
        labels(harness.ids({batch, length}, config.vocab_size, 2).to(Device{})) {}
  Tensor ids, labels;
};

std::vector<double> step_seconds(const Harness& harness, Trainee& trainee, const Batch& batch) {
  const auto step = [&] { trainee.step(batch.ids, batch.labels); };
  const auto timed = [&] { return harness.wall_seconds(step); };
  for (int i = 0; i < 2; ++i) step();  // of a small batch: one plain, one recorded
  if (harness.tiny()) return {timed()};
  const double guess = timed();
  std::vector<double> seconds;
  const int repeats = static_cast<int>(std::clamp(2 / guess, 3.0, 15.0));
  for (int i = 0; i < repeats; ++i) seconds.push_back(timed());
  return seconds;
}

// LoRA + SDT, every position supervised. Where memory runs out the batch is halved; `batch` is what
// ran.
void step_at(Harness& harness, const Size& size, const std::string& precision, std::int64_t batch,
             std::int64_t length) {
  harness.line("step", [&] {
    const auto run = [&](std::int64_t sequences) {
      const auto trainee = make_trainee(harness, size.config, kSdt, precision);
      const Batch data(harness, size.config, sequences, length);
      reset_peak_memory(harness.device());
      const std::vector<double> seconds = step_seconds(harness, *trainee, data);
      const auto tokens = static_cast<double>(sequences * length);
      const double middle = median(seconds);
      const double floor = floor_seconds(harness.ceilings(), size.config, tokens, precision);
      return Json{{"model", size.name},
                  {"method", "LoRA + SDT"},
                  {"precision", precision},
                  {"asked_batch", batch},
                  {"batch", sequences},
                  {"length", length},
                  {"ms", 1e3 * middle},
                  {"least_ms", 1e3 * *std::min_element(seconds.begin(), seconds.end())},
                  {"repeats", seconds.size()},
                  {"recorded", trainee->train_step->replays() > 0},
                  {"tokens_per_s", tokens / middle},
                  {"floor_ms", 1e3 * floor},
                  {"share", floor / middle},
                  {"peak_tensor_bytes", memory_stats(harness.device()).peak_bytes}};
    };
    for (std::int64_t sequences = batch;; sequences /= 2) {
      try {
        return run(sequences);
      } catch (const DeviceError& error) {
        const bool memory = std::string(error.what()).starts_with("out of memory");
        if (!memory || sequences == 1) throw;
      }
      release_cached_memory(harness.device());
    }
  });
}

// Whether small batches wait for launches, in recorded steps as the trainer takes them: the time of
// a step over the time that the device is at work for it, 1 where it does not wait; and what twice
// as many sequences cost. A step that was not recorded is an error.
void small_batch(Harness& harness, const Size& size, const std::string& precision,
                 std::int64_t length) {
  harness.line("small_batch", [&] {
    const auto trainee = make_trainee(harness, size.config, kSdt, precision);
    std::vector<double> wall;
    std::vector<double> device;
    for (const std::int64_t sequences : {4, 8}) {
      const Batch batch(harness, size.config, sequences, length);
      const std::int64_t before = trainee->train_step->replays();
      wall.push_back(median(step_seconds(harness, *trainee, batch)));
      if (trainee->train_step->replays() == before) {
        throw DeviceError("small batch: its steps were not recorded");
      }
      std::vector<double> alone;
      for (int i = 0; i < (harness.tiny() ? 1 : 7); ++i) {
        alone.push_back(harness.device_seconds([&] { trainee->step(batch.ids, batch.labels); },
                                               2 * wall.back()));
      }
      device.push_back(median(alone));
    }
    return Json{{"model", size.name},
                {"precision", precision},
                {"length", length},
                {"recorded_launches", trainee->train_step->recorded_launches()},
                {"ms_of_4", 1e3 * wall[0]},
                {"device_ms_of_4", 1e3 * device[0]},
                {"wall_over_device", wall[0] / device[0]},
                {"ms_of_8_over_4", wall[1] / wall[0]}};
  });
}

void sdt_over_lora(Harness& harness, const Size& size, const std::string& precision,
                   std::int64_t batch, std::int64_t length) {
  harness.line("sdt_over_lora", [&] {
    const auto lora = make_trainee(harness, size.config, kLora, precision);
    const auto sdt = make_trainee(harness, size.config, kSdt, precision);
    const Batch data(harness, size.config, batch, length);
    const std::vector<double> ratios = step_ratios(
        harness.tiny() ? 1 : 7, [&] { lora->step(data.ids, data.labels); },
        [&] { sdt->step(data.ids, data.labels); },
        [&](const std::function<void()>& step) { return harness.wall_seconds(step); });
    return Json{{"model", size.name},
                {"precision", precision},
                {"batch", batch},
                {"length", length},
                {"median_ratio", median(ratios)},
                {"least", *std::min_element(ratios.begin(), ratios.end())},
                {"most", *std::max_element(ratios.begin(), ratios.end())},
                {"rounds", ratios.size()}};
  });
}

// Clipping and one AdamW update: of what LoRA + SDT trains in a model, and of a dense parameter.
void update_rows(Harness& harness, const Size& size) {
  const auto measure = [&](const char* what, Optimizer& optimizer) {
    std::int64_t entries = 0;
    std::vector<Tensor> gradients;
    for (const Trainable& each : optimizer.trainables()) {
      entries += each.value.numel();
      gradients.push_back(harness.uniform(each.value.shape(), each.value.dtype()));
    }
    const auto prepare = [&] {
      for (std::size_t i = 0; i < gradients.size(); ++i) {
        const Trainable& each = optimizer.trainables()[i];
        const SlotPtr slot = each.parameter->var().slot();
        if (each.selection) {
          slot->accumulate(*each.selection, gradients[i]);
        } else {
          slot->accumulate(gradients[i]);
        }
      }
    };
    const Times times = harness.time(
        [&] { optimizer.step(1e-4, clip_gradients(optimizer.trainables(), 1)); }, prepare);
    Json fields{{"of", what}, {"tensors", optimizer.trainables().size()}, {"entries", entries}};
    fields.update(harness.judge(times.median(), {.bytes = 32.0 * static_cast<double>(entries)}));
    return fields;
  };
  harness.line("adamw", [&] {
    const auto trainee = make_trainee(harness, size.config, kSdt, "fp32");
    return measure("LoRA + SDT", *trainee->optimizer);
  });
  harness.line("adamw", [&] {
    const std::int64_t count = harness.tiny() ? 100 : std::int64_t{1} << 25;
    const auto parameter =
        std::make_shared<Parameter>("dense", Role::in_proj, harness.uniform({count}, Dtype::f32));
    parameter->train_dense();
    return measure("one dense tensor", *make_adamw(collect_trainables({parameter})));
  });
}

// One sequence, token by token, against reading the weights once per token.
void decode_at(Harness& harness, const Size& size, const std::string& precision) {
  harness.line("decode", [&] {
    const auto model = make_model(harness, size.config);
    tools::TrainConfig options;
    options.precision = precision;
    tools::apply_precision(options, *model, false);
    double bytes = 0;
    for (const ParameterPtr& each : model->parameters()) {
      bytes += static_cast<double>(each->value().nbytes());
    }
    const auto state = model->new_state(1);
    model->prefill(harness.ids({1, 8}, size.config.vocab_size), *state);
    const Tensor token = harness.ids({1}, size.config.vocab_size);
    const int tokens = harness.tiny() ? 2 : 32;
    const auto run = [&] {
      for (int i = 0; i < tokens; ++i) model->step(token, *state);
    };
    if (!harness.tiny()) run();
    std::vector<double> seconds;
    for (int i = 0; i < (harness.tiny() ? 1 : 7); ++i) {
      seconds.push_back(harness.wall_seconds(run) / tokens);
    }
    Json fields{
        {"model", size.name}, {"weights", precision}, {"tokens_per_s", 1 / median(seconds)}};
    fields.update(harness.judge(median(seconds), {.bytes = bytes}));
    return fields;
  });
}

}  // namespace

void step_rows(Harness& harness) {
  const bool tiny = harness.tiny();
  const Size small = tiny ? size_tiny() : size_130m();
  const std::int64_t batch = tiny ? 2 : 8;
  const std::int64_t length = tiny ? 4 : 2048;
  for (const char* precision : {"bf16", "fp32"}) {
    step_at(harness, small, precision, batch, length);
    step_at(harness, small, precision, tiny ? 1 : 4, tiny ? 3 : 128);
    small_batch(harness, small, precision, tiny ? 3 : 128);
  }
  sdt_over_lora(harness, small, "bf16", batch, length);
  update_rows(harness, small);
  for (const char* precision : {"bf16", "fp32"}) decode_at(harness, small, precision);
  if (!tiny) step_at(harness, size_1400m(), "bf16", batch, length);
}

}  // namespace adder::bench
