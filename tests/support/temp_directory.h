// A directory for what a test writes.
#pragma once

#include <cstdlib>
#include <string>
#include <unistd.h>

#include "engine/error.h"
#include "engine/io/file.h"

namespace adder::test {

// A fresh directory, below $TMPDIR where that is set, that is removed at the end of the scope.
class TempDirectory {
 public:
  TempDirectory() {
    const char* base = std::getenv("TMPDIR");
    path_ = std::string(base != nullptr ? base : "/tmp") + "/adder-test-XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) throw IoError(str(path_, ": cannot create"));
  }
  ~TempDirectory() { remove_tree(path_); }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  std::string file(const std::string& name) const { return join_path(path_, name); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace adder::test
