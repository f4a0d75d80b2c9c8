#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <map>

#include "engine/random.h"
#include "models/generate.h"
#include "tests/support/golden.h"
#include "tests/support/tiny_mamba.h"

using adder::beam_search;
using adder::choose_token;
using adder::ConfigError;
using adder::generate;
using adder::generate_many;
using adder::Generation;
using adder::GenerationOptions;
using adder::LanguageModel;
using adder::MambaConfig;
using adder::Random;
using adder::Tensor;

namespace {

using Ids = std::vector<std::int32_t>;

// Log probabilities of the token after `ids`, by the parallel form.
std::vector<double> next_log_probabilities(const LanguageModel& model, const Ids& ids) {
  const auto length = static_cast<std::int64_t>(ids.size());
  const Tensor logits = model.logits(Tensor::from({1, length}, ids)).select(0, 0);
  std::vector<double> row = logits.select(0, length - 1).to_vector();
  const double largest = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const double x : row) sum += std::exp(x - largest);
  for (double& x : row) x -= largest + std::log(sum);
  return row;
}

std::unique_ptr<adder::Mamba> model_with_vocabulary(std::int64_t size, std::uint64_t seed = 7) {
  MambaConfig config = adder::test::tiny_config();
  config.vocab_size = size;
  config.initializer_range = 1;
  return adder::Mamba::init(config, seed);
}

Ids argmax_continuation(const LanguageModel& model, Ids ids, std::size_t count) {
  Ids out;
  while (out.size() < count) {
    const std::vector<double> row = next_log_probabilities(model, ids);
    out.push_back(
        static_cast<std::int32_t>(std::max_element(row.begin(), row.end()) - row.begin()));
    ids.push_back(out.back());
  }
  return out;
}

// Every sequence of up to `left` more tokens, with its normalised score.
void enumerate(const LanguageModel& model, const Ids& prompt, const Ids& so_far, double total,
               std::size_t left, double penalty, std::map<Ids, double>& out) {
  Ids ids = prompt;
  ids.insert(ids.end(), so_far.begin(), so_far.end());
  const std::vector<double> row = next_log_probabilities(model, ids);
  for (std::size_t id = 0; id < row.size(); ++id) {
    Ids longer = so_far;
    longer.push_back(static_cast<std::int32_t>(id));
    const double sum = total + row[id];
    if (id == 0 || left == 1) {
      out[longer] = sum / std::pow(static_cast<double>(longer.size()), penalty);
    } else {
      enumerate(model, prompt, longer, sum, left - 1, penalty, out);
    }
  }
}

Ids with_end(const Generation& generation) {
  Ids ids = generation.ids;
  if (generation.ended) ids.push_back(0);
  return ids;
}

}  // namespace

TEST_CASE("greedy generation follows the parallel form's argmax") {
  const auto model = adder::test::tiny_mamba();
  for (const Ids& prompt : {Ids{3}, Ids{5, 1}, Ids{4, 4, 9}, Ids{1, 2, 3, 4, 5, 6, 7, 8, 9}}) {
    GenerationOptions options;
    options.max_new_tokens = 12;
    const Generation result = generate(*model, prompt, options);
    CHECK(result.ids == argmax_continuation(*model, prompt, 12));
    CHECK_FALSE(result.ended);
  }
}

TEST_CASE("greedy generation stops at the end mark, not before the minimum length") {
  const auto model = adder::test::tiny_mamba();
  const Ids prompt = {5, 1, 8};
  const Ids free = argmax_continuation(*model, prompt, 6);
  GenerationOptions options;
  options.max_new_tokens = 6;
  options.end_id = free[2];
  const auto first =
      static_cast<std::size_t>(std::find(free.begin(), free.end(), options.end_id) - free.begin());
  const Generation stopped = generate(*model, prompt, options);
  CHECK(stopped.ended);
  CHECK(stopped.ids == Ids(free.begin(), free.begin() + static_cast<std::ptrdiff_t>(first)));
  // The prompt has three tokens; only new ones count.
  options.min_new_tokens = static_cast<std::int64_t>(first) + 1;
  const Generation longer = generate(*model, prompt, options);
  CHECK(longer.ids.size() > first);
  CHECK(std::equal(stopped.ids.begin(), stopped.ids.end(), longer.ids.begin()));
  CHECK(longer.ids[first] != options.end_id);
}

TEST_CASE("many prompts of unlike length give what each gives alone") {
  const auto model = adder::test::tiny_mamba();
  std::vector<Ids> prompts;
  Random random(5);
  for (const std::size_t length : {7, 1, 3, 12, 3, 5, 2}) {
    Ids& ids = prompts.emplace_back(length);
    for (auto& id : ids) id = static_cast<std::int32_t>(random.below(29));
  }
  for (const double temperature : {0.0, 0.9}) {
    for (const std::int64_t beams : {1, 3}) {
      GenerationOptions options;
      options.max_new_tokens = 9;
      options.num_beams = beams;
      options.temperature = temperature;
      options.end_id = 4;
      std::int64_t done = 0;
      const std::vector<Generation> many =
          generate_many(*model, prompts, options, 4, [&](std::int64_t n) {
            done = n;
            return true;
          });
      CHECK(done == 7);
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        if (temperature == 0 || beams > 1) {
          const Generation alone = generate(*model, prompts[i], options);
          CHECK(many[i].ids == alone.ids);
          CHECK(many[i].ended == alone.ended);
        }
      }
      if (beams == 1) {  // the batch's size makes no difference to what is drawn
        const std::vector<Generation> other = generate_many(*model, prompts, options, 1);
        for (std::size_t i = 0; i < prompts.size(); ++i) CHECK(many[i].ids == other[i].ids);
      }
    }
  }
}

TEST_CASE("beam search as wide as the tree finds every sequence in order") {
  const auto model = model_with_vocabulary(5);
  for (const double penalty : {0.0, 1.0, 2.0}) {
    const Ids prompt = {2, 3};
    std::map<Ids, double> all;
    enumerate(*model, prompt, {}, 0, 3, penalty, all);
    REQUIRE(all.size() == 85);
    GenerationOptions options;
    options.max_new_tokens = 3;
    options.num_beams = 200;
    options.length_penalty = penalty;
    options.end_id = 0;
    const std::vector<Generation> found = beam_search(*model, prompt, options);
    REQUIRE(found.size() == all.size());
    double previous = std::numeric_limits<double>::infinity();
    double best = -previous;
    for (const auto& [ids, score] : all) best = std::max(best, score);
    for (const Generation& hypothesis : found) {
      const auto expected = all.find(with_end(hypothesis));
      REQUIRE(expected != all.end());
      CHECK(std::abs(hypothesis.score - expected->second) <= 1e-5);
      CHECK(hypothesis.score <= previous);
      previous = hypothesis.score;
    }
    CHECK(std::abs(found.front().score - best) <= 1e-5);
  }
}

TEST_CASE("narrow beams still contain the greedy path or better, and obey the minimum length") {
  const auto model = model_with_vocabulary(6, 11);
  for (std::int32_t start = 1; start < 6; ++start) {
    GenerationOptions options;
    options.max_new_tokens = 8;
    options.end_id = 0;
    options.num_beams = 3;
    options.min_new_tokens = 5;
    for (const Generation& hypothesis : beam_search(*model, {start}, options)) {
      CHECK(with_end(hypothesis).size() >= 6);  // five tokens before the mark may come
      CHECK(std::count(hypothesis.ids.begin(), hypothesis.ids.end(), 0) == 0);
    }
    options.min_new_tokens = 8;
    CHECK_FALSE(generate(*model, {start}, options).ended);
  }
}

TEST_CASE("greedy and beam search agree with transformers") {
  const auto model = adder::Mamba::load(adder::test::golden_path("tiny_hf"));
  const auto file =
      adder::SafetensorsFile::open(adder::test::golden_path("tiny_hf/expected.safetensors"));
  for (const int n : {1, 2, 3, 5, 9}) {
    CAPTURE(n);
    const auto ids_of = [&](const std::string& name) {
      Ids ids;
      for (const double x : file.load(name).to_vector()) {
        if (x >= 0) ids.push_back(static_cast<std::int32_t>(x));
      }
      return ids;
    };
    const Ids prompt = ids_of(adder::str("prompt_", n));
    GenerationOptions options;
    options.max_new_tokens = 12;
    options.end_id = 0;
    CHECK(with_end(generate(*model, prompt, options)) == ids_of(adder::str("greedy_", n)));

    const Tensor beams = file.load(adder::str("beams_", n));
    const std::vector<double> scores = file.load(adder::str("beam_scores_", n)).to_vector();
    options.num_beams = 3;
    const std::vector<Generation> found = beam_search(*model, prompt, options);
    REQUIRE(found.size() == 3);
    for (std::int64_t b = 0; b < 3; ++b) {
      CAPTURE(b);
      Ids expected;
      for (const double x : beams.select(0, b).to_vector()) {
        if (x >= 0) expected.push_back(static_cast<std::int32_t>(x));
      }
      const auto i = static_cast<std::size_t>(b);
      CHECK(with_end(found[i]) == expected);
      CHECK(std::abs(found[i].score - scores[i]) <= 1e-4);
    }
    CHECK(with_end(generate(*model, prompt, options)) == with_end(found.front()));
  }
}

TEST_CASE("sampling is a function of the seed") {
  const auto model = adder::test::tiny_mamba();
  GenerationOptions options;
  options.max_new_tokens = 30;
  options.temperature = 1.5;
  const Generation first = generate(*model, {3, 4}, options);
  CHECK(generate(*model, {3, 4}, options).ids == first.ids);
  options.seed = 43;
  CHECK(generate(*model, {3, 4}, options).ids != first.ids);
  options.top_k = 1;
  CHECK(generate(*model, {3, 4}, options).ids == argmax_continuation(*model, {3, 4}, 30));
  options.top_k = 0;
  options.top_p = 1e-9;
  CHECK(generate(*model, {3, 4}, options).ids == argmax_continuation(*model, {3, 4}, 30));
}

TEST_CASE("sampling draws from the filtered distribution") {
  const std::vector<double> probabilities = {0.4, 0.3, 0.15, 0.1, 0.05};
  const auto frequencies = [&](const GenerationOptions& options) {
    std::vector<double> counts(5, 0);
    Random random(9);
    const int draws = 40000;
    for (int i = 0; i < draws; ++i) {
      std::vector<double> logits;
      for (const double p : probabilities) logits.push_back(std::log(p) + 3);
      counts[static_cast<std::size_t>(choose_token(logits, 0, options, random))] += 1.0 / draws;
    }
    return counts;
  };
  const auto check = [](const std::vector<double>& found, const std::vector<double>& expected) {
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CHECK(std::abs(found[i] - expected[i]) <= 0.012);
      if (expected[i] == 0) CHECK(found[i] == 0);
    }
  };
  GenerationOptions options;
  options.temperature = 1;
  check(frequencies(options), probabilities);
  options.top_k = 2;
  check(frequencies(options), {4. / 7, 3. / 7, 0, 0, 0});
  options.top_k = 4;  // then 0.4/0.95 + 0.3/0.95 = 0.74 falls short of 0.75, the third is needed
  options.top_p = 0.75;
  check(frequencies(options), {0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0});
  options = {};
  options.temperature = 0.5;
  const double sum = 0.16 + 0.09 + 0.0225 + 0.01 + 0.0025;
  check(frequencies(options), {0.16 / sum, 0.09 / sum, 0.0225 / sum, 0.01 / sum, 0.0025 / sum});
  options.temperature = 1;
  options.end_id = 0;
  options.min_new_tokens = 1;
  check(frequencies(options), {0, 0.5, 0.25, 0.1 / 0.6, 0.05 / 0.6});
}

TEST_CASE("padding ids are never generated, and the callback streams and stops") {
  const auto model = adder::test::tiny_mamba();
  GenerationOptions options;
  options.max_new_tokens = 40;
  options.temperature = 5;
  options.vocab_size = 6;
  Ids streamed;
  const Generation result = generate(*model, {3}, options, [&](std::int32_t id) {
    streamed.push_back(id);
    return streamed.size() < 25;
  });
  CHECK(result.ids == streamed);
  CHECK(streamed.size() == 25);
  CHECK(*std::max_element(streamed.begin(), streamed.end()) < 6);
  options.num_beams = 2;
  for (const std::int32_t id : generate(*model, {3}, options).ids) CHECK(id < 6);
}

TEST_CASE("impossible requests are errors") {
  const auto model = adder::test::tiny_mamba();
  const GenerationOptions fine;
  CHECK_THROWS_AS(generate(*model, {}, fine), ConfigError);
  CHECK_THROWS_AS(generate(*model, {29}, fine), ConfigError);
  CHECK_THROWS_AS(generate(*model, {-1}, fine), ConfigError);
  const auto rejects = [&](auto change) {
    GenerationOptions options;
    change(options);
    CHECK_THROWS_AS(generate(*model, {1}, options), ConfigError);
  };
  rejects([](GenerationOptions& o) { o.max_new_tokens = 0; });
  rejects([](GenerationOptions& o) { o.min_new_tokens = 65; });
  rejects([](GenerationOptions& o) { o.min_new_tokens = -1; });
  rejects([](GenerationOptions& o) { o.num_beams = 0; });
  rejects([](GenerationOptions& o) { o.temperature = -1; });
  rejects([](GenerationOptions& o) { o.temperature = std::nan(""); });
  rejects([](GenerationOptions& o) { o.top_k = -1; });
  rejects([](GenerationOptions& o) { o.top_p = 0; });
  rejects([](GenerationOptions& o) { o.top_p = 1.5; });
  rejects([](GenerationOptions& o) { o.end_id = 29; });
  model->find_parameter("backbone.norm_f.weight")->value().fill(std::nan(""));
  CHECK_THROWS_AS(generate(*model, {1}, fine), adder::NumericError);
}
