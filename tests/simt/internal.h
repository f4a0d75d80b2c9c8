// What the parts of the emulator share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "simt/control.h"
#include "simt/launch.h"
#include "simt/runtime_api.h"

namespace simt {

// --- order.cpp -----------------------------------------------------------------------------------
// Writes the turns of `count` threads or blocks: the next permutation of the order that is set.
void next_turns(std::vector<unsigned>& turns, unsigned count);
std::uint64_t next_random();  // splitmix64 of the order's seed

// --- block.cpp -----------------------------------------------------------------------------------
void run_grid(const Launch& launch);

// --- memory.cpp ----------------------------------------------------------------------------------
enum class MemoryKind : std::uint8_t { pageable, pinned, device };
MemoryKind memory_kind(const void* pointer);
// Whether [pointer, pointer + bytes) lies in one device or pinned allocation.
bool in_allocation(const void* pointer, std::size_t bytes);

// While one lives, device memory may be touched; see set_host_guard.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

// --- device.cpp ----------------------------------------------------------------------------------
inline constexpr std::size_t kSharedDefault = std::size_t{48} * 1024;
inline constexpr std::size_t kSharedOptIn = std::size_t{227} * 1024;
inline constexpr int kThreadsPerBlock = 1024;
inline constexpr int kThreadsPerMultiprocessor = 2048;
int device_count();
cudaError_t record_error(cudaError_t error);  // keeps it for cudaGetLastError; returns it
std::recursive_mutex& emulator_mutex();

// Every function of the API goes through here: one OS thread at a time, and none without a device.
template <typename Function>
cudaError_t api(Function&& function) {
  const std::lock_guard<std::recursive_mutex> lock(emulator_mutex());
  if (device_count() == 0) return record_error(cudaErrorNoDevice);
  return record_error(function());
}

// --- stream.cpp ----------------------------------------------------------------------------------
using Work = std::function<void()>;
// Runs the work, queues it, or records it into the graph that the stream captures.
cudaError_t submit(cudaStream_t stream, Work work);
// For calls that wait for all that came before, as cudaMemcpy does, or that must not be captured.
cudaError_t drain_legacy();
void drain_all();
cudaError_t drain(cudaStream_t stream);
bool is_capturing(cudaStream_t stream);
// An unsafe call (malloc, free, synchronisation) while a capture is under way invalidates it.
cudaError_t refuse_in_capture(bool also_relaxed);

}  // namespace simt
