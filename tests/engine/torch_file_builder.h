// Builds PyTorch files, well-formed and hostile ones, for the tests and the fuzzer.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace adder::test {

inline std::string le(std::uint64_t value, int count) {
  std::string bytes;
  for (int i = 0; i < count; ++i) bytes += i < 8 ? static_cast<char>(value >> (8 * i)) : '\0';
  return bytes;
}

struct ZipOptions {
  bool zip64 = false;
  int method = 0;
  std::string comment;
};

// A zip archive of stored members, contents aligned to 64 bytes like PyTorch's.
inline std::string make_zip(const std::vector<std::pair<std::string, std::string>>& members,
                            const ZipOptions& options = {}) {
  std::string file;
  std::string directory;
  for (const auto& [name, content] : members) {
    const std::uint64_t local = file.size();
    const std::size_t padding = (64 - (local + 30 + name.size() + 4) % 64) % 64;
    const std::string common = le(0, 2) + le(static_cast<std::uint64_t>(options.method), 2) +
                               le(0, 4) + le(0, 4) + le(content.size(), 4) + le(content.size(), 4) +
                               le(name.size(), 2);
    file += "PK\x03\x04" + le(20, 2) + common + le(padding + 4, 2) + name + "FB" + le(padding, 2) +
            std::string(padding, 'Z') + content;
    const std::string extra = options.zip64 ? le(1, 2) + le(24, 2) + le(content.size(), 8) +
                                                  le(content.size(), 8) + le(local, 8)
                                            : "";
    const std::uint64_t size = options.zip64 ? 0xffffffff : content.size();
    directory += "PK\x01\x02" + le(20, 2) + le(20, 2) + le(0, 2) +
                 le(static_cast<std::uint64_t>(options.method), 2) + le(0, 8) + le(size, 4) +
                 le(size, 4) + le(name.size(), 2) + le(extra.size(), 2) + le(0, 10) +
                 le(options.zip64 ? 0xffffffff : local, 4) + name + extra;
  }
  const std::uint64_t at = file.size();
  file += directory;
  if (options.zip64) {
    const std::uint64_t record = file.size();
    file += "PK\x06\x06" + le(44, 8) + le(45, 2) + le(45, 2) + le(0, 8) + le(members.size(), 8) +
            le(members.size(), 8) + le(directory.size(), 8) + le(at, 8);
    file += "PK\x06\x07" + le(0, 4) + le(record, 8) + le(1, 4);
    file += "PK\x05\x06" + le(0, 4) + le(0xffff, 2) + le(0xffff, 2) + le(0xffffffff, 4) +
            le(0xffffffff, 4);
  } else {
    file += "PK\x05\x06" + le(0, 4) + le(members.size(), 2) + le(members.size(), 2) +
            le(directory.size(), 4) + le(at, 4);
  }
  return file + le(options.comment.size(), 2) + options.comment;
}

// Pickle fragments.
inline std::string text(const std::string& s) {
  return "X" + le(s.size(), 4) + s;
}
inline std::string integer(std::int64_t v) {
  return v >= 0 && v < 256 ? "K" + le(static_cast<std::uint64_t>(v), 1)
                           : "\x8a\x08" + le(static_cast<std::uint64_t>(v), 8);
}
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string tuple(const std::vector<std::int64_t>& values) {
  std::string t = "(";
  for (const std::int64_t v : values) t += integer(v);
  return t + "t";
}
inline std::string ordered_dict() {
  return global("collections", "OrderedDict") + ")R";
}
inline std::string storage(const std::string& type, const std::string& key, std::int64_t numel) {
  return "(" + text("storage") + global("torch", type) + text(key) + text("cpu") + integer(numel) +
         "tQ";
}
inline std::string tensor(const std::string& storage_code, std::int64_t offset,
                          const std::vector<std::int64_t>& extents,
                          const std::vector<std::int64_t>& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + storage_code + integer(offset) +
         tuple(extents) + tuple(strides) + "\x89" + ordered_dict() + "tR";
}
// A dictionary of (key, code of the value), without protocol and stop.
inline std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string d = "}(";
  for (const auto& [key, value] : items) d += text(key) + value;
  return d + "u";
}
inline std::string pickle(const std::string& code) {
  return "\x80\x02" + code + ".";
}

inline std::string make_torch_file(
    const std::string& data_pkl,
    const std::vector<std::pair<std::string, std::string>>& storages = {},
    const ZipOptions& options = {}, const std::string& root = "archive/") {
  std::vector<std::pair<std::string, std::string>> members{{root + "data.pkl", data_pkl}};
  for (const auto& [key, bytes] : storages) members.emplace_back(root + "data/" + key, bytes);
  members.emplace_back(root + "version", "3\n");
  return make_zip(members, options);
}

}  // namespace adder::test
