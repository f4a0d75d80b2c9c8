#include "engine/kernels/elementwise.h"

#include "engine/cpu/rows.h"

namespace adder::cpu {
namespace {

// (1 - e) / (1 + e) with e = exp(-2 |x|), and the series where that would cancel: 3e-7.
VecF tanh_lanes(VecF x) {
  const VecF magnitude = x < VecF{} ? -x : x;
  const VecF e = exp(broadcast(-2.0F) * magnitude);
  const VecF far = (broadcast(1.0F) - e) / (broadcast(1.0F) + e);
  const VecF q = x * x;
  VecF p = mul_add(q, broadcast(62.0F / 2835), broadcast(-17.0F / 315));
  p = mul_add(q, p, broadcast(2.0F / 15));
  p = mul_add(q, p, broadcast(-1.0F / 3));
  const VecF near = mul_add(q * x, p, x);
  return magnitude < broadcast(0.25F) ? near : (x < VecF{} ? -far : far);
}
VecD tanh_lanes(VecD x) {
  return each_lane(x, [](double v) { return std::tanh(v); });
}

// The normal distribution's Phi(x) = erfc(-x / sqrt 2) / 2, by Abramowitz and
// Stegun 7.1.26: 1.5e-7.
VecF normal_cdf(VecF x) {
  const VecF z = (x < VecF{} ? -x : x) * broadcast(0.70710678F);
  const VecF t = broadcast(1.0F) / mul_add(broadcast(0.3275911F), z, broadcast(1.0F));
  VecF p = mul_add(t, broadcast(1.061405429F), broadcast(-1.453152027F));
  p = mul_add(t, p, broadcast(1.421413741F));
  p = mul_add(t, p, broadcast(-0.284496736F));
  p = mul_add(t, p, broadcast(0.254829592F));
  const VecF tail = broadcast(0.5F) * p * t * exp(-z * z);
  return x < VecF{} ? tail : broadcast(1.0F) - tail;
}
VecD normal_cdf(VecD x) {
  return each_lane(x, [](double v) { return 0.5 * std::erfc(-v / std::sqrt(2.0)); });
}

// d (x Phi(x)) / dx.
template <typename T>
Vec<T> gelu_slope(Vec<T> x) {
  const Vec<T> density = broadcast(T(0.3989422804014327)) * exp(broadcast(T(-0.5)) * x * x);
  return normal_cdf(x) + x * density;
}

// e^x - 1 for x <= 0, its first terms near zero, where the difference would cancel: 6e-8.
VecF expm1_negative(VecF x) {
  VecF p = mul_add(x, broadcast(1.0F / 5040), broadcast(1.0F / 720));
  p = mul_add(x, p, broadcast(1.0F / 120));
  p = mul_add(x, p, broadcast(1.0F / 24));
  p = mul_add(x, p, broadcast(1.0F / 6));
  p = mul_add(x, p, broadcast(0.5F));
  return x > broadcast(-0.35F) ? mul_add(x * x, p, x) : exp(x) - broadcast(1.0F);
}
VecD expm1_negative(VecD x) {
  return each_lane(x, [](double v) { return std::expm1(v); });
}

// The derivative of the sigmoid, e / (1 + e)^2 with e = exp(-|x|): s (1 - s) would cancel for large
// x. And tanh'(x) = 4 sigmoid'(2 x).
template <typename V>
V sigmoid_slope(V x) {
  const V e = exp(x < V{} ? x : -x);
  const V sum = V{} + 1 + e;
  return e / (sum * sum);
}

// y[i] = f(x[i]) for every run of tensors {x, y}, and likewise with two inputs.
template <typename T, typename F>
void map(const char* place, const Tensor& x, const Tensor& y, const F& f) {
  for_each_run<T, 2>(place, {&x, &y}, [&](const std::array<T*, 2>& run, std::int64_t n) {
    for_each_vector<T>(n, [&](std::int64_t i, std::int64_t count) {
      store(run[1] + i, f(load(run[0] + i, count)), count);
    });
  });
}

template <typename T, typename F>
void map(const char* place, const Tensor& a, const Tensor& b, const Tensor& y, const F& f) {
  for_each_run<T, 3>(place, {&a, &b, &y}, [&](const std::array<T*, 3>& run, std::int64_t n) {
    for_each_vector<T>(n, [&](std::int64_t i, std::int64_t count) {
      store(run[2] + i, f(load(run[0] + i, count), load(run[1] + i, count)), count);
    });
  });
}

template <typename T>
void forward(const UnaryFwdArgs& args) {
  using V = Vec<T>;
  const auto apply = [&](const auto& f) { map<T>("unary_fwd", args.x, args.y, f); };
  const V factor = broadcast(static_cast<T>(args.parameter));
  switch (args.op) {
    case UnaryOp::silu:
      return apply([](V x) { return silu(x); });
    case UnaryOp::softplus:
      return apply([](V x) { return softplus(x); });
    case UnaryOp::exp:
      return apply([](V x) { return exp(x); });
    case UnaryOp::square:
      return apply([](V x) { return x * x; });
    case UnaryOp::scale:
      return apply([&](V x) { return x * factor; });
    case UnaryOp::sigmoid:
      return apply([](V x) { return sigmoid(x); });
    case UnaryOp::tanh:
      return apply([](V x) { return tanh_lanes(x); });
    case UnaryOp::relu:
      return apply([](V x) { return x < V{} ? V{} : x; });  // NaN stays
    case UnaryOp::gelu:
      return apply([](V x) { return x * normal_cdf(x); });
    case UnaryOp::elu:
      return apply([](V x) { return x > V{} ? x : expm1_negative(x); });
  }
}

template <typename T>
void backward(const UnaryBwdArgs& args) {
  using V = Vec<T>;
  const auto apply = [&](const auto& f) { map<T>("unary_bwd", args.x, args.dy, args.dx, f); };
  const V factor = broadcast(static_cast<T>(args.parameter));
  const V four = broadcast(T{4});
  switch (args.op) {
    case UnaryOp::silu:
      return apply([](V x, V dy) { return dy * silu_slope(x, sigmoid(x)); });
    case UnaryOp::softplus:
      return apply([](V x, V dy) { return dy * sigmoid(x); });
    case UnaryOp::exp:
      return apply([](V x, V dy) { return dy * exp(x); });
    case UnaryOp::square:
      return apply([](V x, V dy) { return dy * (x + x); });
    case UnaryOp::scale:
      return apply([&](V, V dy) { return dy * factor; });
    case UnaryOp::sigmoid:
      return apply([](V x, V dy) { return dy * sigmoid_slope(x); });
    case UnaryOp::tanh:
      return apply([&](V x, V dy) { return dy * four * sigmoid_slope(x + x); });
    case UnaryOp::relu:
      return apply([](V x, V dy) { return x > V{} ? dy : V{}; });
    case UnaryOp::gelu:
      return apply([](V x, V dy) { return dy * gelu_slope<T>(x); });
    case UnaryOp::elu:
      return apply([](V x, V dy) { return x > V{} ? dy : dy * exp(x); });
  }
}

template <typename T>
void two_inputs(const BinaryArgs& args) {
  using V = Vec<T>;
  const auto apply = [&](const auto& f) { map<T>("binary", args.a, args.b, args.y, f); };
  switch (args.op) {
    case BinaryOp::add:
      return apply([](V a, V b) { return a + b; });
    case BinaryOp::sub:
      return apply([](V a, V b) { return a - b; });
    case BinaryOp::mul:
      return apply([](V a, V b) { return a * b; });
  }
}

template <typename T>
void bias(const AddBiasArgs& args) {
  const std::int64_t D = args.y.dim(1);
  const Matrix<T> y = matrix<T>("add_bias", "y", args.y, args.y.shape());
  const T* b = vector<T>("add_bias", "bias", args.bias, D);
  parallel_for(args.y.dim(0), row_grain(D), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      T* to = y(row);
      for_each_vector<T>(D, [&](std::int64_t i, std::int64_t count) {
        store(to + i, load(to + i, count) + load(b + i, count), count);
      });
    }
  });
}

void check_matrix(const char* place, const char* what, const Tensor& tensor) {
  if (!tensor.defined() || tensor.rank() != 2) {
    throw ShapeError(str(place, ": ", what, " is ", tensor.shape(), ", expected [rows, D]"));
  }
}

}  // namespace

void unary_fwd(const UnaryFwdArgs& args) {
  dispatch_real("unary_fwd", args.x.dtype(), [&](auto t) { forward<decltype(t)>(args); });
}

void unary_bwd(const UnaryBwdArgs& args) {
  dispatch_real("unary_bwd", args.x.dtype(), [&](auto t) { backward<decltype(t)>(args); });
}

void binary(const BinaryArgs& args) {
  dispatch_real("binary", args.a.dtype(), [&](auto t) { two_inputs<decltype(t)>(args); });
}

void add_bias(const AddBiasArgs& args) {
  check_matrix("add_bias", "y", args.y);
  dispatch_real("add_bias", args.y.dtype(), [&](auto t) { bias<decltype(t)>(args); });
}

}  // namespace adder::cpu
