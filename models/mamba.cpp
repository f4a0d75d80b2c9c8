#include "models/mamba.h"

#include <algorithm>

#include "engine/error.h"
#include "models/mamba_state.h"

namespace adder {
namespace {

LinearMap make_map(std::string name, ParameterPtr weight, ParameterPtr bias,
                   std::vector<LinearSlice> slices) {
  LinearMap map;
  map.name = std::move(name);
  map.weight = std::move(weight);
  map.bias = std::move(bias);
  map.slices = std::move(slices);
  return map;
}

// The last K rows of x (B, L, E), oldest first, with zeros where the sequence is shorter.
void fill_window(const Tensor& x, const Tensor& window) {
  const std::int64_t length = x.dim(1);
  const std::int64_t width = window.dim(1);
  const std::int64_t kept = std::min(length, width);
  window.slice(1, 0, width - kept).fill(0);
  window.slice(1, width - kept, width).copy_from(x.slice(1, length - kept, length));
}

}  // namespace

ParameterPtr Mamba::make(const std::string& name, Role role, Shape shape, Dtype dtype) {
  auto parameter = std::make_shared<Parameter>(name, role, Tensor::empty(shape, dtype));
  parameters_.push_back(parameter);
  return parameter;
}

Mamba::Mamba(const MambaConfig& config, Dtype dtype)
    : config_(config), activations_(dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32) {
  const std::int64_t d = config.hidden_size;
  const std::int64_t e = config.inner_size;
  const std::int64_t n = config.state_size;
  const std::int64_t r = config.time_step_rank;
  // Vectors, the convolution and the state parameters are small: only matrices may be stored in
  // half precision.
  const Dtype small = dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  embedding_ = make("backbone.embeddings.weight", Role::embedding, {config.vocab_size, d}, dtype);
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const std::string prefix = str("backbone.layers.", i, ".");
    const std::string mixer = prefix + "mixer.";
    auto layer = std::make_unique<MambaLayer>();
    layer->norm = make(prefix + "norm.weight", Role::norm, {d}, small);
    layer->A_log = make(mixer + "A_log", Role::A_log, {e, n}, small);
    layer->D = make(mixer + "D", Role::D, {e}, small);
    layer->conv_weight =
        make(mixer + "conv1d.weight", Role::conv_weight, {e, config.conv_kernel}, small);
    if (config.use_conv_bias) {
      layer->conv_bias = make(mixer + "conv1d.bias", Role::conv_bias, {e}, small);
    }
    const auto bias = [&](const std::string& name, std::int64_t width) {
      return config.use_bias ? make(mixer + name + ".bias", Role::linear_bias, {width}, small)
                             : nullptr;
    };
    auto weight = make(mixer + "in_proj.weight", Role::in_proj, {2 * e, d}, dtype);
    layer->in_proj = make_map(mixer + "in_proj", weight, bias("in_proj", 2 * e),
                              {{"in_proj_x", 0, e}, {"in_proj_z", e, 2 * e}});
    weight = make(mixer + "x_proj.weight", Role::x_proj, {r + 2 * n, e}, dtype);
    layer->x_proj =
        make_map(mixer + "x_proj", weight, nullptr,
                 {{"x_proj_dt", 0, r}, {"x_proj_B", r, r + n}, {"x_proj_C", r + n, r + 2 * n}});
    weight = make(mixer + "dt_proj.weight", Role::dt_proj, {e, r}, dtype);
    layer->dt_proj = make_map(mixer + "dt_proj", weight,
                              make(mixer + "dt_proj.bias", Role::dt_bias, {e}, small), {});
    layer->dt_proj.bias_applied_later = true;
    weight = make(mixer + "out_proj.weight", Role::out_proj, {d, e}, dtype);
    layer->out_proj = make_map(mixer + "out_proj", weight, bias("out_proj", d), {});
    layers_.push_back(std::move(layer));
  }
  norm_f_ = make("backbone.norm_f.weight", Role::norm, {d}, small);
  if (!config.tie_embeddings) {
    head_ = make("lm_head.weight", Role::head, {config.vocab_size, d}, dtype);
  }
  for (const auto& layer : layers_) {
    for (LinearMap* map : {&layer->in_proj, &layer->x_proj, &layer->dt_proj, &layer->out_proj}) {
      linear_maps_.push_back(map);
    }
  }
}

void Mamba::set_activations(Dtype dtype) {
  const bool narrow = dtype == Dtype::bf16 && !device().is_cpu();
  if (!narrow && dtype != norm_f_->value().dtype()) {
    throw DtypeError(str("mamba: activations in ", dtype_name(dtype), " on ", device_name(device()),
                         "; bfloat16 needs a CUDA device"));
  }
  activations_ = dtype;
}

void Mamba::add_parameter(ParameterPtr parameter) {
  parameters_.push_back(std::move(parameter));
}

std::vector<std::string> Mamba::biasable_modules() const {
  std::vector<std::string> modules;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const std::string mixer = str("backbone.layers.", i, ".mixer.");
    for (const char* name : {"conv1d", "in_proj", "x_proj", "dt_proj", "out_proj"}) {
      modules.push_back(mixer + name);
    }
  }
  return modules;
}

ParameterPtr Mamba::ensure_bias(const std::string& module) {
  const auto create = [&](ParameterPtr& bias, Role role, std::int64_t width) {
    if (!bias) {
      bias = std::make_shared<Parameter>(
          module + ".bias", role, Tensor::zeros({width}, Dtype::f32, norm_f_->value().device()));
      parameters_.push_back(bias);
    }
    return bias;
  };
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    MambaLayer& layer = *layers_[i];
    if (module == str("backbone.layers.", i, ".mixer.conv1d")) {
      return create(layer.conv_bias, Role::conv_bias, config_.inner_size);
    }
    for (LinearMap* map : {&layer.in_proj, &layer.x_proj, &layer.dt_proj, &layer.out_proj}) {
      if (module == map->name) {
        return create(map->bias, Role::linear_bias, map->weight->value().dim(0));
      }
    }
  }
  return nullptr;
}

Var Mamba::head_table() const {
  return head_ ? head_->var() : embedding_->var();
}

Var Mamba::mixer(const MambaLayer& layer, const Var& x, const ForwardContext& context,
                 Tensor* conv_window, Tensor* scan_state) const {
  const std::int64_t e = config_.inner_size;
  const std::int64_t n = config_.state_size;
  const std::vector<Var> xz = split_last(layer.in_proj(x, context), {e, e});
  if (conv_window != nullptr) fill_window(xz[0].value(), *conv_window);
  const Var conv_bias = layer.conv_bias ? layer.conv_bias->var() : Var();
  const Var u = causal_conv_silu(xz[0], layer.conv_weight->var(), conv_bias);
  const std::vector<Var> dbc = split_last(layer.x_proj(u, context), {config_.time_step_rank, n, n});
  const Var dt = layer.dt_proj(dbc[0], context);
  Tensor h_last;
  const Var y = selective_scan({.u = u,
                                .dt = dt,
                                .A_log = layer.A_log->var(),
                                .B = dbc[1],
                                .C = dbc[2],
                                .D = layer.D->var(),
                                .z = xz[1],
                                .dt_bias = layer.dt_proj.bias->var()},
                               scan_state != nullptr ? &h_last : nullptr);
  if (scan_state != nullptr) scan_state->copy_from(h_last);
  return layer.out_proj(y, context);
}

Var Mamba::run(const Tensor& ids, const ForwardContext& context, MambaState* state) const {
  if (ids.rank() != 2) throw ShapeError(str("mamba: ids are ", ids.shape(), ", expected (B, L)"));
  Var x = embedding(ids, embedding_->var());
  Var residual;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const MambaLayer& layer = *layers_[i];
    Tensor* window = state != nullptr ? &state->conv[i] : nullptr;
    Tensor* scan = state != nullptr ? &state->scan[i] : nullptr;
    // By value: the tape keeps the block beyond this frame when it is to be recomputed.
    const auto block = [this, &layer, context, window, scan](const std::vector<Var>& in) {
      const Var incoming = in.size() > 1 ? in[1] : Var();
      const auto [normed, sum] =
          rms_norm(in[0], incoming, layer.norm->var(), config_.norm_epsilon, activations_);
      return std::vector<Var>{mixer(layer, normed, context, window, scan), sum};
    };
    std::vector<Var> inputs{x};
    if (residual.defined()) inputs.push_back(residual);
    const std::vector<Var> outputs =
        context.recompute ? adder::recompute(block, inputs) : block(inputs);
    x = outputs[0];
    residual = outputs[1];
  }
  return rms_norm(x, residual, norm_f_->var(), config_.norm_epsilon, activations_).first;
}

Var Mamba::hidden(const Tensor& ids, const ForwardContext& context) const {
  return run(ids, context, nullptr);
}

}  // namespace adder
