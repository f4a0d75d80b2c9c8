#include <algorithm>
#include <array>
#include <cmath>
#include <doctest/doctest.h>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "tools/metrics/metrics.h"

using adder::ShapeError;
using adder::tools::BleuScore;
using adder::tools::corpus_bleu;

namespace {

using Ids = std::vector<int32_t>;
using Texts = std::vector<std::string>;
using References = std::vector<Texts>;

bool close(double value, double expected) {
  return std::abs(value - expected) <= 1e-12 * std::max(1.0, std::abs(expected));
}

std::string tokens_of(std::string_view text) {
  std::string joined;
  for (const std::string& token : adder::tools::tokenize_13a(text)) {
    joined += (joined.empty() ? "" : " ") + token;
  }
  return joined;
}

}  // namespace

TEST_CASE("accuracy counts an answer outside the classes as wrong") {
  CHECK(adder::tools::accuracy(Ids{1, 0, 1, -1}, Ids{1, 1, 1, 0}) == 0.5);
  CHECK(adder::tools::accuracy(Ids{0, 1}, Ids{0, 1}) == 1.0);
  CHECK(adder::tools::accuracy(Ids{-1}, Ids{0}) == 0.0);
  CHECK_THROWS_AS(adder::tools::accuracy(Ids{}, Ids{}), ShapeError);
  CHECK_THROWS_AS(adder::tools::accuracy(Ids{1}, Ids{1, 0}), ShapeError);
}

TEST_CASE("matthews correlation") {
  const auto score = [](const Ids& predictions, const Ids& answers) {
    return adder::tools::matthews_correlation(predictions, answers);
  };
  // tp 2, tn 2, fp 1, fn 1: (4 - 1) / 9.
  CHECK(close(score({1, 0, 0, 1, 1, 0}, {1, 1, 0, 0, 1, 0}), 1.0 / 3.0));
  CHECK(close(score({1, 0}, {1, 0}), 1.0));
  CHECK(close(score({0, 1}, {1, 0}), -1.0));
  CHECK(score({1, 1, 1}, {1, 0, 1}) == 0.0);
  CHECK(score({1, 1, 1}, {1, 1, 1}) == 0.0);
  // More classes, and an answer outside them, as scikit-learn computes it.
  CHECK(close(score({0, 2, 2, 1, 1, 0, -1}, {0, 1, 2, 2, 1, 0, 1}), 0.41247895569215276));
  CHECK(close(score({1, -1, 0, 0, 1, 0}, {1, 1, 0, 0, 1, 0}), 0.753778361444409));
  CHECK_THROWS_AS(score({}, {}), ShapeError);
  CHECK_THROWS_AS(score({1}, {1, 0}), ShapeError);
}

TEST_CASE("exact match and perplexity") {
  CHECK(adder::tools::exact_match(Texts{"a", "b", "c"}, References{{"a"}, {"x", "b"}, {"C"}}) ==
        doctest::Approx(2.0 / 3.0));
  CHECK_THROWS_AS(adder::tools::exact_match(Texts{"a"}, References{}), ShapeError);
  CHECK(close(adder::tools::perplexity(0), 1.0));
  CHECK(close(adder::tools::perplexity(std::log(50.0)), 50.0));
}

TEST_CASE("13a tokens") {
  CHECK(tokens_of("Hello, world! It's 3.14-ish & 1,000 more.") ==
        "Hello , world ! It's 3.14 - ish & 1,000 more .");
  CHECK(tokens_of("a..b, .5 5. 10-20 x-y -\nz &quot;q&quot; <skipped>w") ==
        "a . . b , . 5 5 . 10 - 20 x-y z \" q \" w");
  CHECK(tokens_of("\xC3\xA9. \xE2\x80\x9EG\xC3\xA4nse\xE2\x80\x9C,sagte\xC2\xA0"
                  "er\xE3\x80\x80(50%)") ==
        "\xC3\xA9 . \xE2\x80\x9EG\xC3\xA4nse\xE2\x80\x9C , sagte er ( 50 % )");
  CHECK(tokens_of("end-\n") == "end-");  // the end is trimmed before line breaks are joined
  CHECK(tokens_of(" \n\t ").empty());
}

// Expected values from sacrebleu 2.6.0, BLEU().corpus_score.
TEST_CASE("corpus bleu on worked cases") {
  const BleuScore same =
      corpus_bleu(Texts{"The cat sat on the mat."}, References{{"The cat sat on the mat."}});
  CHECK(close(same.score, 100.0));
  CHECK(same.length == 7);

  const BleuScore clipped =
      corpus_bleu(Texts{"the the the the the the the"},
                  References{{"The cat is on the mat.", "There is a cat on the mat."}});
  CHECK(close(clipped.score, 6.567274736060395));
  CHECK(clipped.matches == std::array<int64_t, 4>{1, 0, 0, 0});
  CHECK(close(clipped.precisions[3], 3.125));  // smoothed: 100 / (8 * 4)

  const BleuScore several = corpus_bleu(
      Texts{"It is a guide to action which ensures that the military always obeys the commands of "
            "the party.",
            "Hello, world! It's 3.14-ish & 1,000 more."},
      References{
          {"It is a guide to action that ensures that the military will forever heed Party "
           "commands.",
           "It is the guiding principle which guarantees the military forces always being under "
           "the command of the Party."},
          {"Hello world, it's 3.14-ish &amp; 1,000 more"}});
  CHECK(close(several.score, 45.26723728453021));
  CHECK(several.length == 31);
  CHECK(several.reference_length == 29);
  CHECK(close(several.precisions[0], 83.87096774193549));
  CHECK(close(several.precisions[1], 48.275862068965516));
  CHECK(close(several.precisions[2], 37.03703703703704));
  CHECK(close(several.precisions[3], 28.0));

  const BleuScore brief = corpus_bleu(Texts{"one two three four five"},
                                      References{{"one x three y five six seven eight"}});
  CHECK(close(brief.score, 7.715486568024961));
  CHECK(close(brief.brevity_penalty, 0.5488116360940264));

  // No 4-grams at all: the score is 0, the lower precisions are still reported.
  const BleuScore short_ones =
      corpus_bleu(Texts{"one two three", "a b"}, References{{"one two four"}, {"c d"}});
  CHECK(short_ones.score == 0.0);
  CHECK(close(short_ones.precisions[2], 50.0));

  const BleuScore nothing =
      corpus_bleu(Texts{"nothing shared"}, References{{"entirely different words here"}});
  CHECK(nothing.score == 0.0);
  CHECK(close(nothing.brevity_penalty, 0.36787944117144233));
  const BleuScore empty = corpus_bleu(Texts{""}, References{{"something"}});
  CHECK(empty.score == 0.0);
  CHECK(empty.brevity_penalty == 0.0);
}

TEST_CASE("bleu takes the shorter of two references that are as close") {
  const BleuScore bleu = corpus_bleu(Texts{"a b c"}, References{{"a b c d", "a b"}});
  CHECK(bleu.reference_length == 2);
  CHECK(bleu.brevity_penalty == 1.0);
}

TEST_CASE("bleu refuses lists that do not match") {
  CHECK_THROWS_AS(corpus_bleu(Texts{}, References{}), ShapeError);
  CHECK_THROWS_AS(corpus_bleu(Texts{"a"}, References{{"a"}, {"b"}}), ShapeError);
  CHECK_THROWS_AS(corpus_bleu(Texts{"a"}, References{{}}), ShapeError);
}

// tests/golden/make_bleu.py says how the file was made.
TEST_CASE("metrics equal the golden file") {
  const std::string path = std::string(ADDER_SOURCE_DIR) + "/tests/golden/data/bleu_cases.json";
  std::ifstream file(path);
  REQUIRE(file.is_open());
  const nlohmann::json golden = nlohmann::json::parse(file);
  const auto& corpora = golden.at("bleu");
  REQUIRE(corpora.size() >= 40);
  for (size_t i = 0; i < corpora.size(); ++i) {
    CAPTURE(i);
    const auto& expected = corpora[i];
    const BleuScore bleu = corpus_bleu(expected.at("hypotheses").get<Texts>(),
                                       expected.at("references").get<References>());
    CHECK(close(bleu.score, expected.at("bleu")));
    CHECK(close(bleu.brevity_penalty, expected.at("bp")));
    CHECK(bleu.length == expected.at("sys_len"));
    CHECK(bleu.reference_length == expected.at("ref_len"));
    CHECK(bleu.matches == expected.at("counts").get<std::array<int64_t, 4>>());
    CHECK(bleu.totals == expected.at("totals").get<std::array<int64_t, 4>>());
    for (size_t n = 0; n < 4; ++n) {
      CHECK(close(bleu.precisions[n], expected.at("precisions").at(n)));
    }
  }
  const auto& lists = golden.at("classification");
  REQUIRE(lists.size() >= 20);
  for (size_t i = 0; i < lists.size(); ++i) {
    CAPTURE(i);
    const Ids predictions = lists[i].at("predictions").get<Ids>();
    const Ids answers = lists[i].at("labels").get<Ids>();
    CHECK(close(adder::tools::accuracy(predictions, answers), lists[i].at("accuracy")));
    if (lists[i].contains("matthews")) {
      CHECK(
          close(adder::tools::matthews_correlation(predictions, answers), lists[i].at("matthews")));
    }
  }
}
