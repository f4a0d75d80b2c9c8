// Scores of predictions against what is right.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace adder::tools {

// Share of right predictions, 0 to 1. A prediction outside the classes (-1 by convention) counts as
// wrong. Throws ShapeError for empty or unequal lists.
double accuracy(std::span<const int32_t> predictions, std::span<const int32_t> answers);

// Matthews correlation, -1 to 1, in the form for any number of classes (Gorodkin 2004), which for
// two classes is the usual phi coefficient. Predictions outside the classes form a class of their
// own that is never right, so they lower the score. 0 where undefined (one side constant).
double matthews_correlation(std::span<const int32_t> predictions, std::span<const int32_t> answers);

// Share of predictions that equal one of their references, 0 to 1.
double exact_match(std::span<const std::string> predictions,
                   std::span<const std::vector<std::string>> references);

// exp of a mean negative log-likelihood per token.
double perplexity(double mean_loss);

// Corpus BLEU with its parts; score and precisions are 0 to 100.
struct BleuScore {
  double score = 0;
  std::array<double, 4> precisions{};
  double brevity_penalty = 1;
  int64_t length = 0, reference_length = 0;
  std::array<int64_t, 4> matches{}, totals{};  // n-grams of the predictions
};

// BLEU-4 as sacreBLEU's defaults compute it (Papineni 2002; Post 2018): "13a" tokens, case kept,
// matches clipped by the most generous reference, the reference length closest to the prediction's
// (the shorter of two as close), exponential smoothing of orders without a match. Throws ShapeError
// for empty or unequal lists or a prediction without references.
BleuScore corpus_bleu(std::span<const std::string> predictions,
                      std::span<const std::vector<std::string>> references);

// The "13a" tokens (those of NIST's mteval-v13a) of one segment.
std::vector<std::string> tokenize_13a(std::string_view text);

}  // namespace adder::tools
