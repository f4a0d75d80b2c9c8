#include "tools/data/file_reader.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <lzma.h>
#include <string_view>
#include <vector>

#include "engine/error.h"

namespace adder::tools {
namespace {

constexpr std::string_view kXzMark{
    "\xFD"
    "7zXZ\0",
    6};
// Limits that no honest data file reaches: a decoder's dictionary, and the unpacked text.
constexpr uint64_t kMaxDecoderBytes = uint64_t{1} << 30;
constexpr uint64_t kMaxTextBytes = uint64_t{1} << 33;

const char* describe(lzma_ret code) {
  switch (code) {
    case LZMA_FORMAT_ERROR:
      return "not in xz format";
    case LZMA_OPTIONS_ERROR:
      return "xz options that this reader does not know";
    case LZMA_DATA_ERROR:
      return "damaged xz data";
    case LZMA_BUF_ERROR:
      return "truncated xz data";
    case LZMA_MEM_ERROR:
    case LZMA_MEMLIMIT_ERROR:
      return "the xz decoder needs too much memory";
    default:
      return "xz decoding failed";
  }
}

// Frees the decoder on every path out.
struct Decoder {
  lzma_stream stream = LZMA_STREAM_INIT;
  Decoder() = default;
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  ~Decoder() { lzma_end(&stream); }
};

}  // namespace

std::string unpack_xz(const std::string& packed, const std::string& name) {
  Decoder decoder;
  lzma_stream& stream = decoder.stream;
  lzma_ret code = lzma_stream_decoder(&stream, kMaxDecoderBytes, LZMA_CONCATENATED);
  if (code != LZMA_OK) throw IoError(str(name, ": ", describe(code)));
  stream.next_in = reinterpret_cast<const uint8_t*>(packed.data());
  stream.avail_in = packed.size();
  std::vector<uint8_t> buffer(1 << 18);
  std::string text;
  while (code != LZMA_STREAM_END) {
    stream.next_out = buffer.data();
    stream.avail_out = buffer.size();
    code = lzma_code(&stream, LZMA_FINISH);
    text.append(reinterpret_cast<const char*>(buffer.data()), buffer.size() - stream.avail_out);
    if (code != LZMA_OK && code != LZMA_STREAM_END) {
      throw IoError(str(name, ":", stream.total_in, ": ", describe(code)));
    }
    if (text.size() > kMaxTextBytes) {
      throw IoError(str(name, ": unpacks to more than ", kMaxTextBytes, " bytes"));
    }
  }
  return text;
}

std::string read_text_file(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) throw IoError(str(path, ": no such file"));
  if (std::filesystem::is_directory(path, ignored)) {
    throw IoError(str(path, ": is a folder, a file is needed"));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) throw IoError(str(path, ": cannot be opened for reading"));
  std::string content;
  std::vector<char> buffer(1 << 20);
  while (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) ||
         file.gcount() > 0) {
    content.append(buffer.data(), static_cast<size_t>(file.gcount()));
  }
  if (file.bad()) throw IoError(str(path, ":", content.size(), ": reading failed"));
  if (content.compare(0, kXzMark.size(), kXzMark) == 0) return unpack_xz(content, path);
  if (path.ends_with(".xz")) throw IoError(str(path, ":0: not in xz format"));
  return content;
}

}  // namespace adder::tools
