// synthetic-s4: endless random sequences, and what a random target network makes of them.
#pragma once

#include <memory>

#include "models/deep_s4.h"
#include "tools/data/sequence_data.h"

namespace adder::tools {

struct SyntheticOptions {
  std::int64_t channels = 64;  // of input and output
  std::int64_t length = 200;
  std::int64_t layers = 1;  // of the target
  std::int64_t states = 8;  // of the target
  bool classes = false;     // the target's largest channel instead of its values
  std::uint64_t seed = 42;  // of the inputs
  std::uint64_t target_seed = 1;
  Device device{};

  // From --data-option layers=, states=, length=, task=regression|classification, target_seed=.
  // Throws ConfigError.
  static SyntheticOptions from_overrides(const DataOverrides& overrides);
};

// Example i holds integers, uniform in 0 … 9, at each position and channel: a function of the seed
// and i alone, whatever the batches are. The target is a deep S4 in mode theory with random A.
class SyntheticS4 final : public SequenceData {
 public:
  explicit SyntheticS4(const SyntheticOptions& options);

  const std::string& name() const override { return name_; }
  std::int64_t examples() const override { return 0; }
  std::int64_t length() const override { return options_.length; }
  std::int64_t input_size() const override { return options_.channels; }
  std::int64_t output_size() const override { return options_.channels; }
  bool classes() const override { return options_.classes; }
  bool pooled() const override { return false; }
  SequenceBatch batch(std::span<const std::int64_t> examples) const override;

  const DeepS4& target() const { return *target_; }

 private:
  SyntheticOptions options_;
  std::string name_ = "synthetic-s4";
  std::unique_ptr<DeepS4> target_;
};

}  // namespace adder::tools
