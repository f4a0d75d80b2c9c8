// What went wrong, in words.
#include <cstring>

#include "tests/simt/machine.h"
#include "tests/simt/race.h"

namespace simt {

uint3 place_in(const dim3& extent, unsigned i) {
  const unsigned plane = extent.x * extent.y;
  return {i % extent.x, i % plane / extent.x, i / plane};
}

std::string text(const uint3& v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}
std::string text(const Site& site) {
  const char* slash = std::strrchr(site.file, '/');
  return std::string(site.what) + " (" + (slash == nullptr ? site.file : slash + 1) + ":" +
         std::to_string(site.line) + ")";
}
bool same(const Site& a, const Site& b) {
  return a.line == b.line && (a.what == b.what || std::strcmp(a.what, b.what) == 0) &&
         (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

std::string place() {
  return m.launch->name + ": block " + text(current_block);
}

namespace {

// "63 threads wait at __syncthreads (f.cu:12), first (1, 0, 0); 1 thread has returned, …", of the
// threads [first_thread, end).
std::string whereabouts(unsigned first_thread, unsigned end) {
  struct Group {
    const Thread* first;
    unsigned threads;
  };
  std::vector<Group> groups;
  for (unsigned i = first_thread; i < end; ++i) {
    const Thread& thread = m.threads[i];
    bool found = false;
    for (Group& group : groups) {
      const bool both_returned =
          thread.state == State::returned && group.first->state == State::returned;
      const bool both_wait = thread.state != State::returned &&
                             group.first->state != State::returned &&
                             same(thread.site, group.first->site);
      if (both_returned || both_wait) {
        ++group.threads;
        found = true;
        break;
      }
    }
    if (!found) groups.push_back({&thread, 1});
  }
  std::string out;
  for (const Group& group : groups) {
    if (!out.empty()) out += "; ";
    out += std::to_string(group.threads) + (group.threads == 1 ? " thread " : " threads ");
    if (group.first->state == State::returned) {
      out += group.threads == 1 ? "has returned" : "have returned";
    } else {
      out += (group.threads == 1 ? "waits at " : "wait at ") + text(group.first->site);
    }
    out += ", first " + text(group.first->index);
  }
  return out;
}

}  // namespace

std::string diagnosis(const Thread& thread) {
  const std::string at = place() + ", thread " + text(thread.index) + ": ";
  if (thread.state == State::in_collective) {
    const unsigned warp = thread.number / kWarp;
    return at + "divergent warp collective: " + text(thread.site) +
           " is not reached by all 32 lanes of warp " + std::to_string(warp) + ": " +
           whereabouts(warp * kWarp, (warp + 1) * kWarp);
  }
  for (unsigned i = 0; i < m.count; ++i) {
    const Thread& other = m.threads[i];
    if (other.state == State::in_barrier && !same(other.site, thread.site)) {
      return at + "the threads of a block wait at different barriers: " + whereabouts(0, m.count);
    }
  }
  return at + text(thread.site) +
         " after threads of the block have returned: " + whereabouts(0, m.count);
}

// An incomplete collective is the cause even where others wait at a barrier.
std::string diagnosis_of_standstill() {
  const Thread* barrier = nullptr;
  for (unsigned i = 0; i < m.count; ++i) {
    const Thread& thread = m.threads[i];
    if (thread.state == State::in_collective) return diagnosis(thread);
    if (thread.state == State::in_barrier && barrier == nullptr) barrier = &thread;
  }
  return diagnosis(*barrier);
}

void fail_later(const std::string& what, const Actor& other, const std::string& did) {
  if (m.failure) return;
  const std::string whose = other.block == m.block
                                ? " of the same block "
                                : " of block " + text(place_in(m.launch->grid, other.block)) + " ";
  m.failure = std::make_exception_ptr(Error(place() + ", thread " + text(m.running->index) +
                                            ": a race: " + what + ", which thread " +
                                            text(place_in(m.launch->block, other.thread)) + whose +
                                            did + " with no synchronisation in between"));
}

}  // namespace simt
