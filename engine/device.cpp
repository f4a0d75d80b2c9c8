#include "engine/device.h"

#include "engine/device_runtime.h"
#include "engine/error.h"

namespace adder {

#ifdef ADDER_WITH_CUDA
namespace cuda {
extern const DeviceRuntime runtime;
}
const DeviceRuntime* cuda_runtime() {
  return &cuda::runtime;
}
#else
const DeviceRuntime* cuda_runtime() {
  return nullptr;
}
#endif

std::string device_name(Device device) {
  return device.is_cpu() ? "cpu" : str("cuda:", static_cast<int>(device.index));
}

Device parse_device(const std::string& text) {
  const DeviceRuntime* runtime = cuda_runtime();
  if (text == "cpu") return {};
  if (text == "auto") {
    const bool gpu = runtime != nullptr && !runtime->emulated && runtime->count() > 0;
    return gpu ? Device{DeviceKind::cuda, 0} : Device{};
  }
  int index = 0;
  if (text != "cuda") {
    const std::string digits = text.starts_with("cuda:") ? text.substr(5) : "";
    const bool number = !digits.empty() && digits.size() <= 2 &&
                        digits.find_first_not_of("0123456789") == std::string::npos;
    if (!number) {
      throw ConfigError(str("device \"", text, "\": expected auto, cpu, cuda or cuda:N"));
    }
    index = std::stoi(digits);
  }
  if (runtime == nullptr) throw DeviceError(str("device ", text, ": this build has no CUDA"));
  const Device device{DeviceKind::cuda, static_cast<std::int8_t>(index)};
  runtime_of(device);
  return device;
}

const DeviceRuntime& runtime_of(Device device) {
  const DeviceRuntime* runtime = cuda_runtime();
  if (runtime == nullptr) throw DeviceError(str("this build has no device ", device_name(device)));
  const int count = runtime->count();
  if (device.index >= count) {
    throw DeviceError(str("this machine has no device ", device_name(device), ": it has ", count,
                          " CUDA device", count == 1 ? "" : "s"));
  }
  return *runtime;
}

void synchronize(Device device) {
  if (!device.is_cpu()) runtime_of(device).synchronize(device.index);
}

}  // namespace adder
