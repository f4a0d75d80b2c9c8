// Runs grids: one block after the other, the threads of a block as fibers that give way at barriers
// and warp collectives.
#include <cstring>
#include <new>

#include "tests/simt/machine.h"
#include "tests/simt/race.h"
#include "tests/simt/sanitizer.h"

namespace simt {

uint3 current_thread{};
uint3 current_block{};
dim3 current_block_extent;
dim3 current_grid_extent;

bool machine_is_made = false;

namespace {

Machine& make_machine() {
  auto* made = new Machine;  // never destroyed: a test that exits may leave fibers in it
  machine_is_made = true;
  return *made;
}

}  // namespace

Machine& m = make_machine();

namespace {

constexpr std::size_t kCanary = 64;

void resume(Thread& thread) {
  m.running = &thread;
  current_thread = thread.index;
  thread.started = true;
  ++m.switches;
  thread.fiber->resume();
  m.running = nullptr;
}

// Unwinds what has been started, then reports.
[[noreturn]] void abandon(std::exception_ptr failure) {
  m.abandoning = true;
  for (unsigned i = 0; i < m.count; ++i) {
    Thread& thread = m.threads[i];
    if (thread.started && thread.state != State::returned) resume(thread);
  }
  m.abandoning = false;
  m.failure = nullptr;
  current_thread = {};
  std::rethrow_exception(std::move(failure));
}

// Shared memory of exactly the size asked for, so that ASan sees the first byte beyond it; without
// ASan, a canary on either side finds what was written there, if not where.
class SharedMemory {
 public:
  explicit SharedMemory(std::size_t bytes) : bytes_(bytes) {
    const std::size_t margin = kAddressSanitizer ? 0 : kCanary;
    memory_ =
        static_cast<unsigned char*>(::operator new (bytes + 2 * margin, std::align_val_t{64}));
    std::memset(memory_, 0xa5, bytes + 2 * margin);
    m.shared = memory_ + margin;
    std::memset(m.shared, 0xff, bytes);
  }
  ~SharedMemory() {
    m.shared = nullptr;
    ::operator delete (memory_, std::align_val_t{64});
  }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void check() const {
    if (kAddressSanitizer) return;
    for (std::size_t i = 0; i < kCanary; ++i) {
      const std::size_t after = kCanary + bytes_ + i;
      if (memory_[i] != 0xa5 || memory_[after] != 0xa5) {
        throw Error(place() + ": a thread wrote outside its " + std::to_string(bytes_) +
                    " bytes of shared memory, at byte " +
                    (memory_[after] != 0xa5 ? std::to_string(bytes_ + i)
                                            : "-" + std::to_string(kCanary - i)) +
                    "; the address sanitizer tells the line");
      }
    }
  }

 private:
  std::size_t bytes_;
  unsigned char* memory_;
};

void run_block(std::vector<unsigned>& turns) {
  const SharedMemory shared(m.launch->shared_bytes);
  forget_accesses_of_shared(m.shared, m.launch->shared_bytes);
  m.barriers = 0;
  m.warp_syncs.fill(0);
  m.in_barrier = 0;
  m.returned = 0;
  m.in_collective.fill(0);
  for (unsigned i = 0; i < m.count; ++i) {
    Thread& thread = m.threads[i];
    thread.state = State::ready;
    thread.started = false;
    thread.copies.clear();
  }
  while (m.returned < m.count) {
    next_turns(turns, m.count);
    bool progress = false;
    for (const unsigned turn : turns) {
      Thread& thread = m.threads[turn];
      if (thread.state != State::ready) continue;
      progress = true;
      resume(thread);
      if (m.failure) abandon(m.failure);
    }
    if (!progress) abandon(std::make_exception_ptr(Error(diagnosis_of_standstill())));
  }
  shared.check();
}

}  // namespace

void run_grid(const Launch& launch) {
  m.launch = &launch;
  m.count = launch.block.x * launch.block.y * launch.block.z;
  current_block_extent = launch.block;
  current_grid_extent = launch.grid;
  while (m.threads.size() < m.count) {
    // Fibers point to their threads: a vector that grows would move them.
    if (m.threads.capacity() < kThreadsPerBlock) m.threads.reserve(kThreadsPerBlock);
    Thread& thread = m.threads.emplace_back();
    thread.number = static_cast<unsigned>(m.threads.size() - 1);
    thread.fiber = std::make_unique<Fiber>(&run_thread, &thread, thread.number);
  }
  for (unsigned i = 0; i < m.count; ++i) {
    m.threads[i].index = place_in(launch.block, i);
  }
  forget_accesses();
  const std::uint64_t blocks = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  std::vector<unsigned> block_turns;
  std::vector<unsigned> turns;
  next_turns(block_turns, static_cast<unsigned>(blocks));
  for (const unsigned turn : block_turns) {
    m.block = turn;
    current_block = place_in(launch.grid, turn);
    run_block(turns);
  }
  current_thread = {};
  current_block = {};
}

std::uint64_t switches() {
  return m.switches;
}

}  // namespace simt
