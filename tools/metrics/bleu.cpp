#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <unordered_map>
#include <utility>

#include "engine/error.h"
#include "tools/metrics/metrics.h"

namespace adder::tools {
namespace {

constexpr size_t kOrders = 4;
// What stands for the logarithm of a precision of 0: the score becomes 0.
constexpr double kLogOfZero = -9999999999.0;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// ASCII symbols that are always tokens of their own: all but letters, digits, ' , - and .
bool is_symbol(char c) {
  return (c >= ' ' && c <= '&') || (c >= '(' && c <= '+') || c == '/' || (c >= ':' && c <= '@') ||
         (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

bool is_point(char c) {
  return c == '.' || c == ',';
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  size_t at = text.find(from);
  if (at == std::string::npos) return;
  std::string result;
  size_t done = 0;
  for (; at != std::string::npos; at = text.find(from, done)) {
    result.append(text, done, at - done).append(to);
    done = at + from.size();
  }
  text = result.append(text, done);
}

// Length in bytes of the white space character at `at`, 0 if there is none: Unicode's White_Space
// and the four ASCII separators, which are what the definition's word splitting goes by.
size_t space_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u;
  };
  const unsigned a = byte(0), b = byte(1), c = byte(2);
  if (a == ' ' || (a >= 0x09 && a <= 0x0D) || (a >= 0x1C && a <= 0x1F)) return 1;
  if (a == 0xC2 && (b == 0x85 || b == 0xA0)) return 2;
  if (a == 0xE1 && b == 0x9A && c == 0x80) return 3;                 // U+1680
  if (a == 0xE2 && b == 0x80 && (c >= 0x80 && c <= 0x8A)) return 3;  // U+2000 … U+200A
  if (a == 0xE2 && b == 0x80 && (c == 0xA8 || c == 0xA9 || c == 0xAF)) return 3;
  if (a == 0xE2 && b == 0x81 && c == 0x9F) return 3;  // U+205F
  if (a == 0xE3 && b == 0x80 && c == 0x80) return 3;  // U+3000
  return 0;
}

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  for (size_t i = 0; i < text.size();) {
    const size_t space = space_length(text, i);
    if (space == 0) {
      word += text[i++];
      continue;
    }
    if (!word.empty()) words.push_back(std::move(word));
    word.clear();
    i += space;
  }
  if (!word.empty()) words.push_back(std::move(word));
  return words;
}

// The text without the white space at its end, which must go before "-" + newline is looked for.
std::string_view trim_end(std::string_view text) {
  size_t end = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t space = space_length(text, i);
    i += space > 0 ? space : 1;
    if (space == 0) end = i;
  }
  return text.substr(0, end);
}

using Ngram = std::array<int32_t, kOrders>;  // unused places hold -1

struct NgramHash {
  size_t operator()(const Ngram& ngram) const {
    uint64_t hash = 0xCBF29CE484222325u;
    for (const int32_t word : ngram) {
      hash = (hash ^ static_cast<uint32_t>(word)) * 0x100000001B3u;
    }
    return static_cast<size_t>(hash ^ (hash >> 29));
  }
};

using Counts = std::unordered_map<Ngram, int64_t, NgramHash>;

// Words as numbers, so that n-grams compare cheaply.
class Vocabulary {
 public:
  std::vector<int32_t> numbers(const std::vector<std::string>& words) {
    std::vector<int32_t> result;
    result.reserve(words.size());
    for (const std::string& word : words) {
      const int32_t next = static_cast<int32_t>(numbers_.size());
      result.push_back(numbers_.try_emplace(word, next).first->second);
    }
    return result;
  }

 private:
  std::unordered_map<std::string, int32_t> numbers_;
};

Counts count_ngrams(const std::vector<int32_t>& words) {
  Counts counts;
  for (size_t start = 0; start < words.size(); ++start) {
    Ngram ngram;
    ngram.fill(-1);
    for (size_t n = 0; n < kOrders && start + n < words.size(); ++n) {
      ngram[n] = words[start + n];
      ++counts[ngram];
    }
  }
  return counts;
}

size_t order_of(const Ngram& ngram) {
  return static_cast<size_t>(std::find(ngram.begin(), ngram.end(), -1) - ngram.begin());
}

// Fills in precisions and score from the counts.
void finish(BleuScore& bleu) {
  if (bleu.length < bleu.reference_length) {
    bleu.brevity_penalty = bleu.length > 0
                               ? std::exp(1.0 - static_cast<double>(bleu.reference_length) /
                                                    static_cast<double>(bleu.length))
                               : 0.0;
  }
  if (std::all_of(bleu.matches.begin(), bleu.matches.end(), [](int64_t m) { return m == 0; })) {
    return;
  }
  double smoothing = 1.0;
  double log_sum = 0;
  for (size_t n = 0; n < kOrders && bleu.totals[n] > 0; ++n) {
    const double total = static_cast<double>(bleu.totals[n]);
    if (bleu.matches[n] == 0) {
      smoothing *= 2.0;
      bleu.precisions[n] = 100.0 / (smoothing * total);
    } else {
      bleu.precisions[n] = 100.0 * static_cast<double>(bleu.matches[n]) / total;
    }
  }
  for (const double p : bleu.precisions) log_sum += p > 0 ? std::log(p) : kLogOfZero;
  bleu.score = bleu.brevity_penalty * std::exp(log_sum / kOrders);
}

}  // namespace

std::vector<std::string> tokenize_13a(std::string_view segment) {
  std::string text(trim_end(segment));
  replace_all(text, "<skipped>", "");
  replace_all(text, "-\n", "");
  replace_all(text, "\n", " ");
  for (const auto& [entity, symbol] : {std::pair{"&quot;", "\""}, std::pair{"&amp;", "&"},
                                       std::pair{"&lt;", "<"}, std::pair{"&gt;", ">"}}) {
    replace_all(text, entity, symbol);
  }
  // Four passes of left-to-right replacement without overlap. They see bytes where the definition
  // sees characters, which makes no difference: only ASCII is looked for, and a byte of a longer
  // character is, like the character, neither digit nor point.
  std::string spaced = " ";
  for (const char c : text) {
    if (is_symbol(c)) {
      spaced.append({' ', c, ' '});
    } else {
      spaced += c;
    }
  }
  spaced += ' ';
  std::string before;  // points apart from what precedes them, unless a digit does
  for (size_t i = 0; i < spaced.size(); ++i) {
    before += spaced[i];
    if (!is_digit(spaced[i]) && i + 1 < spaced.size() && is_point(spaced[i + 1])) {
      before.append({' ', spaced[++i], ' '});
    }
  }
  std::string after;  // points apart from what follows them, unless a digit does
  for (size_t i = 0; i < before.size(); ++i) {
    if (is_point(before[i]) && i + 1 < before.size() && !is_digit(before[i + 1])) {
      after.append({' ', before[i], ' ', before[i + 1]});
      ++i;
    } else {
      after += before[i];
    }
  }
  std::string dashed;  // dashes apart from a digit before them
  for (size_t i = 0; i < after.size(); ++i) {
    dashed += after[i];
    if (is_digit(after[i]) && i + 1 < after.size() && after[i + 1] == '-') {
      dashed.append({' ', after[++i], ' '});
    }
  }
  return split_words(dashed);
}

BleuScore corpus_bleu(std::span<const std::string> predictions,
                      std::span<const std::vector<std::string>> references) {
  if (predictions.size() != references.size() || predictions.empty()) {
    throw ShapeError(str("bleu: ", predictions.size(), " predictions for ", references.size(),
                         " sets of references"));
  }
  BleuScore bleu;
  Vocabulary vocabulary;
  for (size_t i = 0; i < predictions.size(); ++i) {
    if (references[i].empty()) throw ShapeError(str("bleu: prediction ", i, " has no references"));
    const std::vector<int32_t> words = vocabulary.numbers(tokenize_13a(predictions[i]));
    const int64_t length = static_cast<int64_t>(words.size());
    Counts allowed;
    int64_t closest = -1;
    for (const std::string& reference : references[i]) {
      const std::vector<int32_t> other = vocabulary.numbers(tokenize_13a(reference));
      for (const auto& [ngram, count] : count_ngrams(other)) {
        int64_t& most = allowed[ngram];
        most = std::max(most, count);
      }
      const int64_t candidate = static_cast<int64_t>(other.size());
      const int64_t gain =
          closest < 0 ? 1 : std::abs(closest - length) - std::abs(candidate - length);
      if (gain > 0 || (gain == 0 && candidate < closest)) closest = candidate;
    }
    bleu.length += length;
    bleu.reference_length += closest;
    for (const auto& [ngram, count] : count_ngrams(words)) {
      const size_t order = order_of(ngram) - 1;
      bleu.totals[order] += count;
      const auto found = allowed.find(ngram);
      if (found != allowed.end()) bleu.matches[order] += std::min(count, found->second);
    }
  }
  finish(bleu);
  return bleu;
}

}  // namespace adder::tools
