#include "engine/kernels/optim.h"

#include <cmath>

namespace adder {
namespace {

void check_dtype(const char* place, const char* what, const Tensor& tensor, Dtype expected) {
  if (tensor.dtype() == expected) return;
  throw DtypeError(str(place, ": ", what, " is ", dtype_name(tensor.dtype()), ", expected ",
                       dtype_name(expected)));
}

void check_like(const char* place, const Tensor& value, const Tensor& other, const char* what) {
  if (!other.defined()) throw ShapeError(str(place, ": ", what, " is undefined"));
  check_shape(place, what, other, value.shape());
  check_dtype(place, what, other, value.dtype());
  if (!other.is_contiguous()) {
    throw ShapeError(str(place, ": ", what, " ", other.shape(), " must be contiguous"));
  }
}

}  // namespace

AdamwSchedule adamw_schedule(double lr, double beta1, double beta2, double weight_decay,
                             std::int64_t step) {
  const auto count = static_cast<double>(step);
  return {.keep = 1 - lr * weight_decay,
          .step_size = lr / (1 - std::pow(beta1, count)),
          .root2 = std::sqrt(1 - std::pow(beta2, count))};
}

void check_optim_items(const char* place, const std::vector<OptimItem>& items, int moments,
                       std::int64_t step, const Tensor& schedule, const Tensor& clip) {
  if (step < 1) throw ConfigError(str(place, ": step is ", step, ", expected >= 1"));
  if (schedule.defined()) {
    check_shape(place, "schedule", schedule, {3});
    check_dtype(place, "schedule", schedule, Dtype::f32);
  }
  if (clip.defined()) {
    check_shape(place, "clip", clip, {2});
    check_dtype(place, "clip", clip, Dtype::f64);
  }
  for (const OptimItem& item : items) {
    check_like(place, item.value, item.value, "value");
    check_dtype(place, "value", item.value, items.front().value.dtype());
    check_like(place, item.value, item.grad, "grad");
    if (moments > 0) check_like(place, item.value, item.first, "first moment");
    if (moments > 1) check_like(place, item.value, item.second, "second moment");
    if (!item.positions.defined()) continue;
    check_like(place, item.value, item.base, "base");
    check_shape(place, "positions", item.positions, {item.value.numel()});
    check_like(place, item.target, item.target, "target");
    check_dtype(place, "target", item.target, item.value.dtype());
  }
}

}  // namespace adder
