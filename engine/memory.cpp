#include "engine/memory.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include <vector>

#include "engine/device_runtime.h"
#include "engine/error.h"
#include "engine/recording.h"

namespace adder {
namespace {

constexpr std::size_t kAlignment = 64;  // one cache line, one 512-bit vector
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kLargeBlock = kHugePage;  // from here on blocks are aligned for huge pages

// Rounds up so that similar requests share a class: multiples of 1/8 of the power of two below.
std::size_t size_class(std::size_t bytes) {
  std::size_t step = kAlignment;
  while (step * 8 < bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

// First-touch page faults cost more than many kernels do, so freed blocks are kept by size class.
class CpuPool {
 public:
  void* allocate(std::size_t capacity) {
    const std::lock_guard<std::mutex> lock(mutex_);
    stats_.current_bytes += static_cast<std::int64_t>(capacity);
    stats_.peak_bytes = std::max(stats_.peak_bytes, stats_.current_bytes);
    auto found = free_.find(capacity);
    if (found != free_.end() && !found->second.empty()) {
      void* block = found->second.back();
      found->second.pop_back();
      stats_.cached_bytes -= static_cast<std::int64_t>(capacity);
      return block;
    }
    const bool large = capacity >= kLargeBlock;
    const std::size_t alignment = large ? kHugePage : kAlignment;
    const std::size_t rounded = (capacity + alignment - 1) / alignment * alignment;
    void* block = std::aligned_alloc(alignment, rounded);
    if (block == nullptr) {
      drop_cache();
      block = std::aligned_alloc(alignment, rounded);
    }
    if (block == nullptr) {
      stats_.current_bytes -= static_cast<std::int64_t>(capacity);
      throw DeviceError(str("out of memory on cpu: asked for ", capacity, " bytes, ",
                            stats_.current_bytes, " bytes are held by tensors"));
    }
    if (large) madvise(block, rounded, MADV_HUGEPAGE);  // a hint: failure changes nothing
    return block;
  }

  void free(void* block, std::size_t capacity) {
    const std::lock_guard<std::mutex> lock(mutex_);
    stats_.current_bytes -= static_cast<std::int64_t>(capacity);
    stats_.cached_bytes += static_cast<std::int64_t>(capacity);
    free_[capacity].push_back(block);
  }

  void release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    drop_cache();
  }

  MemoryStats stats() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return stats_;
  }

  void reset_peak() {
    const std::lock_guard<std::mutex> lock(mutex_);
    stats_.peak_bytes = stats_.current_bytes;
  }

 private:
  void drop_cache() {
    for (auto& [capacity, blocks] : free_) {
      for (void* block : blocks) std::free(block);
    }
    free_.clear();
    stats_.cached_bytes = 0;
  }

  std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> free_;
  MemoryStats stats_;
};

// Never destroyed: tensors in static storage may outlive any other static object.
CpuPool& cpu_pool() {
  static auto* pool = new CpuPool;
  return *pool;
}

// Recordings are a convenience: when memory runs out, theirs is taken.
void* allocate_on(Device device, std::size_t bytes) {
  const DeviceRuntime& runtime = runtime_of(device);
  try {
    return runtime.allocate(device.index, bytes);
  } catch (const DeviceError&) {
    if (!Recording::drop_all(device)) throw;
  }
  return runtime.allocate(device.index, bytes);
}

}  // namespace

std::shared_ptr<Storage> Storage::allocate(std::size_t bytes, Device device) {
  std::shared_ptr<Storage> storage(new Storage);
  storage->bytes_ = bytes;
  storage->device_ = device;
  if (bytes > 0) {
    // A device's pool has size classes of its own.
    const std::size_t capacity = device.is_cpu() ? size_class(bytes) : bytes;
    storage->data_ =
        device.is_cpu() ? cpu_pool().allocate(capacity) : allocate_on(device, capacity);
    storage->capacity_ = capacity;
  }
  return storage;
}

std::shared_ptr<Storage> Storage::wrap(void* data, std::size_t bytes, std::shared_ptr<void> owner) {
  std::shared_ptr<Storage> storage(new Storage);
  storage->data_ = data;
  storage->bytes_ = bytes;
  storage->owner_ = std::move(owner);
  return storage;
}

Storage::~Storage() {
  if (capacity_ == 0) return;
  if (device_.is_cpu()) {
    cpu_pool().free(data_, capacity_);
  } else {
    cuda_runtime()->free(device_.index, data_, capacity_);
  }
}

MemoryStats memory_stats(Device device) {
  return device.is_cpu() ? cpu_pool().stats() : runtime_of(device).stats(device.index);
}

void reset_peak_memory(Device device) {
  device.is_cpu() ? cpu_pool().reset_peak() : runtime_of(device).reset_peak(device.index);
}

void release_cached_memory(Device device) {
  device.is_cpu() ? cpu_pool().release() : runtime_of(device).release_cached(device.index);
}

}  // namespace adder
