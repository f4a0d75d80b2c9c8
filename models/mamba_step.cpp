// The recurrent form of Mamba: one token per sequence through the same parameters and adapters.
#include "engine/kernels/conv.h"
#include "engine/kernels/scan.h"
#include "models/mamba.h"
#include "models/mamba_state.h"

namespace adder {
namespace {

void take_rows(Tensor& tensor, const std::vector<std::int64_t>& rows) {
  Shape shape = tensor.shape();
  shape[0] = static_cast<std::int64_t>(rows.size());
  const Tensor next = Tensor::empty(shape, tensor.dtype(), tensor.device());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    next.select(0, static_cast<std::int64_t>(i)).copy_from(tensor.select(0, rows[i]));
  }
  tensor = next;
}

MambaState& as_mamba(DecodingState& state, std::int64_t batch) {
  auto* mamba = dynamic_cast<MambaState*>(&state);
  if (mamba == nullptr) throw ConfigError("mamba: the decoding state belongs to another model");
  if (mamba->batch() != batch) {
    throw ShapeError(str("mamba: ", batch, " sequences for a state of ", mamba->batch()));
  }
  return *mamba;
}

}  // namespace

void MambaState::reorder(const std::vector<std::int64_t>& rows) {
  for (Tensor& tensor : conv) take_rows(tensor, rows);
  for (Tensor& tensor : scan) take_rows(tensor, rows);
}

std::unique_ptr<DecodingState> Mamba::new_state(std::int64_t batch) const {
  auto state = std::make_unique<MambaState>();
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Device device = layers_[i]->D->value().device();
    state->conv.push_back(
        Tensor::zeros({batch, config_.conv_kernel, config_.inner_size}, activations_, device));
    state->scan.push_back(Tensor::zeros({batch, config_.inner_size, config_.state_size},
                                        layers_[i]->D->value().dtype(), device));
  }
  return state;
}

Tensor Mamba::prefill(const Tensor& ids, DecodingState& state) const {
  const Tape::Pause pause;
  if (ids.rank() != 2 || ids.dim(1) == 0) {
    throw ShapeError(str("prefill: ids are ", ids.shape(), ", expected (B, L) with L > 0"));
  }
  MambaState& mamba = as_mamba(state, ids.dim(0));
  const Tensor hidden = run(ids, {}, &mamba).value();
  return head_logits(hidden.select(1, ids.dim(1) - 1).contiguous());
}

Tensor Mamba::step(const Tensor& ids, DecodingState& state) const {
  const Tape::Pause pause;
  if (ids.rank() != 1) throw ShapeError(str("step: ids are ", ids.shape(), ", expected (B)"));
  MambaState& mamba = as_mamba(state, ids.dim(0));
  const std::int64_t e = config_.inner_size;
  const std::int64_t n = config_.state_size;
  const std::int64_t r = config_.time_step_rank;
  Var x = embedding(ids, embedding_->var());
  Var residual;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const MambaLayer& layer = *layers_[i];
    const auto [normed, sum] =
        rms_norm(x, residual, layer.norm->var(), config_.norm_epsilon, activations_);
    residual = sum;
    const Tensor xz = layer.in_proj(normed, {}).value();
    const Tensor u = Tensor::empty({ids.dim(0), e}, xz.dtype(), xz.device());
    kernel::causal_conv_silu_step(xz.device(),
                                  {.x = xz.slice(1, 0, e),
                                   .weight = layer.conv_weight->value(),
                                   .bias = layer.conv_bias ? layer.conv_bias->value() : Tensor(),
                                   .window = mamba.conv[i],
                                   .y = u});
    const Tensor dbc = layer.x_proj(Var(u), {}).value();
    const Tensor dt = layer.dt_proj(Var(dbc.slice(1, 0, r)), {}).value();
    const Tensor y = Tensor::empty({ids.dim(0), e}, xz.dtype(), xz.device());
    kernel::selective_scan_step(xz.device(), {.u = u,
                                              .dt = dt,
                                              .A_log = layer.A_log->value(),
                                              .B = dbc.slice(1, r, r + n),
                                              .C = dbc.slice(1, r + n, r + 2 * n),
                                              .D = layer.D->value(),
                                              .z = xz.slice(1, e, 2 * e),
                                              .dt_bias = layer.dt_proj.bias->value(),
                                              .h = mamba.scan[i],
                                              .out = y});
    x = layer.out_proj(Var(y), {});
  }
  return head_logits(
      rms_norm(x, residual, norm_f_->var(), config_.norm_epsilon, activations_).first.value());
}

}  // namespace adder
