// Copies between the host and a device, and within it.
#include "cuda/device_state.h"

namespace adder::cuda {
namespace {

const void* keep_constant(Graph& graph, const void* from, std::size_t bytes) {
  if (bytes > kConstantBytes - graph.used) {
    throw DeviceError(str("recording: ", bytes, " more bytes of constants, ",
                          kConstantBytes - graph.used, " are left"));
  }
  char* kept = graph.constants + graph.used;
  std::memcpy(kept, from, bytes);
  graph.used += (bytes + 63) / 64 * 64;
  return kept;
}

}  // namespace

void copy_bytes(void* to, Device to_device, const void* from, Device from_device,
                std::size_t bytes) {
  if (bytes == 0) return;
  DeviceState& device = state(to_device.is_cpu() ? from_device.index : to_device.index);
  const cudaMemcpyKind kind = to_device.is_cpu()     ? cudaMemcpyDeviceToHost
                              : from_device.is_cpu() ? cudaMemcpyHostToDevice
                                                     : cudaMemcpyDeviceToDevice;
  if (kind == cudaMemcpyHostToDevice) {
    const std::lock_guard<std::mutex> lock(device.mutex);
    if (device.recording) {
      from = keep_constant(*device.recording, from, bytes);
      check(cudaMemcpyAsync(to, from, bytes, kind, device.stream), "cudaMemcpyAsync");
    } else {
      device.staging.copy(to, from, bytes, device.stream);
    }
    return;
  }
  check(cudaMemcpyAsync(to, from, bytes, kind, device.stream), "cudaMemcpyAsync");
  if (to_device.is_cpu()) {
    check(cudaStreamSynchronize(device.stream), "cudaStreamSynchronize");
  }
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

}  // namespace adder::cuda
