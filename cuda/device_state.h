// What cuda/ keeps of one device: its stream, memory, and copies under way. Private to cuda/.
#pragma once

#include <array>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/pool.h"
#include "cuda/runtime.h"
#include "engine/device_runtime.h"

namespace adder::cuda {

// The size of the ring's parts; small in the emulator, so that tests go around it.
inline constexpr std::size_t kStagingPart =
    kEmulated ? std::size_t{64} << 10 : std::size_t{1} << 20;

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

// A CUDA graph, and the pinned memory from which it copies what was fixed by the recording.
struct Graph {
  cudaGraphExec_t exec = nullptr;
  std::size_t nodes = 0;
  char* constants = nullptr;
  std::size_t used = 0;
};
inline constexpr std::size_t kConstantBytes = std::size_t{256} << 10;

// One device: its stream, its cuBLAS handle, its memory.
struct DeviceState {
  std::mutex mutex;
  cudaStream_t stream = nullptr;
  Blas blas;
  int multiprocessors = 1;
  Pool pool;
  Staging staging;
  std::vector<Read*> idle_reads;
  std::unique_ptr<Graph> recording;  // the one under way
};

DeviceState& state(int index);

// Remembers a launch for errors.
void remember_launch(const char* name);

// The functions of DeviceRuntime that have files of their own.
void copy_bytes(void* to, Device to_device, const void* from, Device from_device,
                std::size_t bytes);
void* start_read(int index, const void* from, std::size_t bytes);
void finish_read(int index, void* ticket, void* to);
void drop_read(int index, void* ticket) noexcept;
void begin_recording(int index);
void* end_recording(int index);
void abandon_recording(int index) noexcept;
void replay(int index, void* recording);
void drop_recording(int index, void* recording) noexcept;
std::int64_t recorded_launches(const void* recording);

}  // namespace adder::cuda
