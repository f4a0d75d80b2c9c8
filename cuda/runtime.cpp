#include "cuda/runtime.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/device_runtime.h"

namespace adder::cuda {
namespace {

#ifdef ADDER_SIMT_EMULATOR
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

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

// Batches of many lengths shall share blocks: eight sizes to a power of two, 512 bytes at least.
// The emulator gets what is asked for, so that the address sanitizer sees every overrun.
std::size_t block_bytes(std::size_t bytes) {
  if (kEmulated) return bytes;
  const std::size_t step = std::max<std::size_t>(std::bit_floor(bytes) / 8, 512);
  return (bytes + step - 1) / step * step;
}

// Freed blocks are kept by size and handed out again: cudaMalloc waits for the device.
class Pool {
 public:
  void* allocate(std::size_t asked) {
    const std::size_t bytes = block_bytes(asked);
    auto found = free_.find(bytes);
    void* block = nullptr;
    if (found != free_.end() && !found->second.empty()) {
      block = found->second.back();
      found->second.pop_back();
      stats_.cached_bytes -= static_cast<std::int64_t>(bytes);
    } else {
      cudaError_t status = cudaMalloc(&block, bytes);
      if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();  // it is not sticky; forget it
        release();
        status = cudaMalloc(&block, bytes);
      }
      if (status != cudaSuccess) out_of_memory(asked, status);
    }
    stats_.current_bytes += static_cast<std::int64_t>(bytes);
    stats_.peak_bytes = std::max(stats_.peak_bytes, stats_.current_bytes);
    return block;
  }

  void free(void* block, std::size_t asked) {
    const std::size_t bytes = block_bytes(asked);
    stats_.current_bytes -= static_cast<std::int64_t>(bytes);
    stats_.cached_bytes += static_cast<std::int64_t>(bytes);
    free_[bytes].push_back(block);
  }

  void release() {
    for (auto& [bytes, blocks] : free_) {
      for (void* block : blocks) cudaFree(block);
    }
    free_.clear();
    stats_.cached_bytes = 0;
  }

  MemoryStats stats_;

 private:
  [[noreturn]] void out_of_memory(std::size_t bytes, cudaError_t status) const {
    if (status != cudaErrorMemoryAllocation) check(status, "cudaMalloc");
    cudaGetLastError();
    std::size_t free_bytes = 0;
    std::size_t total = 0;
    cudaMemGetInfo(&free_bytes, &total);
    throw DeviceError(str("out of memory on cuda: asked for ", bytes, " bytes, ",
                          stats_.current_bytes, " bytes are held by tensors, ", free_bytes, " of ",
                          total, " bytes are free"));
  }

  std::map<std::size_t, std::vector<void*>> free_;
};

// The size of the ring's parts; small in the emulator, so that tests go around it.
constexpr std::size_t kStagingPart = kEmulated ? std::size_t{64} << 10 : std::size_t{1} << 20;

// Copies to the device go through a ring of pinned memory, which the device reads while the host
// goes on. An event marks the last copy out of each part; the host waits for it before it writes
// there again.
class Staging {
 public:
  void copy(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
    if (memory_ == nullptr) set_up();
    while (bytes > 0) {
      if (used_ == kStagingPart) next_part(stream);
      const std::size_t count = std::min(bytes, kStagingPart - used_);
      char* staged = memory_ + part_ * kStagingPart + used_;
      std::memcpy(staged, from, count);
      check(cudaMemcpyAsync(to, staged, count, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
      used_ = std::min((used_ + count + kAlignment - 1) / kAlignment * kAlignment, kStagingPart);
      to = static_cast<char*>(to) + count;
      from = static_cast<const char*>(from) + count;
      bytes -= count;
    }
  }

 private:
  static constexpr std::size_t kParts = 4;
  static constexpr std::size_t kAlignment = 64;

  void set_up() {
    void* memory = nullptr;
    check(cudaMallocHost(&memory, kParts * kStagingPart), "cudaMallocHost");
    for (cudaEvent_t& event : left_) {
      check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    }
    memory_ = static_cast<char*>(memory);
  }
  void next_part(cudaStream_t stream) {
    check(cudaEventRecord(left_[part_], stream), "cudaEventRecord");
    part_ = (part_ + 1) % kParts;
    check(cudaEventSynchronize(left_[part_]), "cudaEventSynchronize");
    used_ = 0;
  }

  char* memory_ = nullptr;
  std::array<cudaEvent_t, kParts> left_{};
  std::size_t part_ = 0;
  std::size_t used_ = 0;
};

// A copy to the host under way, with the pinned memory it goes to.
struct Read {
  void* memory = nullptr;
  std::size_t capacity = 0;
  std::size_t bytes = 0;
  cudaEvent_t done = nullptr;
};

// One device: its stream, its cuBLAS handle, its memory.
struct DeviceState {
  std::mutex mutex;
  cudaStream_t stream = nullptr;
  Blas blas;
  int multiprocessors = 1;
  Pool pool;
  Staging staging;
  std::vector<Read*> idle_reads;
};

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

void copy_bytes(void* to, Device to_device, const void* from, Device from_device,
                std::size_t bytes) {
  if (bytes == 0) return;
  const int index = to_device.is_cpu() ? from_device.index : to_device.index;
  const cudaMemcpyKind kind = to_device.is_cpu()     ? cudaMemcpyDeviceToHost
                              : from_device.is_cpu() ? cudaMemcpyHostToDevice
                                                     : cudaMemcpyDeviceToDevice;
  if (kind == cudaMemcpyHostToDevice) {
    DeviceState& device = state(index);
    const std::lock_guard<std::mutex> lock(device.mutex);
    device.staging.copy(to, from, bytes, device.stream);
    return;
  }
  check(cudaMemcpyAsync(to, from, bytes, kind, state(index).stream), "cudaMemcpyAsync");
  if (to_device.is_cpu()) synchronize_device(index);
}

void* start_read(int index, const void* from, std::size_t bytes) {
  DeviceState& device = state(index);
  const std::lock_guard<std::mutex> lock(device.mutex);
  const auto fits = std::find_if(device.idle_reads.begin(), device.idle_reads.end(),
                                 [&](const Read* read) { return read->capacity >= bytes; });
  std::unique_ptr<Read> read;
  if (fits != device.idle_reads.end()) {
    read.reset(*fits);
    device.idle_reads.erase(fits);
  } else {
    read = std::make_unique<Read>();
    read->capacity = std::max<std::size_t>(bytes, 64);
    check(cudaMallocHost(&read->memory, read->capacity), "cudaMallocHost");
    check(cudaEventCreateWithFlags(&read->done, cudaEventDisableTiming), "cudaEventCreate");
  }
  read->bytes = bytes;
  check(cudaMemcpyAsync(read->memory, from, bytes, cudaMemcpyDeviceToHost, device.stream),
        "cudaMemcpyAsync");
  check(cudaEventRecord(read->done, device.stream), "cudaEventRecord");
  return read.release();
}

// The stream's order keeps a block that is handed out again from being overwritten by the old copy
// after the new one.
void drop_read(int index, void* ticket) noexcept {
  DeviceState& device = state(index);
  const std::lock_guard<std::mutex> lock(device.mutex);
  device.idle_reads.push_back(static_cast<Read*>(ticket));
}

void finish_read(int index, void* ticket, void* to) {
  const auto* read = static_cast<const Read*>(ticket);
  const cudaError_t status = cudaEventSynchronize(read->done);
  if (status == cudaSuccess) std::memcpy(to, read->memory, read->bytes);
  drop_read(index, ticket);
  check(status, "cudaEventSynchronize");
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
                            .drop_read = drop_read};

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
    check(cudaMalloc(&fresh.workspace, fresh.workspace_bytes), "cudaMalloc");
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

void check_launch(const char* kernel_name) {
  history().add(kernel_name);
  check(cudaGetLastError(), kernel_name);
}

}  // namespace adder::cuda
