#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <set>

#include "engine/io/safetensors.h"
#include "models/deep_s4.h"
#include "tests/support/image_bytes.h"
#include "tests/support/temp_directory.h"
#include "tests/support/tiny_mamba.h"
#include "tools/data/sequence_data.h"
#include "tools/data/synthetic_s4.h"
#include "tools/eval/evaluate_sequences.h"

using adder::ConfigError;
using adder::DeepS4;
using adder::DeepS4Config;
using adder::SequenceBatch;
using adder::ShapeError;
using adder::Tensor;
using adder::test::same_bits;
using adder::test::TempDirectory;
using adder::tools::DataOverrides;
using adder::tools::open_sequence_data;
using adder::tools::SequenceData;
using adder::tools::SequenceOptions;
using adder::tools::SyntheticOptions;
using adder::tools::SyntheticS4;

namespace {

std::unique_ptr<DeepS4> model_of(DeepS4Config::Mode mode, std::int64_t width,
                                 std::int64_t inputs = 1) {
  DeepS4Config config;
  config.mode = mode;
  config.d_model = width;
  config.n_layers = 1;
  config.d_state = 2;
  config.d_input = inputs;
  config.A_init = "random";
  return DeepS4::init(config, 5);
}

std::unique_ptr<DeepS4> classifier(std::int64_t inputs = 1) {
  return model_of(DeepS4Config::Mode::standard, 4, inputs);
}

template <typename Call>
std::string config_error(Call call) {
  try {
    call();
  } catch (const ConfigError& error) {
    return error.what();
  }
  FAIL("no ConfigError was thrown");
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE(text);
  return found;
}

std::vector<std::int64_t> everything(const SequenceData& data) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(data.examples()));
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int64_t>(i);
  return all;
}

// The images of a batch by their first pixel, which tells test images apart.
std::set<int> first_pixels(const SequenceData& data) {
  const SequenceBatch batch = data.batch(everything(data));
  std::set<int> pixels;
  for (std::int64_t i = 0; i < data.examples(); ++i) {
    pixels.insert(static_cast<int>(std::lround(batch.x.item(i * data.length()) * 255)));
  }
  return pixels;
}

}  // namespace

TEST_CASE("splits of images: 90/10 of the training files, all of the test files") {
  const TempDirectory folder;
  adder::test::write_mnist(folder.path(), 30, 7);
  const auto model = classifier();
  const auto source = open_sequence_data("mnist:" + folder.path(), *model, {});
  SequenceOptions options;
  const auto train = source->split(options);
  options.split = "val";
  const auto val = source->split(options);
  options.split = "test";
  const auto test = source->split(options);
  CHECK(train->examples() == 27);
  CHECK(val->examples() == 3);
  CHECK(test->examples() == 7);
  const std::set<int> a = first_pixels(*train);
  const std::set<int> b = first_pixels(*val);
  std::set<int> both = a;
  both.insert(b.begin(), b.end());
  CHECK(a.size() == 27);
  CHECK(both.size() == 30);  // nothing is lost, nothing is in both
  options.split = "train";
  const auto again = open_sequence_data("mnist:" + folder.path(), *model, {})->split(options);
  CHECK(first_pixels(*again) == a);
  options.max_examples = 5;
  const auto few = source->split(options);
  CHECK(few->examples() == 5);
  for (const int pixel : first_pixels(*few)) CHECK(a.count(pixel) == 1);
  options.split = "valid";
  CHECK(contains(config_error([&] { source->split(options); }), "unknown split \"valid\""));
  CHECK_THROWS_AS(test->batch(std::vector<std::int64_t>{7}), ShapeError);
  CHECK_THROWS_AS(test->batch(std::vector<std::int64_t>{}), ShapeError);
}

TEST_CASE("pixels are scaled as torchvision scales them") {
  const TempDirectory folder;
  adder::test::write_mnist(folder.path(), 10, 2);
  SequenceOptions options;
  options.split = "test";
  const std::vector<std::int64_t> second = {1};
  const auto mnist =
      open_sequence_data("mnist:" + folder.path(), *classifier(), {})->split(options);
  const SequenceBatch grey = mnist->batch(second);
  CHECK(grey.x.shape() == adder::Shape{1, 784, 1});
  CHECK(grey.labels.to_vector() == std::vector<double>{1});
  for (const std::int64_t p : {0, 3, 783}) {
    const float expected = static_cast<float>(adder::test::test_pixel(1, p)) / 255.0F;
    CHECK(static_cast<float>(grey.x.item(p)) == expected);
  }

  adder::test::write_bytes(folder.path() + "/test_batch.bin",
                           adder::test::cifar_record(4, 100, 150, 200));
  const auto cifar = [&](const DataOverrides& overrides) {
    return open_sequence_data("cifar10:" + folder.path(), *classifier(), overrides)
        ->split(options)
        ->batch(std::vector<std::int64_t>{0});
  };
  const double level = 141.0 / 255;  // 0.299 * 100 + 0.587 * 150 + 0.114 * 200 = 140.75
  const double normal = (level - 122.6 / 255) / (61.0 / 255);
  CHECK(std::abs(cifar({}).x.item(1023) - normal) <= 1e-6);
  const SequenceBatch colour = cifar({{"colour", "true"}});
  CHECK(colour.x.shape() == adder::Shape{1, 1024, 3});
  CHECK(std::abs(colour.x.item(3) - (100.0 / 255 - 0.4914) / 0.2023) <= 1e-6);
  CHECK(std::abs(colour.x.item(4) - (150.0 / 255 - 0.4822) / 0.1994) <= 1e-6);
  CHECK(std::abs(colour.x.item(5) - (200.0 / 255 - 0.4465) / 0.2010) <= 1e-6);
}

TEST_CASE("an example of synthetic-s4 depends on its number and the seed alone") {
  SyntheticOptions options;
  options.channels = 3;
  options.length = 5;
  options.layers = 2;
  options.states = 4;
  const SyntheticS4 data(options);
  const SequenceBatch all = data.batch(std::vector<std::int64_t>{7, 8, 9});
  const SequenceBatch one = data.batch(std::vector<std::int64_t>{8});
  CHECK(same_bits(all.x.slice(0, 1, 2), one.x));
  REQUIRE(all.target.shape() == adder::Shape{3, 5, 3});
  const auto whole = all.target.slice(0, 1, 2).to_vector();
  const auto alone = one.target.to_vector();
  double largest = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    CHECK(std::abs(whole[i] - alone[i]) <= 1e-5 * (1 + std::abs(alone[i])));
    largest = std::max(largest, alone[i]);
  }
  CHECK(largest > 0);  // the ReLU leaves something
  CHECK(same_bits(all.target, data.target().forward(all.x, {}).value()));
  options.seed = 43;
  CHECK_FALSE(same_bits(SyntheticS4(options).batch(std::vector<std::int64_t>{8}).x, one.x));
  options.target_seed = 2;
  options.seed = 42;
  const SequenceBatch other = SyntheticS4(options).batch(std::vector<std::int64_t>{8});
  CHECK(same_bits(other.x, one.x));
  CHECK_FALSE(same_bits(other.target, one.target));
}

TEST_CASE("inputs of synthetic-s4 are uniform digits") {
  SyntheticOptions options;
  options.channels = 16;
  options.length = 125;
  const SyntheticS4 data(options);
  const Tensor x = data.batch(std::vector<std::int64_t>{0, 1, 2, 3, 4}).x;
  std::vector<int> counts(10);
  for (const double value : x.to_vector()) {
    REQUIRE(value == std::floor(value));
    ++counts.at(static_cast<std::size_t>(value));
  }
  for (const int count : counts) CHECK(std::abs(count - 1000) <= 150);  // five deviations of 30
}

TEST_CASE("classes of synthetic-s4 are the target's largest channels") {
  SyntheticOptions options = SyntheticOptions::from_overrides(
      {{"task", "classification"}, {"length", "6"}, {"states", "2"}, {"layers", "1"}});
  options.channels = 5;
  const SyntheticS4 data(options);
  CHECK(data.classes());
  CHECK(data.counted() == 6);
  const SequenceBatch batch = data.batch(std::vector<std::int64_t>{3, 4});
  const Tensor target = data.target().forward(batch.x, {}).value();
  REQUIRE(batch.labels.shape() == adder::Shape{2, 6});
  for (std::int64_t i = 0; i < 12; ++i) {
    const auto label = static_cast<std::int64_t>(batch.labels.item(i));
    for (std::int64_t h = 0; h < 5; ++h) {
      CHECK(target.item(i * 5 + h) <= target.item(i * 5 + label));
      if (h < label) CHECK(target.item(i * 5 + h) < target.item(i * 5 + label));
    }
  }
}

TEST_CASE("evaluation of sequences sums over all batches, whatever their size") {
  const TempDirectory folder;
  adder::test::write_mnist(folder.path(), 20, 9);
  const auto model = classifier();
  SequenceOptions options;
  options.split = "test";
  const auto data = open_sequence_data("mnist:" + folder.path(), *model, {})->split(options);
  adder::tools::SequenceEvalOptions eval;
  const auto whole = adder::tools::evaluate_sequences(*model, *data, eval);
  eval.batch_size = 4;
  const auto pieces = adder::tools::evaluate_sequences(*model, *data, eval);
  CHECK(whole.examples == 9);
  CHECK(whole.supervised_tokens == 9);
  CHECK(std::abs(*whole.find("loss") - *pieces.find("loss")) <= 1e-5);
  CHECK(*whole.find("accuracy") == *pieces.find("accuracy"));
  const auto batch = data->batch(everything(*data));
  const double loss = adder::sequence_loss(*model, batch, {}).loss.value().item();
  CHECK(std::abs(*whole.find("loss") - loss) <= 1e-5);

  const std::string path = folder.path() + "/logits.safetensors";
  adder::tools::dump_sequence_logits(*model, *data, eval, path);
  const auto file = adder::SafetensorsFile::open(path);
  const Tensor logits = model->forward(batch.x, {}).value();
  const auto dumped = file.load("logits").to_vector();
  const auto expected = logits.to_vector();
  REQUIRE(dumped.size() == expected.size());
  for (std::size_t i = 0; i < dumped.size(); ++i) {
    CHECK(std::abs(dumped[i] - expected[i]) <= 1e-5);
  }
  CHECK(same_bits(file.load("labels"), batch.labels));
}

TEST_CASE("wrong data and options for sequences are named") {
  const TempDirectory folder;
  adder::test::write_mnist(folder.path(), 20, 9);
  const auto model = classifier();
  const auto error = [&](const std::string& spec, const DataOverrides& overrides = {}) {
    return config_error([&] { open_sequence_data(spec, *model, overrides); });
  };
  CHECK(contains(error("sst2:x"), "mnist:FOLDER, cifar10:FOLDER or synthetic-s4"));
  CHECK(contains(error("mnist"), "give mnist:FOLDER"));
  CHECK(contains(error("mnist:x", {{"colour", "true"}}), "unknown data option \"colour\""));
  CHECK(contains(error("cifar10:x", {{"color", "true"}}), "did you mean 'colour'"));
  CHECK(contains(error("cifar10:x", {{"colour", "yes"}}), "must be true or false"));
  CHECK(contains(error("synthetic-s4", {{"length", "0"}}), "length is \"0\""));
  CHECK(contains(error("synthetic-s4", {{"states", "8x"}}), "states is \"8x\""));
  CHECK(contains(error("synthetic-s4", {{"task", "rank"}}), "regression or classification"));

  SequenceOptions options;
  const auto mnist = open_sequence_data("mnist:" + folder.path(), *model, {})->split(options);
  CHECK_NOTHROW(adder::tools::check_fits(*mnist, *model));
  CHECK(contains(config_error([&] { adder::tools::check_fits(*mnist, *classifier(3)); }),
                 "mnist train has 1 value at each position, the model reads 3"));
  DeepS4Config config;
  config.d_model = 4;
  config.n_layers = 1;
  config.d_state = 2;
  config.d_output = 7;
  CHECK(contains(config_error([&] { adder::tools::check_fits(*mnist, *DeepS4::init(config, 1)); }),
                 "10 classes, the model gives 7 outputs"));
  const auto theory = model_of(DeepS4Config::Mode::theory, 10);
  CHECK(contains(config_error([&] { adder::tools::check_fits(*mnist, *theory); }),
                 "an output at each position"));
}
