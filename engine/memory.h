// Memory: a caching allocator for the CPU, with statistics.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "engine/device.h"

namespace adder {

struct MemoryStats {
  std::int64_t current_bytes = 0;  // held by live tensors
  std::int64_t peak_bytes = 0;     // the most ever held since the last reset
  std::int64_t cached_bytes = 0;   // freed by tensors and kept for reuse
};

// A block of memory that returns to its allocator when the last tensor that shares it goes.
class Storage {
 public:
  // Throws DeviceError, with the bytes asked for and held, when the memory cannot be had.
  static std::shared_ptr<Storage> allocate(std::size_t bytes, Device device);
  // Wraps memory that `owner` keeps alive (a mapped file): read-only by convention.
  static std::shared_ptr<Storage> wrap(void* data, std::size_t bytes, std::shared_ptr<void> owner);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

  // Elements behind every row that belong to nobody yet: see Tensor::take_room.
  std::int64_t row_room() const { return row_room_; }
  void set_row_room(std::int64_t elements) { row_room_ = elements; }

 private:
  Storage() = default;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::size_t capacity_ = 0;  // the size class; 0 for wrapped memory
  Device device_;
  std::int64_t row_room_ = 0;
  std::shared_ptr<void> owner_;
};

MemoryStats memory_stats(Device device);
void reset_peak_memory(Device device);
// Gives cached blocks back to the operating system.
void release_cached_memory(Device device);

}  // namespace adder
