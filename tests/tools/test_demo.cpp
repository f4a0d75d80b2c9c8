#include <cstdlib>
#include <doctest/doctest.h>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/error.h"
#include "engine/io/file.h"
#include "peft/config.h"
#include "tests/support/temp_directory.h"
#include "tools/demo/demo.h"
#include "tools/demo/language.h"
#include "tools/demo/plan.h"

namespace adder::tools {
namespace {

const SplitSizes kSmallA{200, 20, 30};
const SplitSizes kSmallB{80, 10, 30};

std::vector<const std::vector<Pair>*> splits(const LanguageData& data) {
  return {&data.a.train, &data.a.val, &data.a.test, &data.b.train, &data.b.val, &data.b.test};
}

std::string all_text(const LanguageData& data) {
  std::string text;
  for (const auto* split : splits(data)) text += to_jsonl(*split);
  return text;
}

}  // namespace

TEST_CASE("demo language: sentences follow the grammar of their dialect") {
  const Record full{.name = 17, .kind = 1, .area = 0, .price = 0, .food = 0};
  CHECK(record_text(full) == "name=Quill; kind=pub; price=low; area=river; food=soup >");
  CHECK(sentence(full, Dialect::a) == "Quill is a cheap pub by the river that serves soup.");
  CHECK(sentence(full, Dialect::b) == "Bi riveren stands Quill as un pub tyeapo vid sup.");
  const Record bare{.name = 0, .kind = 7, .area = 6};
  CHECK(record_text(bare) == "name=Alba; kind=teahouse; area=bridge >");
  CHECK(sentence(bare, Dialect::a) == "Alba is a teahouse under the bridge.");
  CHECK(sentence(bare, Dialect::b) == "Under brigeet stands Alba as una teahuse.");
  const Record vowel{.name = 0, .kind = 3, .area = 4, .price = 1};
  CHECK(sentence(vowel, Dialect::a) == "Alba is an affordable inn near the station.");
  CHECK(sentence(vowel, Dialect::b) == "Near stationen stands Alba as un inn affordableo.");
}

TEST_CASE("demo language: the same seed gives the same data, another seed other data") {
  const std::string first = all_text(make_language(kSmallA, kSmallB, 7));
  CHECK(first == all_text(make_language(kSmallA, kSmallB, 7)));
  CHECK(first != all_text(make_language(kSmallA, kSmallB, 8)));
}

TEST_CASE("demo language: no record is in two places") {
  const LanguageData data = make_language(kSmallA, kSmallB, 3);
  std::set<std::string> inputs;
  std::size_t total = 0;
  for (const auto* split : splits(data)) {
    for (const Pair& pair : *split) inputs.insert(pair.input);
    total += split->size();
  }
  CHECK(total == 370);
  CHECK(inputs.size() == total);
}

TEST_CASE("demo language: splits have the sizes asked for, and too many are refused") {
  const LanguageData data = make_language(kSmallA, kSmallB, 3);
  CHECK(data.a.train.size() == 200);
  CHECK(data.a.val.size() == 20);
  CHECK(data.a.test.size() == 30);
  CHECK(data.b.train.size() == 80);
  CHECK(data.b.val.size() == 10);
  CHECK(data.b.test.size() == 30);
  CHECK_THROWS_AS(make_language({1'000'000, 0, 0}, kSmallB, 3), ConfigError);
}

TEST_CASE("demo language: every record reads differently in the two dialects") {
  std::set<std::string> sentences;
  int records = 0;
  for (int kind = 0; kind < 8; ++kind) {
    for (int area = 0; area < 8; ++area) {
      for (int price = -1; price < 3; ++price) {
        for (int food = -1; food < 8; ++food) {
          const Record r{.name = (kind + area + food + 1) % 24,
                         .kind = kind,
                         .area = area,
                         .price = price,
                         .food = food};
          const std::string a = sentence(r, Dialect::a);
          const std::string b = sentence(r, Dialect::b);
          CHECK(a != b);
          CHECK(a.back() == '.');
          CHECK(b.size() < 100);
          sentences.insert(a);
          sentences.insert(b);
          ++records;
        }
      }
    }
  }
  CHECK(sentences.size() == 2 * static_cast<std::size_t>(records));
}

TEST_CASE("demo language: dialect B needs no byte that dialect A does not use") {
  const LanguageData data = make_language({2000, 0, 0}, {2000, 0, 0}, 5);
  std::set<char> known;
  for (const Pair& pair : data.a.train) known.insert(pair.target.begin(), pair.target.end());
  for (const Pair& pair : data.b.train) {
    for (const char byte : pair.target) {
      CHECK_MESSAGE(known.contains(byte), pair.target);
    }
  }
}

TEST_CASE("demo language: JSONL lines parse back to what they were made from") {
  const std::vector<Pair> pairs = {{"a \"quoted\" >", "line\nbreak"}, {"b >", "é"}};
  const std::string text = to_jsonl(pairs);
  const std::size_t newline = text.find('\n');
  const auto first = nlohmann::json::parse(text.substr(0, newline));
  CHECK(first["input"] == pairs[0].input);
  CHECK(first["target"] == pairs[0].target);
  const auto second = nlohmann::json::parse(text.substr(newline + 1));
  CHECK(second["target"] == pairs[1].target);
}

TEST_CASE("demo plan: the methods' configurations are understood") {
  for (const bool quick : {false, true}) {
    const DemoPlan plan = make_plan(quick, 42, 0);
    REQUIRE(plan.methods.size() == 4);
    CHECK_FALSE(plan.methods[0].adapts);
    for (const DemoMethod& method : plan.methods) {
      if (method.peft.empty()) continue;
      const PeftConfig config = PeftConfig::parse(method.peft, method.key);
      CHECK((config.sdt() != nullptr) == (method.key == "sdt-lora"));
      if (config.sdt() == nullptr) continue;
      const SdtCounts counts = sdt_counts(plan.model.inner_size, plan.model.state_size,
                                          config.sdt()->num_zero, config.sdt()->num_freeze);
      CHECK(counts.train_channels > 0);
      CHECK(counts.train_states > 0);
    }
  }
}

TEST_CASE("demo: a directory that no demo wrote is left alone") {
  const test::TempDirectory directory;
  const std::string file = directory.file("results.json");
  write_file_atomic(file, "precious");
  CHECK_THROWS_AS(run_demo({.out = directory.path(), .quick = true}), IoError);
  CHECK(read_file(file) == "precious");
}

}  // namespace adder::tools
