// What stands at the end of a sequence model: pooling and its losses.
#include "autograd/op_cases.h"
#include "autograd/ops.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/embedding.h"

namespace adder {
namespace {

// The loss is the last operation, so its gradient was formed in the forward pass, for an incoming
// gradient of one; backward only scales.
LossResult finish(const char* name, const Tensor& losses, const Tensor& argmax,
                  const Tensor& targets, const Tensor& gradient, const Var& x, double factor) {
  const Device device = losses.device();
  LossResult result;
  result.sums = Tensor::empty({2}, Dtype::f64, device);
  const Tensor loss = Tensor::empty({1}, x.dtype(), device);
  kernel::loss_sums(device, {losses, argmax, targets, result.sums, loss, factor});
  if (!gradient.defined()) {
    result.loss = Var(loss);
    return result;
  }
  result.loss = Var::leaf(loss);
  Tape::record(name,
               [gradient, shape = x.shape(), out_slot = result.loss.slot(), x_slot = x.slot()] {
                 const std::optional<double> known = out_slot->known_seed();
                 const Tensor seed = out_slot->take();
                 if (!seed.defined()) return;
                 const double incoming = known ? *known : seed.item();
                 if (incoming != 1) gradient.scale_(incoming);
                 x_slot->accumulate(gradient.reshape(shape));
               });
  return result;
}

}  // namespace

LossResult cross_entropy(const Var& logits, const Tensor& labels, double factor) {
  if (logits.shape().rank() != 2) {
    throw ShapeError(str("cross_entropy: logits are ", logits.shape(), ", expected (rows, V)"));
  }
  const std::int64_t rows = logits.dim(0);
  check_shape("cross_entropy", "labels", labels, {rows});
  const Device device = logits.value().device();
  const Tensor work = logits.value().clone();  // becomes the gradient
  const Tensor targets = labels.to(device);
  const Tensor losses = Tensor::empty({rows}, Dtype::f64, device);
  const Tensor argmax = Tensor::empty({rows}, Dtype::i32, device);
  const bool needs = Tape::needs_grad({&logits});
  kernel::cross_entropy(device, {.logits = work,
                                 .targets = targets,
                                 .losses = losses,
                                 .argmax = argmax,
                                 .write_gradient = needs,
                                 .scale = factor});
  return finish("cross_entropy", losses, argmax, targets, needs ? work : Tensor(), logits, factor);
}

LossResult square_error(const Var& y, const Tensor& target, double factor) {
  check_shape("square_error", "target", target, y.shape());
  const Tensor rows = y.value().contiguous().flatten_rows();
  const Device device = rows.device();
  const Tensor losses = Tensor::empty({rows.dim(0)}, Dtype::f64, device);
  const Tensor gradient =
      Tape::needs_grad({&y}) ? Tensor::empty(rows.shape(), rows.dtype(), device) : Tensor();
  kernel::square_error(device, {.y = rows,
                                .target = target.to(device).contiguous().flatten_rows(),
                                .losses = losses,
                                .gradient = gradient,
                                .scale = factor});
  return finish("square_error", losses, {}, {}, gradient, y, factor);
}

Var mean_over_length(const Var& x) {
  if (x.shape().rank() != 3 || x.dim(1) < 1) {
    throw ShapeError(str("mean_over_length: x is ", x.shape(), ", expected (B, L, D)"));
  }
  const Tensor input = x.value();
  const Device device = input.device();
  const Tensor y = Tensor::empty({x.dim(0), x.dim(2)}, x.dtype(), device);
  const double share = 1.0 / static_cast<double>(x.dim(1));
  for (std::int64_t b = 0; b < x.dim(0); ++b) {
    kernel::column_sum(device, {input.select(0, b), y.select(0, b)});
  }
  y.scale_(share);
  if (!Tape::needs_grad({&x})) return Var(y);
  const Var out = Var::leaf(y);
  Tape::record("mean_over_length",
               [share, shape = x.shape(), out_slot = out.slot(), x_slot = x.slot()] {
                 const Tensor dy = out_slot->take();
                 if (!dy.defined()) return;
                 const Tensor scaled = dy.clone();
                 scaled.scale_(share);
                 const Tensor dx = Tensor::zeros(shape, dy.dtype(), dy.device());
                 for (std::int64_t b = 0; b < shape[0]; ++b) {
                   kernel::add_bias(dy.device(), {scaled.select(0, b), dx.select(0, b)});
                 }
                 x_slot->accumulate(dx);
               });
  return out;
}

Var dropout_channels(const Var& x, double p, std::uint64_t seed, std::uint64_t stream) {
  if (!(p >= 0 && p < 1)) {
    throw ConfigError(str("dropout_channels: probability ", p, ", expected [0, 1)"));
  }
  if (x.shape().rank() != 3) {
    throw ShapeError(str("dropout_channels: x is ", x.shape(), ", expected (B, L, D)"));
  }
  if (p == 0) return x;
  const Device device = x.value().device();
  const Tensor factors = Tensor::full({x.dim(0), 1, x.dim(2)}, 1, x.dtype(), device);
  kernel::dropout(device, {factors, factors, p, seed, stream});
  const Tensor mask = factors.expand(1, x.dim(1));
  const auto apply = [device, mask](const Tensor& from) {
    const Tensor to = Tensor::empty(from.shape(), from.dtype(), device);
    kernel::binary(device, {BinaryOp::mul, from, mask, to});
    return to;
  };
  const Tensor y = apply(x.value());
  if (!Tape::needs_grad({&x})) return Var(y);
  const Var out = Var::leaf(y);
  Tape::record("dropout_channels", [apply, out_slot = out.slot(), x_slot = x.slot()] {
    const Tensor dy = out_slot->take();
    if (dy.defined()) x_slot->accumulate(apply(dy));
  });
  return out;
}

std::vector<OpCase> sequence_cases() {
  const Tensor labels = Tensor::from({3}, std::vector<std::int32_t>{4, 0, 2});
  const Tensor target =
      Tensor::from({2, 2, 3}, std::vector<double>{1, -1, 0, 2, 0.5, 0, -2, 1, 1, 0, 0, 3});
  return {{.op = "cross_entropy",
           .name = "three rows",
           .inputs = {{"logits", {3, 5}, -4, 4}},
           .run = [labels](const std::vector<Var>& in) -> std::vector<Var> {
             return {cross_entropy(in[0], labels, 0.5).loss};
           }},
          {.op = "square_error",
           .name = "each position",
           .inputs = {{"y", {2, 2, 3}, -2, 2}},
           .run = [target](const std::vector<Var>& in) -> std::vector<Var> {
             const Tensor right = target.to(in[0].value().device()).to(in[0].dtype());
             return {square_error(in[0], right, 0.25).loss};
           }},
          {.op = "dropout_channels",
           .name = "p 0.4",
           .inputs = {{"x", {3, 2, 5}}},
           .run = [](const std::vector<Var>& in) -> std::vector<Var> {
             return {dropout_channels(in[0], 0.4, 3, 9)};
           }},
          {.op = "mean_over_length",
           .name = "odd length",
           .inputs = {{"x", {2, 7, 3}}},
           .run = [](const std::vector<Var>& in) -> std::vector<Var> {
             return {square(mean_over_length(in[0]))};
           }}};
}

}  // namespace adder
