// Sparse dimension tuning (SDT) of S4 layers: of each layer some channels and states stay in use,
// and of these some train: C, log_A_real and A_imag of single (channel, state) entries, C of all
// the kernels of a channel together.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "peft/config.h"
#include "peft/sdt_s4_selection.h"
#include "peft/selective_method.h"
#include "peft/targets.h"

namespace adder {

class SdtS4 final : public SelectiveMethod {
 public:
  // Attaches finetune_parameters and checks the configuration against the model. Throws ConfigError
  // for a model without S4 layers, for layers whose channels share A or whose A has a low-rank
  // part, and for names and counts that do not fit it.
  SdtS4(Model& model, const SdtS4Config& config, std::uint64_t seed);

  bool needs_warmup() const override { return config_.needs_warmup(); }
  // What warmup_parameters names trains as a whole and nothing else does, adapters included; for
  // the rule "gradient" what it looks at, for "loss" all stays as it is.
  void start_warmup() override;
  std::int64_t warmup_forwards(std::int64_t total_forwards) const override;
  std::optional<double> warmup_lr() const override { return config_.warmup_lr; }
  std::optional<double> warmup_weight_decay() const override { return config_.warmup_weight_decay; }
  // Soft mode: select_penalty times the sum of |Re C exp(log_A_real)| + |Im C A_imag|, plus
  // update_penalty times that of |log_A_real - its first value| + |A_imag - its first value|.
  Var warmup_penalty() const override;
  void accumulate() override;
  bool needs_gradients() const override;
  void set_probe(const std::function<double()>& loss) override { probe_ = loss; }
  bool needs_probe() const override { return config_.rule == SdtS4Rule::loss; }
  std::vector<LayerSelection> select() override;
  void train_selected(std::vector<LayerSelection> selections) override;

 protected:
  const char* saved_under() const override { return ".kernel"; }
  void append_warmup_state(NamedTensors& tensors) const override;
  void restore_warmup(const TensorMap& tensors, std::vector<std::string>& used) override;

 private:
  struct Layer {
    std::string name;  // "layers.0"
    ParameterPtr log_dt, log_A_real, A_imag, C, B;
    S4Options options;
    LinearMap* output = nullptr;  // the map behind it
    bool columns = false;         // those of the trained channels train
    S4Counts counts;
    S4Tensors before;  // copies from before the warm-up
    S4Tensors sums;    // of the gradients (rule "gradient"), with `output_sum`
    Tensor output_sum;

    std::int64_t channels() const { return log_A_real->value().dim(0); }
    std::int64_t states() const { return log_A_real->value().dim(1); }
    S4Tensors values() const;
    std::vector<std::pair<std::string, Tensor>> gradient_sums() const;
  };
  Layer make_layer(const DiagonalStates& states) const;
  std::vector<LayerSelection> select_by_loss();
  std::vector<LayerSelection> given_dimensions() const;
  void check_counts(const LayerSelection& selection, const S4Counts& counts) const;
  bool warms_up(const Parameter& parameter) const;
  bool is_output(const Parameter& parameter, bool with_columns) const;
  void end_warmup();

  Model& model_;
  SdtS4Config config_;
  std::uint64_t seed_;
  std::function<double()> probe_;
  std::vector<Layer> layers_;
  std::vector<ParameterPtr> paused_;  // train, but not in the warm-up
};

}  // namespace adder
