// Streams: work runs at once, or in queued mode when a synchronisation needs it.
#include "tests/simt/stream.h"

#include <cstdlib>
#include <cstring>

#include "simt/control.h"

namespace simt {
namespace {

struct Streams {
  StreamPointer legacy = std::make_shared<CUstream_st>();
  std::vector<StreamPointer> created;  // in this order
  bool queued = false;
};

Streams& streams() {
  static auto* instance = [] {
    auto* made = new Streams;
    const char* queued = std::getenv("ADDER_SIMT_ASYNC");
    made->queued = queued != nullptr && std::strcmp(queued, "1") == 0;
    return made;
  }();
  return *instance;
}

bool is_blocking(const CUstream_st& stream) {
  return (stream.flags & cudaStreamNonBlocking) == 0;
}

// The default stream and the blocking ones wait for each other.
std::vector<Position> implicit_dependencies(const StreamPointer& stream) {
  std::vector<Position> after;
  const auto add = [&after](const StreamPointer& other) {
    const Position position{other, other->submitted};
    if (!position.reached()) after.push_back(position);
  };
  if (stream == streams().legacy) {
    for (const StreamPointer& other : streams().created) {
      if (is_blocking(*other)) add(other);
    }
  } else if (is_blocking(*stream)) {
    add(streams().legacy);
  }
  return after;
}

}  // namespace

bool Position::reached() const {
  return stream == nullptr || stream->done >= count;
}

bool is_legacy(const CUstream_st* stream) {
  return stream == streams().legacy.get();
}

StreamPointer find_stream(cudaStream_t stream) {
  if (stream == nullptr || stream == cudaStreamLegacy) return streams().legacy;
  for (const StreamPointer& each : streams().created) {
    if (each.get() == stream) return each;
  }
  return nullptr;
}

std::vector<std::shared_ptr<Capture>> active_captures() {
  std::vector<std::shared_ptr<Capture>> found;
  for (const StreamPointer& each : streams().created) {
    if (each->capture && each->capture->origin == each.get()) found.push_back(each->capture);
  }
  return found;
}

cudaError_t invalidate(Capture& capture, cudaError_t error) {
  capture.invalid = true;
  return error;
}

cudaError_t refuse_in_capture(bool also_relaxed) {
  for (const auto& capture : active_captures()) {
    if (also_relaxed || capture->mode != cudaStreamCaptureModeRelaxed) {
      return invalidate(*capture, cudaErrorStreamCaptureUnsupported);
    }
  }
  return cudaSuccess;
}

bool is_capturing(cudaStream_t stream) {
  const StreamPointer found = find_stream(stream);
  return found != nullptr && found->capture != nullptr;
}

// What an item depends on lies earlier in time, so this ends.
void run_until(const Position& position) {
  const StreamPointer stream = position.stream;
  while (!position.reached()) {
    const std::vector<Position> after = stream->queue.front().after;
    for (const Position& each : after) run_until(each);
    const Work work = std::move(stream->queue.front().work);
    stream->queue.pop_front();
    ++stream->done;
    work();
  }
}

cudaError_t submit(cudaStream_t handle, Work work) {
  const StreamPointer stream = find_stream(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (stream->capture != nullptr) {
    Capture& capture = *stream->capture;
    if (capture.invalid) return cudaErrorStreamCaptureInvalidated;
    capture.nodes.push_back(std::move(work));
    ++capture.members[stream.get()].recorded;
    return cudaSuccess;
  }
  if (is_legacy(stream.get())) {
    for (const auto& capture : active_captures()) {
      const bool concerned = capture->mode != cudaStreamCaptureModeRelaxed;
      if (concerned) return invalidate(*capture, cudaErrorStreamCaptureImplicit);
    }
  }
  ++stream->submitted;
  if (streams().queued) {
    stream->queue.push_back({std::move(work), implicit_dependencies(stream)});
    return cudaSuccess;
  }
  ++stream->done;
  work();
  return cudaSuccess;
}

cudaError_t drain(cudaStream_t handle) {
  const StreamPointer stream = find_stream(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (is_legacy(stream.get())) return drain_legacy();
  run_until({stream, stream->submitted});
  return cudaSuccess;
}

cudaError_t drain_legacy() {
  run_until({streams().legacy, streams().legacy->submitted});
  const std::vector<StreamPointer> created = streams().created;
  for (const StreamPointer& each : created) {
    if (is_blocking(*each)) run_until({each, each->submitted});
  }
  return cudaSuccess;
}

// The youngest stream first, so that an order which only the creation suggests is not the one.
void drain_all() {
  const std::vector<StreamPointer> created = streams().created;
  for (auto each = created.rbegin(); each != created.rend(); ++each) {
    run_until({*each, (*each)->submitted});
  }
  run_until({streams().legacy, streams().legacy->submitted});
}

void set_queued(bool queued) {
  const std::lock_guard<std::recursive_mutex> lock(emulator_mutex());
  if (!queued) drain_all();
  streams().queued = queued;
}

bool queued() {
  return streams().queued;
}

namespace {

// Host code may poll: each query of unfinished work does a piece of it.
cudaError_t query(const Position& position) {
  if (position.reached()) return cudaSuccess;
  run_until({position.stream, position.stream->done + 1});
  return position.reached() ? cudaSuccess : cudaErrorNotReady;
}

}  // namespace
}  // namespace simt

using simt::api;

cudaError_t cudaDeviceSynchronize() {
  return api([] {
    const cudaError_t error = simt::refuse_in_capture(true);
    if (error == cudaSuccess) simt::drain_all();
    return error;
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return api([&] {
    auto made = std::make_shared<CUstream_st>();
    made->flags = flags;
    simt::streams().created.push_back(made);
    *stream = made.get();
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int /*priority*/) {
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return api([&] {
    const auto stream = simt::find_stream(handle);
    if (stream == nullptr || simt::is_legacy(stream.get())) return cudaErrorInvalidResourceHandle;
    if (stream->capture) {
      return simt::invalidate(*stream->capture, cudaErrorStreamCaptureUnsupported);
    }
    simt::run_until({stream, stream->submitted});
    std::erase(simt::streams().created, stream);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return api([&] {
    const auto found = simt::find_stream(stream);
    if (found != nullptr && found->capture) {
      return simt::invalidate(*found->capture, cudaErrorStreamCaptureUnsupported);
    }
    return simt::drain(stream);
  });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return api([&] {
    const auto found = simt::find_stream(stream);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    if (found->capture) {
      return simt::invalidate(*found->capture, cudaErrorStreamCaptureUnsupported);
    }
    return simt::query({found, found->submitted});
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return api([&] { return simt::submit(stream, [=] { function(data); }); });
}

// --- events --------------------------------------------------------------------------------------
namespace simt {
namespace {

std::vector<std::shared_ptr<CUevent_st>>& events() {
  static auto* instance = new std::vector<std::shared_ptr<CUevent_st>>;
  return *instance;
}

bool recorded_in_capture(const CUevent_st& event) {
  return event.capture != nullptr && !event.capture->members.empty();
}

}  // namespace

std::shared_ptr<CUevent_st> find_event(cudaEvent_t event) {
  for (const auto& each : events()) {
    if (each.get() == event) return each;
  }
  return nullptr;
}

}  // namespace simt

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return api([&] {
    auto made = std::make_shared<CUevent_st>();
    made->flags = flags;
    simt::events().push_back(made);
    *event = made.get();
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return api([&] {
    const auto found = simt::find_event(event);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    std::erase(simt::events(), found);
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  return api([&] {
    const auto event = simt::find_event(handle);
    const auto stream = simt::find_stream(stream_handle);
    if (event == nullptr || stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream->capture) {
      event->capture = stream->capture;
      event->capture_stream = stream.get();
      event->capture_count = stream->capture->members[stream.get()].recorded;
      return stream->capture->invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
    }
    event->capture = nullptr;
    event->moment = std::make_shared<CUevent_st::Moment>();
    const auto moment = event->moment;
    const cudaError_t error =
        simt::submit(stream_handle, [moment] { moment->time = std::chrono::steady_clock::now(); });
    event->position = {stream, stream->submitted};
    return error;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t handle,
                                unsigned /*flags*/) {
  return api([&] {
    const auto event = simt::find_event(handle);
    const auto stream = simt::find_stream(stream_handle);
    if (event == nullptr || stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (simt::recorded_in_capture(*event)) {
      simt::Capture& capture = *event->capture;
      if (simt::is_legacy(stream.get())) {
        return simt::invalidate(capture, cudaErrorStreamCaptureImplicit);
      }
      if (stream->capture && stream->capture != event->capture) {
        return simt::invalidate(capture, cudaErrorStreamCaptureMerge);
      }
      stream->capture = event->capture;
      auto& waited_for = capture.members[event->capture_stream];
      waited_for.joined = std::max(waited_for.joined, event->capture_count);
      // What waits must be joined in turn.
      if (event->capture_count > 0) ++capture.members[stream.get()].recorded;
      return cudaSuccess;
    }
    if (stream->capture) {
      return simt::invalidate(*stream->capture, cudaErrorStreamCaptureIsolation);
    }
    if (!event->position.reached()) {
      const cudaError_t error = simt::submit(stream_handle, [] {});
      if (error != cudaSuccess) return error;
      stream->queue.back().after.push_back(event->position);
    }
    return cudaSuccess;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  return api([&] {
    const auto event = simt::find_event(handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (simt::recorded_in_capture(*event)) {
      return simt::invalidate(*event->capture, cudaErrorCapturedEvent);
    }
    simt::run_until(event->position);
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  return api([&] {
    const auto event = simt::find_event(handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (simt::recorded_in_capture(*event)) {
      return simt::invalidate(*event->capture, cudaErrorCapturedEvent);
    }
    return simt::query(event->position);
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return api([&] {
    const auto from = simt::find_event(start);
    const auto to = simt::find_event(end);
    if (from == nullptr || to == nullptr || !from->moment || !to->moment ||
        ((from->flags | to->flags) & cudaEventDisableTiming) != 0) {
      return cudaErrorInvalidResourceHandle;
    }
    if (!from->position.reached() || !to->position.reached()) return cudaErrorNotReady;
    *milliseconds =
        std::chrono::duration<float, std::milli>(to->moment->time - from->moment->time).count();
    return cudaSuccess;
  });
}
