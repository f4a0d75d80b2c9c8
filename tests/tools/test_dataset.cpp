#include <algorithm>
#include <cstdlib>
#include <doctest/doctest.h>
#include <filesystem>
#include <fstream>

#include "engine/error.h"
#include "engine/text/tokenizer.h"
#include "tests/support/temp_directory.h"
#include "tools/data/dataset.h"
#include "tools/data/file_reader.h"

using adder::ConfigError;
using adder::IoError;
using adder::Tokenizer;
using adder::tools::DataOptions;
using adder::tools::Dataset;
using adder::tools::Example;
using adder::tools::load_dataset;
using adder::tools::parse_jsonl;
using adder::tools::TaskKind;

namespace {

using Ids = std::vector<int32_t>;

const Tokenizer& bytes() {
  static const Tokenizer tokenizer = Tokenizer::byte_level();
  return tokenizer;
}

Dataset jsonl(std::string_view text, const DataOptions& options = {}) {
  return parse_jsonl(text, "data.jsonl", &bytes(), options);
}

// The message of the E that `call` throws; fails the test for anything else.
template <typename E, typename Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  FAIL("no error was thrown");
  return "";
}

std::string jsonl_error(std::string_view text, const DataOptions& options = {}) {
  return message_of<IoError>([&] { jsonl(text, options); });
}

bool contains(const std::string& text, std::string_view part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE(text);
  return found;
}

class Folder : public adder::test::TempDirectory {
 public:
  std::string write(const std::string& name, std::string_view content) const {
    std::ofstream(file(name), std::ios::binary) << content;
    return file(name);
  }
};

constexpr const char* kDartSets =
    R"([{"tripleset": [["a", "r", "b"], ["b", "s", "c"]],
         "annotations": [{"source": "x", "text": "One."}, {"source": "y", "text": null},
                         {"source": "x", "text": "Two."}]},
        {"tripleset": [["d", "t", "e"]], "annotations": [{"source": "x", "text": "Three."}]}])";

}  // namespace

TEST_CASE("pairs carry loss on the target and its end mark only") {
  const Dataset data = jsonl(
      "{\"input\": \"ab\", \"target\": \"c\", \"more\": 1}\r\n\n  \n"
      "{\"input\": \"x\", \"target\": \"\"}");
  CHECK(data.kind == TaskKind::generation);
  CHECK(data.metrics == std::vector<std::string>{"loss"});
  CHECK_FALSE(data.higher_is_better);
  REQUIRE(data.examples.size() == 2);
  const Example& first = data.examples[0];
  CHECK(first.input_ids == Ids{'a' + 1, 'b' + 1, 'c' + 1});
  CHECK(first.labels == Ids{-100, 'c' + 1, 0});
  CHECK(first.prompt_ids == Ids{'a' + 1, 'b' + 1});
  CHECK(first.input == "ab");
  CHECK(first.target == "c");
  CHECK(first.references == std::vector<std::string>{"c"});
  CHECK(data.examples[1].input_ids == Ids{'x' + 1});
  CHECK(data.examples[1].labels == Ids{0});
}

TEST_CASE("pairs take an instruction and a separator") {
  DataOptions options;
  options.overrides = {{"instruction", "I"}, {"separator", "#"}};
  const Dataset data = jsonl(R"({"input": "a", "target": "t"})", options);
  CHECK(bytes().decode(data.examples[0].prompt_ids) == "I#a#");
}

TEST_CASE("generation merges the lines of one input") {
  DataOptions options;
  options.generation = true;
  const Dataset data = jsonl(
      "{\"input\": \"a\", \"target\": \"s\"}\n"
      "{\"input\": \"b\", \"target\": \"t\"}\n"
      "{\"input\": \"a\", \"target\": \"u\"}",
      options);
  REQUIRE(data.examples.size() == 2);
  CHECK(data.examples[0].references == std::vector<std::string>{"s", "u"});
  CHECK(data.metrics.front() == "exact_match");
  CHECK(data.higher_is_better);
}

TEST_CASE("text lines are supervised everywhere and cut into pieces") {
  const Dataset whole = jsonl("\xEF\xBB\xBF{\"text\": \"abc\"}\n");
  CHECK(whole.kind == TaskKind::language_model);
  REQUIRE(whole.examples.size() == 1);
  CHECK(whole.examples[0].input_ids == Ids{'a' + 1, 'b' + 1, 'c' + 1});
  CHECK(whole.examples[0].labels == Ids{'b' + 1, 'c' + 1, 0});
  DataOptions options;
  options.max_length = 2;
  const Dataset cut = jsonl("{\"text\": \"abc\"}", options);
  REQUIRE(cut.examples.size() == 2);
  CHECK(cut.examples[0].labels == Ids{'b' + 1, 'c' + 1});
  CHECK(cut.examples[1].input_ids == Ids{'c' + 1});
  CHECK(cut.examples[1].labels == Ids{0});
}

TEST_CASE("tokenised lines need no tokenizer") {
  const Dataset data =
      parse_jsonl(R"({"input_ids": [3, 4], "labels": [-100, 5]})", "d", nullptr, {});
  CHECK(data.examples[0].input_ids == Ids{3, 4});
  CHECK(data.examples[0].labels == Ids{-100, 5});
  CHECK(
      contains(message_of<ConfigError>([] { parse_jsonl("{\"text\": \"a\"}", "d", nullptr, {}); }),
               "d:1: text needs a tokenizer"));
}

TEST_CASE("a txt file is cut without losing a token") {
  const Folder folder;
  const std::string path = folder.write("t.txt", "0123456789");
  DataOptions options;
  options.max_length = 4;
  const Dataset data = load_dataset(path, &bytes(), options);
  REQUIRE(data.examples.size() == 3);
  std::string inputs, labels;
  for (const Example& example : data.examples) {
    inputs += bytes().decode(example.input_ids);
    labels += bytes().decode(example.labels);
  }
  CHECK(inputs == "012345678");
  CHECK(labels == "123456789");
  const Dataset long_pieces =
      load_dataset(folder.write("l.txt", std::string(600, 'x')), &bytes(), {});
  REQUIRE(long_pieces.examples.size() == 3);
  CHECK(long_pieces.examples[0].input_ids.size() == 256);
  CHECK(long_pieces.examples[2].input_ids.size() == 599 - 512);
}

TEST_CASE("a subset is fixed by the seed and keeps the order") {
  std::string text;
  for (int i = 0; i < 100; ++i) {
    text += adder::str("{\"input_ids\": [", i, "], \"labels\": [1]}\n");
  }
  DataOptions options;
  options.max_examples = 10;
  const auto ids = [&](uint64_t seed) {
    options.seed = seed;
    Ids all;
    for (const Example& example : jsonl(text, options).examples)
      all.push_back(example.input_ids[0]);
    return all;
  };
  const Ids chosen = ids(1);
  CHECK(chosen.size() == 10);
  CHECK(std::is_sorted(chosen.begin(), chosen.end()));
  CHECK(std::adjacent_find(chosen.begin(), chosen.end()) == chosen.end());
  CHECK(ids(1) == chosen);
  CHECK(ids(2) != chosen);
}

TEST_CASE("bad lines are named by number") {
  const std::string good = "{\"input\": \"a\", \"target\": \"b\"}\n";
  CHECK(contains(jsonl_error(good + "\n{\"input\": \"a\""), "data.jsonl:3: not JSON"));
  CHECK(contains(jsonl_error("hello"), "data.jsonl:1: not JSON (byte 1"));
  CHECK(contains(jsonl_error("{\"text\": \"\xFF\"}"), "data.jsonl:1: not JSON"));
  CHECK(contains(jsonl_error("{\"text\": 1e999}"), "data.jsonl:1: not JSON"));
  CHECK(contains(jsonl_error("[1]"), "data.jsonl:1: a JSON object is needed"));
  CHECK(contains(jsonl_error(good + "{\"input\": \"a\"}"), "data.jsonl:2: \"target\" is missing"));
  CHECK(contains(jsonl_error("{\"input\": \"a\", \"target\": 1}"),
                 "data.jsonl:1: \"target\" must be a string, it is a JSON number"));
  CHECK(contains(jsonl_error("{\"prompt\": \"a\"}"), "it has \"prompt\""));
  CHECK(contains(jsonl_error("{}"), "it has no keys"));
  CHECK(contains(jsonl_error(good + "{\"text\": \"b\"}"), "data.jsonl:2: has \"text\""));
  CHECK(contains(jsonl_error("{\"text\": \"\"}"), "data.jsonl:1: \"text\" is empty"));
  CHECK(contains(jsonl_error("{\"input\": \"\", \"target\": \"b\"}"), "the input is empty"));
}

TEST_CASE("bad ids are named by line and place") {
  const auto error = [](const char* ids, const char* labels, int64_t vocab = 0) {
    DataOptions options;
    options.vocab_size = vocab;
    return message_of<IoError>([&] {
      parse_jsonl(adder::str("{\"input_ids\": ", ids, ", \"labels\": ", labels, "}"), "d", nullptr,
                  options);
    });
  };
  CHECK(contains(error("[1, 2]", "[1]"), "d:1: 2 input_ids but 1 label"));
  CHECK(contains(error("[]", "[]"), "d:1: input_ids is empty"));
  CHECK(contains(error("[1, -1]", "[1, 1]"), "d:1: input_ids[1] is -1"));
  CHECK(
      contains(error("[1, 50]", "[1, 1]", 50), "d:1: input_ids[1] is 50, outside the vocabulary"));
  CHECK(contains(error("[1]", "[50]", 50), "d:1: labels[0] is 50"));
  CHECK(contains(error("[1]", "[-1]"), "d:1: labels[0] is -1, neither -100"));
  CHECK(contains(error("[1, 2]", "[-100, -100]"), "d:1: all 2 labels are -100"));
  CHECK(contains(error("[1.5]", "[1]"), "d:1: input_ids[0] is number 1.5"));
  CHECK(contains(error("[true]", "[1]"), "d:1: input_ids[0] is boolean"));
  CHECK(contains(error("[4294967296]", "[1]"), "32-bit"));
  CHECK(contains(error("[18446744073709551615]", "[1]"), "32-bit"));
  CHECK(contains(error("[-4294967296]", "[1]"), "32-bit"));
  CHECK(contains(error("3", "[1]"), "must be an array"));
  CHECK(contains(error("[1], \"x\": 1", "null"), "\"labels\" must be an array"));
  DataOptions small;
  small.vocab_size = 98;  // 'a' is id 98
  CHECK(contains(jsonl_error("{\"text\": \"a\"}", small), "gives id 98, outside"));
}

TEST_CASE("too long is an error with the numbers") {
  DataOptions options;
  options.max_length = 4;
  CHECK(jsonl("{\"input\": \"ab\", \"target\": \"cd\"}", options).examples.size() == 1);
  CHECK(contains(jsonl_error("{\"input\": \"a\", \"target\": \"bcde\"}", options),
                 "data.jsonl:1: the target has 5 tokens, more than the maximum length 4"));
  CHECK(contains(jsonl_error("{\"input\": \"abc\", \"target\": \"de\"}", options),
                 "data.jsonl:1: the example has 5 tokens (3 of input, 3 of target)"));
  CHECK(contains(jsonl_error("{\"input_ids\": [1,1,1,1,1], \"labels\": [1,1,1,1,1]}", options),
                 "data.jsonl:1: the example has 5 tokens"));
}

TEST_CASE("files that are empty, absent or of unknown kind") {
  const Folder folder;
  const auto io = [&](const std::string& spec) {
    return message_of<IoError>([&] { load_dataset(spec, &bytes(), {}); });
  };
  CHECK(contains(io(folder.write("e.jsonl", "\n \n")), "the data file is empty"));
  CHECK(contains(io(folder.write("e.txt", "")), "the data file is empty"));
  CHECK(contains(io(folder.write("one.txt", "a")), "needs at least 2"));
  CHECK(contains(io(folder.path() + "/absent.jsonl"), "no such file"));
  CHECK(contains(io(folder.write("fake.txt.xz", "plain")), "not in xz format"));
  std::filesystem::create_directories(folder.path() + "/d.txt");
  CHECK(contains(io(folder.path() + "/d.txt"), "is a folder"));
  CHECK(contains(io("sst2:" + folder.path() + "/none"), "no such folder"));
  CHECK(contains(io("sst2:" + folder.path()), "train.tsv: no such file"));
}

TEST_CASE("unknown data sets, splits and options") {
  const auto config = [](const std::string& spec, const DataOptions& options = {}) {
    return message_of<ConfigError>([&] { load_dataset(spec, &bytes(), options); });
  };
  CHECK(contains(config("sst:x"), "one of sst2, glue-tvt_sst2, cola, glue-tvt_cola, dart"));
  CHECK(contains(config("data.csv"), "unknown data set"));
  for (const char* name : {"spider:x", "spider-tvt_hard_extra", "glue-tvt_mnli", "samsum",
                           "cifar-tvt", "cifar10:x", "mnist:x"}) {
    CHECK(contains(config(name), "not available yet"));
  }
  CHECK(contains(config("dart"), "give dart:FOLDER"));
  DataOptions options;
  options.overrides = {{"seperator", "x"}};
  CHECK(contains(config("dart:x", options), "unknown data option \"seperator\""));
  options.overrides.clear();
  options.split = "valid";
  CHECK(contains(config("dart:x", options), "unknown split \"valid\""));
  options.split.clear();
  options.max_length = -1;
  CHECK(contains(config("dart:x", options), "max_length is -1"));
}

TEST_CASE("xz streams are unpacked, damaged ones refused") {
  constexpr unsigned char kPacked[] = {
      0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02,
      0x00, 0x21, 0x01, 0x16, 0x00, 0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0x01, 0x00,
      0x11, 0x6c, 0x69, 0x6e, 0x65, 0x20, 0x6f, 0x6e, 0x65, 0x0a, 0x6c, 0x69, 0x6e,
      0x65, 0x20, 0x74, 0x77, 0x6f, 0x0a, 0x00, 0x00, 0x00, 0xb4, 0xe9, 0x1e, 0x44,
      0xe1, 0x9a, 0x9b, 0xf1, 0x00, 0x01, 0x2a, 0x12, 0x4b, 0x08, 0x54, 0xbc, 0x1f,
      0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x04, 0x59, 0x5a};
  const std::string packed(reinterpret_cast<const char*>(kPacked), sizeof kPacked);
  const Folder folder;
  const std::string path = folder.write("t.txt.xz", packed);
  CHECK(adder::tools::read_text_file(path) == "line one\nline two\n");
  CHECK(adder::tools::unpack_xz(packed + packed, "x") ==
        "line one\nline two\nline one\nline two\n");
  CHECK(load_dataset(path, &bytes(), {}).examples[0].input_ids.size() == 17);
  for (size_t length = 1; length < packed.size(); ++length) {
    CHECK_THROWS_AS(adder::tools::unpack_xz(packed.substr(0, length), "x"), IoError);
  }
  for (size_t i = 0; i < packed.size(); ++i) {
    std::string damaged = packed;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    CHECK_THROWS_AS(adder::tools::unpack_xz(damaged, "x"), IoError);
  }
}

TEST_CASE("sst2 in its published layout") {
  const Folder folder;
  std::string table = "sentence\tlabel\n";
  for (int i = 0; i < 11; ++i) table += adder::str("s", i, " \t", i % 2, "\n");
  folder.write("train.tsv", table);
  folder.write("dev.tsv", "sentence\tlabel\nfine \t1\r\nbad\t0\n");
  DataOptions options;
  options.overrides = {{"instruction", "I: "}};
  options.split = "test";
  const std::string spec = "glue-tvt_sst2:" + folder.path();
  const Dataset test = load_dataset(spec, &bytes(), options);
  CHECK(test.kind == TaskKind::classification);
  CHECK(test.class_tokens == Ids{'0' + 1, '1' + 1});
  CHECK(test.metrics == std::vector<std::string>{"accuracy"});
  CHECK(test.higher_is_better);
  REQUIRE(test.examples.size() == 2);
  const Example& fine = test.examples[0];
  CHECK(bytes().decode(fine.prompt_ids) == "I: ###fine ###");
  CHECK(fine.input_ids == fine.prompt_ids);  // one label token and no end mark
  CHECK(fine.labels.back() == '1' + 1);
  CHECK(std::count(fine.labels.begin(), fine.labels.end(), -100) ==
        static_cast<std::ptrdiff_t>(fine.labels.size()) - 1);
  CHECK(fine.label_class == 1);
  CHECK(test.examples[1].target == "0");

  options.split = "train";
  const Dataset train = load_dataset(spec, &bytes(), options);
  options.split = "val";
  const Dataset val = load_dataset("sst2:" + folder.path(), &bytes(), options);
  CHECK(train.examples.size() == 8);  // floor(0.8 * 11)
  CHECK(val.examples.size() == 3);    // ceil(0.2 * 11)
  std::vector<std::string> all;
  for (const Dataset* part : {&train, &val}) {
    for (const Example& example : part->examples) all.push_back(example.input);
  }
  std::sort(all.begin(), all.end());
  CHECK(std::unique(all.begin(), all.end()) == all.end());

  const auto error = [&](std::string_view rows) {
    folder.write("train.tsv", rows);
    return message_of<IoError>([&] { load_dataset(spec, &bytes(), options); });
  };
  CHECK(contains(error("sentence\tlabel\na\t1\nb\n"), "train.tsv:3: 1 column, sst2 has 2"));
  CHECK(contains(error("sentence\tlabel\na\t2\n"), "train.tsv:2: the label is \"2\""));
  CHECK(contains(error("a\t1\n"), "train.tsv:1: the header"));
  CHECK(contains(error("sentence\tlabel\n"), "the data file is empty"));
  CHECK(contains(error(""), "the data file is empty"));
  options.max_length = 8;
  CHECK(contains(error("sentence\tlabel\nlong sentence\t1\n"), "train.tsv:2: the example has"));
}

TEST_CASE("cola in its published layout, found under data_root") {
  const Folder folder;
  std::filesystem::create_directories(folder.path() + "/glue_cola");
  folder.write("glue_cola/dev.tsv", "gj04\t1\t\tIt is so.\nks\t0\t*\tSo it \"is is.\n");
  DataOptions options;
  options.split = "test";
  options.overrides = {{"data_root", folder.path()}};
  const Dataset data = load_dataset("glue-tvt_cola", &bytes(), options);
  CHECK(data.metrics == std::vector<std::string>{"matthews", "accuracy"});
  REQUIRE(data.examples.size() == 2);
  CHECK(data.examples[0].input == "It is so.");
  CHECK(data.examples[0].label_class == 1);
  CHECK(data.examples[1].input == "So it \"is is.");
  // The built-in instruction ends as the input format wants it.
  CHECK(contains(bytes().decode(data.examples[0].prompt_ids), "when not: ###It is so.###"));
}

TEST_CASE("dart in its published layout") {
  const Folder folder;
  folder.write("dart-v1.1.1-full-dev.json", kDartSets);
  folder.write("dart-v1.1.1-full-test.from_xml.json", kDartSets);
  const std::string spec = "dart:" + folder.path();
  DataOptions options;
  options.split = "test";
  const Dataset texts = load_dataset(spec, &bytes(), options);
  CHECK(texts.kind == TaskKind::generation);
  CHECK(texts.metrics == std::vector<std::string>{"loss"});
  REQUIRE(texts.examples.size() == 3);  // one per text; the null text is none
  const Example& second = texts.examples[1];
  CHECK(bytes().decode(second.prompt_ids) ==
        "Generate text for the following RDF triples:\na : r : b | b : s : c###");
  CHECK(second.target == "Two.");
  CHECK(second.labels.back() == 0);
  CHECK(std::count_if(second.labels.begin(), second.labels.end(),
                      [](int32_t label) { return label != -100; }) == 5);

  options.generation = true;
  const Dataset sets = load_dataset(spec, &bytes(), options);
  REQUIRE(sets.examples.size() == 2);
  CHECK(sets.examples[0].references == std::vector<std::string>{"One.", "Two."});
  CHECK(sets.metrics == std::vector<std::string>{"bleu"});
  CHECK(sets.higher_is_better);

  options.generation = false;
  options.split = "train";
  CHECK(contains(message_of<IoError>([&] { load_dataset(spec, &bytes(), options); }),
                 "dart-v1.1.1-full-train.json: no such file, nor with .xz added; without it, the "
                 "data option train_from=dev"));
  options.overrides["train_from"] = "dev";
  const size_t train = load_dataset(spec, &bytes(), options).examples.size();
  options.split = "val";
  const size_t val = load_dataset(spec, &bytes(), options).examples.size();
  CHECK(train + val == 3);
  CHECK(train != val);  // whole sets: 2 texts in one, 1 in the other
  options.overrides["train_from"] = "test";
  CHECK_THROWS_AS(load_dataset(spec, &bytes(), options), ConfigError);

  const auto error = [&](std::string_view json) {
    const Folder bad;
    bad.write("dart-v1.1.1-full-test.json", json);
    DataOptions test;
    test.split = "test";
    return message_of<IoError>([&] { load_dataset("dart:" + bad.path(), &bytes(), test); });
  };
  CHECK(contains(error("[{\"tripleset\""), "not JSON"));
  CHECK(contains(error("{}"), "an array of triple sets"));
  CHECK(contains(error("[]"), "the data file is empty"));
  CHECK(contains(error("[1]"), "set 1"));
  CHECK(contains(error(R"([{"tripleset": [["a","b"]], "annotations": [{"text": "x"}]}])"),
                 "set 1: a triple must be an array of 3 strings"));
  CHECK(contains(error(R"([{"tripleset": [["a","b","c"]], "annotations": []}])"), "has no text"));
  CHECK(contains(error(R"([{"tripleset": [["a","b","c"]], "annotations": [{"text": 3}]}])"),
                 "set 1: an annotation must be"));
}

TEST_CASE("the published collections have their sizes") {
  const char* shared = std::getenv("ADDER_SHARED");
  const std::string root =
      (shared != nullptr ? std::string(shared) : std::string(ADDER_SOURCE_DIR) + "/../shared") +
      "/data";
  if (!std::filesystem::is_directory(root)) {
    MESSAGE("skipped: ", root, " is absent");
    return;
  }
  DataOptions options;
  options.overrides = {{"data_root", root}};
  const auto size = [&](const char* task, const char* split, bool generation = false) {
    options.split = split;
    options.generation = generation;
    return load_dataset(task, &bytes(), options).examples.size();
  };
  CHECK(size("sst2", "train") == 53879);
  CHECK(size("sst2", "val") == 13470);
  CHECK(size("sst2", "test") == 872);
  CHECK(size("cola", "train") == 6840);
  CHECK(size("cola", "val") == 1711);
  CHECK(size("cola", "test") == 1043);
  CHECK(size("dart", "val") == 6980);
  CHECK(size("dart", "val", true) == 2768);
  CHECK(size("dart", "test") == 12551);  // of 12,552 annotations one has no text
  CHECK(size("dart", "test", true) == 5097);
  options.overrides["train_from"] = "dev";
  CHECK(size("dart", "val", true) == 554);
  CHECK(size("dart", "train", true) == 2214);
  CHECK(size("dart", "val") + size("dart", "train") == 6980);
}
