// The block that runs, as its scheduler (block.cpp) and its threads (thread.cpp) see it.
#pragma once

#include <array>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "simt/device.h"
#include "tests/simt/fiber.h"
#include "tests/simt/internal.h"

namespace simt {

inline constexpr unsigned kWarp = 32;

enum class State : std::uint8_t { ready, in_barrier, in_collective, returned };
enum class Collective : std::uint8_t { exchange, vote, sync };

// An asynchronous copy under way.
struct Copy {
  void* to;
  std::array<unsigned char, 16> data;
  unsigned bytes;
  Site site;
};

struct Thread {
  std::unique_ptr<Fiber> fiber;
  State state = State::ready;
  bool started = false;
  unsigned number = 0;
  uint3 index{};
  Site site{};  // where it waits
  Collective collective{};
  unsigned source = 0;
  std::uint64_t value = 0;                // given to the collective, then received from it
  std::vector<std::vector<Copy>> copies;  // asynchronous ones: closed groups, and the open one last
};

// Thrown into threads that wait when their block has failed, so that their frames are unwound.
struct Abandon {};

// One launch runs at a time.
struct Machine {
  const Launch* launch = nullptr;
  std::vector<Thread> threads;  // only ever grows; the first `count` are this block's
  unsigned count = 0;
  unsigned in_barrier = 0;
  unsigned returned = 0;
  std::array<unsigned, kThreadsPerBlock / kWarp> in_collective{};  // lanes, per warp
  std::array<std::uint32_t, kThreadsPerBlock / kWarp> warp_syncs{};
  std::uint32_t barriers = 0;
  std::uint32_t block = 0;  // its number in the grid
  Thread* running = nullptr;
  void* shared = nullptr;
  bool abandoning = false;
  std::exception_ptr failure;
  std::uint64_t switches = 0;
};

extern Machine& m;
// False while static objects are initialised: the race detector is called from there already.
extern bool machine_is_made;

void run_thread(void* thread);  // a fiber's job

// --- diagnosis.cpp -------------------------------------------------------------------------------
uint3 place_in(const dim3& extent, unsigned i);  // where number `i` of a block or grid is
std::string text(const uint3& v);                // "(1, 0, 0)"
std::string text(const Site& site);              // "__syncthreads (f.cu:12)"
std::string place();                             // "kernel: block (0, 0, 0)"
bool same(const Site& a, const Site& b);
// Why no thread can go on, or why a collective that all have reached is none, as seen by `thread`.
std::string diagnosis(const Thread& thread);
// The same for a block in which nobody can go on.
std::string diagnosis_of_standstill();

}  // namespace simt
