// Times of every kernel row, of whole training steps and of decoding on a CUDA device, beside the
// least time that device needs (harness.h). One JSON line per figure.
//
//   bench_cuda [--device cuda:N] [--tiny] [--only PREFIX] [GROUP...]
//
// Groups: scan, layer, product, step; all of them by default. --only names figures by how they
// start ("selective_scan"). --tiny: shapes small enough for the emulator of tests/simt, whose times
// mean nothing. Exit status: 0, 1 when a figure ended in an error, 2 usage, 4 no device.
#include <cstdio>
#include <map>
#include <set>

#include "bench/cuda/rows.h"
#include "engine/device_runtime.h"

using namespace adder;
using namespace adder::bench;

namespace {

const std::map<std::string, void (*)(Harness&)> kGroups{
    {"scan", scan_rows}, {"layer", layer_rows}, {"product", product_rows}, {"step", step_rows}};

int usage(const std::string& wrong) {
  std::fprintf(stderr,
               "bench_cuda: unknown %s\nusage: bench_cuda [--device cuda:N] [--tiny] [--only "
               "PREFIX] [scan|layer|product|step ...]\n",
               wrong.c_str());
  return 2;
}

}  // namespace

int main(int argc, char** argv) try {
  std::string device_text = "cuda";
  std::string only;
  bool tiny = false;
  std::set<std::string> groups;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--tiny") {
      tiny = true;
    } else if ((word == "--only" || word == "--device") && i + 1 < argc) {
      (word == "--only" ? only : device_text) = argv[++i];
    } else if (kGroups.contains(word)) {
      groups.insert(word);
    } else {
      return usage(word);
    }
  }
  const Device device = parse_device(device_text);
  if (device.is_cpu()) return usage("device " + device_text);
  const DeviceRuntime& runtime = runtime_of(device);
  const Json header{{"bench", "device"},
                    {"name", runtime.describe(device.index)},
                    {"emulated", runtime.emulated},
                    {"tiny", tiny}};
  std::printf("%s\n", header.dump().c_str());
  std::fflush(stdout);
  Harness harness(device, tiny, only);
  harness.measure_ceilings();
  for (const char* group : {"scan", "layer", "product", "step"}) {
    if (groups.empty() || groups.contains(group)) kGroups.at(group)(harness);
  }
  return harness.failures() == 0 ? 0 : 1;
} catch (const DeviceError& error) {
  std::fprintf(stderr, "bench_cuda: %s\n", error.what());
  return 4;
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench_cuda: %s\n", error.what());
  return 1;
}
