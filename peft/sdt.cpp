#include "peft/sdt.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/error.h"
#include "engine/random.h"
#include "peft/lora.h"

namespace adder {
namespace {

// exp(10) is about 22026: such a channel forgets its state within one step.
constexpr double kZeroedALog = 10;
constexpr const char* kDisplacement = ".sdt_displacement";

std::vector<std::int32_t> range(std::int64_t begin, std::int64_t end) {
  std::vector<std::int32_t> indices(static_cast<std::size_t>(end - begin));
  std::iota(indices.begin(), indices.end(), static_cast<std::int32_t>(begin));
  return indices;
}

bool is_input_projection(const LinearSite& site) {
  return site.map->weight->role() == Role::in_proj;
}

bool is_outer_projection(const LinearSite& site) {
  return is_input_projection(site) || site.map->weight->role() == Role::out_proj;
}

// Applies f to all elements as doubles; the result is float64 of the same shape.
template <typename F>
Tensor map_values(const Tensor& tensor, const F& f) {
  std::vector<double> values = tensor.to_vector();
  for (double& value : values) value = f(value);
  return Tensor::from(tensor.shape(), values);
}

}  // namespace

Sdt::Sdt(Model& model, const SdtConfig& config, std::uint64_t seed) : config_(config), seed_(seed) {
  const std::vector<LinearSite> sites = linear_sites(model);
  const std::vector<ParameterPtr> parameters = model.parameters();
  const std::string suffix = ".A_log";
  for (const ParameterPtr& parameter : parameters) {
    if (parameter->role() != Role::A_log) continue;
    Layer layer;
    layer.a_log = parameter;
    layer.name = parameter->name().substr(0, parameter->name().size() - suffix.size());
    const Shape shape = parameter->value().shape();
    layer.counts = sdt_counts(shape[0], shape[1], config.num_zero, config.num_freeze);
    for (const std::string& target : config.target_modules) {
      if (target == "A_log") continue;
      const auto site = std::find_if(sites.begin(), sites.end(), [&](const LinearSite& s) {
        return s.name.rfind(layer.name + ".", 0) == 0 && module_matches(s.name, target);
      });
      if (site == sites.end()) {
        throw ConfigError(str("SD_LORA: ", layer.name, " has no module ", target));
      }
      if (config.proj_lora_r > 0 && is_outer_projection(*site)) {
        add_lora_branch(model, *site, config.proj_lora_r, 1, config.proj_lora_dropout, seed);
      } else {
        layer.targets.push_back({target, *site});
      }
    }
    layers_.push_back(std::move(layer));
  }
  if (layers_.empty()) throw ConfigError("SD_LORA: the model has no A_log");
  for (const std::string& ending : config.finetune_parameters) {
    const auto ends = [&](const std::string& name) {
      return name.size() >= ending.size() &&
             name.compare(name.size() - ending.size(), ending.size(), ending) == 0;
    };
    if (train_by_name(model, "SD_LORA: finetune_parameters", ends) == 0) {
      throw ConfigError(
          str("SD_LORA: no parameter's name ends in '", ending, "' (finetune_parameters)"));
    }
  }
}

void Sdt::start_warmup() {
  for (Layer& layer : layers_) {
    const Tensor& value = layer.a_log->value();
    layer.displacement = train_part(*layer.a_log, layer.a_log->name() + kDisplacement,
                                    IndexSet::all(value.shape()), config_.scale("A_log"));
    if (config_.rule == SdtRule::gradient) {
      layer.gradient = Tensor::zeros(value.shape(), Dtype::f64);
    }
  }
  phase_ = Phase::warmup;
}

std::int64_t Sdt::warmup_forwards(std::int64_t total_forwards) const {
  if (config_.warmup_ratio) {
    const auto share = std::llround(*config_.warmup_ratio * static_cast<double>(total_forwards));
    return std::max<std::int64_t>(1, share);
  }
  const std::int64_t forwards = *config_.num_warmup_it + 1;
  if (forwards > total_forwards) {
    throw ConfigError(str("SD_LORA: num_warmup_it ", *config_.num_warmup_it,
                          " asks for a warm-up of ", forwards, " forward passes, but the run has ",
                          total_forwards, "; lower it or give warmup_ratio instead"));
  }
  return forwards;
}

bool Sdt::keeps_initial(const std::string& trainable) const {
  return module_matches(trainable, kDisplacement + 1);
}

bool Sdt::needs_gradients() const {
  return phase_ == Phase::warmup && config_.rule == SdtRule::gradient;
}

void Sdt::accumulate() {
  if (!needs_gradients()) return;
  for (Layer& layer : layers_) {
    const Tensor& grad = layer.displacement->grad;
    if (!grad.defined()) continue;
    layer.gradient.add_(map_values(grad, [](double g) { return std::abs(g); }));
  }
}

Tensor Sdt::scores(const Layer& layer) const {
  switch (config_.rule) {
    case SdtRule::displacement:
      return map_values(layer.displacement->delta, [](double g) { return g * g; });
    case SdtRule::gradient:
      return layer.gradient;
    case SdtRule::random: {
      const Tensor random = Tensor::empty(layer.a_log->value().shape(), Dtype::f64);
      fill_uniform(random, 0, 1, seed_, stream_of(layer.a_log->name() + ".sdt_random"));
      return random;
    }
    case SdtRule::weight:
      break;
  }
  return map_values(layer.a_log->value(), [](double a) { return std::exp(a); });
}

std::vector<LayerSelection> Sdt::select() {
  std::vector<LayerSelection> selections;
  for (const Layer& layer : layers_) {
    selections.push_back(select_dimensions(layer.name, scores(layer), layer.counts));
  }
  return selections;
}

void Sdt::train_selected(std::vector<LayerSelection> selections) {
  if (selections.size() != layers_.size()) {
    throw ConfigError(str("SD_LORA: dimensions of ", selections.size(), " layers for a model of ",
                          layers_.size()));
  }
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    const LayerSelection& selection = selections[i];
    const Tensor& value = layer.a_log->value();
    const Shape expected{selection.num_channels, selection.num_states};
    if (selection.layer != layer.name || value.shape() != expected) {
      throw ConfigError(str("SD_LORA: dimensions selected for ", selection.layer, " ", expected,
                            " do not fit ", layer.name, " ", value.shape()));
    }
    selection.check();
    if (layer.displacement) {
      value.copy_from(layer.displacement->base);
      layer.a_log->freeze();
      layer.displacement.reset();
    }
    for (const std::int32_t channel : selection.zero_channels) {
      value.select(0, channel).fill(kZeroedALog);
    }
    train_part(*layer.a_log, layer.a_log->name() + ".sdt_adapter",
               IndexSet::entries(value.shape(), selection.entry_positions()),
               config_.scale("A_log"));
    for (const Target& target : layer.targets) train_target(target, selection);
  }
  selections_ = std::move(selections);
  phase_ = Phase::training;
}

void Sdt::append_warmup_state(NamedTensors& tensors) const {
  for (const Layer& layer : layers_) {
    if (layer.gradient.defined()) {
      tensors.emplace_back(layer.a_log->name() + kSavedGradient, layer.gradient);
    }
  }
}

void Sdt::restore_warmup(const TensorMap& tensors, std::vector<std::string>& used) {
  if (phase_ == Phase::idle) start_warmup();
  for (const Layer& layer : layers_) {
    if (!layer.gradient.defined()) continue;
    restore_tensor(tensors, layer.a_log->name() + kSavedGradient, layer.gradient, used);
  }
}

void Sdt::train_target(const Target& target, const LayerSelection& selection) {
  Parameter& weight = *target.site.map->weight;
  const Shape shape = weight.value().shape();
  std::vector<std::int32_t> rows = range(target.site.row_begin, target.site.row_end);
  std::vector<std::int32_t> columns = selection.sorted_channels();
  if (is_input_projection(target.site)) {  // channels are its rows
    rows = std::move(columns);
    for (std::int32_t& row : rows) row += static_cast<std::int32_t>(target.site.row_begin);
    columns = range(0, shape[1]);
  }
  train_part(weight, target.site.name + ".sdt_adapter",
             IndexSet::block(shape, std::move(rows), std::move(columns)),
             config_.scale(target.name));
}

}  // namespace adder
