#include "autograd/parameter.h"

#include "engine/error.h"

namespace adder {

const char* role_name(Role role) {
  switch (role) {
    case Role::embedding:
      return "embedding";
    case Role::head:
      return "head";
    case Role::norm:
      return "norm";
    case Role::in_proj:
      return "in_proj";
    case Role::conv_weight:
      return "conv_weight";
    case Role::conv_bias:
      return "conv_bias";
    case Role::x_proj:
      return "x_proj";
    case Role::dt_proj:
      return "dt_proj";
    case Role::dt_bias:
      return "dt_bias";
    case Role::A_log:
      return "A_log";
    case Role::D:
      return "D";
    case Role::out_proj:
      return "out_proj";
    case Role::linear_bias:
      return "linear_bias";
    case Role::encoder:
      return "encoder";
    case Role::decoder:
      return "decoder";
    case Role::A_real:
      return "A_real";
    case Role::A_imag:
      return "A_imag";
    case Role::log_dt:
      return "log_dt";
    case Role::B:
      return "B";
    case Role::C:
      return "C";
    case Role::P:
      return "P";
    case Role::adapter:
      return "adapter";
  }
  return "unknown";
}

Parameter::Parameter(std::string name, Role role, Tensor value)
    : name_(std::move(name)), role_(role), value_(std::move(value)) {}

void Parameter::freeze() {
  slot_.reset();
}

void Parameter::train_dense() {
  if (value_.dtype() != Dtype::f32 && value_.dtype() != Dtype::f64) {
    throw DtypeError(str(name_, ": ", dtype_name(value_.dtype()),
                         " storage cannot train; convert the parameter to float32 first"));
  }
  if (!slot_) slot_ = std::make_shared<GradSlot>(value_.shape(), value_.dtype(), value_.device());
  slot_->wants_dense_ = true;
}

std::shared_ptr<Selection> Parameter::train_selection(std::string name, IndexSet index,
                                                      double scale) {
  if (value_.dtype() != Dtype::f32 && value_.dtype() != Dtype::f64) {
    throw DtypeError(str(name_, ": ", dtype_name(value_.dtype()),
                         " storage cannot train; convert the parameter to float32 first"));
  }
  if (trains_dense()) {
    throw ConfigError(str(name_, ": trains as a whole and by selected entries at once"));
  }
  check_shape(name_.c_str(), "indexed tensor", value_, index.full_shape());
  if (!slot_) {
    slot_ = std::make_shared<GradSlot>(value_.shape(), value_.dtype(), value_.device());
    slot_->wants_dense_ = false;
  }
  if (!slot_->selections_.empty()) {
    std::vector<std::int64_t> together = index.flat_positions();
    for (const auto& other : slot_->selections_) {
      const auto more = other->index.flat_positions();
      together.insert(together.end(), more.begin(), more.end());
    }
    try {
      IndexSet::entries(value_.shape(), std::move(together));
    } catch (const ShapeError&) {
      throw ConfigError(str(name_, ": two methods train the same entries"));
    }
  }
  auto selection = std::make_shared<Selection>();
  selection->name = std::move(name);
  selection->base = index.gather(value_);
  selection->delta = Tensor::zeros(index.compact_shape(), value_.dtype(), value_.device());
  selection->index = std::move(index);
  selection->scale = scale;
  slot_->selections_.push_back(selection);
  return selection;
}

const std::vector<std::shared_ptr<Selection>>& Parameter::selections() const {
  static const std::vector<std::shared_ptr<Selection>> none;
  return slot_ ? slot_->selections() : none;
}

std::int64_t Parameter::trainable_count() const {
  if (trains_dense()) return value_.numel();
  std::int64_t count = 0;
  for (const auto& selection : selections()) count += selection->index.size();
  return count;
}

std::vector<Trainable> collect_trainables(const std::vector<ParameterPtr>& parameters) {
  std::vector<Trainable> trainables;
  for (const ParameterPtr& parameter : parameters) {
    if (parameter->trains_dense()) {
      trainables.push_back({parameter->name(), parameter->value(), parameter, nullptr});
    }
    for (const auto& selection : parameter->selections()) {
      trainables.push_back({selection->name, selection->delta, parameter, selection});
    }
  }
  return trainables;
}

}  // namespace adder
