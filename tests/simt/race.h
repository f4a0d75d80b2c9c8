// A race detector for kernels compiled with -fsanitize=thread: the compiler then calls a function
// before every memory access, and the emulator's stand in for ThreadSanitizer's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "simt/device.h"

namespace simt {

// Who makes an access, and after which synchronisations.
struct Actor {
  std::uint32_t block = 0;
  std::uint32_t thread = 0;
  std::uint32_t barriers = 0;    // of the block so far
  std::uint32_t warp_syncs = 0;  // of the warp so far
};

// Where an access is in the source: an address in the code, or a place that is known.
struct Origin {
  const void* code = nullptr;
  Site site{};
};

// --- race.cpp ------------------------------------------------------------------------------------
void forget_accesses();                                                 // a launch begins
void forget_accesses_of_shared(const void* memory, std::size_t bytes);  // a block begins
void note_access(const void* address, std::size_t bytes, bool write, const Origin& origin);
void begin_atomic();
void end_atomic();

// --- block.cpp -----------------------------------------------------------------------------------
bool acting(Actor& actor);  // false while no kernel runs
const void* shared_begin();
std::size_t shared_size();
// Makes the launch fail when the running thread next gives way: instrumented code does not expect
// the hooks to throw. "… a race: <what>, which thread <other> <did> with no …".
void fail_later(const std::string& what, const Actor& other, const std::string& did);

}  // namespace simt
