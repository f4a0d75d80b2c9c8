// Adapter: the parameter-efficient methods of one fine-tuning run on one model.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/model.h"
#include "peft/config.h"
#include "peft/sdt_selection.h"

namespace adder {

class SelectiveMethod;

// The model must outlive its adapter and carries one at a time. The tensors that train are those of
// collect_trainables(model.parameters()).
class Adapter {
 public:
  // Freezes the model, its buffers included, and attaches the methods; `seed` governs every initial
  // value. SDT starts in its warm-up (its rules random and weight need none). Throws ConfigError.
  static std::unique_ptr<Adapter> attach(Model& model, const PeftConfig& config,
                                         std::uint64_t seed);
  // Attaches what save(), or Hugging Face PEFT for LoRA, wrote into `directory`: saved values, and
  // for SDT the saved dimensions. It can train on. A model with a stored length gets the one that
  // the adapter was trained with. Throws IoError and ConfigError.
  static std::unique_ptr<Adapter> load(Model& model, const std::string& directory);
  ~Adapter();
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  // Writes adapter_config.json and adapter_model.safetensors into an existing directory. A single
  // LORA is exactly what Hugging Face PEFT writes and reads.
  void save(const std::string& directory) const;

  const PeftConfig& config() const { return config_; }
  std::string description() const { return config_.description(); }  // "SDT + LoRA"
  // What save() gives as base_model_name_or_path; for people and for other tools.
  void set_base_model(const std::string& name) { config_.base_model = name; }
  std::vector<ParameterPtr> parameters() const;  // those that train now
  std::int64_t trainable_count() const { return model_.trainable_count(); }

  // --- The two phases of SDT ---
  bool needs_warmup() const;  // SDT has yet to select its dimensions
  // How many forward passes (micro-batches) the warm-up takes in a run of `total_forwards`, each
  // followed by the usual updates; the reference's num_warmup_it = W makes W + 1. 0 when none is
  // needed, and for the rule "loss" of SDT_S4, whose needs_warmup() holds all the same: there
  // finish_warmup() is to be called at once, with a probe set and before an optimiser is made.
  // Throws ConfigError when the run is shorter than that.
  std::int64_t warmup_forwards(std::int64_t total_forwards) const;
  // What the warm-up's optimiser uses; empty: what the run uses.
  std::optional<double> warmup_lr() const;
  std::optional<double> warmup_weight_decay() const;
  // What the warm-up adds to the loss of each batch (SDT_S4's soft mode); undefined otherwise.
  Var warmup_penalty() const;
  // For the rules "gradient", a no-op otherwise: call when the gradients of an update are complete.
  void accumulate_warmup_statistics();
  bool needs_warmup_gradients() const;  // whether that does anything
  // For the rule "loss": measures the model's loss as it is, on a batch that may be a new one each
  // time. finish_warmup() calls it with one channel or state after the other zeroed.
  void set_probe(const std::function<double()>& loss);
  bool needs_probe() const;
  // Selects the dimensions, restores the values everything had when attached, and sets up the
  // training of the selected entries. The optimiser must start afresh from collect_trainables().
  // Throws ConfigError without a warm-up or a probe that is needed, NumericError for scores that
  // are not finite.
  void finish_warmup();
  // One per layer; empty without SDT and during the warm-up.
  const std::vector<LayerSelection>& selections() const;

  // --- Merging ---
  bool mergeable() const { return why_not_mergeable().empty(); }
  std::string why_not_mergeable() const;  // empty when it is
  // Makes the model's own parameters hold the merged values and detaches everything.
  void merge_into_weights();

  // --- Exact state for checkpoints ---
  // Every trainable tensor by name, and what SDT needs in either phase. Handles of the live
  // tensors: write or clone them before training goes on.
  std::vector<std::pair<std::string, Tensor>> state() const;
  // Into an adapter attached (or loaded) as the one that wrote it was. Throws ConfigError.
  void load_state(const std::vector<std::pair<std::string, Tensor>>& state);

 private:
  Adapter(Model& model, const PeftConfig& config, std::uint64_t seed);
  void refuse_second_selection() const;
  void remember_initial_values();
  std::vector<std::pair<std::string, Tensor>> tensors(bool checkpoint) const;
  void restore(const std::vector<std::pair<std::string, Tensor>>& tensors,
               const std::string& place);

  Model& model_;
  PeftConfig config_;
  std::unique_ptr<SelectiveMethod> selective_;
  std::int64_t stored_length_ = 0;  // the model's when it was attached
  bool made_bias_ = false;
  bool merged_ = false;
  // What the tensors that train in both phases were before the warm-up.
  std::vector<std::pair<std::string, Tensor>> initial_;
};

// An adapter's files, read without a model.
struct SavedAdapter {
  PeftConfig config;
  std::vector<std::pair<std::string, Tensor>> tensors;  // names without PEFT's prefix; read-only

  // Throws IoError and ConfigError; NaN and infinite values are IoErrors.
  static SavedAdapter read(const std::string& directory);
  std::int64_t trainable_count() const;
  std::vector<LayerSelection> selections() const;
};

// Whether a directory holds an adapter.
bool is_adapter_directory(const std::string& directory);

}  // namespace adder
