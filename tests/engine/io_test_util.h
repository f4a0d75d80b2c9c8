// What the tests of engine/io share.
#pragma once

#include <cstdlib>
#include <string>
#include <unistd.h>

#include "engine/error.h"
#include "engine/io/file.h"

namespace adder::test {

// A fresh directory that is removed at the end of the scope.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    const char* base = std::getenv("TMPDIR");
    path_ = std::string(base != nullptr ? base : "/tmp") + "/adder-test-XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) throw IoError(str(path_, ": cannot create"));
  }
  ~TemporaryDirectory() { remove_tree(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  std::string file(const std::string& name) const { return join_path(path_, name); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The message of the IoError that `action` throws, or "no IoError".
template <typename Action>
std::string io_error(const Action& action) {
  try {
    action();
  } catch (const IoError& error) {
    return error.what();
  }
  return "no IoError";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace adder::test
