#include <cmath>
#include <cstdlib>
#include <cstring>
#include <doctest/doctest.h>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/error.h"
#include "engine/io/safetensors.h"
#include "engine/io/torch_bin.h"
#include "tests/engine/io_test_util.h"
#include "tests/engine/torch_file_builder.h"

namespace t = adder::test;
using namespace adder;
using t::contains;
using t::io_error;

namespace {

std::string floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * 4};
}

const std::string kSix = floats({0, 1, 2, 3, 4, 5});

// The error of a file whose data.pkl is `code`, with one storage '0' of six floats.
std::string error_of(const std::string& code) {
  return io_error([&] {
    const auto file =
        TorchBinFile::from_bytes(t::make_torch_file(t::pickle(code), {{"0", kSix}}), "m.bin");
    for (const std::string& name : file.names()) file.load(name);
  });
}

std::string six(std::int64_t offset, const std::vector<std::int64_t>& extents,
                const std::vector<std::int64_t>& strides) {
  return t::tensor(t::storage("FloatStorage", "0", 6), offset, extents, strides);
}

TorchBinFile open_code(const std::string& code, const t::ZipOptions& options = {}) {
  return TorchBinFile::from_bytes(t::make_torch_file(t::pickle(code), {{"0", kSix}}, options), "m");
}

using Values = std::vector<double>;

}  // namespace

TEST_CASE("torch_bin: views of a shared storage, nested dictionaries, other values") {
  const std::string nested = t::ordered_dict() + "(" + t::text("w") + six(0, {2, 3}, {3, 1}) +
                             t::text("t") + six(0, {3, 2}, {1, 3}) + "u" + "}(" +
                             t::text("_metadata") + "}ub";  // attributes are ignored
  const std::string parameter = t::global("torch._utils", "_rebuild_parameter") + "(" +
                                six(4, {2}, {1}) + "\x88" + t::ordered_dict() + "tR";
  const std::string file = t::dict({{"model", nested},
                                    {"p", parameter},
                                    {"step", t::integer(70000)},
                                    {"list", "]" + six(0, {1}, {1}) + "a"},
                                    {"row", six(3, {1, 3}, {99, 1})},
                                    {"expanded", six(1, {2, 2}, {0, 1})},
                                    {"scalar", six(5, {}, {})},
                                    {"none", "N"},
                                    {"empty", six(6, {0, 4}, {4, 1})}});
  for (const bool zip64 : {false, true}) {
    t::ZipOptions options;
    options.zip64 = zip64;
    options.comment = zip64 ? "" : "a comment PK\x05\x06 that looks like an end";
    const TorchBinFile bin = open_code(file, options);
    CHECK(bin.names() == std::vector<std::string>{"model.w", "model.t", "p", "row", "expanded",
                                                  "scalar", "empty"});
    CHECK(bin.load("model.w").to_vector() == Values{0, 1, 2, 3, 4, 5});
    CHECK(bin.load("model.t").shape() == Shape{3, 2});
    CHECK(bin.load("model.t").to_vector() == Values{0, 3, 1, 4, 2, 5});
    CHECK(bin.load("p").to_vector() == Values{4, 5});
    CHECK(bin.load("row").to_vector() == Values{3, 4, 5});
    CHECK(bin.load("expanded").to_vector() == Values{1, 2, 1, 2});
    CHECK(bin.load("scalar").item() == 5.0);
    CHECK(bin.load("empty").shape() == Shape{0, 4});
    CHECK(bin.load("model.w").raw() == bin.load("model.w").raw());  // a view, not a copy
    CHECK(contains(io_error([&] { bin.load("model.x"); }), "did you mean 'model.w'?"));
  }
}

TEST_CASE("torch_bin: every dtype, any root folder") {
  const auto one = [](const std::string& type, const std::string& bytes) {
    const std::string code = t::dict({{"x", t::tensor(t::storage(type, "7", 2), 1, {1}, {1})}});
    return TorchBinFile::from_bytes(
               t::make_torch_file(t::pickle(code), {{"7", bytes}}, {}, "any name/"), "m")
        .load("x");
  };
  CHECK(one("DoubleStorage", std::string(8, '\0') + t::le(0x4000000000000000, 8)).item() == 2.0);
  CHECK(one("FloatStorage", floats({1, 2})).item() == 2.0);
  CHECK(one("HalfStorage", t::le(0x40000000, 4)).item() == 2.0);
  CHECK(one("BFloat16Storage", t::le(0x40000000, 4)).item() == 2.0);
  CHECK(one("LongStorage", t::le(0, 8) + t::le(~std::uint64_t{1}, 8)).item() == -2.0);
  CHECK(one("IntStorage", t::le(0, 4) + t::le(~std::uint64_t{1}, 4)).item() == -2.0);
  CHECK(one("ByteStorage", "\x01\x02").item() == 2.0);
  CHECK(contains(io_error([&] { one("BoolStorage", "\x01\x01"); }), "torch.BoolStorage; only"));
  CHECK(contains(io_error([&] { one("NewStorage", "\x01\x01"); }), "unknown storage"));
}

TEST_CASE("torch_bin: memo, frames and the opcodes of protocol 4") {
  const auto short_text = [](const std::string& s) { return "\x8c" + t::le(s.size(), 1) + s; };
  const std::string rebuild =
      short_text("torch._utils") + "\x94" + short_text("_rebuild_tensor_v2") + "\x94\x93\x94";
  const std::string body =
      "}\x94(" + short_text("a") + "\x94" + rebuild + "((" + short_text("storage") +
      short_text("torch") + short_text("FloatStorage") + "\x93" + short_text("0") +
      short_text("cpu") + "K\x06" + "tQ" + std::string("K\0", 2) + "K\x02K\x03\x86K\x03K\x01\x86" +
      "\x89" + short_text("collections") + short_text("OrderedDict") + "\x93)RtR\x94" +
      short_text("b") + "h\x05" + "u";  // memo 5 is the tensor
  const std::string code = "\x80\x04\x95" + t::le(body.size() + 1, 8) + body + ".";
  const auto file = TorchBinFile::from_bytes(t::make_torch_file(code, {{"0", kSix}}), "m");
  CHECK(file.names() == std::vector<std::string>{"a", "b"});
  CHECK(file.load("b").to_vector() == Values{0, 1, 2, 3, 4, 5});
}

TEST_CASE("torch_bin: code is refused by name") {
  const std::string run = t::global("os", "system") + "(" + t::text("touch pwned") + "tR";
  CHECK(contains(error_of(run), ": refuses to run 'os.system': only dictionaries"));
  CHECK(contains(error_of(t::dict({{"x", run}})), "'os.system'"));
  CHECK(contains(error_of(t::text("builtins") + t::text("eval") + "\x93"), "'builtins.eval'"));
  for (const char* name :
       {"load", "_utils._rebuild_tensor", "storage._load_from_bytes", "Storage.x"}) {
    CHECK(contains(error_of(t::global("torch", name)), std::string("'torch.") + name));
  }
  CHECK(contains(error_of(t::global("torch.x", "FloatStorage")), "'torch.x.FloatStorage'"));
  CHECK(contains(error_of(t::global("os\x01", "\x1b[31m")), "'os?.?[31m'"));
  // Opcodes that build instances or run code without GLOBAL.
  for (const char op : {'i', 'o', 'P', '\x81', '\x92', '\x82', 'd', 'l', '\x8f'}) {
    CHECK(contains(error_of("()" + std::string(1, op)), "has opcode"));
  }
  CHECK(contains(error_of(t::ordered_dict() + ")R"), "calls what is not a function"));
  CHECK(contains(error_of(t::global("torch", "FloatStorage") + ")R"), "wrong arguments"));
  CHECK(contains(error_of("]}b"), "attributes"));
}

TEST_CASE("torch_bin: malformed pickles") {
  CHECK(contains(error_of(""), "does not leave one object"));
  CHECK(contains(error_of("}}"), "does not leave one object"));
  CHECK(contains(error_of("}("), "does not leave one object"));
  CHECK(contains(error_of("]"), "not a dictionary"));
  CHECK(contains(error_of("0"), "empty stack"));
  CHECK(contains(error_of("}(0"), "empty stack"));
  CHECK(contains(error_of("}u"), "mark"));
  CHECK(contains(error_of("}(" + t::text("a") + "u"), "without a value"));
  CHECK(contains(error_of("h\x03"), "recalls object 3"));
  CHECK(contains(error_of("X\xff\xff\xff\xff"), "truncated"));
  CHECK(contains(error_of("\x8d" + std::string(8, '\xff')), "truncated"));
  CHECK(contains(error_of("\x95" + std::string(8, '\xff')), "truncated"));
  CHECK(contains(error_of("cos"), "truncated"));
  const std::string big = "\x8a\x09" + std::string(9, '\1');  // more than 64 bits
  CHECK(error_of(t::dict({{"a", big}})) == "no IoError");
  CHECK(contains(error_of("(" + t::text("storage") + t::global("torch", "FloatStorage") +
                          t::text("0") + t::text("cpu") + big + "tQ"),
                 "persistent id"));
  CHECK(contains(error_of("\x80\x06"), "protocol 6"));
  CHECK(contains(error_of("NQ"), "persistent id"));
  CHECK(contains(error_of("N" + t::text("a") + "Ns"), "not a dictionary"));
  CHECK(contains(error_of("NNa"), "not a list"));
  CHECK(contains(error_of("}(NNu}(" + t::text("x") + six(0, {1}, {1}) + "u"), "one object"));
  CHECK(contains(error_of("}(N" + six(0, {1}, {1}) + "u"), "neither a string nor an integer"));
  const std::string x = six(0, {1}, {1});
  CHECK(contains(error_of(t::dict({{"a", x}, {"a", x}})), "two tensors are named 'a'"));
  CHECK(contains(error_of(t::dict({{"a.b", x}, {"a", t::dict({{"b", x}})}})), "named 'a.b'"));
  CHECK(contains(error_of(t::dict({{std::string(5000, 'n'), x}})), "longer than 1024"));
  CHECK(contains(error_of(t::global("torch._utils", "_rebuild_tensor_v2") + "(t" + "R"),
                 "wrong arguments for '_rebuild_tensor_v2'"));
  CHECK(contains(error_of(t::dict({{"a", six(0, {1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1})}})),
                 "7 dimensions"));
}

TEST_CASE("torch_bin: cycles, depth and explosions end") {
  // d = {}; d['d'] = d
  CHECK(contains(error_of("}q\x01" + t::text("d") + "h\x01s"), "nested more than 32 deep"));
  std::string deep = six(0, {1}, {1});
  for (int i = 0; i < 40; ++i) deep = t::dict({{"d", deep}});
  CHECK(contains(error_of(deep), "nested more than 32 deep"));
  // Thirty dictionaries, each with the one before under two keys: 2^30 paths.
  std::string bomb = "}q" + t::le(0, 1);
  for (std::uint64_t i = 0; i < 30; ++i) {
    bomb += "}(" + t::text("a") + "h" + t::le(i, 1) + t::text("b") + "h" + t::le(i, 1) + "uq" +
            t::le(i + 1, 1);
  }
  CHECK(contains(error_of("(" + bomb + "1h\x1e"), "tensors and dictionaries"));
  // One list of pairs as the argument of many calls.
  std::string copies = "](" + std::string();
  for (int i = 0; i < 5000; ++i) copies += "NN\x86";
  copies += "eq" + t::le(0, 1) + "0(";
  for (int i = 0; i < 1000; ++i)
    copies += t::global("collections", "OrderedDict") + "(h" + t::le(0, 1) + "tR";
  CHECK(contains(error_of(copies + "1}"), "over 2000000 objects"));
  CHECK(contains(error_of(std::string(2'000'001, 'N')), "over 2000000 objects"));
  CHECK(contains(error_of("N" + std::string(2'000'001, '2')), "over 2000000 objects"));
}

TEST_CASE("torch_bin: tensors that do not fit their storage") {
  const auto error = [](std::int64_t offset, const std::vector<std::int64_t>& extents,
                        const std::vector<std::int64_t>& strides) {
    return error_of(t::dict({{"x", six(offset, extents, strides)}}));
  };
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  CHECK(error(0, {2, 3}, {3, 1}) == "no IoError");
  CHECK(contains(error(1, {2, 3}, {3, 1}),
                 "tensor 'x' of shape [2, 3], strides [3, 1] and offset 1 does not fit its storage "
                 "of 6 elements"));
  for (const auto& e : {error(-1, {1}, {1}), error(6, {1}, {1}), error(7, {0}, {1}),
                        error(0, {-1}, {1}), error(0, {7}, {1}), error(0, {2}, {-1}),
                        error(0, {2}, {6}), error(5, {2, 2}, {kHuge, kHuge}),
                        error(0, {kHuge}, {kHuge}), error(0, {kHuge, kHuge}, {0, 0}),
                        error(0, {3, 0, kHuge, kHuge}, {1, 1, 1, 1}), error(kHuge, {1}, {1})}) {
    CHECK(contains(e, "does not fit its storage"));
  }
  CHECK(contains(error(0, {1 << 25}, {0}), "expands 24 bytes to 134217728"));
  const auto with_storage = [](const std::string& s) {
    return error_of(t::dict({{"x", t::tensor(s, 0, {1}, {1})}}));
  };
  CHECK(contains(with_storage(t::storage("FloatStorage", "1", 6)), "refers to data/1"));
  CHECK(contains(with_storage(t::storage("FloatStorage", "0", 7)), "7 elements of 4 bytes"));
  CHECK(contains(with_storage(t::storage("DoubleStorage", "0", 6)), "6 elements of 8 bytes"));
  CHECK(contains(with_storage(t::storage("FloatStorage", "0", -1)), "-1 elements"));
  CHECK(contains(with_storage(t::storage("FloatStorage", "../data.pkl", 1)), "refers to"));
}

TEST_CASE("torch_bin: containers that are not, or are damaged") {
  const auto error = [](const std::string& bytes) {
    return io_error([&] { TorchBinFile::from_bytes(bytes, "m.bin"); });
  };
  CHECK(contains(error(""), "m.bin:0: not a PyTorch file"));
  CHECK(contains(error("\x80\x02\x8a\x0a"), "torch.save(torch.load("));
  CHECK(contains(error("PK"), "no end record"));
  CHECK(contains(error(t::make_zip({})), "no data.pkl"));
  CHECK(contains(error(t::make_zip({{"a/b/data.pkl", ""}})), "no data.pkl"));
  CHECK(contains(error(t::make_zip({{"a/data.pkl", ""}, {"b/data.pkl", ""}})), "two data.pkl"));
  CHECK(
      contains(error(t::make_zip({{"a/data.pkl", ""}, {"a/data.pkl", ""}})), "named 'a/data.pkl"));
  t::ZipOptions deflated;
  deflated.method = 8;
  CHECK(contains(error(t::make_torch_file(t::pickle("}"), {}, deflated)), "compressed"));
  CHECK(contains(error(t::make_zip({{"a/data.pkl", t::pickle("}")}, {"a/byteorder", "big"}})),
                 "byte order 'big'"));
  CHECK(error(t::make_zip({{"a/data.pkl", t::pickle("}")}, {"a/byteorder", "little"}})) ==
        "no IoError");

  const std::string whole =
      t::make_torch_file(t::pickle(t::dict({{"x", six(0, {6}, {1})}})), {{"0", kSix}});
  REQUIRE(error(whole) == "no IoError");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CHECK(error(whole.substr(0, length)) != "no IoError");
  }
  // Any single byte may change: the outcome is a file or an IoError, never anything else.
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ 0xff);
    CHECK_NOTHROW(error(changed));
  }
  // Two members over the same bytes: the second header copied over by its directory entry.
  std::string overlapping = t::make_zip({{"a", "xxxx"}, {"b", "yyyy"}});
  const std::size_t first = overlapping.find("PK\x01\x02");
  overlapping[first + 20] = overlapping[first + 24] = 90;  // 'a' now reaches into 'b'
  CHECK(contains(error(overlapping), "overlap"));
}

// Files that torch.save wrote; tests/golden/README.md says what is in them.
TEST_CASE("torch_bin: golden files are read exactly or refused") {
  const std::string dir = ADDER_SOURCE_DIR "/tests/golden/data/bin";
  const auto verdicts = nlohmann::json::parse(read_file(join_path(dir, "verdicts.json")));
  const auto listed = [&](const char* verdict) {
    return verdicts.at(verdict).get<std::vector<std::string>>();
  };
  const SafetensorsFile expected = SafetensorsFile::open(join_path(dir, "expected.safetensors"));
  std::map<std::string, TorchBinFile> files;
  for (const std::string& name : listed("read")) {
    CAPTURE(name);
    files.emplace(name.substr(0, name.size() - 4), TorchBinFile::open(join_path(dir, name)));
  }
  REQUIRE(files.size() >= 8);
  for (const char* name : {"plain", "geometry_good"}) {
    CHECK(files.at(name).load("w").shape() == Shape{2, 3});
    CHECK(files.at(name).load("w").to_vector() == Values{0, 1, 2, 3, 4, 5});
  }
  files.emplace("protocol4", TorchBinFile::open(join_path(dir, "protocol4.bin")));
  int compared = 0;
  for (const SafetensorsEntry& entry : expected.entries()) {
    CAPTURE(entry.name);
    const std::size_t slash = entry.name.find('/');
    const std::string stem = entry.name.substr(0, slash);
    const std::string key = entry.name.substr(slash + 1);
    for (const std::string& file : {stem, std::string("protocol4")}) {
      if (file != stem && stem != "strided") continue;  // protocol4 has the contents of strided
      REQUIRE(files.at(file).contains(key));
      if (!entry.supported) {
        CHECK(contains(io_error([&] { files.at(file).load(key); }), "torch.BoolStorage"));
        continue;
      }
      const Tensor want = expected.load(entry.name);
      const Tensor got = files.at(file).load(key);
      CHECK(got.dtype() == want.dtype());
      REQUIRE(got.shape() == want.shape());
      REQUIRE(got.is_contiguous());
      CHECK((got.nbytes() == 0 || std::memcmp(got.raw(), want.raw(), got.nbytes()) == 0));
      ++compared;
    }
  }
  CHECK(compared >= 30);
  CHECK(files.at("nested").names() == std::vector<std::string>{"model.w", "model.b"});
  for (const std::string& name : listed("refuse")) {
    const std::string message = io_error([&] {
      const TorchBinFile file = TorchBinFile::open(join_path(dir, name));
      for (const std::string& key : file.names()) file.load(key);
    });
    INFO(name << ": " << message);
    CHECK(message.starts_with(join_path(dir, name) + ":"));
  }
  for (const std::string& name : listed("either")) {
    CHECK_NOTHROW(io_error([&] { TorchBinFile::open(join_path(dir, name)); }));
  }
  CHECK(contains(io_error([&] { TorchBinFile::open(join_path(dir, "hostile_system.bin")); }),
                 "refuses to run 'posix.system'"));
  CHECK(!exists("adder_golden_was_executed"));
}

TEST_CASE("torch_bin: a published adapter") {
  const char* shared = std::getenv("ADDER_SHARED");
  const std::string path = std::string(shared != nullptr ? shared : ADDER_SOURCE_DIR "/../shared") +
                           "/data/lora_adapter/roberta_base_lora_mnli.bin";
  if (!exists(path)) {
    MESSAGE("skipped: no " << path);
    return;
  }
  const TorchBinFile file = TorchBinFile::open(path);
  const std::vector<std::string> names = file.names();
  REQUIRE(!names.empty());
  for (const std::string& name : names) {
    double sum = 0;
    for (const double v : file.load(name).to_vector()) sum += v * v;
    CHECK(std::isfinite(sum));
  }
  MESSAGE(names.size() << " tensors, first " << names[0] << " " << file.load(names[0]).shape());
}
