#include "tools/commands/commands.h"

#if defined(__linux__) && !defined(__clang__)
#include <climits>
#include <cstdlib>
#include <unistd.h>

namespace {

// GCC's OpenMP lets a thread that waits spin for milliseconds before it sleeps. On a machine with
// other work that keeps the very thread that is waited for off its core. A thousand turns, tens of
// microseconds, bridge what lies between two pieces of work. The OpenMP library reads its
// environment while it is loaded, so the process starts itself again, once and in a few
// milliseconds. What a user has chosen stays; where this fails, all works as it is.
void wait_briefly(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  char path[PATH_MAX];
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof path - 1);
  if (length <= 0) return;
  path[length] = '\0';
  if (::setenv("GOMP_SPINCOUNT", "1000", 1) == 0) ::execv(path, argv);
}

}  // namespace
#else
namespace {
void wait_briefly(char**) {}
}  // namespace
#endif

int main(int argc, char** argv) {
  wait_briefly(argv);
  return adder::tools::run_adder(argc, argv);
}
