// Any bytes are a safetensors file or an IoError, and whatever opens can be read to its last byte.
#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/error.h"
#include "engine/io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto file = adder::SafetensorsFile::from_bytes(
        std::string(reinterpret_cast<const char*>(data), size), "fuzz");
    for (const adder::SafetensorsEntry& entry : file.entries()) {
      if (!entry.supported) continue;
      const adder::Tensor copy = file.load(entry.name).clone();
      if (copy.shape() != entry.shape) __builtin_trap();
    }
  } catch (const adder::IoError&) {
  }
  return 0;
}
