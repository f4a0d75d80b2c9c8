// The library's kernels compiled with the emulator's race detector: the other files of this program
// run them, and this one shows that a race in them would be found.
#include "simt/control.h"
#include "tests/cuda/device_test.h"

using namespace adder;
using namespace adder::test;

TEST_CASE("the detector watches the library's kernels") {
  const Tensor x = Tensor::zeros({40}, Dtype::f32, kCuda);
  std::string found;
  try {
    x.slice(0, 1, 40).add_(
        x.slice(0, 0, 39));  // an element is written here and read by its neighbour
    synchronize(kCuda);
  } catch (const simt::Error& error) {
    found = error.what();
  }
  CAPTURE(found);
  CHECK(found.find("add_in_place_kernel") != std::string::npos);
  CHECK(found.find("a race: ") != std::string::npos);
  CHECK(found.find("copy.cu:") != std::string::npos);
}
