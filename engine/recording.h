// Recording: device work that is asked for once and run many times.
#pragma once

#include <cstdint>
#include <functional>

#include "engine/device.h"

namespace adder {

// A CUDA graph: the launches of a training step cost the host one call. Numbers that differ between
// replays must lie in tensors that exist before and are written in between; what `work` copies to
// the device, and every host number it passes to a kernel, is fixed by the recording. Tensors that
// work makes lie in memory set aside for recordings, which replays overwrite; what they hold after
// a replay may be read until the next one.
//
// When a device runs out of memory, its recordings are dropped and their memory serves the request.
class Recording {
 public:
  // Calls work(), which must not wait for the device; nothing of what it asks for runs yet. Throws
  // what work throws, and DeviceError when the device refuses; then nothing is recorded.
  Recording(Device device, const std::function<void()>& work);
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  // Drops what is recorded on a device, which must not be replayed any more; false when there is
  // nothing, or while something is being recorded.
  static bool drop_all(Device device);
  bool dropped() const { return handle_ == nullptr; }

  void replay() const;
  std::int64_t launches() const;  // kernels, products and copies in one replay

 private:
  Device device_;
  void* handle_ = nullptr;
};

}  // namespace adder
