// SelectiveMethod: what an adapter needs of a method that finds out in a warm-up which dimensions
// of the model to train (SDT of Mamba, SDT of S4).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "peft/selection_state.h"

namespace adder {

class SelectiveMethod {
 public:
  enum class Phase : std::uint8_t { idle, warmup, training };

  virtual ~SelectiveMethod() = default;

  Phase phase() const { return phase_; }
  // Whether dimensions can be selected only after start_warmup().
  virtual bool needs_warmup() const = 0;
  // Once every method of the adapter is attached.
  virtual void start_warmup() = 0;
  // See Adapter for these.
  virtual std::int64_t warmup_forwards(std::int64_t total_forwards) const = 0;
  virtual std::optional<double> warmup_lr() const { return std::nullopt; }
  virtual std::optional<double> warmup_weight_decay() const { return std::nullopt; }
  virtual Var warmup_penalty() const { return {}; }
  virtual void accumulate() {}
  virtual bool needs_gradients() const { return false; }
  virtual void set_probe(const std::function<double()>& /*loss*/) {}
  virtual bool needs_probe() const { return false; }
  // A tensor of the warm-up whose first value the method brings back itself.
  virtual bool keeps_initial(const std::string& /*trainable*/) const { return false; }

  // The dimensions that the rule chooses now.
  virtual std::vector<LayerSelection> select() = 0;
  // Ends the warm-up and trains the selected entries, displacements starting at zero.
  virtual void train_selected(std::vector<LayerSelection> selections) = 0;
  const std::vector<LayerSelection>& selections() const { return selections_; }

  // What is not a trainable tensor: the selections, or what the warm-up has gathered so far.
  void append_state(NamedTensors& tensors, bool with_scores) const;
  // Enters the phase that the tensors were written in; the names it uses are appended to `used`.
  // Throws ConfigError when they do not fit.
  void restore(const TensorMap& tensors, std::vector<std::string>& used);

 protected:
  // What a layer's selection is saved under, behind the layer's name: ".A_log".
  virtual const char* saved_under() const = 0;
  virtual void append_warmup_state(NamedTensors& tensors) const = 0;
  virtual void restore_warmup(const TensorMap& tensors, std::vector<std::string>& used) = 0;

  Phase phase_ = Phase::idle;
  std::vector<LayerSelection> selections_;
};

}  // namespace adder
