// The demo's own small data-to-text language: records put into sentences, in two dialects.
//
// Both dialects read the same records. Dialect A is plain English. Dialect B says the same with
// another word order (place first, adjective after the noun), an article that became a suffix,
// gender agreement, and a spelling reform. Each sentence is a function of its record and dialect,
// so exact match is a fair score.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace adder::tools {

enum class Dialect : std::uint8_t { a, b };

// Indices into the language's word lists; -1 where the record does not say.
struct Record {
  int name = 0, kind = 0, area = 0;
  int price = -1, food = -1;
  friend auto operator<=>(const Record&,
                          const Record&) = default;  // NOLINT: a false modernize-use-nullptr
};

// "name=Alba; kind=cafe; price=low; area=river; food=soup >"
std::string record_text(const Record& record);
// "Alba is a cheap cafe by the river that serves soup."
// "Bi riveren stands Alba as un kafe tyeapo vid sup."
std::string sentence(const Record& record, Dialect dialect);

struct Pair {
  std::string input, target;
};

struct SplitSizes {
  std::int64_t train = 0, val = 0, test = 0;
};
struct DialectData {
  std::vector<Pair> train, val, test;
};
struct LanguageData {
  DialectData a, b;
};

// Records drawn at random without repetition, the test splits first: no record is in two places,
// in either dialect. A pure function of sizes and seed. Throws ConfigError when the language has
// not that many records.
LanguageData make_language(const SplitSizes& a, const SplitSizes& b, std::uint64_t seed);

// One {"input": …, "target": …} per line.
std::string to_jsonl(const std::vector<Pair>& pairs);

}  // namespace adder::tools
