#include "tools/data/sequence_data.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>

#include "engine/text/counted.h"
#include "engine/text/suggest.h"
#include "tools/data/image_files.h"
#include "tools/data/shuffle.h"
#include "tools/data/synthetic_s4.h"

namespace adder::tools {
namespace {

constexpr const char* kSynthetic = "synthetic-s4";
constexpr std::uint64_t kSplitSeed = 42;

std::string task_of(const std::string& spec) {
  return spec.substr(0, spec.find(':'));
}

// Images of some files, and which of them a split has.
class ImageSequences final : public SequenceData {
 public:
  ImageSequences(std::string name, std::shared_ptr<const Images> images,
                 std::vector<std::int64_t> chosen, const std::vector<float>& values)
      : name_(std::move(name)),
        images_(std::move(images)),
        chosen_(std::move(chosen)),
        values_(values) {}

  const std::string& name() const override { return name_; }
  std::int64_t examples() const override { return static_cast<std::int64_t>(chosen_.size()); }
  std::int64_t length() const override { return images_->positions; }
  std::int64_t input_size() const override { return images_->channels; }
  std::int64_t output_size() const override { return 10; }
  bool classes() const override { return true; }
  bool pooled() const override { return true; }

  SequenceBatch batch(std::span<const std::int64_t> examples) const override {
    if (examples.empty()) throw ShapeError(str(name_, ": a batch of no examples"));
    const auto count = static_cast<std::int64_t>(examples.size());
    SequenceBatch batch;
    batch.x = Tensor::empty({count, length(), input_size()});
    batch.labels = Tensor::empty({count}, Dtype::i32);
    auto* x = batch.x.data<float>();
    auto* label = batch.labels.data<std::int32_t>();
    const std::int64_t size = length() * input_size();
    for (const std::int64_t example : examples) {
      if (example < 0 || example >= this->examples()) {
        throw ShapeError(str(name_, ": example ", example, " of ", this->examples()));
      }
      const std::int64_t image = chosen_[static_cast<std::size_t>(example)];
      *label++ = images_->labels[static_cast<std::size_t>(image)];
      const std::uint8_t* pixel = images_->pixels.data() + image * size;
      for (std::int64_t i = 0; i < size; ++i) {
        *x++ = values_[static_cast<std::size_t>(pixel[i] + 256 * (i % input_size()))];
      }
    }
    return batch;
  }

 private:
  std::string name_;
  std::shared_ptr<const Images> images_;
  std::vector<std::int64_t> chosen_;
  std::vector<float> values_;  // of each byte, per channel
};

// What each byte becomes: (byte / 255 - mean) / deviation, in float32 as torchvision computes it.
std::vector<float> pixel_values(const std::vector<std::pair<double, double>>& mean_deviation) {
  std::vector<float> values;
  for (const auto& [mean, deviation] : mean_deviation) {
    for (int byte = 0; byte < 256; ++byte) {
      const float unit = static_cast<float>(byte) / 255.0F;
      values.push_back((unit - static_cast<float>(mean)) / static_cast<float>(deviation));
    }
  }
  return values;
}

class ImageSource final : public SequenceSource {
 public:
  ImageSource(std::string task, std::string folder, bool colour)
      : task_(std::move(task)), folder_(std::move(folder)), colour_(colour) {
    if (task_ == "mnist") {
      values_ = pixel_values({{0, 1}});
    } else if (colour_) {
      values_ = pixel_values({{0.4914, 0.2023}, {0.4822, 0.1994}, {0.4465, 0.2010}});
    } else {
      values_ = pixel_values({{122.6 / 255, 61.0 / 255}});
    }
  }

  std::unique_ptr<SequenceData> split(const SequenceOptions& options) override {
    const bool test = options.split == "test";
    if (!test && options.split != "train" && options.split != "val") {
      throw ConfigError(str("data \"", task_, "\": unknown split \"", options.split,
                            "\", must be train, val or test"));
    }
    auto& images = test ? test_ : train_;
    if (!images) {
      images = std::make_shared<const Images>(
          task_ == "mnist" ? read_mnist(folder_, test) : read_cifar10(folder_, test, colour_));
    }
    std::vector<std::int64_t> chosen;
    if (test) {
      chosen.resize(static_cast<std::size_t>(images->count));
      std::iota(chosen.begin(), chosen.end(), std::int64_t{0});
    } else {
      const auto order = permutation(images->count, kSplitSeed);
      const auto border = order.begin() + static_cast<std::ptrdiff_t>(images->count * 9 / 10);
      const bool train = options.split == "train";
      chosen.assign(train ? order.begin() : border, train ? border : order.end());
      std::sort(chosen.begin(), chosen.end());
    }
    if (chosen.empty()) {
      throw IoError(str(folder_, ": the split ", options.split, " of ",
                        counted(images->count, "image"), " is empty"));
    }
    const auto all = static_cast<std::int64_t>(chosen.size());
    if (options.max_examples > 0 && options.max_examples < all) {
      auto subset = permutation(all, options.seed);
      subset.resize(static_cast<std::size_t>(options.max_examples));
      std::sort(subset.begin(), subset.end());
      for (std::int64_t& i : subset) i = chosen[static_cast<std::size_t>(i)];
      chosen = std::move(subset);
    }
    return std::make_unique<ImageSequences>(str(task_, " ", options.split), images,
                                            std::move(chosen), values_);
  }

 private:
  std::string task_, folder_;
  bool colour_;
  std::vector<float> values_;
  std::shared_ptr<const Images> train_, test_;
};

class SyntheticSource final : public SequenceSource {
 public:
  explicit SyntheticSource(SyntheticOptions options) : options_(options) {}
  std::unique_ptr<SequenceData> split(const SequenceOptions& options) override {
    options_.seed = options.seed;
    return std::make_unique<SyntheticS4>(options_);
  }

 private:
  SyntheticOptions options_;
};

void check_keys(const DataOverrides& overrides, const std::string& task,
                std::vector<std::string> known) {
  known.push_back("data_root");
  for (const auto& [key, value] : overrides) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    throw ConfigError(
        str("data \"", task, "\": unknown data option \"", key, "\"", did_you_mean(key, known)));
  }
}

const std::string* find_option(const DataOverrides& overrides, const std::string& key) {
  const auto found = overrides.find(key);
  return found == overrides.end() ? nullptr : &found->second;
}

}  // namespace

bool option_flag(const DataOverrides& overrides, const std::string& key, bool otherwise) {
  const std::string* text = find_option(overrides, key);
  if (text == nullptr) return otherwise;
  if (*text != "true" && *text != "false") {
    throw ConfigError(str("data option ", key, " is \"", *text, "\", must be true or false"));
  }
  return *text == "true";
}

std::int64_t option_number(const DataOverrides& overrides, const std::string& key,
                           std::int64_t otherwise, std::int64_t least, std::int64_t most) {
  const std::string* text = find_option(overrides, key);
  if (text == nullptr) return otherwise;
  std::int64_t number = 0;
  const char* const end = text->data() + text->size();
  const auto result = std::from_chars(text->data(), end, number);
  if (result.ec != std::errc() || result.ptr != end || number < least || number > most) {
    throw ConfigError(str("data option ", key, " is \"", *text, "\", must be a whole number from ",
                          least, " to ", most));
  }
  return number;
}

bool is_sequence_data(const std::string& spec) {
  const std::string task = task_of(spec);
  return spec == kSynthetic || task == "mnist" || task == "cifar10";
}

std::unique_ptr<SequenceSource> open_sequence_data(const std::string& spec,
                                                   const SequenceModel& model,
                                                   const DataOverrides& overrides) {
  if (!is_sequence_data(spec)) {
    throw ConfigError(str("data \"", spec, "\": the model (", model.description(),
                          ") reads sequences of numbers; give mnist:FOLDER, cifar10:FOLDER or ",
                          kSynthetic));
  }
  if (spec == kSynthetic) {
    check_keys(overrides, spec, {"layers", "states", "length", "task", "target_seed"});
    SyntheticOptions options = SyntheticOptions::from_overrides(overrides);
    options.channels = model.input_size();
    options.device = model.device();
    return std::make_unique<SyntheticSource>(options);
  }
  const std::string task = task_of(spec);
  check_keys(overrides, task,
             task == "cifar10" ? std::vector<std::string>{"colour"} : std::vector<std::string>{});
  std::string folder;
  if (spec != task) {
    folder = spec.substr(task.size() + 1);
  } else if (const std::string* root = find_option(overrides, "data_root")) {
    folder = (std::filesystem::path(*root) / task).string();
  } else {
    throw ConfigError(str("data \"", spec, "\": its folder is missing; give ", spec,
                          ":FOLDER, or the data option data_root for the folder that holds ",
                          task));
  }
  return std::make_unique<ImageSource>(task, folder, option_flag(overrides, "colour", false));
}

void check_fits(const SequenceData& data, const SequenceModel& model) {
  if (model.pooled() != data.pooled()) {
    throw ConfigError(
        str(data.name(), " has ",
            data.pooled() ? "one answer for each sequence" : "an answer at each position",
            ", the model (", model.description(), ") gives ",
            model.pooled() ? "one output for a whole sequence" : "an output at each position",
            "; the mode in its config.json decides"));
  }
  if (model.input_size() != data.input_size()) {
    throw ConfigError(str(data.name(), " has ", counted(data.input_size(), "value"),
                          " at each position, the model reads ", model.input_size()));
  }
  if (model.output_size() != data.output_size()) {
    throw ConfigError(str(data.name(), " has ",
                          data.classes()
                              ? counted(data.output_size(), "class", "classes")
                              : counted(data.output_size(), "value") + " to be predicted",
                          ", the model gives ", counted(model.output_size(), "output")));
  }
}

}  // namespace adder::tools
