// Device and pinned memory, and copies.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>

#include "tests/simt/internal.h"
#include "tests/simt/sanitizer.h"

namespace simt {
namespace {

constexpr std::size_t kAlignment = 256;  // what cudaMalloc promises

struct Allocation {
  std::size_t bytes;
  MemoryKind kind;
};

struct Memory {
  std::map<std::uintptr_t, Allocation> allocations;
  std::size_t total = std::size_t{4} << 30U;
  std::size_t used = 0;
  int accesses = 0;  // how many DeviceAccess live
  bool guard = true;
};

std::size_t parse_bytes(const std::string& text) {
  if (text.find_first_not_of("0123456789") != std::string::npos || text.size() > 18) {
    throw std::invalid_argument("ADDER_SIMT_MEMORY: " + text + " is not a number of bytes");
  }
  return std::stoull(text);
}

Memory& memory() {
  static auto* instance = [] {
    auto* made = new Memory;
    const char* guard = std::getenv("ADDER_SIMT_GUARD");
    made->guard = guard == nullptr || std::strcmp(guard, "0") != 0;
    const char* bytes = std::getenv("ADDER_SIMT_MEMORY");
    if (bytes != nullptr && *bytes != '\0') made->total = parse_bytes(bytes);
    return made;
  }();
  return *instance;
}

// The allocation that holds the address or ends at it; null where there is none.
const std::pair<const std::uintptr_t, Allocation>* find(const void* pointer) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  const auto& allocations = memory().allocations;
  auto next = allocations.upper_bound(address);
  if (next == allocations.begin()) return nullptr;
  --next;
  return address <= next->first + next->second.bytes ? &*next : nullptr;
}

void poison_device_memory(bool poisoned) {
  for (const auto& [address, allocation] : memory().allocations) {
    if (allocation.kind != MemoryKind::device) continue;
    const auto* bytes = reinterpret_cast<const void*>(address);
    if (poisoned) {
      poison(bytes, allocation.bytes);
    } else {
      unpoison(bytes, allocation.bytes);
    }
  }
}

cudaError_t allocate(void** pointer, std::size_t bytes, MemoryKind kind) {
  Memory& m = memory();
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (kind == MemoryKind::device && bytes > m.total - std::min(m.used, m.total)) {
    return cudaErrorMemoryAllocation;
  }
  // Exactly the bytes asked for, so that ASan sees the first one beyond them.
  if (posix_memalign(pointer, kAlignment, bytes) != 0) return cudaErrorMemoryAllocation;
  std::memset(*pointer, 0xff, bytes);
  m.allocations[reinterpret_cast<std::uintptr_t>(*pointer)] = {bytes, kind};
  if (kind == MemoryKind::device) {
    m.used += bytes;
    if (m.guard && m.accesses == 0) poison(*pointer, bytes);
  }
  return cudaSuccess;
}

cudaError_t release(void* pointer, MemoryKind kind) {
  Memory& m = memory();
  if (pointer == nullptr) return cudaSuccess;
  const auto found = m.allocations.find(reinterpret_cast<std::uintptr_t>(pointer));
  if (found == m.allocations.end() || found->second.kind != kind) return cudaErrorInvalidValue;
  if (kind == MemoryKind::device) {
    m.used -= found->second.bytes;
    unpoison(pointer, found->second.bytes);
  }
  m.allocations.erase(found);
  std::free(pointer);
  return cudaSuccess;
}

}  // namespace

MemoryKind memory_kind(const void* pointer) {
  const auto* found = find(pointer);
  return found == nullptr ? MemoryKind::pageable : found->second.kind;
}

bool in_allocation(const void* pointer, std::size_t bytes) {
  const auto* found = find(pointer);
  return found != nullptr &&
         reinterpret_cast<std::uintptr_t>(pointer) + bytes <= found->first + found->second.bytes;
}

DeviceAccess::DeviceAccess() {
  if (memory().accesses++ == 0 && memory().guard && kAddressSanitizer) poison_device_memory(false);
}

DeviceAccess::~DeviceAccess() {
  if (--memory().accesses == 0 && memory().guard && kAddressSanitizer) poison_device_memory(true);
}

void set_device_memory(std::size_t bytes) {
  memory().total = bytes;
}
std::size_t device_bytes_in_use() {
  return memory().used;
}

void set_host_guard(bool on) {
  if (memory().guard != on && kAddressSanitizer) poison_device_memory(on);
  memory().guard = on;
}

// --- copies --------------------------------------------------------------------------------------
namespace {

struct Copy {
  void* to;
  std::size_t to_pitch;
  const void* from;
  std::size_t from_pitch;
  std::size_t width, height;
  cudaMemcpyKind kind;
};

std::size_t extent(std::size_t pitch, const Copy& copy) {
  return (copy.height - 1) * pitch + copy.width;
}

bool side_is_right(const void* pointer, std::size_t bytes, bool device) {
  const MemoryKind kind = memory_kind(pointer);
  if (device) return kind == MemoryKind::device && in_allocation(pointer, bytes);
  return kind != MemoryKind::device &&
         (kind == MemoryKind::pageable || in_allocation(pointer, bytes));
}

// The runtime knows its allocations: a side of the wrong kind, or one that leaves its allocation,
// is an invalid value there too.
cudaError_t check(Copy& copy) {
  if (copy.width > copy.to_pitch || copy.width > copy.from_pitch) return cudaErrorInvalidPitchValue;
  if (copy.width == 0 || copy.height == 0) return cudaSuccess;
  if (copy.to == nullptr || copy.from == nullptr) return cudaErrorInvalidValue;
  bool to_device = memory_kind(copy.to) == MemoryKind::device;
  bool from_device = memory_kind(copy.from) == MemoryKind::device;
  switch (copy.kind) {
    case cudaMemcpyHostToHost:
      to_device = from_device = false;
      break;
    case cudaMemcpyHostToDevice:
      to_device = true;
      from_device = false;
      break;
    case cudaMemcpyDeviceToHost:
      to_device = false;
      from_device = true;
      break;
    case cudaMemcpyDeviceToDevice:
      to_device = from_device = true;
      break;
    case cudaMemcpyDefault:
      break;
    default:
      return cudaErrorInvalidMemcpyDirection;
  }
  const bool right = side_is_right(copy.to, extent(copy.to_pitch, copy), to_device) &&
                     side_is_right(copy.from, extent(copy.from_pitch, copy), from_device);
  return right ? cudaSuccess : cudaErrorInvalidValue;
}

void run(const Copy& copy) {
  const DeviceAccess access;
  for (std::size_t row = 0; row < copy.height; ++row) {
    std::memmove(static_cast<char*>(copy.to) + row * copy.to_pitch,
                 static_cast<const char*>(copy.from) + row * copy.from_pitch, copy.width);
  }
}

cudaError_t copy_now(Copy copy) {
  return api([&] {
    cudaError_t error = refuse_in_capture(true);
    if (error == cudaSuccess) error = check(copy);
    if (error == cudaSuccess) error = drain_legacy();
    if (error == cudaSuccess && copy.width > 0) run(copy);
    return error;
  });
}

cudaError_t copy_later(Copy copy, cudaStream_t stream) {
  return api([&] {
    const cudaError_t error = check(copy);
    if (error != cudaSuccess) return error;
    if (copy.width == 0 || copy.height == 0) return submit(stream, [] {});
    if (is_capturing(stream) || !queued()) return submit(stream, [copy] { run(copy); });
    // Memory that is not pinned is staged: the source is read before the call returns, and a
    // destination is written before it returns.
    if (memory_kind(copy.from) == MemoryKind::pageable) {
      std::vector<char> staged(copy.width * copy.height);
      for (std::size_t row = 0; row < copy.height; ++row) {
        std::memcpy(&staged[row * copy.width],
                    static_cast<const char*>(copy.from) + row * copy.from_pitch, copy.width);
      }
      return submit(stream, [copy, staged = std::move(staged)]() mutable {
        copy.from = staged.data();
        copy.from_pitch = copy.width;
        run(copy);
      });
    }
    const cudaError_t submitted = submit(stream, [copy] { run(copy); });
    if (submitted != cudaSuccess || memory_kind(copy.to) != MemoryKind::pageable) return submitted;
    return drain(stream);
  });
}

void set(void* to, int value, std::size_t bytes) {
  const DeviceAccess access;
  std::memset(to, value, bytes);
}

}  // namespace
}  // namespace simt

using simt::api;
using simt::MemoryKind;

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  return api([&] {
    const cudaError_t error = simt::refuse_in_capture(false);
    return error != cudaSuccess ? error : simt::allocate(pointer, bytes, MemoryKind::device);
  });
}

cudaError_t cudaFree(void* pointer) {
  return api([&] {
    const cudaError_t error = simt::refuse_in_capture(false);
    if (error != cudaSuccess) return error;
    simt::drain_all();  // freeing waits for the device
    return simt::release(pointer, MemoryKind::device);
  });
}

cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned /*flags*/) {
  return api([&] {
    const cudaError_t error = simt::refuse_in_capture(false);
    return error != cudaSuccess ? error : simt::allocate(pointer, bytes, MemoryKind::pinned);
  });
}

cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) {
  return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* pointer) {
  return api([&] {
    const cudaError_t error = simt::refuse_in_capture(false);
    if (error != cudaSuccess) return error;
    simt::drain_all();
    return simt::release(pointer, MemoryKind::pinned);
  });
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  return api([&] {
    *total = simt::memory().total;
    *free = *total - std::min(*total, simt::memory().used);
    return cudaSuccess;
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  return api([&] {
    *attributes = {};
    auto* address = const_cast<void*>(pointer);
    const MemoryKind kind = simt::memory_kind(pointer);
    if (kind == MemoryKind::device) attributes->type = cudaMemoryTypeDevice;
    if (kind == MemoryKind::pinned) attributes->type = cudaMemoryTypeHost;
    if (kind != MemoryKind::pageable) attributes->devicePointer = address;
    if (kind != MemoryKind::device) attributes->hostPointer = address;
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return simt::copy_now({to, bytes, from, bytes, bytes, 1, kind});
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return simt::copy_later({to, bytes, from, bytes, bytes, 1, kind}, stream);
}

cudaError_t cudaMemcpy2D(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                         std::size_t width, std::size_t height, cudaMemcpyKind kind) {
  return simt::copy_now({to, to_pitch, from, from_pitch, width, height, kind});
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  return simt::copy_later({to, to_pitch, from, from_pitch, width, height, kind}, stream);
}

cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return api([&] {
    if (bytes > 0 && !simt::side_is_right(to, bytes, true)) return cudaErrorInvalidValue;
    return simt::submit(stream, [=] { simt::set(to, value, bytes); });
  });
}
