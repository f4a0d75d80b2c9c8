#include <algorithm>
#include <cstdlib>
#include <doctest/doctest.h>
#include <map>
#include <set>

#include "engine/error.h"
#include "tools/data/batching.h"
#include "tools/data/shuffle.h"

using adder::ConfigError;
using adder::ShapeError;
using adder::tools::Batch;
using adder::tools::BatchPlan;
using adder::tools::Dataset;
using adder::tools::make_batch;

namespace {

std::vector<int64_t> ragged_lengths(int64_t n) {
  adder::tools::SplitMix64 generator(7);
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < n; ++i) lengths.push_back(1 + static_cast<int64_t>(generator.below(200)));
  return lengths;
}

std::vector<int64_t> epoch_order(const BatchPlan& plan, int64_t epoch) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < plan.batches_per_epoch(); ++i) {
    for (const int64_t member : plan.batch(epoch, i)) order.push_back(member);
  }
  return order;
}

}  // namespace

TEST_CASE("splitmix64 gives the published sequence and an unbiased range") {
  adder::tools::SplitMix64 generator(1234567);
  CHECK(generator.next() == 6457827717110365317u);
  CHECK(generator.next() == 3203168211198807973u);
  std::map<uint64_t, int> counts;
  for (int i = 0; i < 30000; ++i) ++counts[generator.below(3)];
  REQUIRE(counts.size() == 3);
  for (const auto& [value, count] : counts) {
    CHECK(value < 3);
    CHECK(std::abs(count - 10000) < 400);  // five standard deviations
  }
}

TEST_CASE("permutation visits every number and depends on the seed alone") {
  const auto order = adder::tools::permutation(1000, 123);
  CHECK(order == adder::tools::permutation(1000, 123));
  CHECK(order != adder::tools::permutation(1000, 124));
  CHECK(std::set<int64_t>(order.begin(), order.end()).size() == 1000);
  CHECK(adder::tools::permutation(0, 1).empty());
}

TEST_CASE("an epoch visits every example once in every mode") {
  for (const int64_t n : {1, 7, 64, 101}) {
    for (const int64_t buckets : {0, 1, 5, 1000}) {
      for (const bool shuffled : {false, true}) {
        const BatchPlan plan(ragged_lengths(n), 4, 42, shuffled, false, buckets);
        CHECK(plan.batches_per_epoch() == (n + 3) / 4);
        for (const int64_t epoch : {0, 1, 9}) {
          auto order = epoch_order(plan, epoch);
          std::sort(order.begin(), order.end());
          REQUIRE(static_cast<int64_t>(order.size()) == n);
          for (int64_t i = 0; i < n; ++i) CHECK(order[static_cast<size_t>(i)] == i);
        }
      }
    }
  }
}

TEST_CASE("batches are a function of seed, epoch and index") {
  const BatchPlan plan(ragged_lengths(103), 4, 42, true, false, 8);
  const BatchPlan other(ragged_lengths(103), 4, 42, true, false, 8);
  const auto late = plan.batch(3, 20);  // the first call of all is in the middle of a later epoch
  const auto first = other.batch(0, 0);
  CHECK(other.batch(3, 20) == late);
  CHECK(plan.batch(0, 0) == first);
  CHECK(epoch_order(plan, 0) != epoch_order(plan, 1));
  const BatchPlan reseeded(ragged_lengths(103), 4, 43, true, false, 8);
  CHECK(epoch_order(reseeded, 0) != epoch_order(plan, 0));
  // Epoch e of seed s is not epoch e - 1 of seed s + 1.
  CHECK(epoch_order(reseeded, 0) != epoch_order(plan, 1));
}

TEST_CASE("without shuffling the order is that of the data") {
  const BatchPlan plan(ragged_lengths(10), 4, 42, false, false, 8);
  CHECK(plan.batch(5, 0) == std::vector<int64_t>{0, 1, 2, 3});
  CHECK(plan.batch(5, 2) == std::vector<int64_t>{8, 9});
}

TEST_CASE("drop_last leaves out different examples in different epochs") {
  const BatchPlan plan(ragged_lengths(11), 4, 42, true, true, 8);
  CHECK(plan.batches_per_epoch() == 2);
  std::set<int64_t> seen;
  for (int64_t epoch = 0; epoch < 20; ++epoch) {
    for (const int64_t i : epoch_order(plan, epoch)) seen.insert(i);
  }
  CHECK(seen.size() == 11);
}

TEST_CASE("length bucketing saves padding") {
  const BatchPlan plain(ragged_lengths(2000), 8, 42, true, false, 1);
  const BatchPlan bucketed(ragged_lengths(2000), 8, 42, true, false, 50);
  CHECK(plain.padding_share(0) > 0.3);
  CHECK(bucketed.padding_share(0) < 0.05);
  // The batches themselves come in random order, not from short to long.
  int rises = 0;
  const auto lengths = ragged_lengths(2000);
  const auto longest = [&](int64_t index) {
    int64_t most = 0;
    for (const int64_t i : bucketed.batch(0, index)) {
      most = std::max(most, lengths[static_cast<size_t>(i)]);
    }
    return most;
  };
  for (int64_t i = 1; i < bucketed.batches_per_epoch(); ++i) rises += longest(i) > longest(i - 1);
  CHECK(rises > 80);
  CHECK(rises < 170);
}

TEST_CASE("impossible plans and indices are errors") {
  CHECK_THROWS_AS(BatchPlan({}, 4, 0, true, false, 1), ConfigError);
  CHECK_THROWS_AS(BatchPlan({1, 2}, 0, 0, true, false, 1), ConfigError);
  CHECK_THROWS_AS(BatchPlan({1, 2}, 4, 0, true, true, 1), ConfigError);
  const BatchPlan plan({1, 2, 3}, 2, 0, true, false, 1);
  CHECK_THROWS_AS(plan.batch(0, 2), ShapeError);
  CHECK_THROWS_AS(plan.batch(-1, 0), ShapeError);
}

TEST_CASE("make_batch pads on the right") {
  Dataset data;
  data.examples.resize(2);
  data.examples[0].input_ids = {5, 6, 7};
  data.examples[0].labels = {-100, 7, 8};
  data.examples[1].input_ids = {9};
  data.examples[1].labels = {4};
  const Batch batch = make_batch(data, std::vector<int64_t>{1, 0});
  CHECK(batch.batch == 2);
  CHECK(batch.length == 3);
  CHECK(batch.input_ids == std::vector<int32_t>{9, 0, 0, 5, 6, 7});
  CHECK(batch.labels == std::vector<int32_t>{4, -100, -100, -100, 7, 8});
  CHECK(batch.example_indices == std::vector<int64_t>{1, 0});
  CHECK(batch.tokens == 4);
  CHECK(batch.supervised == 3);
  CHECK(adder::tools::example_lengths(data) == std::vector<int64_t>{3, 1});
  CHECK_THROWS_AS(make_batch(data, std::vector<int64_t>{}), ShapeError);
  CHECK_THROWS_AS(make_batch(data, std::vector<int64_t>{2}), ShapeError);
  data.examples[0].labels.pop_back();
  CHECK_THROWS_AS(make_batch(data, std::vector<int64_t>{0}), ShapeError);
}
