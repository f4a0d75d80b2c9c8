#include "autograd/optim.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace adder {
namespace {

class Adamw final : public Optimizer {
 public:
  Adamw(std::vector<Trainable> trainables, const AdamwOptions& options)
      : Optimizer(std::move(trainables)), options_(options) {
    for (const Trainable& trainable : trainables_) {
      m_.push_back(Tensor::zeros(trainable.value.shape(), trainable.value.dtype(),
                                 trainable.value.device()));
      v_.push_back(Tensor::zeros(trainable.value.shape(), trainable.value.dtype(),
                                 trainable.value.device()));
    }
  }

  std::vector<std::pair<std::string, Tensor>> state() const override {
    std::vector<std::pair<std::string, Tensor>> tensors;
    for (std::size_t i = 0; i < trainables_.size(); ++i) {
      tensors.emplace_back(trainables_[i].name + ".m", m_[i]);
      tensors.emplace_back(trainables_[i].name + ".v", v_[i]);
    }
    return tensors;
  }

  std::vector<float> schedule(double lr) const override {
    const AdamwSchedule numbers =
        adamw_schedule(lr, options_.beta1, options_.beta2, options_.weight_decay, steps_ + 1);
    return {static_cast<float>(numbers.keep), static_cast<float>(numbers.step_size),
            static_cast<float>(numbers.root2)};
  }

 protected:
  void update(Device device, const Update& update) override {
    kernel::adamw_step(device, {.items = update.items,
                                .lr = update.lr,
                                .beta1 = options_.beta1,
                                .beta2 = options_.beta2,
                                .epsilon = options_.epsilon,
                                .weight_decay = options_.weight_decay,
                                .grad_scale = update.grad_scale,
                                .step = update.step,
                                .schedule = update.schedule,
                                .clip = update.clip});
  }
  void add_moments(std::size_t i, OptimItem& item) const override {
    item.first = m_[i];
    item.second = v_[i];
  }

 private:
  AdamwOptions options_;
  std::vector<Tensor> m_;
  std::vector<Tensor> v_;
};

class Sgd final : public Optimizer {
 public:
  Sgd(std::vector<Trainable> trainables, const SgdOptions& options)
      : Optimizer(std::move(trainables)), options_(options) {
    for (const Trainable& trainable : trainables_) {
      buffers_.push_back(options.momentum == 0
                             ? Tensor()
                             : Tensor::zeros(trainable.value.shape(), trainable.value.dtype(),
                                             trainable.value.device()));
    }
  }

  std::vector<std::pair<std::string, Tensor>> state() const override {
    std::vector<std::pair<std::string, Tensor>> tensors;
    if (options_.momentum == 0) return tensors;
    for (std::size_t i = 0; i < trainables_.size(); ++i) {
      tensors.emplace_back(trainables_[i].name + ".momentum", buffers_[i]);
    }
    return tensors;
  }

  std::vector<float> schedule(double lr) const override { return {static_cast<float>(lr), 0, 0}; }

 protected:
  void update(Device device, const Update& update) override {
    kernel::sgd_step(device, {.items = update.items,
                              .lr = update.lr,
                              .momentum = options_.momentum,
                              .weight_decay = options_.weight_decay,
                              .grad_scale = update.grad_scale,
                              .step = update.step,
                              .schedule = update.schedule,
                              .clip = update.clip});
  }
  void add_moments(std::size_t i, OptimItem& item) const override { item.first = buffers_[i]; }

 private:
  SgdOptions options_;
  std::vector<Tensor> buffers_;
};

}  // namespace

Tensor clip_gradients(const std::vector<Trainable>& trainables, double max_norm) {
  std::vector<Tensor> grads;
  for (const Trainable& trainable : trainables) {
    const Tensor grad = trainable.grad();
    if (grad.defined()) grads.push_back(grad);
  }
  const Device device = grads.empty() ? Device{} : grads.front().device();
  const Tensor result = Tensor::empty({2}, Dtype::f64, device);
  kernel::gradient_norm(device, {.grads = grads, .max_norm = max_norm, .result = result});
  return result;
}

double gradient_norm(const std::vector<Trainable>& trainables) {
  return clip_gradients(trainables, 0).item();
}

double clip_factor(double norm, double max_norm) {
  if (max_norm == 0) return 1;
  return std::min(1.0, max_norm / (norm + 1e-6));
}

Optimizer::Optimizer(std::vector<Trainable> trainables) : trainables_(std::move(trainables)) {}

void Optimizer::step(double lr, double grad_scale) {
  count_step();
  step({.items = {},
        .lr = lr,
        .grad_scale = grad_scale,
        .step = steps_,
        .schedule = {},
        .clip = {}});
}

void Optimizer::step(double lr, const Tensor& clip) {
  count_step();
  step({.items = {}, .lr = lr, .grad_scale = 1, .step = steps_, .schedule = {}, .clip = clip});
}

void Optimizer::record_step(const Tensor& schedule, const Tensor& clip) {
  if (steps_ == 0) throw ConfigError("optimiser: the first step is not like the others");
  step({.items = {},
        .lr = 0,
        .grad_scale = 1,
        .step = steps_ + 1,
        .schedule = schedule,
        .clip = clip});
}

void Optimizer::step(Update update) {
  for (std::size_t i = 0; i < trainables_.size(); ++i) {
    const Trainable& trainable = trainables_[i];
    const Tensor grad = trainable.grad();
    if (!grad.defined()) continue;
    OptimItem item{.value = trainable.value, .grad = grad.to(trainable.value.dtype())};
    add_moments(i, item);
    if (trainable.selection) {
      const Selection& selection = *trainable.selection;
      item.positions = selection.index.positions_on(grad.device());
      item.base = selection.base;
      item.target = trainable.parameter->value();
      item.scale = selection.scale;
    }
    update.items.push_back(std::move(item));
  }
  if (!update.items.empty()) this->update(update.items.front().value.device(), update);
  clear_gradients();
}

void Optimizer::clear_gradients() const {
  for (const Trainable& trainable : trainables_) trainable.clear_grad();
}

void Optimizer::load_state(const std::vector<std::pair<std::string, Tensor>>& tensors,
                           std::int64_t steps) {
  for (const auto& entry_of_state : state()) {
    const std::string& name = entry_of_state.first;
    const Tensor& own = entry_of_state.second;
    const auto found = std::find_if(tensors.begin(), tensors.end(),
                                    [&](const auto& entry) { return entry.first == name; });
    if (found == tensors.end()) throw ConfigError(str("optimiser state: ", name, " is missing"));
    check_shape("optimiser state", name.c_str(), found->second, own.shape());
    own.copy_from(found->second);
  }
  steps_ = steps;
}

std::unique_ptr<Optimizer> make_adamw(std::vector<Trainable> trainables,
                                      const AdamwOptions& options) {
  return std::make_unique<Adamw>(std::move(trainables), options);
}

std::unique_ptr<Optimizer> make_sgd(std::vector<Trainable> trainables, const SgdOptions& options) {
  return std::make_unique<Sgd>(std::move(trainables), options);
}

Schedule parse_schedule(const std::string& name) {
  if (name == "linear") return Schedule::linear;
  if (name == "cosine") return Schedule::cosine;
  if (name == "constant") return Schedule::constant;
  throw ConfigError(str("schedule '", name, "': expected linear, cosine or constant"));
}

double schedule_factor(Schedule schedule, std::int64_t step, std::int64_t total,
                       std::int64_t warmup) {
  if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (schedule == Schedule::constant) return 1;
  const double left = static_cast<double>(std::max<std::int64_t>(total - step, 0)) /
                      static_cast<double>(std::max<std::int64_t>(total - warmup, 1));
  if (schedule == Schedule::linear) return left;
  return 0.5 * (1 + std::cos(std::numbers::pi * (1 - left)));
}

}  // namespace adder
