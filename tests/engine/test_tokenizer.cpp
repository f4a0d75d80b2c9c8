#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <doctest/doctest.h>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/error.h"
#include "engine/text/tokenizer.h"

using adder::Tokenizer;
using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

namespace {

// The byte-level tokenizer's file, to be changed by the tests.
Json base() {
  return Json::parse(Tokenizer::byte_level().json());
}

Tokenizer make(const Json& json) {
  return Tokenizer::from_json(json.dump(), "t.json");
}

Json added(int id, const std::string& content, const Json& flags = Json::object()) {
  Json token = {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", false}};
  token.update(flags);
  return token;
}

Json split(const Json& pattern, const std::string& behavior, bool invert = false) {
  return {{"type", "Split"}, {"pattern", pattern}, {"behavior", behavior}, {"invert", invert}};
}

// A tokenizer with new merges over the bytes; each result is appended to the vocabulary.
Json with_merges(const std::vector<std::pair<std::string, std::string>>& merges) {
  Json json = base();
  for (const auto& [left, right] : merges) {
    Json& vocab = json["model"]["vocab"];
    const size_t id = vocab.size();
    if (!vocab.contains(left + right)) vocab[left + right] = id;
    json["model"]["merges"].push_back(left + " " + right);
  }
  return json;
}

// The pieces that the ids stand for, joined by '|'.
std::string pieces(const Tokenizer& tokenizer, std::string_view text) {
  std::string out;
  for (const int32_t id : tokenizer.encode(text)) {
    out += (out.empty() ? "" : "|") + tokenizer.decode(std::vector{id});
  }
  return out;
}

template <typename E>
std::string message(const std::string& json) {
  try {
    Tokenizer::from_json(json, "t.json");
  } catch (const E& error) {
    return error.what();
  }
  return "nothing thrown";
}

std::string config_message(const Json& patch) {
  Json json = base();
  json.merge_patch(patch);
  return message<adder::ConfigError>(json.dump());
}

bool holds(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE(text);
  return found;
}

double seconds_to_encode(const Tokenizer& tokenizer, const std::string& text, size_t* count) {
  const auto start = std::chrono::steady_clock::now();
  *count = tokenizer.encode(text).size();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string random_bytes(std::mt19937& random, size_t size) {
  // Mostly what makes and breaks UTF-8 sequences.
  static const std::string kinds = "aZ 0'\n\t\x80\xbf\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xed\xff";
  std::string text;
  for (size_t i = 0; i < size; ++i) {
    const uint32_t r = random();
    text += r % 3 == 0 ? static_cast<char>(r >> 8) : kinds[(r >> 8) % kinds.size()];
  }
  return text;
}

std::string shared_path(const std::string& file) {
  const char* shared = std::getenv("ADDER_SHARED");
  return (shared != nullptr ? std::string(shared) : std::string(ADDER_SOURCE_DIR) + "/../shared") +
         "/data/" + file;
}

std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// GPT-NeoX's tokenizer, unpacked in memory, where the data and xz are there.
std::optional<Tokenizer> neox() {
  const std::string path = shared_path("neox_tokenizer/20B_tokenizer.json.xz");
  if (!std::filesystem::exists(path)) return std::nullopt;
  FILE* pipe = popen(("xz -dc '" + path + "'").c_str(), "r");
  if (pipe == nullptr) return std::nullopt;
  std::string text;
  std::vector<char> buffer(1 << 16);
  while (const size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) {
    text.append(buffer.data(), n);
  }
  if (pclose(pipe) != 0) return std::nullopt;
  return Tokenizer::from_json(text, "20B_tokenizer.json");
}

}  // namespace

TEST_CASE("tokenizer: the byte-level one") {
  const Tokenizer t = Tokenizer::byte_level();
  CHECK(t.vocab_size() == 257);
  CHECK(t.eos_id() == std::optional<int32_t>(0));
  CHECK(t.encode("Ab<|endoftext|>\n") == Ids{66, 99, 0, 11});
  CHECK(t.decode(Ids{66, 0, 99}) == "A<|endoftext|>b");
  CHECK(t.decode(Ids{66, 0, 99}, true) == "Ab");
  CHECK(t.token(33) == "\u0120");
  CHECK(t.token_id("\u0120") == std::optional<int32_t>(33));
  CHECK(!t.token_id(" ").has_value());
  CHECK(t.encode("").empty());
  CHECK_THROWS_AS(t.decode(Ids{257}), adder::ConfigError);
  CHECK_THROWS_AS(t.decode(Ids{-1}), adder::ConfigError);
  CHECK_THROWS_AS(t.token(257), adder::ConfigError);
  const Tokenizer again = Tokenizer::from_json(t.json(), "again");
  CHECK(again.json() == t.json());
  CHECK(again.encode("x \xff") == t.encode("x \xff"));
}

TEST_CASE("tokenizer: every byte and random byte strings round-trip") {
  std::string all;
  for (int b = 0; b < 256; ++b) all += static_cast<char>(b);
  std::mt19937 random(7);
  Json regex =
      with_merges({{"a", "Z"}, {"\u0120", "a"}, {"\u00c3", "\u00a9"}, {"\u00c3\u00a9", "a"}});
  regex["pre_tokenizer"]["use_regex"] = true;
  for (const Tokenizer& t : {Tokenizer::byte_level(), make(regex)}) {
    for (int b = 0; b < 256; ++b) {
      const std::string one(1, static_cast<char>(b));
      CHECK(t.encode(one) == Ids{b + 1});
      CHECK(t.decode(Ids{b + 1}) == one);
    }
    CHECK(t.decode(t.encode(all)) == all);
    int wrong = 0;
    for (int i = 0; i < 2000; ++i) {
      const std::string text = random_bytes(random, random() % 60);
      wrong += t.decode(t.encode(text)) != text;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("tokenizer: invalid bytes stand alone, valid stretches are merged") {
  const Tokenizer t = make(with_merges({{"\u00c3", "\u00a9"}, {"a", "b"}}));
  CHECK(t.encode("\xc3\xa9") == Ids{257});
  CHECK(t.encode("\xc3"
                 "ab\xa9\xc3") == Ids{0xc3 + 1, 258, 0xa9 + 1, 0xc3 + 1});
  CHECK(t.encode("\xed\xa0\x80") == Ids{0xed + 1, 0xa0 + 1, 0x80 + 1});  // a surrogate
  CHECK(t.encode("\xc1\x81") == Ids{0xc1 + 1, 0x81 + 1});                // overlong
  CHECK(t.encode("\xf4\x90\x80\x80").size() == 4);                       // above U+10FFFF
}

TEST_CASE("tokenizer: merges go by rank, then leftmost") {
  const Json ranked = with_merges({{"b", "c"}, {"a", "b"}, {"a", "bc"}, {"d", "d"}, {"dd", "d"}});
  for (const std::string& padding : {std::string(), std::string(80, '.')}) {  // both algorithms
    const Tokenizer t = make(ranked);
    std::string dots;
    for (size_t i = 0; i < padding.size(); ++i) dots += "|.";
    CHECK(pieces(t, "abcab" + padding) == "abc|ab" + dots);
    CHECK(pieces(t, "ddddd" + padding) == "dd|ddd" + dots);
    CHECK(pieces(t, "cbabd" + padding) == "c|b|ab|d" + dots);
  }
  Json pairs = ranked;
  for (Json& merge : pairs["model"]["merges"]) {
    const auto text = merge.get<std::string>();
    merge = Json::array({text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)});
  }
  CHECK(pieces(make(pairs), "abcab") == "abc|ab");
  Json whole = ranked;
  whole["model"]["vocab"]["cab"] = 300;
  CHECK(pieces(make(whole), "cab") == "c|ab");
  whole["model"]["ignore_merges"] = true;
  CHECK(pieces(make(whole), "cab") == "cab");
  CHECK(make(whole).vocab_size() == 301);
  CHECK_THROWS_AS(make(whole).decode(Ids{299}), adder::ConfigError);  // an unused id
}

TEST_CASE("tokenizer: short and long words take the same merges") {
  std::mt19937 random(3);
  Json json = with_merges({{"b", "a"},
                           {"a", "a"},
                           {"aa", "a"},
                           {"a", "b"},
                           {"ba", "ba"},
                           {"ab", "aa"},
                           {"baba", "ba"},
                           {"c", "c"},
                           {"b", "b"}});
  const Tokenizer whole = make(json);
  json["pre_tokenizer"]["use_regex"] = true;  // cuts at the dots
  const Tokenizer cut = make(json);
  for (int i = 0; i < 50; ++i) {
    std::string text;
    for (int k = 0; k < 400; ++k) text += random() % 12 == 0 ? '.' : "abc"[random() % 5 % 3];
    CHECK(whole.encode(text) == cut.encode(text));  // no merge has a dot
  }
}

TEST_CASE("tokenizer: unknown bytes") {
  Json json = base();
  json["model"]["vocab"].erase("x");
  CHECK(make(json).encode("axxb") == Ids{98, 99});
  json["model"]["unk_token"] = "<|endoftext|>";
  CHECK(make(json).encode("axxb") == Ids{98, 0, 0, 99});
  json["model"]["fuse_unk"] = true;
  CHECK(make(json).encode("axxbx") == Ids{98, 0, 99, 0});
}

// The expected ids are those of Hugging Face's tokenizers 0.23.
TEST_CASE("tokenizer: flags of added tokens") {
  Json json = base();
  json["normalizer"] = {{"type", "NFC"}};
  json["added_tokens"].push_back(added(257, "<r>", {{"rstrip", true}}));
  json["added_tokens"].push_back(added(258, "  "));
  json["added_tokens"].push_back(added(259, "<l>", {{"lstrip", true}}));
  json["added_tokens"].push_back(added(260, "<w>", {{"single_word", true}}));
  json["added_tokens"].push_back(added(261, "e\u0301", {{"normalized", true}}));
  json["added_tokens"].push_back(added(262, "   ", {{"lstrip", true}, {"rstrip", true}}));
  const Tokenizer t = make(json);
  CHECK(t.encode("a<r> \u3000"
                 "b") == Ids{98, 257, 99});
  CHECK(t.encode("a \t<l> b") == Ids{98, 259, 33, 99});
  CHECK(t.encode("x<w>y") == Ids{121, 61, 120, 63, 122});
  CHECK(t.encode("x <w>.") == Ids{121, 33, 260, 47});
  CHECK(t.encode("\u00e9") == Ids{261});
  CHECK(t.encode("e\u0301") == Ids{261});
  CHECK(t.encode("<r>  x") == Ids{257, 258, 121});
  CHECK(t.encode("<r>   x") == Ids{257, 121});
  CHECK(t.encode("a  b") == Ids{98, 258, 99});
  CHECK(t.encode("a     b") == Ids{98, 262, 258, 99});
  CHECK(t.token_id("<w>") == std::optional<int32_t>(260));
  CHECK(t.decode(Ids{260, 258, 0}, true) == "<w>  ");  // only special ones are skipped
}

TEST_CASE("tokenizer: normalization") {
  Json json = base();
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}}}};
  const Tokenizer t = make(json);
  const auto form = [&](const std::string& text) { return t.decode(t.encode(text)); };
  CHECK(form("plain") == "plain");
  CHECK(form("cafe\u0301s, o\u0302\u0323") == "caf\u00e9s, \u1ed9");
  CHECK(form("\u1100\u1161\u11a8 \u212b") == "\uac01 \u00c5");
  CHECK(form("\u0340a\u0301") == "\u0300\u00e1");
  CHECK(form("e\xff\u0301") == "e\xff\u0301");  // nothing joins across an invalid byte
  CHECK(Tokenizer::byte_level().decode(Tokenizer::byte_level().encode("e\u0301")) == "e\u0301");
}

TEST_CASE("tokenizer: pre-tokenizers") {
  // One merge for each pair of neighbours shows where the words are cut.
  const auto cuts = [](const Json& pre_tokenizer, std::string_view text) {
    Json json = base();
    json["pre_tokenizer"] = pre_tokenizer;
    json["model"]["vocab"].erase("x");
    json["model"]["vocab"].erase("\u0120");
    json["model"]["unk_token"] = "<|endoftext|>";
    json["model"]["fuse_unk"] = true;  // a word of x and spaces becomes one token
    return make(json).encode(text).size();
  };
  const auto byte_level = [](bool prefix, bool regex) {
    return Json{{"type", "ByteLevel"}, {"add_prefix_space", prefix}, {"use_regex", regex}};
  };
  const auto sequence = [](const Json& a, const Json& b) {
    return Json{{"type", "Sequence"}, {"pretokenizers", {a, b}}};
  };
  CHECK(cuts(byte_level(false, false), "x x  x") == 1);
  CHECK(cuts(byte_level(false, true), "x x  x") == 4);
  CHECK(cuts(byte_level(false, true), "x x  ") == 3);
  CHECK(cuts(sequence(split({{"String", " "}}, "Isolated"), byte_level(false, false)), "x x  x") ==
        6);
  CHECK(cuts(sequence(split({{"String", " "}}, "Removed"), byte_level(false, false)), "x x  x") ==
        3);
  CHECK(cuts(sequence(split({{"Regex", " +"}}, "Isolated"), byte_level(false, false)), "x x  x") ==
        5);
  CHECK(cuts(sequence(split({{"Regex", " "}}, "Contiguous"), byte_level(false, false)), "x x  x") ==
        5);
  CHECK(cuts(sequence(split({{"Regex", " "}}, "MergedWithPrevious"), byte_level(false, false)),
             "x x  x") == 4);
  CHECK(cuts(sequence(split({{"Regex", " "}}, "MergedWithNext"), byte_level(false, false)),
             "x x  x") == 4);
  CHECK(cuts(sequence(split({{"Regex", "x"}}, "Removed", true), byte_level(false, false)), "x x") ==
        2);
  CHECK(cuts(sequence(split({{"Regex", ""}}, "Isolated"), byte_level(false, false)), "xxx") == 3);
  Json prefix = base();
  prefix["pre_tokenizer"]["add_prefix_space"] = true;
  CHECK(make(prefix).encode("a<|endoftext|>b<|endoftext|> c") ==
        Ids{33, 98, 0, 33, 99, 0, 33, 100});
  CHECK(make(prefix).encode("").empty());
}

TEST_CASE("tokenizer: what is not understood is named") {
  CHECK(holds(config_message({{"extra", 1}}), "t.json: unknown option 'extra'; known: version"));
  CHECK(holds(config_message({{"normalizer", {{"type", "NFKC"}}}}), "normalizer.type: \"NFKC\""));
  CHECK(holds(config_message({{"normalizer", {{"type", "NFC"}, {"form", 1}}}}), "option 'form'"));
  CHECK(holds(config_message({{"pre_tokenizer", {{"type", "Metaspace"}}}}), "\"Metaspace\""));
  CHECK(holds(config_message({{"pre_tokenizer", nullptr}}), "pre_tokenizer"));
  CHECK(holds(config_message({{"decoder", {{"type", "WordPiece"}}}}), "\"WordPiece\""));
  CHECK(
      holds(config_message({{"post_processor", {{"type", "BertProcessing"}}}}), "BertProcessing"));
  const Json sequence = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json special = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  Json json = base();
  json["post_processor"] = {{"type", "TemplateProcessing"}, {"single", {sequence}}};
  CHECK_NOTHROW(make(json));
  json["post_processor"]["single"] = {special, sequence};
  CHECK(holds(message<adder::ConfigError>(json.dump()), "post_processor.single"));
  CHECK(holds(config_message({{"truncation", {{"max_length", 8}}}}), "truncation"));
  CHECK(holds(config_message({{"version", "2.0"}}), "version: \"2.0\""));
  CHECK(holds(config_message({{"model", {{"type", "Unigram"}}}}), "model.type: \"Unigram\""));
  CHECK(holds(config_message({{"model", {{"dropout", 0.1}}}}), "model.dropout: 0.1"));
  CHECK(holds(config_message({{"model", {{"byte_fallback", true}}}}), "model.byte_fallback"));
  CHECK(holds(config_message({{"model", {{"end_of_word_suffix", "</w>"}}}}), "</w>"));
  for (const char* pattern : {"(", "\\w+", "a\\C", "[a-z&&[b]]", "(?m:.)", "(*UCP)", "[]a]"}) {
    json = base();
    json["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers", {split({{"Regex", pattern}}, "Isolated"), {{"type", "ByteLevel"}}}}};
    CHECK(holds(message<adder::ConfigError>(json.dump()), "pattern"));
  }
}

TEST_CASE("tokenizer: malformed files") {
  const auto io_message = [](const Json& patch) {
    Json json = base();
    json.merge_patch(patch);
    return message<adder::IoError>(json.dump());
  };
  CHECK(holds(message<adder::IoError>("{\"version\": }"), "t.json:12: "));
  CHECK(holds(message<adder::IoError>(""), "t.json:0: "));
  CHECK(holds(message<adder::IoError>("[]"), "expected an object"));
  CHECK(holds(message<adder::IoError>("\"\xff\""), "t.json:1: "));
  CHECK(holds(message<adder::IoError>(std::string(100000, '[')), "t.json:100000: "));
  CHECK(holds(io_message({{"model", {{"vocab", {{"a", 10000000}}}}}}), "10000000"));
  CHECK(holds(io_message({{"model", {{"vocab", {{"a", -1}}}}}}), "vocab.\"a\""));
  CHECK(holds(io_message({{"model", {{"vocab", {{"a", 7}}}}}}), "id 7 of another token"));
  CHECK(holds(io_message({{"model", {{"vocab", nullptr}}}}), "model.vocab"));
  CHECK(holds(io_message({{"model", {{"merges", {"a b c"}}}}}), "model.merges[0]"));
  CHECK(holds(io_message({{"model", {{"merges", {"a b"}}}}}), "'ab' is not in the vocabulary"));
  CHECK(holds(io_message({{"model", {{"unk_token", "<unk>"}}}}), "'<unk>'"));
  CHECK(holds(io_message({{"added_tokens", {added(5, "<x>")}}}), "id 5"));
  CHECK(holds(io_message({{"added_tokens", {added(300, "a")}}}), "300 and 98"));
  CHECK(holds(io_message({{"added_tokens", {added(300, "")}}}), "added_tokens[0].content"));
  CHECK_THROWS_AS(Tokenizer::from_file("no/such/tokenizer.json"), adder::IoError);
  CHECK_THROWS_AS(Tokenizer::from_file(std::filesystem::temp_directory_path().string()),
                  adder::IoError);
}

TEST_CASE("tokenizer: time does not grow with the square of a run") {
  Json json = with_merges({{"a", "a"}, {"aa", "aa"}, {"\u0120", "\u0120"}});
  json["normalizer"] = {{"type", "NFC"}};
  json["pre_tokenizer"]["use_regex"] = true;
  json["added_tokens"].push_back(added(300, "\n\n", {{"lstrip", true}, {"rstrip", true}}));
  const Tokenizer t = make(json);
  const size_t n = size_t{1} << 20;
  std::string marks;
  for (size_t i = 0; i < n / 4; ++i) marks += i % 2 == 0 ? "\u0301" : "\u0323";
  size_t count = 0;
  CHECK(seconds_to_encode(t, std::string(n, 'a'), &count) < 5.0);
  CHECK(count == n / 4);
  CHECK(seconds_to_encode(t, std::string(n, ' '), &count) < 5.0);
  CHECK(count == n / 2);
  CHECK(seconds_to_encode(t, std::string(n, '\n'), &count) < 5.0);
  CHECK(seconds_to_encode(t, marks, &count) < 5.0);
  CHECK(seconds_to_encode(t, std::string(n, '\xff'), &count) < 5.0);
  CHECK(count == n);
}

TEST_CASE("tokenizer: threads and several tokenizers share nothing") {
  const Tokenizer a = make(with_merges({{"a", "b"}}));
  const Tokenizer b = make(with_merges({{"b", "a"}}));
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (size_t k = 0; k < wrong.size(); ++k) {
    threads.emplace_back([&, k] {
      for (int i = 0; i < 500; ++i) {
        wrong[k] += a.encode("aba") != Ids{257, 98};
        wrong[k] += b.encode("aba") != Ids{98, 257};
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}

TEST_CASE("tokenizer: all vectors of GPT-NeoX") {
  const std::optional<Tokenizer> t = neox();
  if (!t) {
    MESSAGE("skipped: no ", shared_path("neox_tokenizer"), " or no xz");
    return;
  }
  CHECK(t->vocab_size() == 50277);
  CHECK(t->eos_id() == std::optional<int32_t>(0));
  const Json vectors = Json::parse(read(shared_path("neox_tokenizer/golden_ids.json")));
  CHECK(vectors.size() == 170);
  for (const Json& vector : vectors) {
    const auto ids = t->encode(vector["text"].get<std::string>());
    CHECK(ids == vector["ids"].get<Ids>());
    CHECK(t->decode(ids) == vector["decoded"].get<std::string>());
  }
  std::mt19937 random(11);
  int wrong = 0;
  for (int i = 0; i < 500; ++i) {  // lead and continuation bytes of a character alone: no NFC
    std::string text = random_bytes(random, 40);
    for (char& c : text) c = static_cast<char>(c & (i % 2 == 0 ? 0x7f : 0xff) & ~0x40);
    wrong += t->decode(t->encode(text)) != text;
  }
  CHECK(wrong == 0);
}
