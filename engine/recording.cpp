#include "engine/recording.h"

#include <mutex>
#include <set>

#include "engine/device_runtime.h"
#include "engine/error.h"

namespace adder {
namespace {

// Those that can be replayed, and how many are being made. Never destroyed, as memory may be asked
// for and recordings may go at the very end.
struct Recordings {
  std::mutex mutex;
  std::set<Recording*> ready;
  int being_made = 0;
};

Recordings& recordings() {
  static auto* all = new Recordings;
  return *all;
}

}  // namespace

Recording::Recording(Device device, const std::function<void()>& work) : device_(device) {
  if (device.is_cpu()) throw DeviceError("recording: the CPU records nothing");
  const DeviceRuntime& runtime = runtime_of(device);
  const auto count = [](int more) {
    const std::lock_guard<std::mutex> lock(recordings().mutex);
    recordings().being_made += more;
  };
  count(1);
  try {
    runtime.begin_recording(device.index);
    try {
      work();
    } catch (...) {
      runtime.abandon_recording(device.index);
      throw;
    }
    handle_ = runtime.end_recording(device.index);
  } catch (...) {
    count(-1);
    throw;
  }
  const std::lock_guard<std::mutex> lock(recordings().mutex);
  --recordings().being_made;
  recordings().ready.insert(this);
}

Recording::~Recording() {
  const std::lock_guard<std::mutex> lock(recordings().mutex);
  recordings().ready.erase(this);
  if (!dropped()) cuda_runtime()->drop_recording(device_.index, handle_);
}

bool Recording::drop_all(Device device) {
  const std::lock_guard<std::mutex> lock(recordings().mutex);
  if (recordings().being_made > 0) return false;  // the stream takes no other work meanwhile
  return std::erase_if(recordings().ready, [&](Recording* each) {
           if (!(each->device_ == device)) return false;
           cuda_runtime()->drop_recording(device.index, each->handle_);
           each->handle_ = nullptr;
           return true;
         }) > 0;
}

void Recording::replay() const {
  if (dropped()) throw DeviceError("recording: dropped when memory ran out");
  cuda_runtime()->replay(device_.index, handle_);
}

std::int64_t Recording::launches() const {
  return dropped() ? 0 : cuda_runtime()->recorded_launches(handle_);
}

}  // namespace adder
