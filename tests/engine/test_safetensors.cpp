#include <cstring>
#include <doctest/doctest.h>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/error.h"
#include "engine/io/safetensors.h"
#include "tests/engine/io_test_util.h"
#include "tests/engine/torch_file_builder.h"

using namespace adder;
using test::contains;
using test::io_error;
using test::TempDirectory;

namespace {

std::string make_file(const std::string& header, std::size_t data_bytes) {
  return test::le(header.size(), 8) + header + std::string(data_bytes, '\1');
}

std::string open_error(const std::string& bytes) {
  return io_error([&] { SafetensorsFile::from_bytes(bytes, "m.safetensors"); });
}

std::string header_error(const std::string& header, std::size_t data_bytes) {
  return open_error(make_file(header, data_bytes));
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

}  // namespace

TEST_CASE("safetensors: round trip of every dtype, views and metadata") {
  const TempDirectory dir;
  const std::string path = dir.file("t.safetensors");
  std::vector<float> values(24);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) - 7.5F;
  const Tensor base = Tensor::from(Shape{4, 6}, values);
  std::vector<std::pair<std::string, Tensor>> tensors{
      {"bytes", Tensor::from(Shape{3}, std::vector<std::uint8_t>{1, 2, 255})},
      {"f32", base},
      {"transposed", base.transpose(0, 1)},
      {"column", base.slice(1, 2, 3)},
      {"f64", base.to(Dtype::f64)},
      {"bf16", base.to(Dtype::bf16)},
      {"f16", base.to(Dtype::f16)},
      {"i32", base.to(Dtype::i32)},
      {"i64", base.to(Dtype::i64)},
      {"scalar", Tensor::full(Shape{}, 3.0)},
      {"empty", Tensor::empty(Shape{0, 5})},
      {"odd \"name\"\n\xc3\xa9", Tensor::full(Shape{1}, 4.0)},
  };
  write_safetensors(path, tensors, {{"format", "pt"}, {"note", "a \"b\""}});
  const SafetensorsFile file = SafetensorsFile::open(path);
  CHECK(file.metadata().at("format") == "pt");
  CHECK(file.metadata().at("note") == "a \"b\"");
  CHECK(file.entries().size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    REQUIRE(file.contains(name));
    const Tensor loaded = file.load(name);
    CHECK(loaded.dtype() == tensor.dtype());
    CHECK(loaded.shape() == tensor.shape());
    CHECK(loaded.to_vector() == tensor.to_vector());
  }
  // The header is padded, wide types come first, so nothing needs a copy.
  const std::string raw = read_file(path);
  CHECK(static_cast<unsigned char>(raw[0]) % 8 == 0);
  CHECK(file.entries().front().name == "f64");
  CHECK(file.entries().back().name == "bytes");
  CHECK(file.load("f32").raw() == file.load("f32").raw());
  const auto header = nlohmann::json::parse(
      raw.substr(8, static_cast<std::size_t>(static_cast<unsigned char>(raw[0]) +
                                             256 * static_cast<unsigned char>(raw[1]))));
  CHECK(header["f32"]["shape"] == nlohmann::json::array({4, 6}));
}

TEST_CASE("safetensors: a loaded view outlives the file object; misaligned data is copied") {
  Tensor kept;
  Tensor copied;
  {
    // Without padding, the float32 after one byte cannot be aligned.
    std::string header =
        "{" + entry("a", "U8", "[1]", "[0,1]") + "," + entry("b", "F32", "[1]", "[1,5]") + "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const float one = 1.0F;
    std::string bytes = test::le(header.size(), 8) + header + "\7";
    bytes.append(reinterpret_cast<const char*>(&one), 4);
    const SafetensorsFile file = SafetensorsFile::from_bytes(bytes, "x");
    kept = file.load("a");
    copied = file.load("b");
    CHECK(file.load("a").raw() == kept.raw());
    CHECK(file.load("b").raw() != copied.raw());
  }
  CHECK(kept.item() == 7.0);
  CHECK(copied.item() == 1.0);
}

TEST_CASE("safetensors: truncated files and lying lengths") {
  CHECK(contains(open_error(""), "m.safetensors:0: 0 bytes are too few"));
  CHECK(contains(open_error("1234567"), "7 bytes"));
  CHECK(
      contains(open_error(test::le(100, 8) + "{}"), "a header of 100 bytes, but the file has 10"));
  CHECK(contains(open_error(test::le(~std::uint64_t{0}, 8) + "{}"), "18446744073709551615"));
  CHECK(contains(open_error(test::le(200'000'000, 8) + "{}"), "100000000 are allowed"));
  const std::string whole = make_file("{" + entry("x", "F32", "[4]", "[0,16]") + "}", 16);
  CHECK(open_error(whole) == "no IoError");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CHECK(open_error(whole.substr(0, length)) != "no IoError");
  }
  CHECK(contains(open_error(whole + "?"), "1 bytes after the last tensor belong to none"));
}

TEST_CASE("safetensors: headers that are not the format") {
  CHECK(contains(header_error("", 0), ":8: the header is not a JSON object"));
  CHECK(contains(header_error("[]", 0), "not a JSON object"));
  CHECK(contains(header_error("{\"x\":", 0), "the header is not JSON"));
  CHECK(contains(header_error("{} x", 0), "m.safetensors:12: the header is not JSON"));
  CHECK(contains(header_error(std::string("{}\0\0", 4), 0), ":10: a zero byte"));
  CHECK(contains(header_error("{\"\xff\":1}", 0), "the header is not JSON"));
  CHECK(contains(header_error("{\"x\":3}", 0), "tensor 'x' is the number 3, not an object"));
  CHECK(contains(header_error("{\"x\":{}}", 0), "tensor 'x' has no 'dtype'"));
  CHECK(contains(header_error("{\"x\":{\"dtype\":7}}", 0), "cannot be or hold the number 7"));
  CHECK(contains(header_error("{\"x\":{\"typo\":7}}", 0), "unknown key 'typo'"));
  CHECK(contains(header_error("{\"x\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 0), "given twice"));
  CHECK(contains(header_error("{\"x\":{\"shape\":[[]]}}", 0), "hold an array"));
  CHECK(contains(header_error("{\"x\":{\"shape\":{}}}", 0), "hold an object"));
  CHECK(contains(header_error("{\"__metadata__\":{\"a\":1}}", 0), "hold the number 1"));
  CHECK(contains(header_error("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0), "given twice"));
  CHECK(contains(header_error("{\"__metadata__\":3}", 0), "not an object"));
  CHECK(header_error("{}", 0) == "no IoError");
  CHECK(contains(header_error("{\"x\":" + std::string(100000, '['), 0), "is an array"));
}

TEST_CASE("safetensors: tensors that lie about their bytes") {
  const auto error = [](const std::string& entries, std::size_t bytes) {
    return header_error("{" + entries + "}", bytes);
  };
  const std::string x = entry("x", "F32", "[2]", "[0,8]");
  CHECK(contains(error(x + "," + x, 8), "tensor 'x' is listed twice"));
  CHECK(contains(error(entry("x", "F31", "[2]", "[0,8]"), 8), "unknown dtype 'F31'"));
  CHECK(contains(error(entry("x", "F32", "[-2]", "[0,8]"), 8), "the number -2"));
  CHECK(contains(error(entry("x", "F32", "[2.5]", "[0,8]"), 8), "the number 2.5"));
  CHECK(contains(error(entry("x", "F32", "[1e300]", "[0,8]"), 8), "the number 1e300"));
  CHECK(contains(error(entry("x", "F32", "[4294967296,4294967296]", "[0,0]"), 0), "overflow"));
  CHECK(contains(error(entry("x", "F32", "[9223372036854775807]", "[0,0]"), 0), "overflow"));
  CHECK(contains(error(entry("x", "F32", "[0,4294967296,4294967296]", "[0,0]"), 0), "overflow"));
  CHECK(contains(error(entry("x", "F32", "[1,1,1,1,1,1,2]", "[0,8]"), 8), "more than 6 numbers"));
  CHECK(contains(error(entry("x", "F32", "[2]", "[0,8,8]"), 8), "3 numbers, not 2"));
  CHECK(contains(error(entry("x", "F32", "[2]", "[8,0]"), 8), "bytes [8, 0)"));
  CHECK(contains(error(entry("x", "F32", "[2]", "[0,8]"), 7), "data section of 7 bytes"));
  CHECK(contains(error(entry("x", "F32", "[3]", "[0,8]"), 8), "[3] needs 12 bytes but has"));
  CHECK(contains(error(entry("x", "F32", "[2]", "[18446744073709551608,18446744073709551615]"), 8),
                 "18446744073709551608"));
  CHECK(contains(error(x + "," + entry("y", "F32", "[2]", "[4,12]"), 12),
                 "tensor 'y' has bytes [4, 12), which overlap 'x' (which ends at 8)"));
  CHECK(contains(error(x + "," + entry("y", "F32", "[2]", "[12,20]"), 20),
                 "tensor 'y' has bytes [12, 20) after 'x': a hole (which ends at 8)"));
  CHECK(contains(error(entry("x", "F32", "[2]", "[4,12]"), 12), "after the header: a hole"));
  CHECK(error(entry("e", "F32", "[0]", "[8,8]") + "," + x, 8) == "no IoError");
}

TEST_CASE("safetensors: unsupported types matter only to who loads them") {
  const SafetensorsFile file =
      SafetensorsFile::from_bytes(make_file("{" + entry("mask", "BOOL", "[3]", "[0,3]") + "," +
                                                entry("u", "U8", "[2]", "[3,5]") + "}",
                                            5),
                                  "m");
  CHECK(file.load("u").item(1) == 1.0);
  CHECK(!file.entries()[0].supported);
  CHECK(contains(io_error([&] { file.load("mask"); }), "tensor 'mask' is BOOL; only F32"));
  CHECK(io_error([&] { file.load("v"); }) == "m: no tensor 'v'; did you mean 'u'?");
}

TEST_CASE("safetensors: what cannot be written") {
  const TempDirectory dir;
  const Tensor x = Tensor::zeros(Shape{2});
  const std::string path = dir.file("x.safetensors");
  CHECK(contains(io_error([&] { write_safetensors(path, {{"a", x}, {"a", x}}); }), "twice"));
  CHECK(contains(io_error([&] { write_safetensors(path, {{"__metadata__", x}}); }), "reserved"));
  CHECK(contains(io_error([&] { write_safetensors(path, {{"a", Tensor()}}); }), "undefined"));
  CHECK(contains(io_error([&] { write_safetensors(path, {{"\xff", x}}); }), "not UTF-8"));
  CHECK(!exists(path));
  write_safetensors(path, {});
  CHECK(SafetensorsFile::open(path).entries().empty());
  if (exists("/dev/full")) {
    CHECK(contains(io_error([&] { write_safetensors("/dev/full", {{"a", x}}); }), "No space left"));
  }
}

TEST_CASE("weights: one file, shards, and what is wrong with them") {
  const TempDirectory dir;
  const Tensor a = Tensor::from(Shape{2}, std::vector<float>{1, 2});
  const Tensor b = Tensor::from(Shape{1}, std::vector<float>{3});
  CHECK(contains(io_error([&] { WeightFiles::open(dir.path()); }), "holds no weights"));
  CHECK(contains(io_error([&] { WeightFiles::open(dir.file("absent")); }), "No such file"));

  // Formats in the order of preference, least first.
  namespace t = adder::test;
  write_file_atomic(
      dir.file("pytorch_model.bin"),
      t::make_torch_file(
          t::pickle(t::dict({{"z", t::tensor(t::storage("FloatStorage", "0", 1), 0, {1}, {1})}})),
          {{"0", std::string(4, '\0')}}));
  CHECK(WeightFiles::open(dir.path()).names() == std::vector<std::string>{"z"});
  CHECK(WeightFiles::open(dir.file("pytorch_model.bin")).load("z").item() == 0.0);

  write_safetensors(dir.file("s1.safetensors"), {{"a", a}, {"unlisted", a}});
  write_safetensors(dir.file("s2.safetensors"), {{"b", b}});
  const std::string index = dir.file("model.safetensors.index.json");
  const auto with_index = [&](const std::string& text) {
    write_file_atomic(index, text);
    return io_error([&] { WeightFiles::open(dir.path()); });
  };
  CHECK(with_index(R"({"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}})") ==
        "no IoError");
  const WeightFiles weights = WeightFiles::open(dir.path());
  CHECK(weights.names() == std::vector<std::string>{"a", "b"});
  CHECK(weights.load("a").to_vector() == std::vector<double>{1, 2});
  CHECK(weights.load("b").item() == 3.0);
  CHECK(weights.file_of("b") == dir.file("s2.safetensors"));
  CHECK(!weights.contains("unlisted"));
  CHECK(contains(io_error([&] { weights.load("c"); }), "no tensor 'c'; did you mean"));
  CHECK(contains(with_index("nonsense"), "weight_map"));
  CHECK(contains(with_index("[]"), "weight_map"));
  CHECK(contains(with_index(R"({"weight_map":{"a":1}})"), "the shard of 'a' is not a string"));
  CHECK(contains(with_index(R"({"weight_map":{"a":"../s1.safetensors"}})"), "plain file name"));
  CHECK(contains(with_index(R"({"weight_map":{"a":"s3.safetensors"}})"), "No such file"));
  CHECK(contains(with_index(R"({"weight_map":{"b":"s1.safetensors"}})"), "'b' is not in s1"));

  write_safetensors(dir.file("model.safetensors"), {{"whole", a}});
  CHECK(WeightFiles::open(dir.path()).names() == std::vector<std::string>{"whole"});
}
