// The one device there is, its limits, and the errors of the runtime.
#include <cstdlib>
#include <cstring>
#include <map>

#include "tests/simt/internal.h"

namespace simt {
namespace {

thread_local cudaError_t last_error = cudaSuccess;

// Kernels that were allowed more dynamic shared memory than the default.
std::map<const void*, int>& shared_limits() {
  static std::map<const void*, int> limits;
  return limits;
}

// What hardware would answer to the launch.
cudaError_t check_extents(const Launch& launch) {
  const dim3 grid = launch.grid;
  const dim3 block = launch.block;
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kThreadsPerBlock || block.x > 1024 || block.y > 1024 ||
      block.z > 64) {
    return cudaErrorInvalidConfiguration;
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffU || grid.y > 65535 ||
      grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  const auto limit = shared_limits().find(launch.function);
  const std::size_t allowed =
      limit == shared_limits().end() ? kSharedDefault : static_cast<std::size_t>(limit->second);
  return launch.shared_bytes > allowed ? cudaErrorInvalidValue : cudaSuccess;
}

void check_pointers(const Launch& launch) {
  for (std::size_t i = 0; i < launch.pointers.size(); ++i) {
    const void* pointer = launch.pointers[i];
    if (pointer != nullptr && memory_kind(pointer) == MemoryKind::pageable) {
      throw Error(launch.name + ": argument " + std::to_string(i + 1) +
                  " points neither to device memory nor to pinned memory (freed, or the host's?)");
    }
  }
}

}  // namespace

int device_count() {
  const char* devices = std::getenv("ADDER_SIMT_DEVICES");
  return devices != nullptr && std::strcmp(devices, "0") == 0 ? 0 : 1;
}

cudaError_t record_error(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

std::recursive_mutex& emulator_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

void submit_launch(Launch launch, cudaStream_t stream) {
  // ADDER_LAUNCH names template kernels in parentheses.
  if (launch.name.size() > 2 && launch.name.front() == '(' && launch.name.back() == ')') {
    launch.name = launch.name.substr(1, launch.name.size() - 2);
  }
  api([&] {
    const cudaError_t error = check_extents(launch);
    if (error != cudaSuccess) return error;
    return submit(stream, [launch = std::move(launch)] {
      check_pointers(launch);
      const DeviceAccess access;
      run_grid(launch);
    });
  });
}

}  // namespace simt

using simt::api;

cudaError_t cudaGetLastError() {
  const cudaError_t error = simt::last_error;
  simt::last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() {
  return simt::last_error;
}

namespace {

struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* text;
};
#define SIMT_ERROR(name, text) \
  { name, #name, text }
constexpr ErrorText kErrors[] = {
    SIMT_ERROR(cudaSuccess, "no error"),
    SIMT_ERROR(cudaErrorInvalidValue, "invalid argument"),
    SIMT_ERROR(cudaErrorMemoryAllocation, "out of memory"),
    SIMT_ERROR(cudaErrorInitializationError, "initialization error"),
    SIMT_ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    SIMT_ERROR(cudaErrorInvalidPitchValue, "invalid pitch argument"),
    SIMT_ERROR(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    SIMT_ERROR(cudaErrorInsufficientDriver, "driver version is insufficient for the runtime"),
    SIMT_ERROR(cudaErrorInvalidDeviceFunction, "invalid device function"),
    SIMT_ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    SIMT_ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    SIMT_ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    SIMT_ERROR(cudaErrorNotReady, "device not ready"),
    SIMT_ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    SIMT_ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    SIMT_ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    SIMT_ERROR(cudaErrorNotSupported, "operation not supported"),
    SIMT_ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted while capturing"),
    SIMT_ERROR(cudaErrorStreamCaptureInvalidated, "the capture failed earlier"),
    SIMT_ERROR(cudaErrorStreamCaptureMerge, "operation would merge two captures"),
    SIMT_ERROR(cudaErrorStreamCaptureUnmatched, "capture was not begun in this stream"),
    SIMT_ERROR(cudaErrorStreamCaptureUnjoined, "capture has work that did not join its stream"),
    SIMT_ERROR(cudaErrorStreamCaptureIsolation, "dependency on work outside of the capture"),
    SIMT_ERROR(cudaErrorStreamCaptureImplicit, "implicit dependency on a capturing stream"),
    SIMT_ERROR(cudaErrorCapturedEvent, "operation not permitted on an event of a capture"),
    SIMT_ERROR(cudaErrorUnknown, "unknown error"),
};
#undef SIMT_ERROR

const ErrorText& find_error(cudaError_t error) {
  for (const ErrorText& entry : kErrors) {
    if (entry.error == error) return entry;
  }
  static constexpr ErrorText unknown{cudaErrorUnknown, "unrecognized error code",
                                     "unrecognized error code"};
  return unknown;
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  return find_error(error).name;
}
const char* cudaGetErrorString(cudaError_t error) {
  return find_error(error).text;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = simt::device_count();
  return simt::record_error(*count == 0 ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaSetDevice(int device) {
  return api([&] { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; });
}

cudaError_t cudaGetDevice(int* device) {
  return api([&] {
    *device = 0;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return api([&] {
    if (device != 0) return cudaErrorInvalidDevice;
    *properties = {};
    std::strcpy(properties->name, "SIMT emulator");
    std::size_t free = 0;
    cudaMemGetInfo(&free, &properties->totalGlobalMem);
    properties->sharedMemPerBlock = simt::kSharedDefault;
    properties->sharedMemPerBlockOptin = simt::kSharedOptIn;
    properties->sharedMemPerMultiprocessor = simt::kSharedOptIn + 1024;
    properties->regsPerBlock = 65536;
    properties->regsPerMultiprocessor = 65536;
    properties->warpSize = 32;
    properties->memPitch = 0x7fffffff;
    properties->maxThreadsPerBlock = simt::kThreadsPerBlock;
    properties->maxThreadsPerMultiProcessor = simt::kThreadsPerMultiprocessor;
    properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
    properties->maxThreadsDim[2] = 64;
    properties->maxGridSize[0] = 0x7fffffff;
    properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
    properties->totalConstMem = 65536;
    properties->major = 9;
    properties->multiProcessorCount = 132;
    properties->concurrentKernels = 1;
    properties->asyncEngineCount = 3;
    properties->unifiedAddressing = 1;
    properties->memoryBusWidth = 6144;
    properties->l2CacheSize = 50 << 20;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      break;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      break;
    case cudaDevAttrMaxRegistersPerBlock:
      *value = properties.regsPerBlock;
      break;
    case cudaDevAttrClockRate:
      *value = 1980000;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrMemoryClockRate:
      *value = 3201000;
      break;
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = properties.memoryBusWidth;
      break;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = properties.maxThreadsPerMultiProcessor;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      break;
    default:
      return simt::record_error(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = simt::device_count() == 0 ? 0 : CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  return api([&] {
    if (function == nullptr) return cudaErrorInvalidDeviceFunction;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || static_cast<std::size_t>(value) > simt::kSharedOptIn) {
      return cudaErrorInvalidValue;
    }
    simt::shared_limits()[function] = value;
    return cudaSuccess;
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function,
                                                          int block_size,
                                                          std::size_t shared_bytes) {
  return api([&] {
    if (function == nullptr) return cudaErrorInvalidDeviceFunction;
    if (block_size <= 0 || block_size > simt::kThreadsPerBlock) return cudaErrorInvalidValue;
    // Registers, the third limit, are the compiler's to know.
    const auto by_threads = simt::kThreadsPerMultiprocessor / ((block_size + 31) / 32 * 32);
    const auto by_shared = static_cast<int>((simt::kSharedOptIn + 1024) / (shared_bytes + 1024));
    *blocks = std::min({by_threads, by_shared, 32});
    return cudaSuccess;
  });
}
