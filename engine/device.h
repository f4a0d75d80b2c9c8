// Devices that hold tensors and run kernels.
#pragma once

#include <cstdint>
#include <string>

namespace adder {

enum class DeviceKind : std::uint8_t { cpu, cuda };

struct Device {
  DeviceKind kind = DeviceKind::cpu;
  std::int8_t index = 0;

  bool is_cpu() const { return kind == DeviceKind::cpu; }
  friend bool operator==(const Device&, const Device&) = default;
};

std::string device_name(Device device);  // "cpu", "cuda:0"

// "cpu", "cuda", "cuda:N", or "auto": the first CUDA device where build and machine have one (not
// an emulated one), else the CPU. Throws ConfigError for another text, DeviceError for a device
// that is not there.
Device parse_device(const std::string& text);

}  // namespace adder
