// Data of sequence models: sequences of real vectors with a class or a target, made into batches on
// demand.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "models/sequence_model.h"

namespace adder::tools {

class SequenceData {
 public:
  virtual ~SequenceData() = default;

  virtual const std::string& name() const = 0;
  virtual std::int64_t examples() const = 0;  // 0: endless, any number not below 0 is an example
  virtual std::int64_t length() const = 0;    // positions of every example
  virtual std::int64_t input_size() const = 0;
  virtual std::int64_t output_size() const = 0;  // classes, or values of a target
  // Classes, or real targets.
  virtual bool classes() const = 0;
  // One answer for each example, or one at each position.
  virtual bool pooled() const = 0;

  // The examples in the given order. The same numbers for the same examples, always. Tensors may
  // lie on the host. Throws ShapeError for an example that there is not.
  virtual SequenceBatch batch(std::span<const std::int64_t> examples) const = 0;

  // What is counted in one example's loss: answers, or values of the target.
  std::int64_t counted() const {
    return (pooled() ? 1 : length()) * (classes() ? 1 : output_size());
  }
};

using DataOverrides = std::map<std::string, std::string>;

struct SequenceOptions {
  std::string split = "train";    // train, val or test; ignored by synthetic-s4
  std::int64_t max_examples = 0;  // a subset fixed by `seed`, in the data's order; 0: all
  std::uint64_t seed = 42;
  DataOverrides overrides;  // --data-option, and data_root
};

// Whether DATA names something that open_sequence_data reads: mnist, cifar10 (bare, or with
// :FOLDER), synthetic-s4.
bool is_sequence_data(const std::string& spec);

// Opened data, from which splits are taken without reading the files again.
class SequenceSource {
 public:
  virtual ~SequenceSource() = default;
  // Throws ConfigError for an unknown split, IoError for missing or malformed files.
  virtual std::unique_ptr<SequenceData> split(const SequenceOptions& options) = 0;
};

// DATA for `model`, of which only the sizes and the device are looked at.
//
//   mnist:FOLDER    IDX files; pixels / 255, sequences (784, 1)
//   cifar10:FOLDER  binary records; grey (1024, 1) with mean 122.6/255 and deviation 61/255, or
//                   with the option colour=true (1024, 3) with the usual means and deviations
//   synthetic-s4    endless: integers 0 … 9 of the model's width, and what a random target network
//                   makes of them
//
// Nine tenths of the training files are "train" and one tenth is "val": the first and the others of
// permutation(n, 42) of shuffle.h; "test" are the test files. Throws ConfigError for other data and
// for unknown options.
std::unique_ptr<SequenceSource> open_sequence_data(const std::string& spec,
                                                   const SequenceModel& model,
                                                   const DataOverrides& overrides);

// Throws ConfigError, with both numbers, when the model's sizes are not those of the data.
void check_fits(const SequenceData& data, const SequenceModel& model);

// Values of options, "true" or "false" and whole numbers in a range. Throw ConfigError.
bool option_flag(const DataOverrides& overrides, const std::string& key, bool otherwise);
std::int64_t option_number(const DataOverrides& overrides, const std::string& key,
                           std::int64_t otherwise, std::int64_t least, std::int64_t most);

}  // namespace adder::tools
