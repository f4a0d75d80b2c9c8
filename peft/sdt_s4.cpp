#include "peft/sdt_s4.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/error.h"
#include "engine/text/counted.h"
#include "engine/text/suggest.h"
#include "peft/lora.h"

namespace adder {
namespace {

bool is_state(const Parameter& parameter) {
  const Role role = parameter.role();
  return role == Role::C || role == Role::A_real || role == Role::A_imag;
}

bool in_state_space(const Parameter& parameter) {
  const Role role = parameter.role();
  return is_state(parameter) || role == Role::D || role == Role::log_dt || role == Role::B;
}

std::vector<std::int32_t> range(std::int64_t count) {
  std::vector<std::int32_t> indices(static_cast<std::size_t>(count));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

// |x|, with 0 for its derivative at 0.
Var magnitude(const Var& x) {
  std::vector<double> signs = x.value().to_vector();
  for (double& sign : signs) sign = sign > 0 ? 1 : sign < 0 ? -1 : 0;
  return mul(x, Var(Tensor::from(x.shape(), signs).to(x.dtype()).to(x.value().device())));
}

// The real or imaginary part (H, N) of kernel m of C, (H, N, 2) or (M, H, N, 2).
Var component(const Var& C, std::int64_t m, std::int64_t which) {
  const Var one = C.shape().rank() == 4 ? slice(C, 0, m, m + 1) : C;
  const Shape shape{C.dim(-3), C.dim(-2)};
  const Var kernel = reshape(one, {shape[0], shape[1], 2});
  return reshape(slice(kernel, 2, which, which + 1), shape);
}

}  // namespace

SdtS4::SdtS4(Model& model, const SdtS4Config& config, std::uint64_t seed)
    : model_(model), config_(config), seed_(seed) {
  for (const DiagonalStates& states : model.diagonal_states()) {
    layers_.push_back(make_layer(states));
  }
  if (layers_.empty()) throw ConfigError("SDT_S4: the model has no S4 layers");
  if (!config.dimensions.empty() && config.dimensions.size() != layers_.size()) {
    throw ConfigError(str("SDT_S4: dimensions of ", config.dimensions.size(),
                          " layers for a model of ", layers_.size()));
  }
  for (const std::string& ending : config.finetune_parameters) {
    // A whole part of a dotted name, or several: "D" and ".D" stand for "layers.0.D".
    const std::string parts = ending[0] == '.' ? ending.substr(1) : ending;
    const auto matches = [&](const std::string& name) { return module_matches(name, parts); };
    if (train_by_name(model, "SDT_S4: finetune_parameters", matches) == 0) {
      throw ConfigError(str("SDT_S4: finetune_parameters holds '", ending,
                            "', with which no parameter's name ends",
                            did_you_mean(ending, name_endings(model))));
    }
  }
}

SdtS4::Layer SdtS4::make_layer(const DiagonalStates& states) const {
  Layer layer;
  layer.name = states.name;
  layer.log_dt = states.log_dt;
  layer.log_A_real = states.A_real->base;
  layer.A_imag = states.A_imag->base;
  layer.C = states.C->base;
  layer.B = states.B;
  layer.options = states.options;
  layer.output = states.output;
  if (states.low_rank) {
    throw ConfigError(str("SDT_S4: ", layer.name, ": the state matrix has a low-rank part, which ",
                          "couples the states, so none can be left out or trained alone; LORA on ",
                          "C, A_real and A_imag can train them"));
  }
  const std::int64_t channels = states.channels();
  if (states.copies() != channels) {
    throw ConfigError(str("SDT_S4: ", layer.name, " has ", counted(states.copies(), "row"),
                          " of A (n_ssm), which its ", channels, " channels (", states.channels_key,
                          ") share; each channel needs its own"));
  }
  const S4Method method = states.options.method;
  const bool compat = config_.rule == SdtS4Rule::compat;
  const bool ranks_kernels = compat || config_.rule == SdtS4Rule::displacement;
  if (config_.dimensions.empty() && ranks_kernels &&
      (method == S4Method::dss || (compat && method != S4Method::zoh))) {
    throw ConfigError(str("SDT_S4: the rule '", compat ? "compat" : "displacement",
                          "' looks at kernels of the discretisation ",
                          compat ? "zoh" : "zoh or bilinear", ", but ", layer.name, " has ",
                          method == S4Method::dss ? "dss" : "bilinear"));
  }
  for (const std::string& column : config_.columns) {
    if (layer.output == nullptr) {
      throw ConfigError(
          str("SDT_S4: columns holds '", column, "', but no linear map follows ", layer.name));
    }
    if (!module_matches(layer.output->name, column)) {
      const std::vector<std::string> valid = {plain_name(layer.output->name)};
      throw ConfigError(str("SDT_S4: columns holds '", column, "', but the linear map behind ",
                            layer.name, " is '", valid[0], "'", did_you_mean(column, valid)));
    }
    layer.columns = true;
  }
  const std::int64_t width = layer.output != nullptr ? layer.output->weight->value().dim(1) : 0;
  if (width % channels != 0) {
    throw ConfigError(str("SDT_S4: ", layer.output->name, " reads ", width,
                          " values, no multiple of the ", channels, " channels of ", layer.name));
  }
  layer.counts = s4_counts(config_, states);
  return layer;
}

S4Tensors SdtS4::Layer::values() const {
  return {log_dt->value(), log_A_real->value(), A_imag->value(), C->value(),
          B ? B->value() : Tensor()};
}

// The weight of a layer's output map; `with_columns`: of one whose columns train.
bool SdtS4::is_output(const Parameter& parameter, bool with_columns) const {
  return std::any_of(layers_.begin(), layers_.end(), [&](const Layer& layer) {
    return layer.output != nullptr && layer.output->weight.get() == &parameter &&
           (layer.columns || !with_columns);
  });
}

bool SdtS4::warms_up(const Parameter& parameter) const {
  if (parameter.role() == Role::adapter) return false;
  if (config_.rule == SdtS4Rule::gradient) {
    return is_state(parameter) || is_output(parameter, false);
  }
  return !config_.warmup_ssm_only || in_state_space(parameter);
}

void SdtS4::start_warmup() {
  for (const ParameterPtr& parameter : model_.parameters()) {
    if (!parameter->trainable()) continue;
    if (is_state(*parameter) || is_output(*parameter, true)) {
      throw ConfigError(str("SDT_S4: ", parameter->name(),
                            " is trained by another method already, and entries of it by SDT_S4"));
    }
    if (!parameter->trains_dense()) {
      throw ConfigError(str("SDT_S4: another method trains a part of ", parameter->name(),
                            ", which the warm-up cannot put aside"));
    }
  }
  for (Layer& layer : layers_) {
    const S4Tensors now = layer.values();
    layer.before = {now.log_dt.clone(), now.log_A_real.clone(), now.A_imag.clone(), now.C.clone()};
    if (config_.rule != SdtS4Rule::gradient) continue;
    const auto zeros = [](const ParameterPtr& p) {
      return Tensor::zeros(p->value().shape(), Dtype::f64);
    };
    layer.sums = {{}, zeros(layer.log_A_real), zeros(layer.A_imag), zeros(layer.C)};
    if (layer.output != nullptr) layer.output_sum = zeros(layer.output->weight);
  }
  phase_ = Phase::warmup;
  if (config_.rule == SdtS4Rule::loss) return;
  for (const ParameterPtr& parameter : model_.parameters()) {
    if (parameter->trainable()) paused_.push_back(parameter);
    parameter->freeze();
  }
  for (const ParameterPtr& parameter : model_.parameters()) {
    if (warms_up(*parameter)) train_whole(*parameter, "SDT_S4");
  }
}

std::int64_t SdtS4::warmup_forwards(std::int64_t total_forwards) const {
  if (config_.rule == SdtS4Rule::loss) return 0;
  if (config_.rule == SdtS4Rule::gradient) return 1;
  if (config_.warmup_ratio) {
    const auto share = std::llround(*config_.warmup_ratio * static_cast<double>(total_forwards));
    return std::max<std::int64_t>(1, share);
  }
  if (*config_.warmup_steps > total_forwards) {
    throw ConfigError(str("SDT_S4: warmup_steps is ", *config_.warmup_steps, ", but the run has ",
                          total_forwards,
                          " forward passes; lower it or give warmup_ratio instead"));
  }
  return *config_.warmup_steps;
}

Var SdtS4::warmup_penalty() const {
  Var total;
  if (!config_.soft) return total;
  const auto collect = [&](const Var& x, double factor) {
    const Var part = scale(sum(magnitude(x)), factor);
    total = total.defined() ? add(total, part) : part;
  };
  for (const Layer& layer : layers_) {
    const Var log_A_real = layer.log_A_real->var();
    const Var A_imag = layer.A_imag->var();
    const Var C = layer.C->var();
    const std::int64_t kernels = C.shape().rank() == 4 ? C.dim(0) : 1;
    for (std::int64_t m = 0; m < kernels; ++m) {
      collect(mul(component(C, m, 0), exp(log_A_real)), config_.select_penalty);
      collect(mul(component(C, m, 1), A_imag), config_.select_penalty);
    }
    collect(sub(log_A_real, Var(layer.before.log_A_real)), config_.update_penalty);
    collect(sub(A_imag, Var(layer.before.A_imag)), config_.update_penalty);
  }
  return total;
}

bool SdtS4::needs_gradients() const {
  return phase_ == Phase::warmup && config_.rule == SdtS4Rule::gradient;
}

void SdtS4::accumulate() {
  if (!needs_gradients()) return;
  const auto collect = [](const ParameterPtr& parameter, const Tensor& sum) {
    const Tensor gradient = parameter->var().grad();
    if (gradient.defined()) sum.add_(gradient.to(Device{}).to(Dtype::f64));
  };
  for (const Layer& layer : layers_) {
    collect(layer.log_A_real, layer.sums.log_A_real);
    collect(layer.A_imag, layer.sums.A_imag);
    collect(layer.C, layer.sums.C);
    if (layer.output != nullptr) collect(layer.output->weight, layer.output_sum);
  }
}

std::vector<LayerSelection> SdtS4::given_dimensions() const {
  std::vector<LayerSelection> selections;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const S4Dimensions& given = config_.dimensions[i];
    LayerSelection selection;
    selection.layer = layers_[i].name;
    selection.num_channels = layers_[i].channels();
    selection.num_states = layers_[i].states();
    selection.channels = given.channels;
    selection.states = given.states;
    selection.select_channels =
        given.select_channels.empty() ? range(selection.num_channels) : given.select_channels;
    selection.select_states = given.select_states;
    if (given.select_states.empty()) {
      selection.select_states.assign(selection.select_channels.size(), range(selection.num_states));
    }
    selection.check();
    check_counts(selection, layers_[i].counts);
    selections.push_back(std::move(selection));
  }
  return selections;
}

// Counts beside dimensions that are given by hand must be theirs.
void SdtS4::check_counts(const LayerSelection& selection, const S4Counts& counts) const {
  const auto check = [&](const std::optional<AxisCount>& asked, std::int64_t count,
                         std::size_t given, const char* key) {
    if (!asked || count == static_cast<std::int64_t>(given)) return;
    throw ConfigError(str("SDT_S4: ", key, " is ", count, ", but dimensions give ", given, " for ",
                          selection.layer));
  };
  check(config_.select_channels, counts.select_channels, selection.select_channels.size(),
        "select_channels");
  check(config_.update_channels, counts.update_channels, selection.channels.size(),
        "update_channels");
  for (const auto& states : selection.states) {
    check(config_.update_states, counts.update_states, states.size(), "update_states");
  }
  for (const std::int32_t channel : selection.channels) {
    check(config_.select_states, counts.select_states, selection.states_in_use(channel).size(),
          "select_states");
  }
}

std::vector<LayerSelection> SdtS4::select_by_loss() {
  if (!probe_) throw ConfigError("SDT_S4: the rule 'loss' needs a probe of the model's loss");
  std::vector<LayerSelection> selections;
  for (const Layer& layer : layers_) {
    selections.push_back(select_s4_by_loss(layer.name, layer.C->value(), layer.counts,
                                           config_.zero_unselected, probe_));
  }
  for (const Layer& layer : layers_) layer.C->value().copy_from(layer.before.C);
  return selections;
}

std::vector<LayerSelection> SdtS4::select() {
  if (!config_.dimensions.empty()) return given_dimensions();
  if (config_.rule == SdtS4Rule::loss) return select_by_loss();
  std::vector<LayerSelection> selections;
  for (const Layer& layer : layers_) {
    S4Scores scores;
    if (config_.soft) {
      scores = soft_scores(layer.values(), layer.before,
                           config_.soft_threshold.value_or(config_.warmup_lr));
    } else if (config_.rule == SdtS4Rule::displacement) {
      scores = displacement_scores(layer.values(), layer.before, config_.power, layer.options);
    } else if (config_.rule == SdtS4Rule::compat) {
      scores = compat_scores(layer.values(), layer.before, config_.power, layer.options);
    } else if (config_.rule == SdtS4Rule::gradient) {
      scores = gradient_scores(layer.sums, layer.output_sum);
    } else {
      scores = random_scores(layer.channels(), layer.states(), seed_,
                             stream_of(layer.name + ".sdt_random"));
    }
    if (config_.rule != SdtS4Rule::compat) check_finite(layer.name, scores);
    selections.push_back(select_s4(layer.name, scores, layer.counts, config_.soft));
  }
  return selections;
}

void SdtS4::end_warmup() {
  if (phase_ != Phase::warmup || config_.rule == SdtS4Rule::loss) return;
  for (const ParameterPtr& parameter : model_.parameters()) parameter->freeze();
  for (const ParameterPtr& parameter : paused_) parameter->train_dense();
  paused_.clear();
}

void SdtS4::train_selected(std::vector<LayerSelection> selections) {
  if (selections.size() != layers_.size()) {
    throw ConfigError(str("SDT_S4: dimensions of ", selections.size(), " layers for a model of ",
                          layers_.size()));
  }
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Shape shape{layers_[i].channels(), layers_[i].states()};
    const Shape expected{selections[i].num_channels, selections[i].num_states};
    if (selections[i].layer != layers_[i].name || shape != expected) {
      throw ConfigError(str("SDT_S4: dimensions selected for ", selections[i].layer, " ", expected,
                            " do not fit ", layers_[i].name, " ", shape));
    }
    selections[i].check();
  }
  end_warmup();
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    LayerSelection& selection = selections[i];
    if (config_.zero_unselected) {
      zero_unused(selection, layer.C->value());
      selection.zero_channels = selection.unselected_channels();
    }
    std::vector<std::int64_t> positions = selection.entry_positions();
    std::sort(positions.begin(), positions.end());
    std::vector<std::int64_t> components;
    const std::int64_t count = selection.num_channels * selection.num_states;
    for (std::int64_t first = 0; 2 * first < layer.C->value().numel(); first += count) {
      for (const std::int64_t position : positions) {
        components.push_back(2 * (first + position));
        components.push_back(2 * (first + position) + 1);
      }
    }
    const auto train = [](const ParameterPtr& parameter, std::vector<std::int64_t> entries) {
      const Shape shape = parameter->value().shape();
      train_part(*parameter, parameter->name() + ".sdt_adapter",
                 IndexSet::entries(shape, std::move(entries)), 1);
    };
    train(layer.C, std::move(components));
    train(layer.log_A_real, positions);
    train(layer.A_imag, std::move(positions));
    if (!layer.columns) continue;
    const Shape shape = layer.output->weight->value().shape();
    std::vector<std::int32_t> columns;
    for (std::int64_t first = 0; first < shape[1]; first += layer.channels()) {
      for (const std::int32_t channel : selection.sorted_channels()) {
        columns.push_back(static_cast<std::int32_t>(first) + channel);
      }
    }
    train_part(*layer.output->weight, layer.output->name + ".sdt_adapter",
               IndexSet::block(shape, range(shape[0]), std::move(columns)), 1);
  }
  selections_ = std::move(selections);
  phase_ = Phase::training;
}

NamedTensors SdtS4::Layer::gradient_sums() const {
  if (!sums.C.defined()) return {};
  NamedTensors kept = {{log_A_real->name() + kSavedGradient, sums.log_A_real},
                       {A_imag->name() + kSavedGradient, sums.A_imag},
                       {C->name() + kSavedGradient, sums.C}};
  if (output != nullptr) kept.emplace_back(output->weight->name() + kSavedGradient, output_sum);
  return kept;
}

void SdtS4::append_warmup_state(NamedTensors& tensors) const {
  for (const Layer& layer : layers_) {
    for (const auto& sum : layer.gradient_sums()) tensors.push_back(sum);
  }
  for (const ParameterPtr& parameter : paused_) {
    if (!parameter->trainable()) tensors.emplace_back(parameter->name(), parameter->value());
  }
}

void SdtS4::restore_warmup(const TensorMap& tensors, std::vector<std::string>& used) {
  if (!config_.needs_warmup()) throw ConfigError("SDT_S4: the adapter lacks its dimensions");
  if (phase_ == Phase::idle) start_warmup();
  for (const Layer& layer : layers_) {
    for (const auto& [name, sum] : layer.gradient_sums()) restore_tensor(tensors, name, sum, used);
  }
  for (const ParameterPtr& parameter : paused_) {
    if (parameter->trainable()) continue;
    restore_tensor(tensors, parameter->name(), parameter->value(), used);
  }
}

}  // namespace adder
