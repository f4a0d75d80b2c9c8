// Sparse dimension tuning (SDT; "SD-LoRA" in its authors' release): a warm-up finds out which
// channels and states of the state matrix want to move, then only these train.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "peft/config.h"
#include "peft/targets.h"

namespace adder {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;
using TensorMap = std::map<std::string, Tensor>;

class Sdt {
 public:
  enum class Phase : std::uint8_t { idle, warmup, training };

  // Attaches what trains in both phases (projection LoRA, finetune_parameters) and checks the
  // counts. Throws ConfigError for targets the model lacks.
  Sdt(Model& model, const SdtConfig& config, std::uint64_t seed);

  Phase phase() const { return phase_; }
  // Warm-up: all of A_log trains, as a displacement from its pretrained value.
  void start_warmup();
  // Adds the magnitudes of the displacement's gradient to the running sums (rule "gradient").
  void accumulate();
  bool needs_gradients() const;  // whether that does anything
  // The dimensions that the rule chooses now.
  std::vector<LayerSelection> select() const;
  // Gives A_log its pretrained values back, sets the zero channels to 10 and trains the selected
  // entries of A_log and rows or columns of the projections, displacements starting at zero.
  void train_selected(std::vector<LayerSelection> selections);
  const std::vector<LayerSelection>& selections() const { return selections_; }

  // What is not a trainable tensor: the selections, or the gradient's running sums.
  void append_state(NamedTensors& tensors, bool with_scores) const;
  // Enters the phase that the tensors were written in; the names it uses are appended to `used`.
  void restore(const TensorMap& tensors, std::vector<std::string>& used);

 private:
  struct Target {
    std::string name;  // "x_proj_B"
    LinearSite site;
  };
  struct Layer {
    std::string name;  // "backbone.layers.0.mixer"
    ParameterPtr a_log;
    std::vector<Target> targets;  // those with sparse updates
    SdtCounts counts;
    std::shared_ptr<Selection> displacement;  // during the warm-up
    Tensor gradient;                          // (E, N) float64 sums
  };
  Tensor scores(const Layer& layer) const;
  void train_target(const Target& target, const LayerSelection& selection);

  SdtConfig config_;
  std::uint64_t seed_;
  Phase phase_ = Phase::idle;
  std::vector<Layer> layers_;
  std::vector<LayerSelection> selections_;
};

// The selections among an adapter's tensors, in the order of the names' layers; empty when there
// are none. Throws ConfigError when they contradict themselves.
std::vector<LayerSelection> read_selections(const TensorMap& tensors,
                                            std::vector<std::string>& used);
// Whether a tensor of this name describes a selection and is not itself trained.
bool describes_selection(const std::string& name);

}  // namespace adder
