#include "engine/kernels/elementwise.h"

#include "autograd/op_cases.h"
#include "autograd/ops.h"
#include "engine/kernels/matmul.h"

namespace adder {
namespace {

Var unary(UnaryOp op, const char* name, const Var& x, double parameter = 1) {
  const Tensor& input = x.value();
  const Tensor y = Tensor::empty(input.shape(), input.dtype(), input.device());
  kernel::unary_fwd(input.device(), {op, input, y, parameter});
  if (!Tape::needs_grad({&x})) return Var(y);
  const Var out = Var::leaf(y);
  Tape::record(name, [op, input, parameter, out_slot = out.slot(), x_slot = x.slot()] {
    const Tensor dy = out_slot->take();
    if (!dy.defined()) return;
    const GradOut dx(x_slot);
    kernel::unary_bwd(input.device(), {op, input, dy, dx.tensor(), parameter});
    dx.commit();
  });
  return out;
}

Tensor apply_binary(BinaryOp op, const Tensor& a, const Tensor& b) {
  const Tensor y = Tensor::empty(a.shape(), a.dtype(), a.device());
  kernel::binary(a.device(), {op, a, b, y});
  return y;
}

Var binary(BinaryOp op, const char* name, const Var& a, const Var& b) {
  check_shape(name, "second operand", b.value(), a.shape());
  const Tensor y = apply_binary(op, a.value(), b.value());
  if (!Tape::needs_grad({&a, &b})) return Var(y);
  const Var out = Var::leaf(y);
  const bool product = op == BinaryOp::mul;
  Tape::record(name, [op, product, out_slot = out.slot(), a_slot = a.slot(), b_slot = b.slot(),
                      av = product && b.requires_grad() ? a.value() : Tensor(),
                      bv = product && a.requires_grad() ? b.value() : Tensor()] {
    const Tensor dy = out_slot->take();
    if (!dy.defined()) return;
    if (product) {
      if (a_slot) a_slot->accumulate(apply_binary(BinaryOp::mul, dy, bv));
      if (b_slot) b_slot->accumulate(apply_binary(BinaryOp::mul, dy, av));
      return;
    }
    if (a_slot) a_slot->accumulate(dy);
    if (!b_slot) return;
    if (op == BinaryOp::add) {
      b_slot->accumulate(dy);
    } else {
      const Tensor negated = dy.clone();
      negated.scale_(-1);
      b_slot->accumulate(negated);
    }
  });
  return out;
}

}  // namespace

Var add(const Var& a, const Var& b) {
  return binary(BinaryOp::add, "add", a, b);
}
Var sub(const Var& a, const Var& b) {
  return binary(BinaryOp::sub, "sub", a, b);
}
Var mul(const Var& a, const Var& b) {
  return binary(BinaryOp::mul, "mul", a, b);
}
Var scale(const Var& x, double factor) {
  return unary(UnaryOp::scale, "scale", x, factor);
}
Var silu(const Var& x) {
  return unary(UnaryOp::silu, "silu", x);
}
Var softplus(const Var& x) {
  return unary(UnaryOp::softplus, "softplus", x);
}
Var exp(const Var& x) {
  return unary(UnaryOp::exp, "exp", x);
}
Var square(const Var& x) {
  return unary(UnaryOp::square, "square", x);
}
Var sigmoid(const Var& x) {
  return unary(UnaryOp::sigmoid, "sigmoid", x);
}
Var tanh(const Var& x) {
  return unary(UnaryOp::tanh, "tanh", x);
}
Var relu(const Var& x) {
  return unary(UnaryOp::relu, "relu", x);
}
Var gelu(const Var& x) {
  return unary(UnaryOp::gelu, "gelu", x);
}
Var elu(const Var& x) {
  return unary(UnaryOp::elu, "elu", x);
}

Var sum(const Var& x) {
  const Tensor rows = x.value().reshape({-1, 1});
  const Tensor total = Tensor::empty({1}, x.dtype(), rows.device());
  kernel::column_sum(rows.device(), {rows, total});
  if (!Tape::needs_grad({&x})) return Var(total);
  const Var out = Var::leaf(total);
  Tape::record("sum", [shape = x.shape(), out_slot = out.slot(), x_slot = x.slot()] {
    const Tensor dy = out_slot->take();
    if (dy.defined()) x_slot->accumulate(Tensor::full(shape, dy.item(), dy.dtype(), dy.device()));
  });
  return out;
}

Var mean(const Var& x) {
  return scale(sum(x), 1.0 / static_cast<double>(x.value().numel()));
}

Var matmul(const Var& a, const Var& b) {
  if (a.shape().rank() != 2 || b.shape().rank() != 2 || a.dim(1) != b.dim(0)) {
    throw ShapeError(str("matmul: ", a.shape(), " times ", b.shape()));
  }
  const Device device = a.value().device();
  const Tensor y = Tensor::empty({a.dim(0), b.dim(1)}, a.dtype(), device);
  kernel::matmul(device, {.a = a.value(), .b = b.value(), .c = y});
  if (!Tape::needs_grad({&a, &b})) return Var(y);
  const Var out = Var::leaf(y);
  Tape::record("matmul", [device, out_slot = out.slot(), a_slot = a.slot(), b_slot = b.slot(),
                          av = b.requires_grad() ? a.value() : Tensor(),
                          bv = a.requires_grad() ? b.value() : Tensor()] {
    const Tensor dy = out_slot->take();
    if (!dy.defined()) return;
    const GradOut da(a_slot);
    const GradOut db(b_slot);
    if (a_slot) kernel::matmul(device, {.a = dy, .b = bv, .c = da.tensor(), .trans_b = true});
    if (b_slot) kernel::matmul(device, {.a = av, .b = dy, .c = db.tensor(), .trans_a = true});
    da.commit();
    db.commit();
  });
  return out;
}

Var dropout(const Var& x, double p, std::uint64_t seed, std::uint64_t stream) {
  if (!(p >= 0 && p < 1)) throw ConfigError(str("dropout: probability ", p, ", expected [0, 1)"));
  if (p == 0) return x;
  const Tensor input = x.value().contiguous();
  const Tensor y = Tensor::empty(input.shape(), input.dtype(), input.device());
  kernel::dropout(input.device(), {input, y, p, seed, stream});
  if (!Tape::needs_grad({&x})) return Var(y);
  const Var out = Var::leaf(y);
  Tape::record("dropout", [p, seed, stream, out_slot = out.slot(), x_slot = x.slot()] {
    const Tensor dy = out_slot->take();
    if (!dy.defined()) return;
    const Tensor dx = Tensor::empty(dy.shape(), dy.dtype(), dy.device());
    kernel::dropout(dy.device(), {dy.contiguous(), dx, p, seed, stream});
    x_slot->accumulate(dx);
  });
  return out;
}

std::vector<OpCase> elementwise_cases() {
  std::vector<OpCase> cases;
  using Unary = Var (*)(const Var&);
  for (const auto& [name, f, low, high] :
       {std::tuple<const char*, Unary, double, double>{"silu", &silu, -5, 5},
        {"softplus", &softplus, -5, 25},
        {"exp", &adder::exp, -2, 2},
        {"square", &square, -2, 2},
        {"sigmoid", &sigmoid, -5, 5},
        {"tanh", &adder::tanh, -3, 3},
        {"relu", &relu, -3, 3},
        {"gelu", &gelu, -5, 5},
        {"elu", &elu, -5, 5},
        {"sum", &sum, -1, 1},
        {"mean", &mean, -1, 1}}) {
    cases.push_back(
        {.op = name,
         .name = "matrix",
         .inputs = {{"x", {3, 7}, low, high}},
         .run = [f = f](const std::vector<Var>& in) -> std::vector<Var> { return {f(in[0])}; }});
  }
  using Binary = Var (*)(const Var&, const Var&);
  for (const auto& [name, f] :
       {std::pair<const char*, Binary>{"add", &add}, {"sub", &sub}, {"mul", &mul}}) {
    cases.push_back({.op = name,
                     .name = "matrices",
                     .inputs = {{"a", {3, 5}}, {"b", {3, 5}}},
                     .run = [f = f](const std::vector<Var>& in) -> std::vector<Var> {
                       return {f(in[0], in[1])};
                     }});
    cases.push_back({.op = name,
                     .name = "with itself, twice",
                     .inputs = {{"a", {2, 3}}},
                     .run = [f = f](const std::vector<Var>& in) -> std::vector<Var> {
                       return {f(f(in[0], in[0]), in[0])};
                     }});
  }
  cases.push_back({.op = "matmul",
                   .name = "matrices",
                   .inputs = {{"a", {3, 5}}, {"b", {5, 2}}},
                   .run = [](const std::vector<Var>& in) -> std::vector<Var> {
                     return {matmul(in[0], in[1])};
                   }});
  cases.push_back({.op = "dropout",
                   .name = "p 0.4",
                   .inputs = {{"x", {5, 7}}},
                   .run = [](const std::vector<Var>& in) -> std::vector<Var> {
                     return {dropout(in[0], 0.4, 3, 9)};
                   }});
  return cases;
}

}  // namespace adder
