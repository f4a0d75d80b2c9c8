// Stream capture and graphs: recorded work, replayed.
#include <algorithm>

#include "tests/simt/stream.h"

struct CUgraph_st {
  std::shared_ptr<const std::vector<simt::Work>> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<simt::Work>> nodes;
};

namespace simt {
namespace {

// Handles that were made and not destroyed.
template <typename T>
std::vector<std::unique_ptr<T>>& live() {
  static auto* instance = new std::vector<std::unique_ptr<T>>;
  return *instance;
}

template <typename T>
bool is_live(const T* handle) {
  return std::any_of(live<T>().begin(), live<T>().end(),
                     [handle](const auto& each) { return each.get() == handle; });
}

template <typename T>
cudaError_t destroy(const T* handle) {
  if (!is_live(handle)) return cudaErrorInvalidValue;
  std::erase_if(live<T>(), [handle](const auto& each) { return each.get() == handle; });
  return cudaSuccess;
}

// Work of a stream that no one waited for would be lost from the graph's dependencies.
bool all_joined(const Capture& capture) {
  return std::all_of(capture.members.begin(), capture.members.end(), [&](const auto& member) {
    return member.first == capture.origin || member.second.joined >= member.second.recorded;
  });
}

}  // namespace
}  // namespace simt

using simt::api;

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  return api([&] {
    const auto stream = simt::find_stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (simt::is_legacy(stream.get())) return cudaErrorStreamCaptureUnsupported;
    if (stream->capture) return cudaErrorInvalidValue;
    stream->capture = std::make_shared<simt::Capture>();
    stream->capture->origin = stream.get();
    stream->capture->mode = mode;
    stream->capture->members[stream.get()] = {};
    return cudaSuccess;
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  return api([&] {
    *graph = nullptr;
    const auto stream = simt::find_stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (!stream->capture) return cudaErrorInvalidValue;
    const auto capture = stream->capture;
    if (capture->origin != stream.get()) {
      return simt::invalidate(*capture, cudaErrorStreamCaptureUnmatched);
    }
    const bool joined = simt::all_joined(*capture);
    for (const auto& member : capture->members) {
      if (const auto each = simt::find_stream(member.first)) each->capture = nullptr;
    }
    capture->members.clear();  // events of this capture are events of none from here on
    if (capture->invalid) return cudaErrorStreamCaptureInvalidated;
    if (!joined) return cudaErrorStreamCaptureUnjoined;
    auto made = std::make_unique<CUgraph_st>();
    made->nodes = std::make_shared<const std::vector<simt::Work>>(std::move(capture->nodes));
    *graph = made.get();
    simt::live<CUgraph_st>().push_back(std::move(made));
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  return api([&] {
    const auto stream = simt::find_stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    *status = !stream->capture           ? cudaStreamCaptureStatusNone
              : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                         : cudaStreamCaptureStatusActive;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* count) {
  return api([&] {
    if (!simt::is_live(graph) || count == nullptr) return cudaErrorInvalidValue;
    if (nodes != nullptr) return cudaErrorNotSupported;  // only their number is known here
    *count = graph->nodes->size();
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long /*flags*/) {
  return api([&] {
    if (!simt::is_live(graph)) return cudaErrorInvalidValue;
    auto made = std::make_unique<CUgraphExec_st>();
    made->nodes = graph->nodes;
    *exec = made.get();
    simt::live<CUgraphExec_st>().push_back(std::move(made));
    return cudaSuccess;
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return api([&] {
    if (!simt::is_live(exec)) return cudaErrorInvalidValue;
    return simt::submit(stream, [nodes = exec->nodes] {
      for (const simt::Work& node : *nodes) node();
    });
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  return api([&] { return simt::destroy(exec); });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return api([&] { return simt::destroy(graph); });
}
