#include <doctest/doctest.h>
#include <filesystem>
#include <fstream>
#include <set>
#include <signal.h>
#include <string>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "engine/error.h"
#include "engine/io/file.h"
#include "tests/engine/io_test_util.h"

namespace fs = std::filesystem;
using namespace adder;
using test::contains;
using test::io_error;
using test::TempDirectory;

namespace {

std::set<std::string> names_in(const std::string& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

// Limits the size of files this process can write, as a full disk would.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit old_{};
  sighandler_t handler_;
};

// Runs `action` in a child process that then dies by SIGKILL.
template <typename Action>
void run_and_kill(const Action& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    action();
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  REQUIRE(WIFSIGNALED(status));
}

}  // namespace

TEST_CASE("io: whole files and maps") {
  const TempDirectory dir;
  const std::string path = dir.file("a.txt");
  const std::string text = std::string("one\0two\n", 8) + std::string(200000, 'x');
  write_file_atomic(path, text);
  CHECK(read_file(path) == text);
  const auto mapped = MappedFile::open(path);
  CHECK(mapped->view() == text);
  write_file_atomic(path, "new");
  CHECK(read_file(path) == "new");
  CHECK(mapped->view() == text);  // the map keeps the old file
  write_file_atomic(path, "");
  CHECK(read_file(path).empty());
  CHECK(MappedFile::open(path)->size() == 0);
  CHECK(MappedFile::from_bytes("abc", "name")->view() == "abc");
  CHECK(!read_file("/proc/self/status").empty());  // reports size 0
}

TEST_CASE("io: what cannot be read") {
  const TempDirectory dir;
  const std::string absent = dir.file("absent");
  CHECK(io_error([&] { read_file(absent); }) ==
        absent + ": cannot open: No such file or directory");
  CHECK(contains(io_error([&] { MappedFile::open(absent); }), "No such file"));
  CHECK(contains(io_error([&] { read_file(dir.path()); }), "Is a directory"));
  CHECK(contains(io_error([&] { MappedFile::open(dir.path()); }), "Is a directory"));
  CHECK(contains(io_error([&] { MappedFile::open("/dev/null"); }), "not a regular file"));
}

TEST_CASE("io: what cannot be written leaves nothing") {
  const TempDirectory dir;
  CHECK(contains(io_error([&] { write_file_atomic(dir.file("no/such/file"), "x"); }),
                 "no/such/file: cannot create the file: No such file or directory"));
  CHECK(contains(io_error([&] { write_file_atomic(dir.path(), "x"); }), "Is a directory"));
  CHECK(contains(io_error([] { write_file_atomic("/", "x"); }), "Is a directory"));
  CHECK(contains(io_error([] { write_file_atomic("", "x"); }), "not a name"));
  CHECK(contains(io_error([] { AtomicDirectory d("/"); }), "not a name"));
  CHECK(names_in(dir.path()).empty());
}

TEST_CASE("io: a full disk keeps the old content and removes the temporary") {
  const TempDirectory dir;
  const std::string path = dir.file("weights");
  write_file_atomic(path, "old");
  std::string message;
  {
    const FileSizeLimit limit(1 << 16);
    message = io_error([&] { write_file_atomic(path, std::string(1 << 20, 'x')); });
  }
  CHECK(message == path + ":65536: cannot write: File too large");
  CHECK(read_file(path) == "old");
  CHECK(names_in(dir.path()) == std::set<std::string>{"weights"});
  // A device is written to directly: nothing is renamed over it.
  if (exists("/dev/full")) {
    CHECK(contains(io_error([] { write_file_atomic("/dev/full", "x"); }),
                   "/dev/full:0: cannot write: No space left on device"));
    struct stat status {};
    REQUIRE(::stat("/dev/full", &status) == 0);
    CHECK(S_ISCHR(status.st_mode));
  } else {
    MESSAGE("skipped: no /dev/full");
  }
}

TEST_CASE("io: a file appears at commit, not before") {
  const TempDirectory dir;
  const std::string path = dir.file("out.bin");
  {
    AtomicFile file(path);
    file.write("half");
    CHECK(!exists(path));
    CHECK(names_in(dir.path()) == std::set<std::string>{str(".out.bin.partial-", ::getpid())});
  }
  CHECK(names_in(dir.path()).empty());
  // Two writers of one target at a time do not disturb each other.
  AtomicFile first(path);
  AtomicFile second(path);
  first.write("first");
  second.write("second");
  first.commit();
  CHECK(read_file(path) == "first");
  second.commit();
  CHECK(read_file(path) == "second");
  CHECK(names_in(dir.path()) == std::set<std::string>{"out.bin"});
}

TEST_CASE("io: a symbolic link is written through, a relative path works") {
  const TempDirectory dir;
  write_file_atomic(dir.file("real"), "1");
  fs::create_symlink("real", dir.file("link"));
  write_file_atomic(dir.file("link"), "2");
  CHECK(read_file(dir.file("real")) == "2");
  CHECK(fs::is_symlink(dir.file("link")));
  // The parent directory may be a link as well.
  make_directories(dir.file("a/b"));
  fs::create_directory_symlink("a/b", dir.file("c"));
  write_file_atomic(dir.file("c/file"), "3");
  CHECK(read_file(dir.file("a/b/file")) == "3");
  const fs::path here = fs::current_path();
  fs::current_path(dir.path());
  write_file_atomic("plain", "4");
  fs::current_path(here);
  CHECK(read_file(dir.file("plain")) == "4");
}

TEST_CASE("io: a directory appears whole") {
  const TempDirectory dir;
  const std::string target = dir.file("run") + "/";
  {
    AtomicDirectory output(target);
    write_file_atomic(join_path(output.path(), "x"), "1");
    make_directories(join_path(output.path(), "sub/deep"));
    write_file_atomic(join_path(output.path(), "sub/deep/y"), "2");
    CHECK(!exists(target));
    output.commit();
  }
  CHECK(read_file(dir.file("run/sub/deep/y")) == "2");
  CHECK(names_in(dir.path()) == std::set<std::string>{"run"});
  {
    AtomicDirectory output(target);
    write_file_atomic(join_path(output.path(), "z"), "3");
  }  // not committed
  CHECK(names_in(dir.path()) == std::set<std::string>{"run"});
}

TEST_CASE("io: an existing directory is replaced only when asked for") {
  const TempDirectory dir;
  const std::string target = dir.file("run");
  make_directories(target);
  write_file_atomic(dir.file("run/old"), "1");
  AtomicDirectory output(target);
  write_file_atomic(join_path(output.path(), "new"), "2");
  CHECK(io_error([&] { output.commit(); }) == target + ": exists already");
  CHECK(names_in(target) == std::set<std::string>{"old"});
  output.commit(true);
  CHECK(names_in(target) == std::set<std::string>{"new"});
  CHECK(names_in(dir.path()) == std::set<std::string>{"run"});
  write_file_atomic(dir.file("plain"), "file");
  AtomicDirectory over(dir.file("plain"));
  CHECK(contains(io_error([&] { over.commit(true); }), "not a directory"));
  CHECK(read_file(dir.file("plain")) == "file");
}

TEST_CASE("io: what a killed process left is ignored and cleaned by the next") {
  const TempDirectory dir;
  const std::string target = dir.file("run");
  const std::string file = dir.file("file");
  run_and_kill([&] {
    AtomicDirectory output(target);
    write_file_atomic(join_path(output.path(), "x"), "1");
    AtomicFile partial(file);
    partial.write("half");
    ::kill(::getpid(), SIGKILL);
  });
  CHECK(!exists(target));
  CHECK(!exists(file));
  REQUIRE(names_in(dir.path()).size() == 2);
  const AtomicDirectory live(target);
  REQUIRE(exists(live.path()));
  // Names that only look similar are somebody else's; a live writer's temporary stays.
  write_file_atomic(dir.file(".run.partial-notes"), "mine");
  AtomicDirectory output(target);
  output.commit();
  write_file_atomic(file, "whole");
  CHECK(exists(live.path()));
  CHECK(names_in(dir.path()) == std::set<std::string>{"run", "file", ".run.partial-notes",
                                                      fs::path(live.path()).filename().string()});
}

TEST_CASE("io: helpers") {
  const TempDirectory dir;
  CHECK(is_directory(dir.path()));
  CHECK(!is_directory(dir.file("x")));
  CHECK(join_path("a", "b") == "a/b");
  CHECK(join_path("a/", "b") == "a/b");
  write_file_atomic(dir.file("x"), "");
  CHECK(exists(dir.file("x")));
  CHECK(contains(io_error([&] { make_directories(dir.file("x/y")); }), "x/y: cannot create"));
  remove_tree(dir.file("x"));
  remove_tree(dir.file("x"));
  CHECK(!exists(dir.file("x")));
}
