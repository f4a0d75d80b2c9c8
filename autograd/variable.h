// Var: a tensor with, where something needs it, a slot for its gradient.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/index_set.h"
#include "engine/tensor.h"

namespace adder {

// Part of a parameter that trains as a displacement: value[index] = base + scale * delta. Only
// delta is updated by an optimiser, so an entry outside the index set cannot move.
struct Selection {
  std::string name;
  IndexSet index;
  double scale = 1;
  Tensor delta;  // compact, starts at zero
  Tensor base;   // compact, the entries' values before training
  Tensor grad;   // compact gradient with respect to delta; undefined until one arrives
  std::shared_ptr<class GradSlot> forward_to;  // when set, gradients go there instead of to `grad`

  // Rewrites the selected entries of `value` from base and delta.
  void apply(const Tensor& value) const;
};

// The rows of a matrix that a parameter's selections touch, for kernels that compute whole rows.
struct SelectedRows {
  Tensor rows;                 // (k) int32, ascending
  std::vector<Tensor> places;  // per selection: positions of its entries in the (k, columns) rows
};

// Where gradients of one Var arrive. Absent for values that no trainable tensor depends on.
class GradSlot {
 public:
  GradSlot(Shape shape, Dtype dtype, Device device = {})
      : shape_(shape), dtype_(dtype), device_(device) {}

  const Shape& shape() const { return shape_; }
  Dtype dtype() const { return dtype_; }
  Device device() const { return device_; }

  // A dense gradient is wanted. When false, only that of the selections is.
  bool wants_dense() const { return wants_dense_; }
  const std::vector<std::shared_ptr<Selection>>& selections() const { return selections_; }

  const Tensor& grad() const { return grad_; }
  Tensor take();  // moves the gradient out; undefined when none arrived
  // The number in a gradient of one element, where the host knows it (Tape::backward started there
  // and nothing was added since): it need not be read from a device.
  const std::optional<double>& known_seed() const { return known_seed_; }
  void set_known_seed(double seed) { known_seed_ = seed; }
  void clear();

  // The rows that the selections touch; made on first use and kept.
  const SelectedRows& selected_rows(Device device);

  // Adds a dense gradient; it is gathered where only selections are wanted. Keeps `gradient` itself
  // when it is the first, so the caller must not write to it afterwards.
  void accumulate(const Tensor& gradient);
  // Adds a compact gradient of the parameter's entries; applies the selection's scale.
  void accumulate(Selection& selection, const Tensor& compact) const;
  // A slot that wants one selection's gradient and hands it on to `delta_slot` (for checks).
  static std::shared_ptr<GradSlot> for_selection(const Tensor& value,
                                                 std::shared_ptr<Selection> selection,
                                                 std::shared_ptr<GradSlot> delta_slot);
  // Memory for the first dense gradient: part of a parent's when this Var is a slice of it.
  Tensor fresh() const;

 private:
  friend class Parameter;
  friend std::vector<class Var> split_last(const class Var& x, const std::vector<std::int64_t>&);
  Tensor fresh_part() const;

  Shape shape_;
  Dtype dtype_;
  Device device_;
  bool wants_dense_ = true;
  std::vector<std::shared_ptr<Selection>> selections_;
  Tensor grad_;
  std::optional<double> known_seed_;
  std::shared_ptr<struct SplitTarget> target_;
  std::int64_t target_begin_ = 0;
  std::shared_ptr<SelectedRows> selected_rows_;
  std::size_t selected_rows_for_ = 0;  // how many selections it was made for
};

// The gradient of a Var that was split along its last axis: the parts write into one tensor.
struct SplitTarget {
  Shape shape;
  Dtype dtype;
  Device device;
  Tensor whole;
  Tensor part(std::int64_t begin, std::int64_t end);
};

using SlotPtr = std::shared_ptr<GradSlot>;

class Var {
 public:
  Var() = default;                                 // absent
  Var(Tensor value) : value_(std::move(value)) {}  // NOLINT: a constant is a Var without a slot
  Var(Tensor value, SlotPtr slot) : value_(std::move(value)), slot_(std::move(slot)) {}
  // A value whose dense gradient is wanted.
  static Var leaf(const Tensor& value) {
    return Var(value, std::make_shared<GradSlot>(value.shape(), value.dtype(), value.device()));
  }

  bool defined() const { return value_.defined(); }
  const Tensor& value() const { return value_; }
  const Shape& shape() const { return value_.shape(); }
  Dtype dtype() const { return value_.dtype(); }
  std::int64_t dim(int axis) const { return value_.dim(axis); }
  bool requires_grad() const { return slot_ != nullptr; }
  const SlotPtr& slot() const { return slot_; }
  Tensor grad() const { return slot_ ? slot_->grad() : Tensor(); }

 private:
  Tensor value_;
  SlotPtr slot_;
};

// Where a backward kernel writes the gradient of one input. tensor() is undefined when no gradient
// is wanted, so it can be handed to a kernel as it is; commit() makes it count.
class GradOut {
 public:
  explicit GradOut(SlotPtr slot) : slot_(std::move(slot)) {
    if (slot_) tensor_ = slot_->fresh();
  }
  const Tensor& tensor() const { return tensor_; }
  void commit() const {
    if (slot_) slot_->accumulate(tensor_);
  }

 private:
  SlotPtr slot_;
  Tensor tensor_;
};

}  // namespace adder
