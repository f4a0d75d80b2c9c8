#include "models/deep_s4.h"

#include "autograd/s4_ops.h"
#include "engine/text/counted.h"
#include "models/json_reader.h"

namespace adder {
namespace {

const std::vector<std::string> kModes = {"theory", "default"};
constexpr const char* kType = "deep_s4";
// Dropout streams of layers; those of low-rank branches count from 0.
constexpr std::uint64_t kSite = 1 << 16;

}  // namespace

DeepS4Config DeepS4Config::from_json(const std::string& text, const std::string& name) {
  JsonReader json(text, name);
  DeepS4Config c;
  std::string type = kType;
  json.read("model_type", type, {kType});
  std::string mode = "default";
  json.read("mode", mode, kModes);
  c.mode = mode == "theory" ? Mode::theory : Mode::standard;
  json.read("d_model", c.d_model, 1);
  json.read("n_layers", c.n_layers, 1, 4096);
  json.read("d_state", c.d_state, 1, 65536);
  json.read("A_init", c.A_init, {"default", "random"});
  if (c.mode == Mode::standard) {
    json.read("d_input", c.d_input, 1);
    json.read("d_output", c.d_output, 1);
    json.read("dropout", c.dropout, 0, 0.999);
  }
  json.finish();
  return c;
}

std::string DeepS4Config::to_json() const {
  nlohmann::ordered_json json;
  json["model_type"] = kType;
  json["mode"] = kModes[mode == Mode::theory ? 0 : 1];
  json["d_model"] = d_model;
  json["n_layers"] = n_layers;
  json["d_state"] = d_state;
  json["A_init"] = A_init;
  if (mode == Mode::standard) {
    json["d_input"] = d_input;
    json["d_output"] = d_output;
    json["dropout"] = dropout;
  }
  return json.dump(2) + "\n";
}

DeepS4::DeepS4(const DeepS4Config& config, Dtype dtype) : SequenceModel(dtype), config_(config) {
  const std::int64_t h = config.d_model;
  const std::int64_t n = config.d_state;
  const auto state = [this](const std::string& name, Role role, Shape shape) {
    return StateMap{name, make(name, role, shape), {}, {}};
  };
  if (pooled()) encoder_ = make_linear("encoder", Role::encoder, h, config.d_input);
  for (std::int64_t i = 0; i < config.n_layers; ++i) {
    const std::string prefix = str("layers.", i, ".");
    auto layer = std::make_unique<DeepS4Layer>();
    layer->D = make(prefix + "D", Role::D, {h});
    layer->C = state(prefix + "kernel.C", Role::C, {h, n, 2});
    layer->log_dt = make(prefix + "kernel.log_dt", Role::log_dt, {h});
    layer->log_A_real = state(prefix + "kernel.log_A_real", Role::A_real, {h, n});
    layer->A_imag = state(prefix + "kernel.A_imag", Role::A_imag, {h, n});
    layer->output_linear = make_linear(prefix + "output_linear", Role::out_proj, h, h);
    layers_.push_back(std::move(layer));
  }
  if (pooled()) decoder_ = make_linear("decoder", Role::decoder, config.d_output, h);
  if (pooled()) linear_maps_.push_back(&encoder_);
  for (const auto& layer : layers_) {
    linear_maps_.push_back(&layer->output_linear);
    for (StateMap* map : {&layer->C, &layer->log_A_real, &layer->A_imag}) {
      state_maps_.push_back(map);
    }
  }
  if (pooled()) linear_maps_.push_back(&decoder_);
}

std::int64_t DeepS4::input_size() const {
  return pooled() ? config_.d_input : config_.d_model;
}

std::int64_t DeepS4::output_size() const {
  return pooled() ? config_.d_output : config_.d_model;
}

std::string DeepS4::description() const {
  return str("deep S4 (", kModes[config_.mode == DeepS4Config::Mode::theory ? 0 : 1], "), ",
             counted(config_.n_layers, "layer"), ", ", counted(config_.d_model, "channel"), ", ",
             counted(config_.d_state, "state"));
}

std::vector<DiagonalStates> DeepS4::diagonal_states() {
  std::vector<DiagonalStates> states;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    DeepS4Layer& layer = *layers_[i];
    DiagonalStates& of_layer = states.emplace_back();
    of_layer.name = str("layers.", i);
    of_layer.C = &layer.C;
    of_layer.A_real = &layer.log_A_real;
    of_layer.A_imag = &layer.A_imag;
    of_layer.log_dt = layer.log_dt;
    of_layer.D = layer.D;
    of_layer.output = &layer.output_linear;
  }
  return states;
}

Var DeepS4::layer(const DeepS4Layer& layer, const Var& x, const ForwardContext& context) const {
  const std::int64_t h = config_.d_model;
  const std::int64_t length = x.dim(1);
  const S4Modes modes =
      s4_discretize({layer.log_A_real(), layer.A_imag(), layer.log_dt->var(), {}}, S4Options{});
  const Var C = reshape(layer.C(), {1, h, config_.d_state, 2});
  const Var y = s4_apply(x, modes, C, reshape(layer.D->var(), {1, h}), S4Axes::steps_channels);
  return relu(layer.output_linear(reshape(y, {x.dim(0), length, h}), context));
}

Var DeepS4::forward(const Tensor& x, const ForwardContext& context) const {
  if (x.rank() != 3 || x.dim(0) < 1 || x.dim(1) < 1 || x.dim(2) != input_size()) {
    throw ShapeError(str("deep_s4: x is ", x.shape(), ", expected (B, L, ", input_size(),
                         ") with B and L at least 1"));
  }
  Var state(x.to(dtype_).to(device()));
  if (pooled()) state = encoder_(state, context);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    // By value: the tape keeps the block beyond this frame when it is to be recomputed.
    const auto block = [this, i, context](const std::vector<Var>& in) {
      const Var y = layer(*layers_[i], in[0], context);
      if (!pooled()) return std::vector<Var>{y};
      const double p = context.training ? config_.dropout : 0;
      const Var kept = dropout_channels(y, p, context.seed,
                                        (context.micro_batch << kMicroBatchShift) + kSite + i);
      return std::vector<Var>{add(in[0], kept)};
    };
    state = context.recompute ? adder::recompute(block, {state})[0] : block({state})[0];
  }
  return pooled() ? decoder_(mean_over_length(state), context) : state;
}

}  // namespace adder
