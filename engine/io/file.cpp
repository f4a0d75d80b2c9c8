#include "engine/io/file.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

#include "engine/error.h"

namespace adder {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const std::string& path, const char* what, int error) {
  throw IoError(str(path, ": cannot ", what, ": ", std::strerror(error)));
}

// Closes a file descriptor at the end of the scope.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// Some file systems and all devices cannot be flushed; that is no failure.
bool flush(int fd) {
  return ::fsync(fd) == 0 || errno == EINVAL || errno == ENOTSUP;
}

void flush_path(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  if (file.get() < 0 || !flush(file.get())) fail(path, "flush to the disk", errno);
}

// Makes a rename durable. It has happened already, so a failure here is not one of the output.
void flush_parent(const std::string& parent) {
  const Descriptor directory(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() >= 0) flush(directory.get());
}

struct Split {
  std::string parent;
  std::string name;
};

Split split(const std::string& target) {
  const std::size_t last = target.find_last_not_of('/');  // "out/" is "out"
  const fs::path path = last == std::string::npos ? target : target.substr(0, last + 1);
  const std::string name = path.filename().string();
  if (name.empty() || name == "." || name == "..") {
    throw IoError(str("'", target, "': not a name that an output can have"));
  }
  const std::string parent = path.parent_path().string();
  return {parent.empty() ? "." : parent, name};
}

bool same_file(int fd, const std::string& path) {
  struct stat by_descriptor {};
  struct stat by_path {};
  return ::fstat(fd, &by_descriptor) == 0 && ::lstat(path.c_str(), &by_path) == 0 &&
         by_descriptor.st_dev == by_path.st_dev && by_descriptor.st_ino == by_path.st_ino;
}

// Removes temporaries of the same target whose writer is gone. The writer holds a lock for as long
// as it lives, which, unlike its process id, cannot be mistaken for somebody else's. Failures are
// ignored: whatever stays is tried again next time.
void remove_stale(const Split& target) {
  const std::string prefix = str(".", target.name, ".partial-");
  std::vector<std::string> found;
  std::error_code error;
  for (fs::directory_iterator it(target.parent, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.size() > prefix.size() && name.starts_with(prefix) &&
        name.find_first_not_of("0123456789-", prefix.size()) == std::string::npos) {
      found.push_back(it->path().string());
    }
  }
  for (const std::string& path : found) {
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
    if (file.get() >= 0 && ::flock(file.get(), LOCK_EX | LOCK_NB) == 0 &&
        same_file(file.get(), path)) {
      fs::remove_all(path, error);
    }
  }
}

// Creates and locks a temporary file or directory beside the target; returns its descriptor.
int create_partial(const std::string& target, bool directory, std::string& path) {
  const Split parts = split(target);
  remove_stale(parts);
  for (int attempt = 0; attempt < 1000; ++attempt) {
    path = str(parts.parent, "/.", parts.name, ".partial-", ::getpid());
    if (attempt > 0) path += str("-", attempt);
    if (directory && ::mkdir(path.c_str(), 0777) != 0) {
      if (errno == EEXIST) continue;
      fail(target, "create the directory", errno);
    }
    Descriptor file(::open(path.c_str(),
                           directory ? O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC
                                     : O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
                           0666));
    if (file.get() < 0) {
      if (errno == (directory ? ENOENT : EEXIST)) continue;  // taken, or cleaned away by another
      fail(target, "create the file", errno);
    }
    // Without support for locks the temporary merely is not cleaned up after a kill.
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) continue;
    if (!same_file(file.get(), path)) continue;
    return file.release();
  }
  throw IoError(str(target, ": cannot create a temporary beside it: ", path, " exists"));
}

}  // namespace

bool exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

bool is_directory(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

std::string join_path(const std::string& directory, const std::string& name) {
  return (fs::path(directory) / name).string();
}

void make_directories(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw IoError(str(path, ": cannot create the directory: ", error.message()));
}

void remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) throw IoError(str(path, ": cannot remove: ", error.message()));
}

std::string read_file(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) fail(path, "open", errno);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail(path, "read", errno);
  std::string text;
  std::size_t used = 0;
  // The size is a hint only: pipes and /proc report none. One byte more lets the end be seen.
  std::size_t want = S_ISREG(status.st_mode) ? static_cast<std::size_t>(status.st_size) + 1 : 65536;
  for (;;) {
    if (text.size() < used + want) text.resize(used + want);
    const ssize_t got = ::read(file.get(), text.data() + used, text.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path, "read", errno);
    if (got == 0) break;
    used += static_cast<std::size_t>(got);
    want = text.size() > used ? text.size() - used : std::max<std::size_t>(used, 65536);
  }
  text.resize(used);
  return text;
}

std::shared_ptr<MappedFile> MappedFile::open(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) fail(path, "open", errno);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail(path, "read", errno);
  if (S_ISDIR(status.st_mode)) fail(path, "read", EISDIR);
  if (!S_ISREG(status.st_mode)) throw IoError(str(path, ": cannot read: not a regular file"));
  std::shared_ptr<MappedFile> mapped(new MappedFile);
  mapped->path_ = path;
  mapped->size_ = static_cast<std::size_t>(status.st_size);
  if (mapped->size_ > 0) {
    void* address = ::mmap(nullptr, mapped->size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (address == MAP_FAILED) fail(path, "map into memory", errno);
    mapped->mapping_ = address;
    mapped->data_ = static_cast<const char*>(address);
  }
  return mapped;
}

std::shared_ptr<MappedFile> MappedFile::from_bytes(std::string bytes, std::string name) {
  std::shared_ptr<MappedFile> mapped(new MappedFile);
  mapped->path_ = std::move(name);
  mapped->bytes_ = std::move(bytes);
  mapped->data_ = mapped->bytes_.data();
  mapped->size_ = mapped->bytes_.size();
  return mapped;
}

MappedFile::~MappedFile() {
  if (mapping_ != nullptr) ::munmap(mapping_, size_);
}

AtomicFile::AtomicFile(const std::string& path) : target_(path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) fail(path, "write", EISDIR);
    if (!S_ISREG(status.st_mode)) {
      descriptor_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
      if (descriptor_ < 0) fail(path, "open", errno);
      return;
    }
    std::error_code error;
    const fs::path real = fs::canonical(path, error);
    if (!error) target_ = real.string();
  }
  descriptor_ = create_partial(target_, false, partial_);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;  // committed
  if (!partial_.empty()) ::unlink(partial_.c_str());
  ::close(descriptor_);
}

void AtomicFile::write(const void* data, std::size_t bytes) {
  constexpr std::size_t kChunk = std::size_t{1} << 30;  // one call writes at most 2 GiB
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::write(descriptor_, from, std::min(bytes, kChunk));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail(str(target_, ":", written_), "write", errno);
    from += done;
    bytes -= static_cast<std::size_t>(done);
    written_ += static_cast<std::uint64_t>(done);
  }
}

void AtomicFile::commit() {
  if (!flush(descriptor_)) fail(target_, "flush to the disk", errno);
  if (!partial_.empty()) {
    if (::rename(partial_.c_str(), target_.c_str()) != 0) fail(target_, "rename into place", errno);
    partial_.clear();
    flush_parent(split(target_).parent);
  }
  if (::close(std::exchange(descriptor_, -1)) != 0) fail(target_, "close", errno);
}

void write_file_atomic(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

AtomicDirectory::AtomicDirectory(const std::string& target) : target_(target) {
  const Split parts = split(target);
  target_ = join_path(parts.parent, parts.name);
  descriptor_ = create_partial(target_, true, partial_);
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(partial_, ignored);
  if (descriptor_ >= 0) ::close(descriptor_);
}

void AtomicDirectory::commit(bool replace_existing) {
  std::error_code error;
  for (fs::recursive_directory_iterator it(partial_, error), end; !error && it != end;
       it.increment(error)) {
    if (!it->is_symlink()) flush_path(it->path().string());
  }
  if (error) throw IoError(str(partial_, ": cannot read the directory: ", error.message()));
  flush_path(partial_);
  const auto move = [](const std::string& from, const std::string& to, unsigned flags) {
    return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) == 0;
  };
  bool done = move(partial_, target_, RENAME_NOREPLACE);
  if (!done && (errno == EINVAL || errno == ENOSYS)) {  // a file system without such flags
    done = !exists(target_) && ::rename(partial_.c_str(), target_.c_str()) == 0;
    if (!done && exists(target_)) errno = EEXIST;
  }
  if (!done && errno != EEXIST) fail(target_, "rename into place", errno);
  if (!done && !replace_existing) throw IoError(str(target_, ": exists already"));
  if (!done && !is_directory(target_)) throw IoError(str(target_, ": exists, not a directory"));
  if (!done && move(partial_, target_, RENAME_EXCHANGE)) {
    fs::remove_all(partial_, error);  // the old one; what cannot be removed now is stale later
  } else if (!done) {
    // Two steps instead of one. The name of the old directory is never cleaned up by itself, so a
    // kill between the steps loses nothing.
    const Split parts = split(target_);
    const std::string old = str(parts.parent, "/.", parts.name, ".old-", ::getpid());
    if (::rename(target_.c_str(), old.c_str()) != 0 ||
        ::rename(partial_.c_str(), target_.c_str()) != 0) {
      fail(target_, "rename into place", errno);
    }
    fs::remove_all(old, error);
  }
  committed_ = true;
  flush_parent(split(target_).parent);
}

}  // namespace adder
