#include "tools/demo/language.h"

#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "engine/error.h"
#include "tools/data/shuffle.h"

namespace adder::tools {
namespace {

constexpr std::array<const char*, 24> kNames = {
    "Alba", "Brio",  "Cosmo", "Delphi", "Ember", "Fjord", "Gala", "Harrow",
    "Iris", "Juno",  "Kite",  "Lumen",  "Mira",  "Nova",  "Opal", "Pavo",
    "Reed", "Quill", "Sable", "Tern",   "Umbra", "Vela",  "Wren", "Zephyr"};

// In dialect B kinds of places are masculine or feminine, and areas take one of two suffixes.
struct Noun {
  const char* word;
  bool second_class;
  const char* preposition;  // of areas
};
constexpr std::array<Noun, 8> kKinds = {{{"cafe", false, ""},
                                         {"pub", false, ""},
                                         {"bakery", true, ""},
                                         {"inn", false, ""},
                                         {"bistro", false, ""},
                                         {"tavern", true, ""},
                                         {"diner", false, ""},
                                         {"teahouse", true, ""}}};
constexpr std::array<Noun, 8> kAreas = {{{"river", false, "by"},
                                         {"market", true, "at"},
                                         {"harbour", false, "in"},
                                         {"hill", true, "on"},
                                         {"station", false, "near"},
                                         {"park", false, "in"},
                                         {"bridge", true, "under"},
                                         {"church", true, "behind"}}};
struct Word {
  const char* key;   // in the record
  const char* word;  // in a sentence
};
constexpr std::array<Word, 3> kPrices = {
    {{"low", "cheap"}, {"fair", "affordable"}, {"high", "costly"}}};
constexpr std::array<const char*, 8> kFoods = {"soup",  "fish",    "pasta", "cake",
                                               "curry", "noodles", "pie",   "cheese"};

template <typename List>
auto at(const List& list, int index) {
  return list[static_cast<std::size_t>(index)];
}

template <typename List>
int count(const List& list) {
  return static_cast<int>(list.size());
}

// The spelling reform of dialect B, applied to one word: the first rule that fits at a place wins.
// It keeps to bytes that sentences of dialect A use: a model with a frozen embedding could tell a
// byte that it never had to write from the other unused ones only with difficulty.
std::string respell(std::string_view word) {
  constexpr std::array<Word, 9> kRules = {{{"ch", "ty"},
                                           {"sh", "sy"},
                                           {"th", "d"},
                                           {"ee", "ie"},
                                           {"oo", "u"},
                                           {"c", "k"},
                                           {"w", "v"},
                                           {"ou", "u"},
                                           {"dg", "g"}}};
  std::string result;
  while (!word.empty()) {
    std::string_view from = word.substr(0, 1);
    std::string_view to = from == "y" && word.size() == 1 ? "i" : from;
    for (const Word& rule : kRules) {
      if (!word.starts_with(rule.key)) continue;
      from = rule.key;
      to = rule.word;
      break;
    }
    result += to;
    word.remove_prefix(from.size());
  }
  return result;
}

std::string sentence_a(const Record& r) {
  const std::string kind = at(kKinds, r.kind).word;
  const std::string phrase = r.price < 0 ? kind : str(at(kPrices, r.price).word, " ", kind);
  const bool vowel = std::string_view("aeiou").find(phrase[0]) != std::string_view::npos;
  const Noun area = at(kAreas, r.area);
  std::string text = str(at(kNames, r.name), " is ", vowel ? "an " : "a ", phrase, " ",
                         area.preposition, " the ", area.word);
  if (r.food >= 0) text += str(" that serves ", at(kFoods, r.food));
  text += ".";
  return text;
}

std::string sentence_b(const Record& r) {
  const Noun kind = at(kKinds, r.kind);
  const Noun area = at(kAreas, r.area);
  std::string preposition = respell(area.preposition);
  preposition[0] = static_cast<char>(preposition[0] - 'a' + 'A');
  std::string text =
      str(preposition, " ", respell(area.word), area.second_class ? "et" : "en", " stands ",
          at(kNames, r.name), " as ", kind.second_class ? "una " : "un ", respell(kind.word));
  if (r.price >= 0) {
    text += str(" ", respell(at(kPrices, r.price).word), kind.second_class ? "a" : "o");
  }
  if (r.food >= 0) text += str(" ", respell("with"), " ", respell(at(kFoods, r.food)));
  text += ".";
  return text;
}

}  // namespace

std::string record_text(const Record& r) {
  std::string text = str("name=", at(kNames, r.name), "; kind=", at(kKinds, r.kind).word);
  if (r.price >= 0) text += str("; price=", at(kPrices, r.price).key);
  text += str("; area=", at(kAreas, r.area).word);
  if (r.food >= 0) text += str("; food=", at(kFoods, r.food));
  return text + " >";
}

std::string sentence(const Record& record, Dialect dialect) {
  return dialect == Dialect::a ? sentence_a(record) : sentence_b(record);
}

LanguageData make_language(const SplitSizes& a, const SplitSizes& b, std::uint64_t seed) {
  const std::int64_t records = std::int64_t{count(kNames)} * count(kKinds) * count(kAreas) *
                               (count(kPrices) + 1) * (count(kFoods) + 1);
  const std::int64_t wanted = a.train + a.val + a.test + b.train + b.val + b.test;
  // Drawing without repetition slows down when little is left; half is far more than needed.
  if (wanted > records / 2) {
    throw ConfigError(
        str("demo language: ", wanted, " records wanted, at most ", records / 2, " can be drawn"));
  }
  SplitMix64 random(seed);
  const auto draw = [&random](int bound) {
    return static_cast<int>(random.below(static_cast<std::uint64_t>(bound)));
  };
  std::set<Record> seen;
  const auto fill = [&](std::vector<Pair>& split, std::int64_t size, Dialect dialect) {
    while (static_cast<std::int64_t>(split.size()) < size) {
      Record r;
      r.name = draw(count(kNames));
      r.kind = draw(count(kKinds));
      r.area = draw(count(kAreas));
      r.price = draw(count(kPrices) + 1) - 1;
      r.food = draw(count(kFoods) + 1) - 1;
      if (seen.insert(r).second) split.push_back({record_text(r), sentence(r, dialect)});
    }
  };
  LanguageData data;
  fill(data.a.test, a.test, Dialect::a);
  fill(data.b.test, b.test, Dialect::b);
  fill(data.a.val, a.val, Dialect::a);
  fill(data.b.val, b.val, Dialect::b);
  fill(data.a.train, a.train, Dialect::a);
  fill(data.b.train, b.train, Dialect::b);
  return data;
}

std::string to_jsonl(const std::vector<Pair>& pairs) {
  std::string text;
  for (const Pair& pair : pairs) {
    text += nlohmann::ordered_json{{"input", pair.input}, {"target", pair.target}}.dump() + "\n";
  }
  return text;
}

}  // namespace adder::tools
