// Files: whole reads, read-only maps, and outputs that appear whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace adder {

bool exists(const std::string& path);
bool is_directory(const std::string& path);
std::string join_path(const std::string& directory, const std::string& name);

// Creates the directory and its parents; one that exists already is fine. Throws IoError.
void make_directories(const std::string& path);

// Removes a file or a directory with all it holds; an absent path is fine. Throws IoError.
void remove_tree(const std::string& path);

// The bytes of a file. Throws IoError with the system's reason.
std::string read_file(const std::string& path);

// A file's bytes in memory, read on demand by the operating system. They must not be written to,
// and the file must not be truncated while it is mapped (replacing it by a rename is fine).
class MappedFile {
 public:
  static std::shared_ptr<MappedFile> open(const std::string& path);  // throws IoError
  // Bytes that are in memory already, under a name for messages.
  static std::shared_ptr<MappedFile> from_bytes(std::string bytes, std::string name);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const char* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::string_view view() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  MappedFile() = default;
  std::string path_;
  std::string bytes_;  // used by from_bytes only
  const char* data_ = nullptr;
  std::size_t size_ = 0;
  void* mapping_ = nullptr;
};

// Writes a file under the temporary name `.<name>.partial-<pid>` beside the target and renames it
// into place in commit(); without commit() nothing remains. A symbolic link is followed; a device
// or a pipe (/dev/stdout) is written to directly. Temporaries that a killed process left behind are
// removed by the next writer of the same target: a lock on them tells them from those in use.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);  // throws IoError
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::size_t bytes);  // throws IoError "path:offset: …"
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();  // flushes to the disk and renames; throws IoError

 private:
  std::string target_;
  std::string partial_;  // empty when the target is written to directly
  int descriptor_ = -1;
  std::uint64_t written_ = 0;
};

// Replaces or creates `path` with exactly `text`; on failure the old content stays. Throws IoError.
void write_file_atomic(const std::string& path, std::string_view text);

// The same for a directory: fill path(), then commit().
class AtomicDirectory {
 public:
  explicit AtomicDirectory(const std::string& target);  // throws IoError
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  const std::string& path() const { return partial_; }
  // Flushes everything to the disk and renames. Throws IoError when the target exists, unless
  // replace_existing; then the old directory is swapped out in one step and removed.
  void commit(bool replace_existing = false);

 private:
  std::string target_;
  std::string partial_;
  int descriptor_ = -1;
  bool committed_ = false;
};

}  // namespace adder
