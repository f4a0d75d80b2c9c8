#include "peft/adapter.h"

#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "engine/text/suggest.h"
#include "peft/freeze.h"
#include "peft/lora.h"
#include "peft/sdt.h"

namespace adder {
namespace {

constexpr const char* kInitial = "initial/";

template <typename... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};
template <typename... Cases>
Overloaded(Cases...) -> Overloaded<Cases...>;  // not every compiler deduces it

}  // namespace

Adapter::~Adapter() = default;

Adapter::Adapter(Model& model, const PeftConfig& config, std::uint64_t seed)
    : model_(model), config_(config) {
  for (const LinearMap* map : model.linear_maps()) {
    if (!map->branches.empty()) {
      throw ConfigError(str("adapter: ", map->name, " carries another adapter already"));
    }
  }
  for (const ParameterPtr& parameter : model.parameters()) parameter->freeze();
  for (const PeftMethod& method : config.methods) {
    std::visit(
        Overloaded{[&](const LoraConfig& lora) { attach_lora(model, lora, seed); },
                   [&](const LayerFreezeConfig& freeze) { attach_layer_freeze(model, freeze); },
                   [&](const BitfitConfig& bitfit) {
                     made_bias_ = attach_bitfit(model, bitfit) || made_bias_;
                   },
                   [&](const SdtConfig& sdt) {
                     if (sdt_) throw ConfigError("adapter: two SD_LORA methods in one list");
                     sdt_ = std::make_unique<Sdt>(model, sdt, seed);
                   }},
        method);
  }
}

std::unique_ptr<Adapter> Adapter::attach(Model& model, const PeftConfig& config,
                                         std::uint64_t seed) {
  std::unique_ptr<Adapter> adapter(new Adapter(model, config, seed));
  if (adapter->sdt_) {
    if (config.sdt()->needs_warmup()) {
      adapter->remember_initial_values();
      adapter->sdt_->start_warmup();
    } else {
      adapter->sdt_->train_selected(adapter->sdt_->select());
    }
  }
  return adapter;
}

std::unique_ptr<Adapter> Adapter::load(Model& model, const std::string& directory) {
  const SavedAdapter saved = SavedAdapter::read(directory);
  std::unique_ptr<Adapter> adapter(new Adapter(model, saved.config, 0));
  adapter->remember_initial_values();
  adapter->restore(saved.tensors, directory);
  return adapter;
}

void Adapter::remember_initial_values() {
  for (const Trainable& trainable : collect_trainables(model_.parameters())) {
    initial_.emplace_back(trainable.name, trainable.value.clone());
  }
}

std::vector<ParameterPtr> Adapter::parameters() const {
  std::vector<ParameterPtr> training;
  for (const ParameterPtr& parameter : model_.parameters()) {
    if (parameter->trainable()) training.push_back(parameter);
  }
  return training;
}

bool Adapter::needs_warmup() const {
  return sdt_ && sdt_->phase() == Sdt::Phase::warmup;
}

std::int64_t Adapter::warmup_forwards(std::int64_t total_forwards) const {
  if (!needs_warmup()) return 0;
  const SdtConfig& sdt = *config_.sdt();
  if (sdt.warmup_ratio) {
    const auto share = std::llround(*sdt.warmup_ratio * static_cast<double>(total_forwards));
    return std::max<std::int64_t>(1, share);
  }
  const std::int64_t forwards = *sdt.num_warmup_it + 1;
  if (forwards > total_forwards) {
    throw ConfigError(str("SD_LORA: num_warmup_it ", *sdt.num_warmup_it, " asks for a warm-up of ",
                          forwards, " forward passes, but the run has ", total_forwards,
                          "; lower it or give warmup_ratio instead"));
  }
  return forwards;
}

void Adapter::accumulate_warmup_statistics() {
  if (sdt_) sdt_->accumulate();
}

bool Adapter::needs_warmup_gradients() const {
  return sdt_ && sdt_->needs_gradients();
}

void Adapter::finish_warmup() {
  if (!needs_warmup()) throw ConfigError("adapter: there is no warm-up to finish");
  std::vector<LayerSelection> selections = sdt_->select();
  const TensorMap initial(initial_.begin(), initial_.end());
  for (const Trainable& trainable : collect_trainables(model_.parameters())) {
    const auto it = initial.find(trainable.name);
    if (it != initial.end()) {
      trainable.value.copy_from(it->second);
      trainable.apply();
    }
    trainable.clear_grad();
  }
  sdt_->train_selected(std::move(selections));
  initial_.clear();
}

const std::vector<LayerSelection>& Adapter::selections() const {
  static const std::vector<LayerSelection> none;
  return sdt_ ? sdt_->selections() : none;
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
  merged_ = true;
}

NamedTensors Adapter::tensors(bool checkpoint) const {
  if (merged_) throw ConfigError("adapter: it was merged into the model and has no state left");
  NamedTensors all;
  for (const Trainable& trainable : collect_trainables(model_.parameters())) {
    all.emplace_back(trainable.name, trainable.value);
  }
  if (sdt_) sdt_->append_state(all, checkpoint);
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
  if (sdt_) sdt_->restore(tensors, used);
  if (needs_warmup()) {
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
