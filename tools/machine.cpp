#include "tools/machine.h"

#include "engine/cpu/parallel.h"
#include "engine/cpu/simd.h"
#include "engine/device_runtime.h"
#include "engine/error.h"
#include "engine/kernels/matmul.h"

namespace adder::tools {
namespace {

std::string cuda_text(const DeviceRuntime* runtime, int count) {
  if (runtime == nullptr) return "not in this build";
  if (runtime->emulated) return "emulated on the CPU";
  return str("in this build, ", count, count == 1 ? " device" : " devices");
}

}  // namespace

std::vector<std::pair<std::string, std::string>> machine_rows() {
  std::vector<std::pair<std::string, std::string>> rows = {
    {"adder", ADDER_VERSION},
#if defined(__clang__)
    {"compiler", str("clang ", __clang_version__)},
#else
    {"compiler", str("GCC ", __VERSION__)},
#endif
    {"BLAS", matmul_library()},
    {"SIMD", str(cpu::kVectorBytes * 8, "-bit vectors")},
    {"threads", str(cpu::num_threads())}
  };
  const DeviceRuntime* runtime = cuda_runtime();
  const int count = runtime == nullptr ? 0 : runtime->count();
  rows.emplace_back("CUDA", cuda_text(runtime, count));
  for (int i = 0; i < count; ++i) rows.emplace_back(str("cuda:", i), runtime->describe(i));
  return rows;
}

}  // namespace adder::tools
