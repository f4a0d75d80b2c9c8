// Recordings: a stream's capture, instantiated as a CUDA graph.
#include "cuda/device_state.h"

namespace adder::cuda {

void drop_recording(int index, void* recording) noexcept {
  const std::unique_ptr<Graph> graph(static_cast<Graph*>(recording));
  DeviceState& device = state(index);
  const std::lock_guard<std::mutex> lock(device.mutex);
  cudaStreamSynchronize(device.stream);  // the last replay may be under way
  if (graph->exec != nullptr) cudaGraphExecDestroy(graph->exec);
  cudaFreeHost(graph->constants);
  device.pool.drop_recording();
}

void begin_recording(int index) {
  DeviceState& device = state(index);
  const std::lock_guard<std::mutex> lock(device.mutex);
  if (device.recording) throw DeviceError("recording: another one is under way");
  auto graph = std::make_unique<Graph>();
  void* constants = nullptr;
  check(cudaMallocHost(&constants, kConstantBytes), "cudaMallocHost");
  graph->constants = static_cast<char*>(constants);
  // Relaxed: the allocator may have to ask for memory meanwhile.
  const cudaError_t status = cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeRelaxed);
  if (status != cudaSuccess) cudaFreeHost(constants);
  check(status, "cudaStreamBeginCapture");
  device.recording = std::move(graph);
  device.pool.begin_recording();
}

namespace {

// Ends the capture whatever became of it; the graph is null when it failed.
std::unique_ptr<Graph> leave_recording(DeviceState& device, cudaGraph_t& graph,
                                       cudaError_t& status) {
  const std::lock_guard<std::mutex> lock(device.mutex);
  status = cudaStreamEndCapture(device.stream, &graph);
  device.pool.end_recording();
  return std::move(device.recording);
}

}  // namespace

void abandon_recording(int index) noexcept {
  cudaGraph_t graph = nullptr;
  cudaError_t status = cudaSuccess;
  std::unique_ptr<Graph> recording = leave_recording(state(index), graph, status);
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();  // of the refused call, which was reported
  drop_recording(index, recording.release());
}

void* end_recording(int index) {
  cudaGraph_t graph = nullptr;
  cudaError_t status = cudaSuccess;
  std::unique_ptr<Graph> recording = leave_recording(state(index), graph, status);
  if (status == cudaSuccess) status = cudaGraphGetNodes(graph, nullptr, &recording->nodes);
  if (status == cudaSuccess) status = cudaGraphInstantiate(&recording->exec, graph, 0);
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (status != cudaSuccess) {
    drop_recording(index, recording.release());
    check(status, "recording");
  }
  return recording.release();
}

void replay(int index, void* recording) {
  remember_launch("a recorded step");
  check(cudaGraphLaunch(static_cast<Graph*>(recording)->exec, state(index).stream),
        "cudaGraphLaunch");
}

std::int64_t recorded_launches(const void* recording) {
  return static_cast<std::int64_t>(static_cast<const Graph*>(recording)->nodes);
}

}  // namespace adder::cuda
