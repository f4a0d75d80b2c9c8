// Device memory: blocks that are kept and handed out again. Private to cuda/.
#pragma once

#include <algorithm>
#include <bit>
#include <map>
#include <unordered_set>
#include <vector>

#include "cuda/runtime.h"
#include "engine/memory.h"

namespace adder::cuda {

#ifdef ADDER_SIMT_EMULATOR
inline constexpr bool kEmulated = true;
#else
inline constexpr bool kEmulated = false;
#endif

// Batches of many lengths shall share blocks: eight sizes to a power of two, 512 bytes at least.
// The emulator gets what is asked for, so that the address sanitizer sees every overrun.
inline std::size_t block_bytes(std::size_t bytes) {
  if (kEmulated) return bytes;
  const std::size_t step = std::max<std::size_t>(std::bit_floor(bytes) / 8, 512);
  return (bytes + step - 1) / step * step;
}

// Freed blocks are kept by size and handed out again: cudaMalloc waits for the device.
//
// A replay writes wherever its recording did, so blocks handed out during a recording are set
// aside: once free, they serve further recordings and nothing else, until no recording is left.
class Pool {
 public:
  void* allocate(std::size_t asked) {
    const std::size_t bytes = block_bytes(asked);
    void* block = recording_ ? take(aside_, bytes) : nullptr;
    if (block == nullptr) block = take(free_, bytes);
    if (block == nullptr) {
      cudaError_t status = cudaMalloc(&block, bytes);
      if (status == cudaErrorMemoryAllocation && !recording_) {
        cudaGetLastError();  // it is not sticky; forget it
        release();
        status = cudaMalloc(&block, bytes);
      }
      if (status != cudaSuccess) out_of_memory(asked, status);
    }
    if (recording_) owned_.insert(block);
    stats_.current_bytes += static_cast<std::int64_t>(bytes);
    stats_.peak_bytes = std::max(stats_.peak_bytes, stats_.current_bytes);
    return block;
  }

  void free(void* block, std::size_t asked) {
    const std::size_t bytes = block_bytes(asked);
    stats_.current_bytes -= static_cast<std::int64_t>(bytes);
    stats_.cached_bytes += static_cast<std::int64_t>(bytes);
    (owned_.contains(block) ? aside_ : free_)[bytes].push_back(block);
  }

  void release() {
    for (auto& [bytes, blocks] : free_) {
      for (void* block : blocks) cudaFree(block);
      stats_.cached_bytes -= static_cast<std::int64_t>(bytes * blocks.size());
    }
    free_.clear();
  }

  void begin_recording() {
    recording_ = true;
    ++recordings_;
  }
  void end_recording() { recording_ = false; }
  void drop_recording() {
    if (--recordings_ > 0) return;
    for (auto& [bytes, blocks] : aside_) {
      auto& free = free_[bytes];
      free.insert(free.end(), blocks.begin(), blocks.end());
    }
    aside_.clear();
    owned_.clear();
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

  using Blocks = std::map<std::size_t, std::vector<void*>>;

  void* take(Blocks& from, std::size_t bytes) {
    const auto found = from.find(bytes);
    if (found == from.end() || found->second.empty()) return nullptr;
    void* block = found->second.back();
    found->second.pop_back();
    stats_.cached_bytes -= static_cast<std::int64_t>(bytes);
    return block;
  }

  Blocks free_;
  Blocks aside_;
  std::unordered_set<void*> owned_;  // by recordings
  bool recording_ = false;
  int recordings_ = 0;
};

}  // namespace adder::cuda
