#include "peft/adapter.h"

#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "engine/text/suggest.h"
#include "peft/freeze.h"
#include "peft/lora.h"
#include "peft/sdt.h"
#include "peft/sdt_s4.h"

namespace adder {
namespace {

constexpr const char* kInitial = "initial/";
constexpr double kLongest = 2147483648.0;

template <typename... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};
template <typename... Cases>
Overloaded(Cases...) -> Overloaded<Cases...>;  // not every compiler deduces it

// Whether something of an S4 layer's kernel trains, or has a branch that does.
bool trains_kernels(Model& model) {
  for (const StateMap* map : model.state_maps()) {
    if (!map->branches.empty()) return true;
  }
  const auto& parameters = model.parameters();
  return std::any_of(parameters.begin(), parameters.end(), [](const ParameterPtr& parameter) {
    const Role role = parameter->role();
    const bool of_kernel = role == Role::A_real || role == Role::A_imag || role == Role::log_dt ||
                           role == Role::B || role == Role::C || role == Role::P;
    return of_kernel && parameter->trainable();
  });
}

}  // namespace

Adapter::~Adapter() = default;

Adapter::Adapter(Model& model, const PeftConfig& config, std::uint64_t seed)
    : model_(model), config_(config), stored_length_(model.stored_length()) {
  for (const LinearMap* map : model.linear_maps()) {
    if (!map->branches.empty()) {
      throw ConfigError(str("adapter: ", map->name, " carries another adapter already"));
    }
  }
  for (const StateMap* map : model.state_maps()) {
    if (!map->branches.empty()) {
      throw ConfigError(str("adapter: ", map->name, " carries another adapter already"));
    }
  }
  for (const ParameterPtr& parameter : model.parameters()) parameter->freeze();
  model.freeze_buffers();
  for (const PeftMethod& method : config.methods) {
    std::visit(
        Overloaded{[&](const LoraConfig& lora) { attach_lora(model, lora, seed); },
                   [&](const LayerFreezeConfig& freeze) { attach_layer_freeze(model, freeze); },
                   [&](const BitfitConfig& bitfit) {
                     made_bias_ = attach_bitfit(model, bitfit) || made_bias_;
                   },
                   [&](const SdtConfig& sdt) {
                     refuse_second_selection();
                     selective_ = std::make_unique<Sdt>(model, sdt, seed);
                   },
                   [&](const SdtS4Config& sdt) {
                     refuse_second_selection();
                     selective_ = std::make_unique<SdtS4>(model, sdt, seed);
                   }},
        method);
  }
}

std::unique_ptr<Adapter> Adapter::attach(Model& model, const PeftConfig& config,
                                         std::uint64_t seed) {
  std::unique_ptr<Adapter> adapter(new Adapter(model, config, seed));
  if (SelectiveMethod* method = adapter->selective_.get()) {
    if (method->needs_warmup()) {
      method->start_warmup();
      adapter->remember_initial_values();
    } else {
      method->train_selected(method->select());
    }
  }
  return adapter;
}

std::unique_ptr<Adapter> Adapter::load(Model& model, const std::string& directory) {
  const SavedAdapter saved = SavedAdapter::read(directory);
  for (const auto& [name, tensor] : saved.tensors) {
    if (name == kStoredLength && tensor.numel() == 1 && tensor.item() <= kLongest) {
      model.reserve_length(static_cast<std::int64_t>(tensor.item()));
    }
  }
  std::unique_ptr<Adapter> adapter(new Adapter(model, saved.config, 0));
  adapter->restore(saved.tensors, directory);
  return adapter;
}

void Adapter::remember_initial_values() {
  for (const Trainable& trainable : collect_trainables(model_.parameters())) {
    if (selective_->keeps_initial(trainable.name)) continue;
    initial_.emplace_back(trainable.name, trainable.value.clone());
  }
}

void Adapter::refuse_second_selection() const {
  if (selective_) throw ConfigError("adapter: two SD_LORA or SDT_S4 methods in one list");
}

std::vector<ParameterPtr> Adapter::parameters() const {
  std::vector<ParameterPtr> training;
  for (const ParameterPtr& parameter : model_.parameters()) {
    if (parameter->trainable()) training.push_back(parameter);
  }
  return training;
}

bool Adapter::needs_warmup() const {
  return selective_ && selective_->phase() == SelectiveMethod::Phase::warmup;
}

std::int64_t Adapter::warmup_forwards(std::int64_t total_forwards) const {
  return needs_warmup() ? selective_->warmup_forwards(total_forwards) : 0;
}

std::optional<double> Adapter::warmup_lr() const {
  return selective_ ? selective_->warmup_lr() : std::nullopt;
}

std::optional<double> Adapter::warmup_weight_decay() const {
  return selective_ ? selective_->warmup_weight_decay() : std::nullopt;
}

Var Adapter::warmup_penalty() const {
  return needs_warmup() ? selective_->warmup_penalty() : Var();
}

void Adapter::accumulate_warmup_statistics() {
  if (selective_) selective_->accumulate();
}

bool Adapter::needs_warmup_gradients() const {
  return selective_ && selective_->needs_gradients();
}

void Adapter::set_probe(const std::function<double()>& loss) {
  if (selective_) selective_->set_probe(loss);
}

bool Adapter::needs_probe() const {
  return needs_warmup() && selective_->needs_probe();
}

void Adapter::finish_warmup() {
  if (!needs_warmup()) throw ConfigError("adapter: there is no warm-up to finish");
  std::vector<LayerSelection> selections = selective_->select();
  const TensorMap initial(initial_.begin(), initial_.end());
  for (const Trainable& trainable : collect_trainables(model_.parameters())) {
    const auto it = initial.find(trainable.name);
    if (it != initial.end()) {
      trainable.value.copy_from(it->second);
      trainable.apply();
    }
    trainable.clear_grad();
  }
  selective_->train_selected(std::move(selections));
  initial_.clear();
}

const std::vector<LayerSelection>& Adapter::selections() const {
  static const std::vector<LayerSelection> none;
  return selective_ ? selective_->selections() : none;
}

std::string Adapter::why_not_mergeable() const {
  if (merged_) return "the adapter is merged already";
  if (needs_warmup()) return "SDT's warm-up is not finished";
  if (made_bias_) return "BitFit added biases to modules that have none in the plain model";
  return {};
}

void Adapter::merge_into_weights() {
  const std::string why = why_not_mergeable();
  if (!why.empty()) throw ConfigError(str("merge: ", why));
  // Selected entries and dense values are in the working weights already.
  for (const ParameterPtr& parameter : model_.parameters()) parameter->freeze();
  for (LinearMap* map : model_.linear_maps()) {
    if (map->branches.empty()) continue;
    map->weight->set_value(map->merged_weight());
    map->branches.clear();
  }
  for (StateMap* map : model_.state_maps()) {
    if (map->branches.empty()) continue;
    map->base->set_value(map->merged());
    map->branches.clear();
  }
  merged_ = true;
}

NamedTensors Adapter::tensors(bool checkpoint) const {
  if (merged_) throw ConfigError("adapter: it was merged into the model and has no state left");
  NamedTensors all;
  for (const Trainable& trainable : collect_trainables(model_.parameters())) {
    all.emplace_back(trainable.name, trainable.value);
  }
  if (selective_) selective_->append_state(all, checkpoint);
  if (stored_length_ > 0 && trains_kernels(model_)) {
    all.emplace_back(kStoredLength, Tensor::from({1}, std::vector<std::int64_t>{stored_length_}));
  }
  if (needs_warmup()) {
    for (const auto& [name, tensor] : initial_) all.emplace_back(kInitial + name, tensor);
  }
  return all;
}

NamedTensors Adapter::state() const {
  return tensors(true);
}

void Adapter::load_state(const NamedTensors& state) {
  if (merged_) throw ConfigError("adapter: it was merged into the model and takes no state");
  restore(state, "adapter state");
}

void Adapter::restore(const NamedTensors& saved, const std::string& place) {
  const TensorMap tensors(saved.begin(), saved.end());
  std::vector<std::string> used;
  const auto copy = [&](const std::string& name, const Tensor& to) {
    const auto it = tensors.find(name);
    if (it == tensors.end()) throw IoError(str(place, ": the tensor ", name, " is missing"));
    if (it->second.shape() != to.shape()) {
      throw IoError(str(place, ": ", name, " is ", it->second.shape(), ", expected ", to.shape()));
    }
    to.copy_from(it->second);
    used.push_back(name);
  };
  if (const auto it = tensors.find(kStoredLength); it != tensors.end()) {
    const double length = it->second.numel() == 1 ? it->second.item() : 0;
    if (length != static_cast<double>(stored_length_)) {
      throw ConfigError(str(place, ": trained on a model whose C is stored for length ", length,
                            ", this one's is for ", stored_length_,
                            "; merge it into the model it belongs to"));
    }
    used.push_back(kStoredLength);
  }
  if (selective_) selective_->restore(tensors, used);
  if (needs_warmup()) {
    if (initial_.empty()) remember_initial_values();
    for (const auto& [name, tensor] : initial_) copy(kInitial + name, tensor);
  } else {
    initial_.clear();
  }
  const std::vector<Trainable> trainables = collect_trainables(model_.parameters());
  for (const Trainable& trainable : trainables) {
    copy(trainable.name, trainable.value);
    trainable.apply();
  }
  for (const auto& [name, tensor] : saved) {
    if (std::find(used.begin(), used.end(), name) != used.end()) continue;
    std::vector<std::string> expected;
    for (const Trainable& trainable : trainables) expected.push_back(trainable.name);
    throw IoError(str(place, ": the tensor ", name, " ", tensor.shape(),
                      " belongs to nothing in the adapter's configuration",
                      did_you_mean(name, expected)));
  }
}

}  // namespace adder
