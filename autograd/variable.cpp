#include "autograd/variable.h"

#include <map>

namespace adder {

void Selection::apply(const Tensor& value) const {
  Tensor entries = base.clone();
  Tensor step = delta;
  if (scale != 1) {
    step = delta.clone();
    step.scale_(scale);
  }
  entries.add_(step);
  index.scatter(entries, value);
}

Tensor GradSlot::take() {
  Tensor gradient = std::move(grad_);
  grad_ = Tensor();
  known_seed_.reset();
  return gradient;
}

void GradSlot::clear() {
  grad_ = Tensor();
  known_seed_.reset();
  for (const auto& selection : selections_) selection->grad = Tensor();
}

const SelectedRows& GradSlot::selected_rows(Device device) {
  if (selected_rows_ && selected_rows_for_ == selections_.size()) return *selected_rows_;
  const std::int64_t columns = shape_[shape_.rank() - 1];
  std::map<std::int64_t, std::int64_t> place;  // of a row among those touched
  for (const auto& selection : selections_) {
    for (const std::int64_t position : selection->index.flat_positions()) {
      place[position / columns] = 0;
    }
  }
  std::vector<std::int32_t> rows;
  for (auto& [row, where] : place) {
    where = static_cast<std::int64_t>(rows.size());
    rows.push_back(static_cast<std::int32_t>(row));
  }
  auto result = std::make_shared<SelectedRows>();
  result->rows = Tensor::from({static_cast<std::int64_t>(rows.size())}, rows).to(device);
  for (const auto& selection : selections_) {
    std::vector<std::int64_t> places = selection->index.flat_positions();
    for (std::int64_t& position : places) {
      position = place[position / columns] * columns + position % columns;
    }
    result->places.push_back(
        Tensor::from({static_cast<std::int64_t>(places.size())}, places).to(device));
  }
  selected_rows_ = result;
  selected_rows_for_ = selections_.size();
  return *selected_rows_;
}

void GradSlot::accumulate(const Tensor& gradient) {
  check_shape("gradient", "arriving gradient", gradient, shape_);
  known_seed_.reset();
  for (const auto& selection : selections_) {
    accumulate(*selection, selection->index.gather(gradient.contiguous()));
  }
  if (!wants_dense_) return;
  if (!grad_.defined()) {
    grad_ = gradient;
    return;
  }
  // Another slot may hold the same tensor (an addition hands one gradient to both its inputs).
  const bool part_of_target =
      target_ && target_->whole.defined() && grad_.raw() == fresh_part().raw();
  if (!part_of_target && !grad_.shares_memory_only_here()) grad_ = grad_.clone();
  grad_.add_(gradient);
}

void GradSlot::accumulate(Selection& selection, const Tensor& compact) const {
  Tensor scaled = compact;
  if (selection.scale != 1) {
    scaled = compact.clone();
    scaled.scale_(selection.scale);
  }
  if (selection.forward_to) {
    selection.forward_to->accumulate(scaled);
  } else if (!selection.grad.defined()) {
    selection.grad = scaled;
  } else {
    selection.grad.add_(scaled);
  }
}

std::shared_ptr<GradSlot> GradSlot::for_selection(const Tensor& value,
                                                  std::shared_ptr<Selection> selection,
                                                  std::shared_ptr<GradSlot> delta_slot) {
  if (!delta_slot) return nullptr;
  auto slot = std::make_shared<GradSlot>(value.shape(), value.dtype(), value.device());
  slot->wants_dense_ = false;
  selection->forward_to = std::move(delta_slot);
  slot->selections_.push_back(std::move(selection));
  return slot;
}

Tensor GradSlot::fresh_part() const {
  return target_->part(target_begin_, target_begin_ + shape_[shape_.rank() - 1]);
}

Tensor GradSlot::fresh() const {
  if (target_ && !grad_.defined()) return fresh_part();
  return Tensor::empty(shape_, dtype_, device_);
}

Tensor SplitTarget::part(std::int64_t begin, std::int64_t end) {
  if (!whole.defined()) whole = Tensor::empty(shape, dtype, device);
  return whole.slice(-1, begin, end);
}

}  // namespace adder
