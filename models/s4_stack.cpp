#include "models/s4_stack.h"

#include <memory>
#include <utility>

#include "engine/error.h"
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
  return x;
}

}  // namespace

S4Stack::S4Stack(const S4StackConfig& config, Dtype dtype) : SequenceModel(dtype), config_(config) {
  const std::int64_t h = config.d_model;
  const std::int64_t n = config.d_state / 2;
  const std::int64_t s = config.copies();
  const std::int64_t kernels = config.bidirectional ? 2 * config.channels : config.channels;
  encoder_ = make_linear("encoder", Role::encoder, h, config.d_input);
  for (std::int64_t i = 0; i < config.n_layers; ++i) {
    const std::string prefix = str("s4_layers.", i, ".");
    const std::string layer = prefix + "layer.";
    auto block = std::make_unique<S4Block>();
    block->D = make(layer + "D", Role::D, {config.channels, h});
    block->inv_dt = make(layer + "kernel.inv_dt", Role::log_dt, {h, 1});
    block->C = make(layer + "kernel.C", Role::C, {kernels, h, n, 2});
    block->B = make(layer + "kernel.B", Role::B, {1, s, n, 2});
    block->A_real = make(layer + "kernel.A_real", Role::A_real, {s, n});
    block->A_imag = make(layer + "kernel.A_imag", Role::A_imag, {s, n});
    if (config.mode == "dplr") {
      block->P = make(layer + "kernel.P", Role::P, {config.rank, s, n, 2});
      block->l_kernel = config.l_max;
    }
    block->output_linear = make_linear(prefix + "output_linear.0", Role::out_proj,
                                       config.final_act == "glu" ? 2 * h : h, config.channels * h);
    block->norm = make_norm(str("norms.", i));
    blocks_.push_back(std::move(block));
  }
  if (config.prenorm) norm_ = make_norm("norm");
  decoder_ = make_linear("decoder", Role::decoder, config.d_output, h);
  linear_maps_.push_back(&encoder_);
  for (const auto& block : blocks_) linear_maps_.push_back(&block->output_linear);
  linear_maps_.push_back(&decoder_);
}

S4Norm S4Stack::make_norm(const std::string& name) {
  const Shape shape{config_.d_model};
  S4Norm norm;
  norm.kind = config_.norm;
  if (norm.kind == "none" || norm.kind == "instance") return norm;
  norm.weight = make(name + ".weight", Role::norm, shape);
  norm.bias = make(name + ".bias", Role::norm, shape);
  if (norm.kind != "batch") return norm;
  norm.mean = make_buffer(name + ".running_mean", shape, dtype_);
  norm.var = make_buffer(name + ".running_var", shape, dtype_);
  norm.batches = make_buffer(name + ".num_batches_tracked", {}, Dtype::i64);
  return norm;
}

std::string S4Stack::description() const {
  return str(config_.mode == "dplr" ? "S4" : "S4D", " (", config_.init, ", ", config_.disc, "), ",
             config_.n_layers, config_.n_layers == 1 ? " layer, " : " layers, ", config_.d_model,
             " channels, ", config_.d_state, " states");
}

S4Options S4Stack::options() const {
  S4Options options;
  options.imag_sign = -1;
  options.bandlimit = config_.bandlimit;
  if (config_.disc == "bilinear") options.method = S4Method::bilinear;
  if (config_.disc == "dss") options.method = S4Method::dss;
  return options;
}

void S4Stack::reserve_length(std::int64_t length) {
  if (config_.mode != "dplr") return;
  for (const auto& block : blocks_) {
    const Tensor& b = block->B->value();
    const S4DplrSystem system{block->A_real->value(), block->A_imag->value(),
                              block->inv_dt->value(), b.reshape({b.dim(1), b.dim(2), 2}),
                              block->P->value(),      options()};
    while (block->l_kernel < length) {
      block->C->value().copy_from(s4_dplr_double(system, block->C->value(), block->l_kernel));
      block->l_kernel *= 2;
    }
  }
  config_.l_max = blocks_.front()->l_kernel;
}

Var S4Stack::state_space(const S4Block& block, const Var& u) const {
  const std::int64_t length = u.dim(2);
  const Var D = block.D->var();
  const Var B = reshape(block.B->var(), {config_.copies(), config_.d_state / 2, 2});
  S4Options chosen = options();
  if (config_.mode == "dplr") {
    if (length > block.l_kernel) {
      throw ShapeError(str("s4: ", block.C->name(), " is stored for sequences of up to ",
                           block.l_kernel, ", this one has ", length,
                           "; reserve_length() doubles it"));
    }
    const Var K = s4_dplr_kernel(
        {block.A_real->var(), block.A_imag->var(), block.inv_dt->var(), B, block.P->var()},
        block.C->var(), chosen, block.l_kernel, length);
    return s4_convolve(u, K, D, config_.bidirectional);
  }
  chosen.length = length;
  const S4Modes modes =
      s4_discretize({block.A_real->var(), block.A_imag->var(), block.inv_dt->var(), B}, chosen);
  if (config_.bidirectional || chosen.method == S4Method::dss) {
    return s4_convolve(u, s4_kernel(modes, block.C->var(), length), D, config_.bidirectional);
  }
  return s4_apply(u, modes, block.C->var(), D);
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
  const Var y = state_space(layer, transpose(x, 1, 2));
  // (B, channels, H, L): channels and features become one axis, as in the official layer.
  const Var flat =
      transpose(reshape(y, {x.dim(0), config_.channels * config_.d_model, length}), 1, 2);
  const Var active = activate(config_.activation, drop(flat, site, context));
  const Var mapped = layer.output_linear(drop(active, site + 1, context), context);
  if (config_.final_act != "glu") return drop(mapped, site + 2, context);
  const std::vector<Var> halves = split_last(mapped, {config_.d_model, config_.d_model});
  return drop(mul(halves[0], sigmoid(halves[1])), site + 2, context);
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
