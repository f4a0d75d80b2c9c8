#include "tools/data/batching.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/text/counted.h"
#include "tools/data/shuffle.h"

namespace adder::tools {

Batch make_batch(const Dataset& dataset, std::span<const int64_t> indices) {
  const int64_t n = static_cast<int64_t>(dataset.examples.size());
  if (indices.empty()) throw ShapeError("make_batch: no examples chosen");
  Batch batch;
  batch.batch = static_cast<int64_t>(indices.size());
  batch.example_indices.assign(indices.begin(), indices.end());
  for (const int64_t index : indices) {
    if (index < 0 || index >= n) {
      throw ShapeError(str("make_batch: example ", index, " of ", n));
    }
    const Example& example = dataset.examples[static_cast<size_t>(index)];
    const int64_t length = static_cast<int64_t>(example.input_ids.size());
    if (example.labels.size() != example.input_ids.size()) {
      throw ShapeError(str("make_batch: example ", index, " has ", length, " inputs but ",
                           example.labels.size(), " labels"));
    }
    batch.length = std::max(batch.length, length);
    batch.tokens += length;
  }
  const size_t size = static_cast<size_t>(batch.batch * batch.length);
  batch.input_ids.assign(size, 0);
  batch.labels.assign(size, kIgnoredLabel);
  for (size_t row = 0; row < indices.size(); ++row) {
    const Example& example = dataset.examples[static_cast<size_t>(indices[row])];
    const auto offset = static_cast<std::ptrdiff_t>(row * static_cast<size_t>(batch.length));
    std::copy(example.input_ids.begin(), example.input_ids.end(), batch.input_ids.begin() + offset);
    std::copy(example.labels.begin(), example.labels.end(), batch.labels.begin() + offset);
  }
  batch.supervised = std::count_if(batch.labels.begin(), batch.labels.end(),
                                   [](int32_t label) { return label != kIgnoredLabel; });
  return batch;
}

std::vector<int64_t> example_lengths(const Dataset& dataset) {
  std::vector<int64_t> lengths;
  lengths.reserve(dataset.examples.size());
  for (const Example& example : dataset.examples) {
    lengths.push_back(static_cast<int64_t>(example.input_ids.size()));
  }
  return lengths;
}

BatchPlan::BatchPlan(std::vector<int64_t> lengths, int64_t batch_size, uint64_t seed, bool shuffle,
                     bool drop_last, int64_t bucket_batches)
    : lengths_(std::move(lengths)),
      batch_size_(batch_size),
      bucket_batches_(bucket_batches),
      seed_(seed),
      shuffle_(shuffle),
      drop_last_(drop_last) {
  if (batch_size < 1) throw ConfigError(str("batch size is ", batch_size, ", must be at least 1"));
  if (lengths_.empty()) throw ConfigError("batches: the data set is empty");
  if (batches_per_epoch() == 0) {
    throw ConfigError(str("batches: ", counted(static_cast<int64_t>(lengths_.size()), "example"),
                          lengths_.size() == 1 ? " does" : " do", " not fill one batch of ",
                          batch_size, " and incomplete batches are dropped"));
  }
}

int64_t BatchPlan::batches_per_epoch() const {
  const int64_t n = static_cast<int64_t>(lengths_.size());
  return drop_last_ ? n / batch_size_ : n / batch_size_ + (n % batch_size_ != 0 ? 1 : 0);
}

void BatchPlan::arrange(int64_t epoch) const {
  if (epoch == arranged_epoch_) return;
  const int64_t n = static_cast<int64_t>(lengths_.size());
  // The seed and the epoch go through the mixing function one after the other, so that neighbouring
  // pairs give unrelated orders.
  SplitMix64 generator(SplitMix64(seed_).next() + static_cast<uint64_t>(epoch));
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (shuffle_) shuffle(order, generator);
  if (drop_last_) order.resize(static_cast<size_t>(batches_per_epoch() * batch_size_));
  const bool bucketed = shuffle_ && bucket_batches_ > 1;
  if (bucketed) {
    const size_t window = static_cast<size_t>(std::min(bucket_batches_, n) * batch_size_);
    for (size_t start = 0; start < order.size(); start += window) {
      const auto first = order.begin() + static_cast<std::ptrdiff_t>(start);
      const auto last =
          order.begin() + static_cast<std::ptrdiff_t>(std::min(start + window, order.size()));
      std::stable_sort(first, last, [this](int64_t a, int64_t b) {
        return lengths_[static_cast<size_t>(a)] < lengths_[static_cast<size_t>(b)];
      });
    }
  }
  batches_.clear();
  for (size_t start = 0; start < order.size(); start += static_cast<size_t>(batch_size_)) {
    const size_t stop = std::min(start + static_cast<size_t>(batch_size_), order.size());
    batches_.emplace_back(order.begin() + static_cast<std::ptrdiff_t>(start),
                          order.begin() + static_cast<std::ptrdiff_t>(stop));
  }
  if (bucketed) shuffle(batches_, generator);
  arranged_epoch_ = epoch;
}

std::vector<int64_t> BatchPlan::batch(int64_t epoch, int64_t index) const {
  if (epoch < 0 || index < 0 || index >= batches_per_epoch()) {
    throw ShapeError(str("batch ", index, " of epoch ", epoch, ": an epoch has ",
                         batches_per_epoch(), " batches"));
  }
  arrange(epoch);
  return batches_[static_cast<size_t>(index)];
}

double BatchPlan::padding_share(int64_t epoch) const {
  if (epoch < 0) throw ShapeError(str("padding_share: epoch ", epoch));
  arrange(epoch);
  int64_t cells = 0, used = 0;
  for (const std::vector<int64_t>& members : batches_) {
    int64_t longest = 0;
    for (const int64_t i : members) {
      const int64_t length = lengths_[static_cast<size_t>(i)];
      longest = std::max(longest, length);
      used += length;
    }
    cells += longest * static_cast<int64_t>(members.size());
  }
  return cells == 0 ? 0.0 : 1.0 - static_cast<double>(used) / static_cast<double>(cells);
}

}  // namespace adder::tools
