// Parameter: a named tensor of a model that knows what of it trains.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "autograd/variable.h"

namespace adder {

// What a parameter is for; adapters choose by role instead of by model.
enum class Role : std::uint8_t {
  embedding,
  head,
  norm,
  in_proj,
  conv_weight,
  conv_bias,
  x_proj,
  dt_proj,
  dt_bias,
  A_log,
  D,
  out_proj,
  linear_bias,
  encoder,
  decoder,
  A_real,  // of S4: the decay and the frequency of a mode, and the step
  A_imag,
  log_dt,
  B,
  C,
  P,
  adapter
};

const char* role_name(Role role);

// Nothing, everything, or selected entries train. Values are updated in place, so Vars taken before
// an update see it.
class Parameter {
 public:
  Parameter(std::string name, Role role, Tensor value);

  const std::string& name() const { return name_; }
  Role role() const { return role_; }
  const Tensor& value() const { return value_; }
  void set_value(const Tensor& value) { value_ = value; }  // before training is set up
  Var var() const { return Var(value_, slot_); }

  void freeze();       // drops selections too; the working value stays
  void train_dense();  // all entries, directly. Throws DtypeError for bf16/f16 storage
  // Entries train as a displacement (see Selection). Several selections must be disjoint.
  std::shared_ptr<Selection> train_selection(std::string name, IndexSet index, double scale = 1);

  bool trainable() const { return slot_ != nullptr; }
  bool trains_dense() const { return slot_ && slot_->wants_dense(); }
  const std::vector<std::shared_ptr<Selection>>& selections() const;
  std::int64_t trainable_count() const;

 private:
  std::string name_;
  Role role_;
  Tensor value_;
  SlotPtr slot_;
};

using ParameterPtr = std::shared_ptr<Parameter>;

// One tensor that an optimiser updates: a whole parameter or the displacement of a selection.
struct Trainable {
  std::string name;
  Tensor value;
  ParameterPtr parameter;
  std::shared_ptr<Selection> selection;  // null: the whole parameter

  Tensor grad() const { return selection ? selection->grad : parameter->var().grad(); }
  void clear_grad() const { parameter->var().slot()->clear(); }
  // After value changed: brings the working weights up to date.
  void apply() const {
    if (selection) selection->apply(parameter->value());
  }
};

std::vector<Trainable> collect_trainables(const std::vector<ParameterPtr>& parameters);

}  // namespace adder
