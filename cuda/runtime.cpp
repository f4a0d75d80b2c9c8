#include "cuda/runtime.h"

#include <array>
#include <map>
#include <memory>
#include <mutex>

#include "cuda/device_state.h"

namespace adder::cuda {
namespace {

// The names of the last launches, for errors: CUDA reports a fault at some later call.
class LaunchHistory {
 public:
  void add(const char* name) { names_[next_++ % names_.size()] = name; }
  std::string text() const {
    std::string result;
    for (std::size_t i = 0; i < names_.size(); ++i) {
      const char* name = names_[(next_ + names_.size() - 1 - i) % names_.size()];
      if (name == nullptr) break;
      result += result.empty() ? name : str(", ", name);
    }
    return result.empty() ? "none" : result;
  }

 private:
  std::array<const char*, 6> names_{};
  std::size_t next_ = 0;
};

LaunchHistory& history() {
  static LaunchHistory launches;
  return launches;
}

}  // namespace

// Never destroyed: tensors in static storage may outlive any other static object, and the driver
// may be gone by then.
DeviceState& state(int index) {
  static std::mutex mutex;
  static auto* states = new std::map<int, std::unique_ptr<DeviceState>>;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<DeviceState>& slot = (*states)[index];
  if (!slot) {
    auto fresh = std::make_unique<DeviceState>();
    check(cudaSetDevice(index), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&fresh->stream, cudaStreamNonBlocking), "cudaStreamCreate");
    check(cudaDeviceGetAttribute(&fresh->multiprocessors, cudaDevAttrMultiProcessorCount, index),
          "cudaDeviceGetAttribute");
    slot = std::move(fresh);
  }
  return *slot;
}

namespace {

int count() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess) {
    cudaGetLastError();  // no driver or no device: zero of them
    return 0;
  }
  return devices;
}

std::string describe(int index) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  return str(properties.name, ", compute capability ", properties.major, ".", properties.minor,
             ", ", properties.multiProcessorCount, " multiprocessors, ",
             properties.totalGlobalMem >> 20, " MiB");
}

void* allocate(int index, std::size_t bytes) {
  DeviceState& device = state(index);
  const std::lock_guard<std::mutex> lock(device.mutex);
  return device.pool.allocate(bytes);
}

void free_block(int index, void* block, std::size_t bytes) {
  DeviceState& device = state(index);
  const std::lock_guard<std::mutex> lock(device.mutex);
  device.pool.free(block, bytes);
}

MemoryStats stats(int index) {
  DeviceState& device = state(index);
  const std::lock_guard<std::mutex> lock(device.mutex);
  return device.pool.stats_;
}

void reset_peak(int index) {
  DeviceState& device = state(index);
  const std::lock_guard<std::mutex> lock(device.mutex);
  device.pool.stats_.peak_bytes = device.pool.stats_.current_bytes;
}

void synchronize_device(int index) {
  check(cudaStreamSynchronize(state(index).stream), "cudaStreamSynchronize");
}

void release_cached(int index) {
  synchronize_device(index);
  DeviceState& device = state(index);
  const std::lock_guard<std::mutex> lock(device.mutex);
  device.pool.release();
}

}  // namespace

extern const DeviceRuntime runtime;
const DeviceRuntime runtime{.emulated = kEmulated,
                            .count = count,
                            .describe = describe,
                            .allocate = allocate,
                            .free = free_block,
                            .stats = stats,
                            .reset_peak = reset_peak,
                            .release_cached = release_cached,
                            .copy = copy_bytes,
                            .synchronize = synchronize_device,
                            .start_read = start_read,
                            .finish_read = finish_read,
                            .drop_read = drop_read,
                            .begin_recording = begin_recording,
                            .end_recording = end_recording,
                            .abandon_recording = abandon_recording,
                            .replay = replay,
                            .drop_recording = drop_recording,
                            .recorded_launches = recorded_launches};

cudaStream_t stream(Device device) {
  return state(device.index).stream;
}

int multiprocessors(Device device) {
  return state(device.index).multiprocessors;
}

const Blas& blas(Device device) {
  DeviceState& own = state(device.index);
  const std::lock_guard<std::mutex> lock(own.mutex);
  if (own.blas.handle == nullptr) {
    Blas fresh;
    // What NVIDIA recommends for Hopper; without a buffer of ours products could not be captured.
    fresh.workspace_bytes = (kEmulated ? std::size_t{1} : std::size_t{32}) << 20;
    fresh.workspace = own.pool.allocate(fresh.workspace_bytes);  // for good
    check(cublasLtCreate(&fresh.lt), "cublasLtCreate");
    check(cublasCreate(&fresh.handle), "cublasCreate");
    check(cublasSetStream(fresh.handle, own.stream), "cublasSetStream");
    check(cublasSetWorkspace(fresh.handle, fresh.workspace, fresh.workspace_bytes),
          "cublasSetWorkspace");
    own.blas = fresh;
  }
  return own.blas;
}

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw DeviceError(str(what, ": ", cudaGetErrorName(status), " (", cudaGetErrorString(status),
                        "); last launched: ", history().text()));
}

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(str(what, ": cuBLAS status ", static_cast<int>(status),
                        "; last launched: ", history().text()));
}

void allow_shared(const void* kernel, std::size_t bytes) {
  if (bytes <= std::size_t{48} << 10) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        str("asking for ", bytes, " bytes of shared memory").c_str());
}

void remember_launch(const char* name) {
  history().add(name);
}

void check_launch(const char* kernel_name) {
  remember_launch(kernel_name);
  check(cudaGetLastError(), kernel_name);
}

}  // namespace adder::cuda
