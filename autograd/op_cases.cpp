#include "autograd/op_cases.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/ops.h"
#include "autograd/tape.h"
#include "engine/random.h"

namespace adder {
namespace {

constexpr std::uint64_t kWeightStream = 1000;  // apart from the inputs' streams

Tensor weights_for(const Tensor& output, std::uint64_t seed, std::size_t index) {
  const Tensor weights = Tensor::empty(output.shape(), Dtype::f64);
  fill_uniform(weights, -1, 1, seed, kWeightStream + index);
  return weights.to(output.dtype()).to(output.device());
}

double norm(const Tensor& tensor) {
  double sum = 0;
  for (const double x : tensor.to_vector()) sum += x * x;
  return std::sqrt(sum);
}

double weighted_sum(const OpCase& op_case, const std::vector<Tensor>& inputs, std::uint64_t seed) {
  const std::vector<Var> vars(inputs.begin(), inputs.end());
  const std::vector<Var> outputs = op_case.run(vars);
  double total = 0;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const std::vector<double> y = outputs[i].value().to_vector();
    const std::vector<double> w = weights_for(outputs[i].value(), seed, i).to_vector();
    for (std::size_t j = 0; j < y.size(); ++j) total += y[j] * w[j];
  }
  return total;
}

}  // namespace

std::vector<OpCase> all_op_cases() {
  std::vector<OpCase> all;
  for (const auto& cases :
       {linear_cases(), causal_conv_silu_cases(), selective_scan_cases(), rms_norm_cases(),
        embedding_cases(), head_loss_cases(), elementwise_cases(), shape_cases(), sequence_cases(),
        layer_norm_cases(), moment_norm_cases(), scalar_norm_cases(), s4_kernel_cases(),
        s4_convolve_cases(), s4_scan_cases(), s4_dplr_cases()}) {
    all.insert(all.end(), cases.begin(), cases.end());
  }
  return all;
}

std::vector<Tensor> make_case_inputs(const OpCase& op_case, Dtype dtype, std::uint64_t seed) {
  std::vector<Tensor> inputs;
  for (std::size_t i = 0; i < op_case.inputs.size(); ++i) {
    const OpInput& input = op_case.inputs[i];
    // Drawn in float32 so that both precisions start from the same numbers.
    const Tensor values = Tensor::empty(input.shape, Dtype::f32);
    fill_uniform(values, input.low, input.high, seed, i);
    inputs.push_back(values.to(dtype));
  }
  return inputs;
}

OpResult run_case(const OpCase& op_case, const std::vector<Tensor>& inputs, std::uint64_t seed) {
  std::vector<Var> vars;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    vars.push_back(op_case.inputs[i].differentiable ? Var::leaf(inputs[i]) : Var(inputs[i]));
  }
  Tape tape;
  const std::vector<Var> outputs = op_case.run(vars);
  OpResult result;
  std::vector<Tensor> seeds;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    result.outputs.push_back(outputs[i].value());
    seeds.push_back(weights_for(outputs[i].value(), seed, i));
  }
  tape.backward(outputs, seeds);
  for (std::size_t i = 0; i < vars.size(); ++i) {
    if (!op_case.inputs[i].differentiable) continue;
    const Tensor gradient = vars[i].grad();
    result.gradients.push_back(
        gradient.defined()
            ? gradient.contiguous()
            : Tensor::zeros(inputs[i].shape(), inputs[i].dtype(), inputs[i].device()));
  }
  return result;
}

GradcheckResult gradcheck(const OpCase& op_case, std::uint64_t seed) {
  const std::vector<Tensor> inputs = make_case_inputs(op_case, Dtype::f64, seed);
  const OpResult analytic = run_case(op_case, inputs, seed);
  GradcheckResult result;
  // An input whose gradient is zero, or tiny beside the others, is held to the rounding of the sum
  // that is differenced.
  double largest = 0;
  for (const Tensor& gradient : analytic.gradients) largest = std::max(largest, norm(gradient));
  std::size_t next = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!op_case.inputs[i].differentiable) continue;
    const Tensor numeric = Tensor::empty(inputs[i].shape(), Dtype::f64);
    double* values = inputs[i].data<double>();
    for (std::int64_t j = 0; j < inputs[i].numel(); ++j) {
      // A fourth-order stencil: its truncation error lies far below the tolerance at a step for
      // which rounding does too.
      const double x = values[j];
      const double step = 2.5e-4;
      double f[4];
      const double offsets[4] = {-2, -1, 1, 2};
      for (int k = 0; k < 4; ++k) {
        values[j] = x + offsets[k] * step;
        f[k] = weighted_sum(op_case, inputs, seed);
      }
      values[j] = x;
      numeric.data<double>()[j] = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step);
    }
    const Tensor difference = numeric.clone();
    difference.scale_(-1);
    difference.add_(analytic.gradients[next++]);
    const double error = norm(difference) / std::max({norm(numeric), 1e-3 * largest, 1e-30});
    if (!(error <= result.worst)) {
      result.worst = error;
      result.input = op_case.inputs[i].name;
    }
  }
  return result;
}

Var two_bands(const Var& frequencies) {
  const Tensor offsets = Tensor::zeros(frequencies.shape(), frequencies.dtype());
  for (std::int64_t n = 1; n < offsets.dim(1); n += 2) offsets.slice(1, n, n + 1).fill(10);
  return add(frequencies, offsets.to(frequencies.value().device()));
}

Var selection_var(const Tensor& base, IndexSet index, const Var& delta) {
  const Tensor value = base.clone();
  auto selection = std::make_shared<Selection>();
  selection->base = index.gather(base);
  selection->delta = delta.value();
  selection->index = std::move(index);
  selection->apply(value);
  return Var(value, GradSlot::for_selection(value, selection, delta.slot()));
}

double relative_error(const Tensor& a, const Tensor& b) {
  check_shape("relative_error", "first tensor", a, b.shape());
  const Tensor difference = b.to(Device{}).to(Dtype::f64).clone();
  difference.scale_(-1);
  difference.add_(a.to(Device{}).to(Dtype::f64));
  return norm(difference) / std::max(norm(b), 1e-30);
}

}  // namespace adder
