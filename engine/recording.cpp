#include "engine/recording.h"

#include "engine/device_runtime.h"
#include "engine/error.h"

namespace adder {

Recording::Recording(Device device, const std::function<void()>& work) : device_(device) {
  if (device.is_cpu()) throw DeviceError("recording: the CPU records nothing");
  const DeviceRuntime& runtime = runtime_of(device);
  runtime.begin_recording(device.index);
  try {
    work();
  } catch (...) {
    runtime.abandon_recording(device.index);
    throw;
  }
  handle_ = runtime.end_recording(device.index);
}

Recording::~Recording() {
  cuda_runtime()->drop_recording(device_.index, handle_);
}

void Recording::replay() const {
  cuda_runtime()->replay(device_.index, handle_);
}

std::int64_t Recording::launches() const {
  return cuda_runtime()->recorded_launches(handle_);
}

}  // namespace adder
