#include "engine/io/zip.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/error.h"
#include "engine/io/bytes.h"

namespace adder::io {
namespace {

constexpr std::uint64_t kEndRecord = 22;  // sizes of the fixed parts
constexpr std::uint64_t kLocator64 = 20;
constexpr std::uint64_t kEndRecord64 = 56;
constexpr std::uint64_t kCentralHeader = 46;
constexpr std::uint64_t kLocalHeader = 30;
constexpr std::uint64_t kMaxComment = 65535;
constexpr std::uint64_t kIn64 = 0xffffffff;  // "see the ZIP64 field"

class Reader {
 public:
  Reader(std::string_view bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  std::map<std::string, ZipMember> read() {
    find_directory();
    std::map<std::string, ZipMember> members;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
    std::uint64_t at = directory_;
    for (std::uint64_t i = 0; i < count_; ++i) {
      need(at, kCentralHeader, "a directory entry");
      if (number(at, 4) != 0x02014b50) fail(at, "no directory entry where one should be");
      const std::uint64_t name_length = number(at + 28, 2);
      const std::uint64_t extra_length = number(at + 30, 2);
      const std::uint64_t comment_length = number(at + 32, 2);
      need(at + kCentralHeader, name_length + extra_length + comment_length, "a directory entry");
      ZipMember member;
      member.method = static_cast<int>(number(at + 10, 2));
      member.encrypted = (number(at + 8, 2) & 1U) != 0;
      std::uint64_t stored = number(at + 20, 4);
      std::uint64_t local = number(at + 42, 4);
      member.size = number(at + 24, 4);
      read_extra64(at + kCentralHeader + name_length, extra_length, member.size, stored, local);
      const std::string name(text(at + kCentralHeader, name_length));
      if (member.method == 0 && stored != member.size) {
        fail(at, str("'", printable(name), "' has two sizes, ", stored, " and ", member.size));
      }
      member.offset = locate(name, local, stored);
      ranges.emplace_back(local, member.offset + stored);
      if (!members.emplace(name, member).second) {
        fail(at, str("two members are named '", printable(name), "'"));
      }
      at += kCentralHeader + name_length + extra_length + comment_length;
    }
    std::sort(ranges.begin(), ranges.end());
    for (std::size_t i = 1; i < ranges.size(); ++i) {
      if (ranges[i].first < ranges[i - 1].second) fail(ranges[i].first, "two members overlap");
    }
    return members;
  }

 private:
  [[noreturn]] void fail(std::uint64_t at, const std::string& what) const {
    throw IoError(str(path_, ":", at, ": zip: ", what));
  }
  void need(std::uint64_t at, std::uint64_t count, const char* what) const {
    if (at > bytes_.size() || count > bytes_.size() - at) {
      fail(at, str(what, " of ", count, " bytes reaches beyond the file of ", bytes_.size()));
    }
  }
  std::uint64_t number(std::uint64_t at, int count) const {
    return load_le(bytes_.data() + at, count);
  }
  std::string_view text(std::uint64_t at, std::uint64_t count) const {
    return bytes_.substr(static_cast<std::size_t>(at), static_cast<std::size_t>(count));
  }

  // Sets directory_ and count_ from the end record, which lies before a comment of any length.
  void find_directory() {
    const std::uint64_t size = bytes_.size();
    const std::uint64_t last = size < kEndRecord ? 0 : size - kEndRecord;
    std::uint64_t end = last;
    while (size >= kEndRecord && last - end <= kMaxComment &&
           !(number(end, 4) == 0x06054b50 && number(end + 20, 2) == last - end)) {
      if (end-- == 0) break;
    }
    if (size < kEndRecord || end > last || last - end > kMaxComment) {
      fail(size, "no end record: the file is truncated");
    }
    count_ = number(end + 10, 2);
    std::uint64_t directory_size = number(end + 12, 4);
    directory_ = number(end + 16, 4);
    if (number(end + 4, 4) != 0) fail(end, "parts of an archive on several disks");
    if (end >= kLocator64 && number(end - kLocator64, 4) == 0x07064b50) {
      const std::uint64_t record = number(end - kLocator64 + 8, 8);
      need(record, kEndRecord64, "the ZIP64 end record");
      if (number(record, 4) != 0x06064b50) fail(record, "no ZIP64 end record");
      count_ = number(record + 32, 8);
      directory_size = number(record + 40, 8);
      directory_ = number(record + 48, 8);
    }
    need(directory_, directory_size, "the directory");
    if (count_ > directory_size / kCentralHeader) {
      fail(end, str(count_, " members do not fit a directory of ", directory_size, " bytes"));
    }
  }

  // The ZIP64 field of an entry holds, in this order, those numbers that did not fit 32 bits.
  void read_extra64(std::uint64_t at, std::uint64_t length, std::uint64_t& size,
                    std::uint64_t& stored, std::uint64_t& local) const {
    const std::uint64_t end = at + length;
    while (end - at >= 4) {
      const std::uint64_t tag = number(at, 2);
      const std::uint64_t field_end = at + 4 + number(at + 2, 2);
      if (field_end > end) fail(at, "an extra field is longer than its entry");
      std::uint64_t from = at + 4;
      for (std::uint64_t* value : {&size, &stored, &local}) {
        if (tag != 1 || *value != kIn64) continue;
        if (field_end - from < 8) fail(at, "the ZIP64 field is too short");
        *value = number(from, 8);
        from += 8;
      }
      if (tag == 1) return;
      at = field_end;
    }
  }

  // Checks the local header and returns the offset of the content behind it.
  std::uint64_t locate(const std::string& name, std::uint64_t local, std::uint64_t stored) const {
    need(local, kLocalHeader, "a member's header");
    const std::uint64_t name_length = number(local + 26, 2);
    need(local + kLocalHeader, name_length, "a member's name");
    if (number(local, 4) != 0x04034b50 || text(local + kLocalHeader, name_length) != name) {
      fail(local, str("no header of '", printable(name), "' where one should be"));
    }
    const std::uint64_t content = local + kLocalHeader + name_length + number(local + 28, 2);
    need(content, stored, "a member's content");
    return content;
  }

  std::string_view bytes_;
  const std::string& path_;
  std::uint64_t directory_ = 0;
  std::uint64_t count_ = 0;
};

}  // namespace

std::map<std::string, ZipMember> read_zip_directory(std::string_view bytes,
                                                    const std::string& path) {
  return Reader(bytes, path).read();
}

}  // namespace adder::io
