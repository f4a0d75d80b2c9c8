// What every device's moment_norm asks of its arguments.
#include "engine/kernels/moment_norm.h"

#include "engine/kernels/arguments.h"

namespace adder {
namespace {

using Kind = NamedTensor::Kind;

MomentExtent extent_of(const char* place, const Tensor& x, const Tensor& stats) {
  check_rank(place, "x", x, 3);
  check_rank(place, "stats", stats, 3);
  const MomentExtent e{x.dim(0), x.dim(1), x.dim(2), stats.dim(2) == x.dim(2) && x.dim(2) > 1};
  if (e.groups < 1 || e.rows < 1 || e.channels < 1) {
    throw ShapeError(str(place, ": x is ", x.shape(), ", expected no empty extent"));
  }
  // With one channel the two kinds of statistics are the same.
  check_shape(place, "stats", stats, {2, e.groups, e.per_channel ? e.channels : 1});
  return e;
}

void check_contiguous(const char* place, std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* tensor : tensors) {
    if (!tensor->defined() || tensor->is_contiguous()) continue;
    throw ShapeError(str(place, ": ", tensor->shape(), " is not contiguous"));
  }
}

}  // namespace

MomentExtent check_moment_norm(const MomentNormFwdArgs& args) {
  const char* place = "moment_norm_fwd";
  const MomentExtent e = extent_of(place, args.x, args.stats);
  check_arguments(place, {{"x", args.x, args.x.shape(), true},
                          {"weight", args.weight, {e.channels}, false, Kind::weight},
                          {"bias", args.bias, {e.channels}, false, Kind::weight},
                          {"y", args.y, args.x.shape(), true},
                          {"stats", args.stats, args.stats.shape(), true, Kind::weight},
                          {"running_mean", args.running_mean, {e.channels}, args.use_running},
                          {"running_var", args.running_var, {e.channels}, args.use_running}});
  check_contiguous(place, {&args.x, &args.weight, &args.bias, &args.y, &args.stats,
                           &args.running_mean, &args.running_var});
  if (args.running_mean.defined() != args.running_var.defined()) {
    throw ShapeError(str(place, ": one of running_mean and running_var is undefined"));
  }
  const bool per_channel = e.per_channel || e.channels == 1;
  if (args.running_mean.defined() && (e.groups != 1 || !per_channel)) {
    throw ShapeError(str(place, ": running statistics with ", e.groups,
                         " groups, expected one group and a statistic for each channel"));
  }
  if (args.batches.defined() && args.batches.dtype() != Dtype::i64) {
    throw DtypeError(
        str(place, ": batches is ", dtype_name(args.batches.dtype()), ", expected int64"));
  }
  return e;
}

MomentExtent check_moment_norm(const MomentNormBwdArgs& args) {
  const char* place = "moment_norm_bwd";
  const MomentExtent e = extent_of(place, args.x, args.stats);
  check_arguments(place, {{"x", args.x, args.x.shape(), true},
                          {"weight", args.weight, {e.channels}, false, Kind::weight},
                          {"stats", args.stats, args.stats.shape(), true, Kind::weight},
                          {"dy", args.dy, args.x.shape(), true},
                          {"dx", args.dx, args.x.shape(), false},
                          {"dweight", args.dweight, {e.channels}, false, Kind::weight},
                          {"dbias", args.dbias, {e.channels}, false, Kind::weight}});
  check_contiguous(
      place, {&args.x, &args.weight, &args.stats, &args.dy, &args.dx, &args.dweight, &args.dbias});
  return e;
}

}  // namespace adder
