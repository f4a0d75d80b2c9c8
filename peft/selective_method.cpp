#include "peft/selective_method.h"

#include "engine/error.h"

namespace adder {

void SelectiveMethod::append_state(NamedTensors& tensors, bool with_scores) const {
  if (phase_ == Phase::warmup) append_warmup_state(tensors);
  for (const LayerSelection& selection : selections_) {
    append_selection(tensors, selection.layer + saved_under(), selection, with_scores);
  }
}

void SelectiveMethod::restore(const TensorMap& tensors, std::vector<std::string>& used) {
  std::vector<LayerSelection> saved = read_selections(tensors, used);
  if (saved.empty()) {
    if (phase_ == Phase::training) {
      throw ConfigError("SDT: a state of the warm-up for an adapter that is beyond it");
    }
    restore_warmup(tensors, used);
    return;
  }
  if (phase_ != Phase::training) {
    train_selected(std::move(saved));
    return;
  }
  if (saved.size() != selections_.size()) {
    throw ConfigError(
        str("SDT: dimensions of ", saved.size(), " layers for a model of ", selections_.size()));
  }
  for (std::size_t i = 0; i < saved.size(); ++i) {
    const LayerSelection& now = selections_[i];
    if (saved[i].channels != now.channels || saved[i].states != now.states ||
        saved[i].zero_channels != now.zero_channels ||
        saved[i].select_channels != now.select_channels ||
        saved[i].select_states != now.select_states) {
      throw ConfigError(str(saved[i].layer, ": other dimensions are selected already"));
    }
  }
  selections_ = std::move(saved);
}

}  // namespace adder
