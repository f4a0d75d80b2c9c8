// Sparse dimension tuning (SDT; "SD-LoRA" in its authors' release): a warm-up finds out which
// channels and states of the state matrix want to move, then only these train.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "peft/config.h"
#include "peft/selective_method.h"
#include "peft/targets.h"

namespace adder {

class Sdt final : public SelectiveMethod {
 public:
  // Attaches what trains in both phases (projection LoRA, finetune_parameters) and checks the
  // counts. Throws ConfigError for targets the model lacks.
  Sdt(Model& model, const SdtConfig& config, std::uint64_t seed);

  bool needs_warmup() const override { return config_.needs_warmup(); }
  // Warm-up: all of A_log trains, as a displacement from its pretrained value.
  void start_warmup() override;
  std::int64_t warmup_forwards(std::int64_t total_forwards) const override;
  // Adds the magnitudes of the displacement's gradient to the running sums (rule "gradient").
  void accumulate() override;
  bool needs_gradients() const override;
  bool keeps_initial(const std::string& trainable) const override;
  std::vector<LayerSelection> select() override;
  // Gives A_log its pretrained values back, sets the zero channels to 10 and trains the selected
  // entries of A_log and rows or columns of the projections.
  void train_selected(std::vector<LayerSelection> selections) override;

 protected:
  const char* saved_under() const override { return ".A_log"; }
  void append_warmup_state(NamedTensors& tensors) const override;
  void restore_warmup(const TensorMap& tensors, std::vector<std::string>& used) override;

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
  std::vector<Layer> layers_;
};

}  // namespace adder
