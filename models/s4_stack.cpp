#include "models/s4_stack.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "engine/error.h"
#include "engine/text/counted.h"
#include "models/s4_dplr.h"

namespace adder {
namespace {

constexpr std::uint64_t kSite =
    1 << 16;  // dropout streams; those of low-rank branches count from 0
constexpr std::size_t kDropoutsOfBlock = 3;  // after the layer, the activation and the block

Var activate(const std::string& name, const Var& x) {
  if (name == "gelu") return gelu(x);
  if (name == "relu") return relu(x);
  if (name == "silu") return silu(x);
  if (name == "tanh") return tanh(x);
  if (name == "elu") return elu(x);
  if (name == "sigmoid") return sigmoid(x);
  return x;
}

}  // namespace

S4Stack::S4Stack(const S4StackConfig& config, Dtype dtype) : SequenceModel(dtype), config_(config) {
  encoder_ = make_linear("encoder", Role::encoder, config.d_model, config.d_input);
  for (std::int64_t i = 0; i < config.n_layers; ++i) {
    const std::string prefix = str("s4_layers.", i, ".");
    auto block = std::make_unique<S4Block>();
    if (config.layer == "s4d") {
      make_minimal(*block, prefix);
    } else {
      make_s4(*block, prefix);
    }
    block->norm = make_norm(str("norms.", i));
    blocks_.push_back(std::move(block));
  }
  if (config.prenorm) norm_ = make_norm("norm");
  decoder_ = make_linear("decoder", Role::decoder, config.d_output, config.d_model);
  linear_maps_.push_back(&encoder_);
  for (const auto& block : blocks_) {
    for (LinearMap* map :
         {&block->input_linear, &block->input_gate, &block->output_gate, &block->output_linear}) {
      if (map->weight) linear_maps_.push_back(map);
    }
    for (StateMap* map : {&block->C, &block->A_real, &block->A_imag}) state_maps_.push_back(map);
  }
  linear_maps_.push_back(&decoder_);
}

void S4Stack::make_s4(S4Block& block, const std::string& prefix) {
  const std::int64_t e = config_.d_model;
  const std::int64_t h = config_.d_inner();
  const std::int64_t n = config_.d_state / 2;
  const std::int64_t s = config_.copies();
  const std::int64_t kernels = config_.bidirectional ? 2 * config_.channels : config_.channels;
  const std::string layer = prefix + "layer.";
  if (config_.bottleneck > 0) {
    block.input_linear = make_linear(prefix + "input_linear", Role::in_proj, h, e);
  }
  if (config_.gate > 0) {
    // PyTorch's module is a sequence of two where there is an activation.
    const char* name = config_.gate_act == "none" ? "input_gate" : "input_gate.0";
    block.input_gate = make_linear(prefix + name, Role::in_proj, config_.gate * e, e);
    block.output_gate =
        make_linear(prefix + "output_gate", Role::in_proj, config_.gate * e, config_.channels * h);
  }
  block.D = make(layer + "D", Role::D, {config_.channels, h});
  block.inv_dt = make(layer + "kernel.inv_dt", Role::log_dt, {h, 1});
  block.C = make_state(layer + "kernel.C", Role::C, {kernels, h, n, 2});
  block.B = make(layer + "kernel.B", Role::B, {1, s, n, 2});
  block.A_real = make_state(layer + "kernel.A_real", Role::A_real, {s, n});
  block.A_real.alias = layer + "kernel.log_A_real";  // as in the deep S4: what is stored
  block.A_imag = make_state(layer + "kernel.A_imag", Role::A_imag, {s, n});
  if (config_.mode == "dplr") {
    block.P = make(layer + "kernel.P", Role::P, {config_.rank, s, n, 2});
    block.l_kernel = config_.l_max;
  }
  if (config_.final_act.empty()) return;
  block.output_linear = make_linear(prefix + "output_linear.0", Role::out_proj,
                                    config_.final_act == "glu" ? 2 * e : e,
                                    config_.gate > 0 ? config_.gate * e : config_.channels * h);
}

StateMap S4Stack::make_state(const std::string& name, Role role, const Shape& shape) {
  return {name, make(name, role, shape), {}, {}};
}

void S4Stack::make_minimal(S4Block& block, const std::string& prefix) {
  const std::int64_t h = config_.d_model;
  const std::int64_t n = config_.d_state / 2;
  block.D = make(prefix + "D", Role::D, {h});
  block.C = make_state(prefix + "kernel.C", Role::C, {h, n, 2});
  block.inv_dt = make(prefix + "kernel.log_dt", Role::log_dt, {h});
  block.A_real = make_state(prefix + "kernel.log_A_real", Role::A_real, {h, n});
  block.A_real.alias = prefix + "kernel.A_real";  // as in the official layer
  block.A_imag = make_state(prefix + "kernel.A_imag", Role::A_imag, {h, n});
  block.output_linear = make_linear(prefix + "output_linear.0", Role::out_proj, 2 * h, h);
}

S4Norm S4Stack::make_norm(const std::string& name) {
  const Shape shape{config_.d_model};
  S4Norm norm;
  norm.kind = config_.norm;
  if (norm.kind == "none" || norm.kind == "instance") return norm;
  if (norm.kind == "layer_scalar") {
    norm.bias = make(name + ".m", Role::norm, {1});
    norm.weight = make(name + ".s", Role::norm, {1});
    return norm;
  }
  norm.weight = make(name + ".weight", Role::norm, shape);
  norm.bias = make(name + ".bias", Role::norm, shape);
  if (norm.kind != "batch") return norm;
  norm.mean = make_buffer(name + ".running_mean", shape, dtype_);
  norm.var = make_buffer(name + ".running_var", shape, dtype_);
  norm.batches = make_buffer(name + ".num_batches_tracked", {}, Dtype::i64);
  return norm;
}

std::string S4Stack::description() const {
  const std::string kind = config_.layer == "s4d" ? "minimal S4D"
                                                  : str(config_.mode == "dplr" ? "S4" : "S4D", " (",
                                                        config_.init, ", ", config_.disc, ")");
  const std::string inner =
      config_.bottleneck > 0 ? str(" (", config_.d_inner(), " in a layer)") : std::string();
  return str(kind, ", ", counted(config_.n_layers, "layer"), ", ",
             counted(config_.d_model, "channel"), inner, ", ", counted(config_.d_state, "state"));
}

S4Options S4Stack::options() const {
  S4Options options;
  if (config_.layer == "s4d") return options;  // A = -exp(log_A_real) + i A_imag and B = 1
  options.imag_sign = -1;
  options.bandlimit = config_.bandlimit;
  if (config_.disc == "bilinear") options.method = S4Method::bilinear;
  if (config_.disc == "dss") options.method = S4Method::dss;
  return options;
}

std::vector<DiagonalStates> S4Stack::diagonal_states() {
  std::vector<DiagonalStates> states;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    S4Block& block = *blocks_[i];
    DiagonalStates& of_layer = states.emplace_back();
    of_layer.name = str("s4_layers.", i, config_.layer == "s4d" ? "" : ".layer");
    of_layer.C = &block.C;
    of_layer.A_real = &block.A_real;
    of_layer.A_imag = &block.A_imag;
    of_layer.log_dt = block.inv_dt;
    of_layer.B = block.B;
    of_layer.D = block.D;
    LinearMap& behind = block.output_gate.weight ? block.output_gate : block.output_linear;
    if (behind.weight) of_layer.output = &behind;
    of_layer.options = options();
    if (config_.bottleneck > 0) of_layer.channels_key = "d_model / bottleneck";
    of_layer.low_rank = block.P != nullptr;
  }
  return states;
}

void S4Stack::reserve_length(std::int64_t length) {
  if (config_.mode != "dplr") return;
  for (const auto& block : blocks_) {
    if (block->l_kernel >= length) continue;
    const Tape::Pause pause;
    const Tensor& b = block->B->value();
    const Tensor merged = block->C.merged();
    const S4DplrSystem system{block->A_real.merged(), block->A_imag.merged(),
                              block->inv_dt->value(), b.reshape({b.dim(1), b.dim(2), 2}),
                              block->P->value(),      options()};
    const Tensor& base = block->C.base->value();
    Tensor C = merged;
    while (block->l_kernel < length) {
      C = s4_dplr_double(system, C, block->l_kernel).to(base.device());
      block->l_kernel *= 2;
    }
    // Branches stay as they are, so what they add is not the base's.
    base.copy_from(sub(Var(C), sub(Var(merged), Var(base))).value());
  }
  config_.l_max = blocks_.front()->l_kernel;
}

std::int64_t S4Stack::stored_length() const {
  std::int64_t shortest = 0;  // as for diagonal layers
  for (const auto& block : blocks_) {
    shortest = shortest == 0 ? block->l_kernel : std::min(shortest, block->l_kernel);
  }
  return shortest;
}

Var S4Stack::state_space(const S4Block& block, const Var& u) const {
  constexpr S4Axes kAxes = S4Axes::steps_channels;
  const std::int64_t length = u.dim(1);
  if (config_.layer == "s4d") {
    const S4Modes modes =
        s4_discretize({block.A_real(), block.A_imag(), block.inv_dt->var(), {}}, options());
    const Var C = reshape(block.C(), {1, config_.d_model, config_.d_state / 2, 2});
    return s4_apply(u, modes, C, reshape(block.D->var(), {1, config_.d_model}), kAxes);
  }
  const Var D = block.D->var();
  const Var B = reshape(block.B->var(), {config_.copies(), config_.d_state / 2, 2});
  S4Options chosen = options();
  if (config_.mode == "dplr") {
    if (length > block.l_kernel) {
      throw ShapeError(str("s4: ", block.C.name, " is stored for sequences of up to ",
                           block.l_kernel, ", this one has ", length,
                           "; reserve_length() doubles it"));
    }
    const Var K =
        s4_dplr_kernel({block.A_real(), block.A_imag(), block.inv_dt->var(), B, block.P->var()},
                       block.C(), chosen, block.l_kernel, length);
    return s4_convolve(u, K, D, config_.bidirectional, kAxes);
  }
  chosen.length = length;
  const S4Modes modes =
      s4_discretize({block.A_real(), block.A_imag(), block.inv_dt->var(), B}, chosen);
  if (config_.bidirectional || chosen.method == S4Method::dss) {
    return s4_convolve(u, s4_kernel(modes, block.C(), length), D, config_.bidirectional, kAxes);
  }
  return s4_apply(u, modes, block.C(), D, kAxes);
}

Var S4Stack::drop(const Var& x, std::size_t site, const ForwardContext& context) const {
  if (!context.training || config_.dropout == 0) return x;
  const std::uint64_t stream = (context.micro_batch << kMicroBatchShift) + kSite + site;
  return config_.tie_dropout ? dropout_channels(x, config_.dropout, context.seed, stream)
                             : dropout(x, config_.dropout, context.seed, stream);
}

Var S4Stack::block(std::size_t index, const Var& x, const ForwardContext& context) const {
  const S4Block& layer = *blocks_[index];
  const std::size_t site = index * kDropoutsOfBlock;
  const std::int64_t length = x.dim(1);
  const Var u = layer.input_linear.weight ? layer.input_linear(x, context) : x;
  Var y = state_space(layer, u);
  // (B, L, channels, H): channels and features become one axis, as in the official layer.
  y = reshape(y, {x.dim(0), length, config_.channels * config_.d_inner()});
  if (config_.layer != "s4d") y = drop(y, site, context);
  y = activate(config_.activation, y);
  if (config_.gate > 0) {
    const Var gate = activate(config_.gate_act, layer.input_gate(x, context));
    y = mul(layer.output_gate(y, context), gate);
  }
  y = drop(activate(config_.mult_act, y), site + 1, context);
  if (layer.output_linear.weight) y = layer.output_linear(y, context);
  if (config_.final_act == "glu") {
    const std::vector<Var> halves = split_last(y, {config_.d_model, config_.d_model});
    y = mul(halves[0], sigmoid(halves[1]));
  } else if (!config_.final_act.empty()) {
    y = activate(config_.final_act, y);
  }
  return drop(y, site + 2, context);
}

Var S4Stack::forward(const Tensor& x, const ForwardContext& context) const {
  if (x.rank() != 3 || x.dim(0) < 1 || x.dim(1) < 1 || x.dim(2) != config_.d_input) {
    throw ShapeError(str("s4: x is ", x.shape(), ", expected (B, L, ", config_.d_input,
                         ") with B and L at least 1"));
  }
  Var state = encoder_(Var(x.to(dtype_).to(device())), context);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    // By value: the tape keeps the block beyond this frame when it is to be recomputed. Running
    // statistics see a batch once.
    const auto step = [this, i, context,
                       seen = std::make_shared<bool>(false)](const std::vector<Var>& in) {
      const bool again = std::exchange(*seen, true);
      const auto norm = [&](const Var& value) {
        return blocks_[i]->norm(value, context, buffers_frozen(), again);
      };
      if (config_.prenorm) return std::vector<Var>{add(in[0], block(i, norm(in[0]), context))};
      return std::vector<Var>{norm(add(in[0], block(i, in[0], context)))};
    };
    state = context.recompute ? adder::recompute(step, {state})[0] : step({state})[0];
  }
  state = norm_(state, context, buffers_frozen(), false);
  if (config_.pooling == "mean") state = mean_over_length(state);
  if (config_.pooling == "last") {
    state = reshape(slice(state, 1, x.dim(1) - 1, x.dim(1)), {x.dim(0), config_.d_model});
  }
  return decoder_(state, context);
}

}  // namespace adder
