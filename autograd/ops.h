// The differentiable operations: checked free functions over Vars.
//
// Shapes use B L D N for batch, length, channels and state. Each operation's gradient, what it
// saves for it and its test cases stand beside its forward pass in ops/<name>.cpp. All throw
// ShapeError or DtypeError naming themselves when an input does not fit.
//
// On a CUDA device activations may be bfloat16: vectors, state parameters, residual sums and losses
// are float32 beside them, matrices either, and products accumulate in float32. A gradient has the
// type of what it belongs to.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "autograd/tape.h"
#include "autograd/variable.h"

namespace adder {

// A low-rank branch of a linear map (LoRA, Hu et al. 2021) over the output rows
// [row_begin, row_begin + B.dim(0)): adds scale * dropout(x) A^T B^T there.
struct LowRank {
  Var A;  // (r, in)
  Var B;  // (rows, r)
  std::int64_t row_begin = 0;
  double scale = 1;
  double dropout = 0;        // probability; 0 outside training
  std::uint64_t seed = 0;    // of the dropout mask
  std::uint64_t stream = 0;  // distinct for every branch of a model and every step
  Tensor stream_offset{};    // (1) int64 or undefined: added to stream, read where it lies
};

// y = x W^T + bias + low-rank branches. x is (..., in), W is (out, in) and may be stored as
// bf16/f16 when frozen, bias is (out). Weight gradients: none, dense or compact, as W's slot asks.
// Saves x only for the weight gradients and branches that train.
Var linear(const Var& x, const Var& weight, const Var& bias = {},
           std::span<const LowRank> branches = {});

// y_t = silu(bias + sum_k weight[:, k] x_{t-K+1+k}); x is (B, L, D), weight (D, K), bias (D) or
// absent. Saves x.
Var causal_conv_silu(const Var& x, const Var& weight, const Var& bias);

// The selective scan (Gu & Dao 2023); see engine/kernels/scan.h for the equations and shapes.
// Saves its inputs and one state in every kScanChunk.
struct SelectiveScanInputs {
  Var u, dt, A_log, B, C, D;
  Var z;        // absent: no gate
  Var dt_bias;  // absent: none
};
// `h_last`, when given, receives the final state (B, D, N), without a gradient.
Var selective_scan(const SelectiveScanInputs& inputs, Tensor* h_last = nullptr);

// (y, r') with r' = x + residual and y = r' / sqrt(mean(r'^2) + epsilon) * weight; an absent
// residual counts as zero. All are (..., D). y has x's type unless another is asked for, r' that of
// residual, or x's when that is absent. Saves r' and one number per row.
std::pair<Var, Var> rms_norm(const Var& x, const Var& residual, const Var& weight, double epsilon,
                             std::optional<Dtype> y_dtype = std::nullopt);

// LayerNorm: (x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis. Saves x and
// two numbers per row.
Var layer_norm(const Var& x, const Var& weight, const Var& bias, double epsilon);

// LayerNorm with one scale and one shift for all: scale / std (x - mean + shift) over the last
// axis, without an epsilon. scale and shift are (1). Saves x and two numbers per row.
Var scalar_norm(const Var& x, const Var& scale, const Var& shift);

// Which values of x (B, L, D) share a mean and a variance: those of a channel over the whole batch,
// those of a channel of one sequence, or all of one sequence.
enum class MomentsOf : std::uint8_t { batch, instance, group };

// Blended with the statistics of each batch, which a tape does not undo: of a function that is run
// again for its gradient (recompute), only the first run may be given them.
struct RunningMoments {
  Tensor mean, var;  // (D), the unbiased variance
  Tensor batches;    // () int64: how many were blended in, or undefined
};
struct MomentNormOptions {
  MomentsOf over = MomentsOf::batch;
  double epsilon = 1e-5;
  RunningMoments running{};  // batch only, or undefined
  bool use_running = false;  // normalise with the running statistics and leave them as they are
  double momentum = 0.1;     // running <- (1 - momentum) running + momentum batch's
};
// BatchNorm, InstanceNorm and GroupNorm of one group, the channel being x's last axis: (x - mean) /
// sqrt(variance + epsilon) * weight + bias, the variance being the biased one. weight and bias are
// (D), or both absent. Saves x and two numbers per statistic. Throws ShapeError also where a
// variance would be that of a single value.
Var moment_norm(const Var& x, const Var& weight, const Var& bias, const MomentNormOptions& options);

// Rows of `table` (V, D) for int32 `ids` of any shape: (..., D), float32 whatever the table's
// storage. Saves the ids.
Var embedding(const Tensor& ids, const Var& table);

struct HeadLossResult {
  Var loss;  // mean cross entropy over the supervised positions, one element
  std::int64_t supervised = 0;
  // (2) float64 on the device: the sum of the positions' losses, and how many positions' argmax is
  // the label. Reading them waits for the device; see Readback.
  Tensor sums;
};
// Fused output projection and cross entropy. hidden is (..., D), table (V, D), labels int32 of the
// leading shape, kIgnoreLabel where unsupervised. Only supervised rows are multiplied, a chunk at a
// time, and their gradient is formed in the same pass: the (rows, V) logits never exist as a whole.
// The mean is over `denominator` positions when that is positive (gradient accumulation over
// several batches). Without supervised positions the loss is 0.
inline constexpr std::int32_t kIgnoreLabel = -100;
HeadLossResult head_loss(const Var& hidden, const Var& table, const Tensor& labels,
                         std::int64_t denominator = 0);

// The supervised positions of labels on the host; both lists may then be moved to a device.
struct SupervisedRows {
  Tensor rows;     // (count) int64, ascending positions of the flattened labels
  Tensor targets;  // (count) int32
};
// Throws ShapeError for a label outside the vocabulary.
SupervisedRows supervised_rows(const Tensor& labels, std::int64_t vocabulary);
HeadLossResult head_loss(const Var& hidden, const Var& table, const SupervisedRows& supervised,
                         std::int64_t denominator = 0);

struct LossResult {
  Var loss;     // one element: factor times the sum of the rows' losses
  Tensor sums;  // (2) float64 on the device: that sum, and how many rows' argmax is the label
};
// Softmax cross entropy of logits (rows, V) for labels (rows) int32. Saves its gradient.
LossResult cross_entropy(const Var& logits, const Tensor& labels, double factor);
// Sum of squared differences between y and target, both (..., D). Saves its gradient.
LossResult square_error(const Var& y, const Tensor& target, double factor);

// (B, L, D) to (B, D): the mean over the sequence.
Var mean_over_length(const Var& x);

Var add(const Var& a, const Var& b);
Var sub(const Var& a, const Var& b);
Var mul(const Var& a, const Var& b);
Var scale(const Var& x, double factor);
Var silu(const Var& x);
Var softplus(const Var& x);
Var exp(const Var& x);
Var square(const Var& x);
Var sigmoid(const Var& x);
Var tanh(const Var& x);
Var relu(const Var& x);
Var gelu(const Var& x);                  // x Phi(x), the exact one
Var elu(const Var& x);                   // x, and e^x - 1 below zero
Var sum(const Var& x);                   // one element
Var mean(const Var& x);                  // one element
Var matmul(const Var& a, const Var& b);  // (M, K) (K, N)
// x with each element zeroed with probability p and the others divided by 1 - p.
Var dropout(const Var& x, double p, std::uint64_t seed, std::uint64_t stream);

// The same for whole channels of x (B, L, D): what is zeroed is so at every position.
Var dropout_channels(const Var& x, double p, std::uint64_t seed, std::uint64_t stream);

Var reshape(const Var& x, Shape shape);
Var slice(const Var& x, int axis, std::int64_t begin, std::int64_t end);
Var transpose(const Var& x, int a, int b);  // copies
Var concat_last(const std::vector<Var>& parts);
// Views of consecutive pieces of the last axis; their gradients write into one tensor.
std::vector<Var> split_last(const Var& x, const std::vector<std::int64_t>& sizes);

}  // namespace adder
