// What a thread of the emulated block does: wait, exchange with its warp, copy, fail.
#include <cstring>

#include "tests/simt/machine.h"
#include "tests/simt/race.h"

namespace simt {
namespace {

// Returns when the thread is ready again.
void wait(State state, Site site) {
  Thread& self = *m.running;
  self.state = state;
  self.site = site;
  self.fiber->suspend();
  // Destructors that wait, run by the unwinding itself, have nothing to wait for any more.
  if (m.abandoning && std::uncaught_exceptions() == 0) throw Abandon{};
}

std::uint64_t collect(Collective collective, Site site, std::uint64_t value, unsigned source) {
  Thread& self = *m.running;
  const unsigned first = self.number / kWarp * kWarp;
  if (m.count - first < kWarp) {
    kernel_error(text(site) + " in a warp of " + std::to_string(m.count - first) +
                 " lanes: full-mask collectives need all 32");
  }
  self.collective = collective;
  self.value = value;
  self.source = source;
  unsigned& arrived = m.in_collective[first / kWarp];
  if (++arrived < kWarp) {
    wait(State::in_collective, site);
    return self.value;
  }
  // The last lane hands every lane its result, which nobody can overwrite before it is read.
  arrived = 0;
  self.state = State::in_collective;
  self.site = site;
  std::array<std::uint64_t, kWarp> given{};
  unsigned ballot = 0;
  for (unsigned i = 0; i < kWarp; ++i) {
    const Thread& lane = m.threads[first + i];
    if (!same(lane.site, site)) throw Error(diagnosis(self));
    given[i] = lane.value;
    ballot |= lane.value != 0 ? 1U << i : 0U;
  }
  for (unsigned i = 0; i < kWarp; ++i) {
    Thread& lane = m.threads[first + i];
    if (collective == Collective::exchange) lane.value = given[lane.source];
    if (collective == Collective::vote) lane.value = ballot;
    lane.state = State::ready;
  }
  if (collective == Collective::sync) ++m.warp_syncs[first / kWarp];
  return self.value;
}

}  // namespace

void run_thread(void* argument) {
  auto& self = *static_cast<Thread*>(argument);
  try {
    m.launch->body();
  } catch (const Abandon&) {
  } catch (...) {
    if (!m.failure) m.failure = std::current_exception();
  }
  self.state = State::returned;
  ++m.returned;
}

void barrier(Site site) {
  Thread& self = *m.running;
  if (++m.in_barrier < m.count) {
    wait(State::in_barrier, site);
    return;
  }
  m.in_barrier = 0;
  ++m.barriers;
  self.state = State::in_barrier;
  self.site = site;
  for (unsigned i = 0; i < m.count; ++i) {
    if (!same(m.threads[i].site, site)) throw Error(diagnosis(self));
  }
  for (unsigned i = 0; i < m.count; ++i) m.threads[i].state = State::ready;
}

std::uint64_t warp_exchange(Site site, std::uint64_t value, unsigned source_lane) {
  return collect(Collective::exchange, site, value, source_lane);
}
unsigned warp_vote(Site site, bool value) {
  return static_cast<unsigned>(collect(Collective::vote, site, value ? 1 : 0, 0));
}
void warp_barrier(Site site) {
  collect(Collective::sync, site, 0, 0);
}

unsigned lane() {
  return m.running->number % kWarp;
}

void* shared_memory() {
  if (m.launch->shared_bytes == 0) kernel_error("asks for shared memory; the launch gave it none");
  return m.shared;
}

void kernel_error(const std::string& message) {
  throw Error(place() + ", thread " + text(m.running->index) + ": " + message);
}

void check_alignment(const void* pointer, std::size_t bytes, const char* what) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % bytes != 0) {
    kernel_error(std::string(what) + " of " + std::to_string(bytes) +
                 " bytes at an address that is not a multiple of that");
  }
}

void copy_async(void* shared, const void* global, unsigned bytes, unsigned valid, Site site) {
  check_alignment(shared, bytes, "cp_async to a destination");
  check_alignment(global, bytes, "cp_async from a source");
  if (valid > bytes) kernel_error(text(site) + ": more valid bytes than bytes");
  note_access(global, valid, false, {nullptr, site});
  note_access(shared, bytes, true, {nullptr, site});
  Copy copy{shared, {}, bytes, site};
  std::memcpy(copy.data.data(), global, valid);
  std::memset(shared, 0xff, bytes);  // whoever still reads the old content reads NaN
  auto& copies = m.running->copies;
  if (copies.empty()) copies.emplace_back();
  copies.back().push_back(copy);
}

void copy_commit() {
  auto& copies = m.running->copies;
  if (copies.empty()) copies.emplace_back();
  copies.emplace_back();
}

void copy_wait(unsigned groups_that_may_remain) {
  auto& copies = m.running->copies;
  while (copies.size() > std::size_t{groups_that_may_remain} + 1) {
    for (const Copy& copy : copies.front()) {
      note_access(copy.to, copy.bytes, true, {nullptr, copy.site});
      std::memcpy(copy.to, copy.data.data(), copy.bytes);
    }
    copies.erase(copies.begin());
  }
}

// --- for the race detector -----------------------------------------------------------------------
bool acting(Actor& actor) {
  if (!machine_is_made || m.running == nullptr || m.failure) return false;
  const unsigned number = m.running->number;
  actor = {m.block, number, m.barriers, m.warp_syncs[number / kWarp]};
  return true;
}

const void* shared_begin() {
  return m.shared;
}
std::size_t shared_size() {
  return m.launch->shared_bytes;
}

}  // namespace simt
