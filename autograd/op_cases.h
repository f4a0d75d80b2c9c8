// The cases that describe each operation once for all its checks: the float64 gradient check, the
// comparison of devices and precisions, the benchmark and `adder selftest`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "autograd/variable.h"

namespace adder {

struct OpInput {
  std::string name;
  Shape shape;
  double low = -1;  // values are uniform in [low, high]
  double high = 1;
  bool differentiable = true;
};

struct OpCase {
  std::string op;
  std::string name;
  std::vector<OpInput> inputs;
  std::function<std::vector<Var>(const std::vector<Var>&)> run;
  double tolerance_f32 = 1e-5;  // norm-relative, outputs and gradients, against float64
  double flops = 0;             // of forward and backward together
  double bytes = 0;             // least traffic of forward and backward together
  bool benchmark = false;       // a realistic size: timed, and not checked by finite differences
};

std::vector<OpCase> linear_cases();
std::vector<OpCase> causal_conv_silu_cases();
std::vector<OpCase> selective_scan_cases();
std::vector<OpCase> rms_norm_cases();
std::vector<OpCase> layer_norm_cases();
std::vector<OpCase> moment_norm_cases();
std::vector<OpCase> scalar_norm_cases();
std::vector<OpCase> embedding_cases();
std::vector<OpCase> head_loss_cases();
std::vector<OpCase> elementwise_cases();
std::vector<OpCase> shape_cases();
std::vector<OpCase> sequence_cases();
std::vector<OpCase> s4_kernel_cases();
std::vector<OpCase> s4_convolve_cases();
std::vector<OpCase> s4_scan_cases();
std::vector<OpCase> s4_dplr_cases();

std::vector<OpCase> all_op_cases();

// Uniform inputs of a case, deterministic in `seed`.
std::vector<Tensor> make_case_inputs(const OpCase& op_case, Dtype dtype, std::uint64_t seed);

// Outputs, and gradients of sum_i <output_i, w_i> with fixed random w_i, for every differentiable
// input.
struct OpResult {
  std::vector<Tensor> outputs;
  std::vector<Tensor> gradients;
};
OpResult run_case(const OpCase& op_case, const std::vector<Tensor>& inputs, std::uint64_t seed);

struct GradcheckResult {
  double worst = 0;   // largest norm-relative error over the inputs
  std::string input;  // where it occurred
};
// Compares analytic gradients in float64 with central differences, entry by entry.
GradcheckResult gradcheck(const OpCase& op_case, std::uint64_t seed);

// For cases: a Var whose value is `base` displaced by `delta` (a leaf of compact shape) at `index`,
// and whose compact gradient reaches delta as a parameter's does.
Var selection_var(const Tensor& base, IndexSet index, const Var& delta);

// For cases: frequencies (S, N) with every second mode 10 higher. A band limit between them stays
// clear of all, so that differences do not step over it.
Var two_bands(const Var& frequencies);

// ||a - b|| / max(||b||, tiny); NaN when any entry is.
double relative_error(const Tensor& a, const Tensor& b);

}  // namespace adder
