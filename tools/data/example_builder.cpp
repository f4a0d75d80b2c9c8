#include "tools/data/example_builder.h"

#include <algorithm>
#include <utility>

#include "engine/text/counted.h"
#include "engine/text/suggest.h"
#include "engine/text/tokenizer.h"
#include "tools/data/shuffle.h"

namespace adder::tools {
namespace {

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

}  // namespace

const std::vector<std::string>& data_override_keys() {
  static const std::vector<std::string> keys = {"instruction", "separator", "train_from",
                                                "data_root"};
  return keys;
}

ExampleBuilder::ExampleBuilder(std::string source, const Tokenizer* tokenizer,
                               const DataOptions& options)
    : source_(std::move(source)), tokenizer_(tokenizer), options_(options) {
  const std::vector<std::string>& keys = data_override_keys();
  for (const auto& [key, value] : options.overrides) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
      throw ConfigError(str(source_, ": unknown data option \"", key, "\"; there are ", join(keys),
                            did_you_mean(key, keys)));
    }
  }
  if (options.max_length < 0) {
    throw ConfigError(
        str(source_, ": max_length is ", options.max_length, ", must not be below 0"));
  }
  if (options.max_examples < 0) {
    throw ConfigError(
        str(source_, ": max_examples is ", options.max_examples, ", must not be below 0"));
  }
  if (options.vocab_size < 0) {
    throw ConfigError(
        str(source_, ": vocab_size is ", options.vocab_size, ", must not be below 0"));
  }
  vocab_size_ = options.vocab_size;
  if (vocab_size_ == 0 && tokenizer != nullptr) vocab_size_ = tokenizer->vocab_size();
}

std::string ExampleBuilder::option(const std::string& key, const std::string& fallback) const {
  const auto found = options_.overrides.find(key);
  return found == options_.overrides.end() ? fallback : found->second;
}

std::vector<int32_t> ExampleBuilder::encode(std::string_view text, const std::string& place) const {
  if (tokenizer_ == nullptr) {
    throw ConfigError(str(place, ": text needs a tokenizer and the model has none; give data with ",
                          "\"input_ids\" and \"labels\", or a model folder with tokenizer.json"));
  }
  std::vector<int32_t> ids = tokenizer_->encode(text);
  for (const int32_t id : ids) {
    if (vocab_size_ > 0 && (id < 0 || id >= vocab_size_)) {
      throw IoError(str(place, ": the tokenizer gives id ", id,
                        ", outside the model's vocabulary of ", vocab_size_));
    }
  }
  return ids;
}

int32_t ExampleBuilder::end_mark() const {
  if (tokenizer_ == nullptr || !tokenizer_->eos_id()) {
    throw ConfigError(str(source_, ": the tokenizer has no end-of-text token to end targets with"));
  }
  const int32_t id = *tokenizer_->eos_id();
  if (vocab_size_ > 0 && id >= vocab_size_) {
    throw ConfigError(str(source_, ": the tokenizer's end-of-text id ", id,
                          " is outside the model's vocabulary of ", vocab_size_));
  }
  return id;
}

Example ExampleBuilder::supervised(std::vector<int32_t> prompt_ids,
                                   std::span<const int32_t> target_ids,
                                   const std::string& place) const {
  const int64_t prompt = static_cast<int64_t>(prompt_ids.size());
  const int64_t target = static_cast<int64_t>(target_ids.size());
  if (prompt == 0) {
    throw IoError(str(place, ": the input is empty, so nothing predicts the first target token"));
  }
  if (target == 0) throw IoError(str(place, ": the target is empty"));
  const int64_t length = prompt + target - 1;
  const int64_t limit = options_.max_length;
  if (limit > 0 && target > limit) {
    throw IoError(str(place, ": the target has ", target, " tokens, more than the maximum length ",
                      limit, "; raise --max-length or shorten the target"));
  }
  if (limit > 0 && length > limit) {
    throw IoError(str(place, ": the example has ", length, " tokens (", prompt, " of input, ",
                      target, " of target), more than the maximum length ", limit,
                      "; raise --max-length or shorten the example"));
  }
  Example example;
  example.input_ids.reserve(static_cast<size_t>(length));
  example.input_ids = prompt_ids;
  example.input_ids.insert(example.input_ids.end(), target_ids.begin(), target_ids.end() - 1);
  example.labels.assign(static_cast<size_t>(prompt - 1), kIgnoredLabel);
  example.labels.insert(example.labels.end(), target_ids.begin(), target_ids.end());
  example.prompt_ids = std::move(prompt_ids);
  return example;
}

Example ExampleBuilder::tokenised(std::vector<int32_t> input_ids, std::vector<int32_t> labels,
                                  const std::string& place) const {
  if (input_ids.size() != labels.size()) {
    throw IoError(str(place, ": ", input_ids.size(), " input_ids but ",
                      counted(static_cast<int64_t>(labels.size()), "label")));
  }
  if (input_ids.empty()) throw IoError(str(place, ": input_ids is empty"));
  const int64_t length = static_cast<int64_t>(input_ids.size());
  if (options_.max_length > 0 && length > options_.max_length) {
    throw IoError(str(place, ": the example has ", length, " tokens, more than the maximum length ",
                      options_.max_length, "; raise --max-length or shorten the example"));
  }
  bool labelled = false;
  for (size_t i = 0; i < input_ids.size(); ++i) {
    const int32_t id = input_ids[i];
    const int32_t label = labels[i];
    if (id < 0 || (vocab_size_ > 0 && id >= vocab_size_)) {
      throw IoError(str(place, ": input_ids[", i, "] is ", id, ", outside the vocabulary of ",
                        vocab_size_ > 0 ? str(vocab_size_, " ids") : std::string("ids from 0")));
    }
    if (label == kIgnoredLabel) continue;
    if (label < 0 || (vocab_size_ > 0 && label >= vocab_size_)) {
      throw IoError(str(place, ": labels[", i, "] is ", label, ", neither ", kIgnoredLabel,
                        " nor in the vocabulary of ",
                        vocab_size_ > 0 ? str(vocab_size_, " ids") : std::string("ids from 0")));
    }
    labelled = true;
  }
  if (!labelled) {
    throw IoError(str(place, ": all ", length, " labels are ", kIgnoredLabel,
                      ", so the line teaches nothing"));
  }
  Example example;
  example.input_ids = std::move(input_ids);
  example.labels = std::move(labels);
  return example;
}

void ExampleBuilder::append_pieces(const std::vector<int32_t>& ids, int64_t piece,
                                   const std::string& place, std::vector<Example>& examples) const {
  if (ids.size() < 2) {
    throw IoError(str(place, ": ", counted(static_cast<int64_t>(ids.size()), "token"),
                      ", language modelling needs at least 2"));
  }
  const size_t labelled = ids.size() - 1;
  const size_t step = piece > 0 ? static_cast<size_t>(piece) : labelled;
  const auto at = [&ids](size_t i) { return ids.begin() + static_cast<std::ptrdiff_t>(i); };
  for (size_t start = 0; start < labelled; start += step) {
    const size_t stop = std::min(start + step, labelled);
    Example& example = examples.emplace_back();
    example.input_ids.assign(at(start), at(stop));
    example.labels.assign(at(start + 1), at(stop + 1));
  }
}

std::vector<int64_t> ExampleBuilder::subset(int64_t n) const {
  std::vector<int64_t> chosen = permutation(n, options_.seed);
  if (options_.max_examples > 0 && options_.max_examples < n) {
    chosen.resize(static_cast<size_t>(options_.max_examples));
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

void ExampleBuilder::keep_subset(std::vector<Example>& examples) const {
  const int64_t n = static_cast<int64_t>(examples.size());
  if (options_.max_examples == 0 || options_.max_examples >= n) return;
  std::vector<Example> kept;
  for (const int64_t i : subset(n)) kept.push_back(std::move(examples[static_cast<size_t>(i)]));
  examples = std::move(kept);
}

}  // namespace adder::tools
