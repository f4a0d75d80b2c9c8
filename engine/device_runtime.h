// What a device other than the CPU gives to tensors: memory, copies, and waiting for them.
//
// Kernels and copies of one device run in the order they were asked for. A null table stands for a
// build without the device, as a null column does in a kernel row.
#pragma once

#include <cstddef>
#include <string>

#include "engine/device.h"
#include "engine/memory.h"

namespace adder {

struct DeviceRuntime {
  bool emulated;   // on the CPU, for tests
  int (*count)();  // devices of this kind that can be used; 0 without a driver
  std::string (*describe)(int index);
  // Throws DeviceError with the bytes asked for, held and free.
  void* (*allocate)(int index, std::size_t bytes);
  void (*free)(int index, void* block, std::size_t bytes);
  MemoryStats (*stats)(int index);
  void (*reset_peak)(int index);
  void (*release_cached)(int index);
  // One side may be the CPU. Copies to the CPU have arrived when this returns. A copy to the device
  // has only been taken from its source, into a ring of pinned memory: the host waits for nothing
  // until the ring is full.
  void (*copy)(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes);
  void (*synchronize)(int index);
  // A copy to the host that nobody waits for yet: the ticket goes to finish_read, which waits for
  // this one alone and fills `to`, or to drop_read. Neither may be called twice.
  void* (*start_read)(int index, const void* from, std::size_t bytes);
  void (*finish_read)(int index, void* ticket, void* to);
  void (*drop_read)(int index, void* ticket) noexcept;
  // See engine/recording.h. One at a time; memory that is handed out meanwhile is set aside until
  // no recording is left.
  void (*begin_recording)(int index);
  void* (*end_recording)(int index);
  void (*abandon_recording)(int index) noexcept;
  void (*replay)(int index, void* recording);
  void (*drop_recording)(int index, void* recording) noexcept;
  std::int64_t (*recorded_launches)(const void* recording);
};

const DeviceRuntime* cuda_runtime();  // null in a build without CUDA
// The table of a device that is not the CPU. Throws DeviceError when this build or machine has not
// got it.
const DeviceRuntime& runtime_of(Device device);
void synchronize(Device device);  // waits until everything asked of the device is done

}  // namespace adder
