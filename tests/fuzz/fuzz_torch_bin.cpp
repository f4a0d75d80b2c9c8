// Any bytes are a PyTorch file or an IoError, and whatever opens can be read to its last byte. The
// first byte chooses what the rest is: a whole file (zip container included), or a pickle that is
// put into a well-formed container together with two storages.
#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/error.h"
#include "engine/io/torch_bin.h"
#include "tests/engine/torch_file_builder.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 1) {
    bytes = adder::test::make_torch_file(
        bytes, {{"0", std::string(96, '\1')}, {"1", std::string(10, '\2')}});
  }
  try {
    const auto file = adder::TorchBinFile::from_bytes(bytes, "fuzz");
    for (const std::string& name : file.names()) {
      try {
        file.load(name).clone();
      } catch (const adder::IoError&) {
      }
    }
  } catch (const adder::IoError&) {
  }
  return 0;
}
