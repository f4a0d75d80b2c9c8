// Padded batches, and the order in which an epoch visits the examples.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tools/data/dataset.h"

namespace adder::tools {

// Right-padded examples: `input_ids` and `labels` are (batch, length) in row-major order, padded
// with id 0 and kIgnoredLabel.
struct Batch {
  int64_t batch = 0, length = 0;
  std::vector<int32_t> input_ids, labels;
  std::vector<int64_t> example_indices;
  int64_t tokens = 0;      // without the padding
  int64_t supervised = 0;  // labels that carry loss
};

// Pads the chosen examples to the longest of them. Throws ShapeError for an empty or wrong choice.
Batch make_batch(const Dataset& dataset, std::span<const int64_t> indices);

// Which examples each batch of each epoch holds: a pure function of (seed, epoch, index), so that a
// run resumes anywhere. With shuffling, `bucket_batches` > 1 sorts by length inside windows of that
// many batches of the shuffled order and shuffles the resulting batches: each batch then holds
// examples of like length and pads little, while batches still come in random order. Without
// shuffling the order is that of the data.
//
// Not for use from several threads at once: the epoch in use is remembered.
class BatchPlan {
 public:
  // `lengths`: tokens of each example. `drop_last` leaves out the examples that do not fill a batch
  // (chosen before sorting, thus at random). Throws ConfigError if there is no batch to make.
  BatchPlan(std::vector<int64_t> lengths, int64_t batch_size, uint64_t seed, bool shuffle,
            bool drop_last, int64_t bucket_batches);

  int64_t batches_per_epoch() const;

  // The examples of batch `index` of `epoch`. Throws ShapeError outside the epoch.
  std::vector<int64_t> batch(int64_t epoch, int64_t index) const;

  // Share of padding in all batches of `epoch`, 0 to 1.
  double padding_share(int64_t epoch) const;

 private:
  void arrange(int64_t epoch) const;

  std::vector<int64_t> lengths_;
  int64_t batch_size_, bucket_batches_;
  uint64_t seed_;
  bool shuffle_, drop_last_;
  mutable int64_t arranged_epoch_ = -1;
  mutable std::vector<std::vector<int64_t>> batches_;
};

// The lengths that BatchPlan asks for.
std::vector<int64_t> example_lengths(const Dataset& dataset);

}  // namespace adder::tools
