// Streams, events and graphs of the stand-in, at once and queued.
#include "tests/simt/kernels/kernels.h"
#include "tests/simt/support.h"

using namespace simt_test;

namespace {

// Queued mode for as long as it lives.
struct Queued {
  Queued() { simt::set_queued(true); }
  ~Queued() { simt::set_queued(false); }
};

class Event {
 public:
  Event() { must(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// Pinned host memory.
class Pinned {
 public:
  explicit Pinned(std::size_t count) { must(cudaMallocHost(&data_, count * sizeof(float))); }
  ~Pinned() { cudaFreeHost(data_); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  float& operator[](std::size_t i) const { return data_[i]; }
  float* get() const { return data_; }

 private:
  float* data_ = nullptr;
};

cudaError_t last() {
  return cudaGetLastError();
}

}  // namespace

TEST_CASE("queued work runs when its stream is waited for, and not before") {
  const Buffer<float> x(std::vector<float>{1, 2});
  const Buffer<float> y(std::vector<float>{0, 0});
  const Stream stream;
  const Pinned out(2);
  const Queued queued;
  out[0] = out[1] = -1;
  scale(x.get(), y.get(), 2, 3, stream);
  must(cudaMemcpyAsync(out.get(), y.get(), 8, cudaMemcpyDeviceToHost, stream));
  CHECK_EQ(out[1], -1);  // a missing synchronisation shows
  CHECK_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  must(cudaStreamSynchronize(stream));
  CHECK_EQ(out[1], 6);
  CHECK_EQ(cudaStreamQuery(stream), cudaSuccess);
  CHECK_EQ(last(), cudaSuccess);
}

TEST_CASE("polling makes progress") {
  const Buffer<float> x(std::vector<float>{1});
  const Stream stream;
  const Queued queued;
  for (int i = 0; i < 5; ++i) scale(x.get(), x.get(), 1, 2, stream);
  int polls = 0;
  while (cudaStreamQuery(stream) == cudaErrorNotReady) ++polls;
  CHECK_EQ(polls, 4);
  CHECK_EQ(x.read()[0], 32);
}

TEST_CASE("a synchronous copy waits for blocking streams, not for the others") {
  const Buffer<float> x(std::vector<float>{1});
  for (const unsigned flags : {cudaStreamDefault, cudaStreamNonBlocking}) {
    const Buffer<float> y(std::vector<float>{0});
    const Stream stream(flags);
    const Queued queued;
    scale(x.get(), y.get(), 1, 5, stream);
    CHECK_EQ(y.read()[0], flags == cudaStreamDefault ? 5 : 0);
    must(cudaDeviceSynchronize());
    CHECK_EQ(y.read()[0], 5);
  }
}

TEST_CASE("the default stream and blocking ones wait for each other") {
  const Buffer<float> x(std::vector<float>{1});
  const Stream stream(cudaStreamDefault);
  const Queued queued;
  scale(x.get(), x.get(), 1, 3, stream);
  must(cudaMemsetAsync(x.get(), 0, 4));
  must(cudaStreamSynchronize(nullptr));
  CHECK_EQ(x.read()[0], 0);
  const Buffer<float> y(std::vector<float>{2});
  must(cudaMemcpyAsync(x.get(), y.get(), 4, cudaMemcpyDeviceToDevice));
  scale(x.get(), x.get(), 1, 4, stream);
  must(cudaStreamSynchronize(stream));
  CHECK_EQ(x.read()[0], 8);
}

TEST_CASE("events order streams; without one, a stream may run first") {
  const Buffer<float> x(std::vector<float>{1});
  const Stream first;
  const Stream second;
  const Event event;
  for (const bool waits : {true, false}) {
    const Buffer<float> y(std::vector<float>{0});
    const Buffer<float> z(std::vector<float>{-1});
    const Queued queued;
    scale(x.get(), y.get(), 1, 3, first);
    must(cudaEventRecord(event, first));
    scale(x.get(), y.get(), 1, 7, first);
    if (waits) must(cudaStreamWaitEvent(second, event));
    scale(y.get(), z.get(), 1, 2, second);
    must(cudaStreamSynchronize(second));
    CHECK_EQ(z.read()[0], waits ? 6 : 0);
    CHECK_EQ(y.read()[0], waits ? 3 : 0);  // no more than the event asked for
    must(cudaEventSynchronize(event));
    CHECK_EQ(y.read()[0], 3);
    must(cudaDeviceSynchronize());
    CHECK_EQ(y.read()[0], 7);
  }
}

TEST_CASE("pageable memory is staged, pinned memory is read when the copy runs") {
  const Buffer<float> x(std::vector<float>{0});
  const Stream stream;
  const Queued queued;
  std::vector<float> pageable{1};
  must(cudaMemcpyAsync(x.get(), pageable.data(), 4, cudaMemcpyHostToDevice, stream));
  pageable[0] = 2;
  must(cudaStreamSynchronize(stream));
  CHECK_EQ(x.read()[0], 1);
  const Pinned pinned(1);
  pinned[0] = 3;
  must(cudaMemcpyAsync(x.get(), pinned.get(), 4, cudaMemcpyHostToDevice, stream));
  pinned[0] = 4;  // too early
  must(cudaStreamSynchronize(stream));
  CHECK_EQ(x.read()[0], 4);
}

TEST_CASE("host functions, elapsed time, and handles that are gone") {
  int calls = 0;
  Event start;
  Event end;
  float milliseconds = -1;
  {
    const Stream stream;
    CHECK_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorInvalidResourceHandle);
    const Queued queued;
    must(cudaEventRecord(start, stream));
    must(cudaLaunchHostFunc(
        stream, [](void* data) { ++*static_cast<int*>(data); }, &calls));
    must(cudaEventRecord(end, stream));
    CHECK_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorNotReady);
    CHECK_EQ(calls, 0);
    must(cudaEventSynchronize(end));
    CHECK_EQ(calls, 1);
    must(cudaEventElapsedTime(&milliseconds, start, end));
    CHECK_GE(milliseconds, 0.0F);
  }
  cudaStream_t gone = nullptr;
  must(cudaStreamCreate(&gone));
  must(cudaStreamDestroy(gone));
  CHECK_EQ(cudaStreamSynchronize(gone), cudaErrorInvalidResourceHandle);
  CHECK_EQ(last(), cudaErrorInvalidResourceHandle);
}

TEST_CASE("a graph replays its launches and copies on what is there now") {
  const Buffer<float> x(std::vector<float>{1, 2});
  const Buffer<float> y(std::vector<float>{0, 0});
  const Stream stream;
  const Pinned out(2);
  out[0] = out[1] = -1;
  cudaGraph_t graph = nullptr;
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  scale(x.get(), y.get(), 2, 10, stream);
  must(cudaMemcpyAsync(out.get(), y.get(), 8, cudaMemcpyDeviceToHost, stream));
  cudaStreamCaptureStatus status{};
  must(cudaStreamIsCapturing(stream, &status));
  CHECK_EQ(status, cudaStreamCaptureStatusActive);
  must(cudaStreamEndCapture(stream, &graph));
  CHECK_EQ(out[1], -1);  // recorded, not run
  std::size_t nodes = 0;
  must(cudaGraphGetNodes(graph, nullptr, &nodes));
  CHECK_EQ(nodes, 2);
  cudaGraphExec_t exec = nullptr;
  must(cudaGraphInstantiate(&exec, graph));
  must(cudaGraphDestroy(graph));
  for (const bool queued : {false, true}) {
    simt::set_queued(queued);
    simt::in_all_orders([&](simt::Order order) {
      CAPTURE(simt::order_name(order));
      const auto base = static_cast<float>(order.seed + 3);
      Buffer<float> input(std::vector<float>{base, base + 1});
      must(cudaMemcpyAsync(x.get(), input.get(), 8, cudaMemcpyDeviceToDevice, stream));
      must(cudaGraphLaunch(exec, stream));
      must(cudaStreamSynchronize(stream));
      CHECK_EQ(out[0], 10 * base);
      CHECK_EQ(out[1], 10 * (base + 1));
    });
  }
  simt::set_queued(false);
  must(cudaGraphExecDestroy(exec));
  CHECK_EQ(cudaGraphLaunch(exec, stream), cudaErrorInvalidValue);
  last();
}

TEST_CASE("what must not happen during a capture") {
  const Buffer<float> x(std::vector<float>{1});
  const Stream stream;
  const Event outside;
  must(cudaEventRecord(outside, stream));
  void* pointer = nullptr;
  using Call = std::function<cudaError_t()>;
  const std::pair<Call, cudaError_t> calls[] = {
      {[&] { return cudaMalloc(&pointer, 16); }, cudaErrorStreamCaptureUnsupported},
      {[&] { return cudaMallocHost(&pointer, 16); }, cudaErrorStreamCaptureUnsupported},
      {[&] { return cudaFree(x.get()); }, cudaErrorStreamCaptureUnsupported},
      {[&] { return cudaStreamSynchronize(stream); }, cudaErrorStreamCaptureUnsupported},
      {[&] { return cudaDeviceSynchronize(); }, cudaErrorStreamCaptureUnsupported},
      {[&] { return cudaMemset(x.get(), 0, 4); }, cudaErrorStreamCaptureImplicit},
      {[&] { return cudaStreamWaitEvent(stream, outside); }, cudaErrorStreamCaptureIsolation},
  };
  for (const auto& [call, expected] : calls) {
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    scale(x.get(), x.get(), 1, 2, stream);
    CHECK_EQ(std::string(cudaGetErrorName(call())), cudaGetErrorName(expected));
    CHECK_EQ(last(), expected);
    CHECK_EQ(pointer, nullptr);
    cudaGraph_t graph = nullptr;
    CHECK_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    CHECK_EQ(graph, nullptr);
    last();
  }
  CHECK_EQ(x.read()[0], 1);
  CHECK_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal),
           cudaErrorStreamCaptureUnsupported);
  last();
  // A relaxed capture lets memory be allocated.
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  must(cudaMalloc(&pointer, 16));
  cudaGraph_t graph = nullptr;
  must(cudaStreamEndCapture(stream, &graph));
  must(cudaGraphDestroy(graph));
  must(cudaFree(pointer));
}

TEST_CASE("a second stream joins a capture by an event, and must come back") {
  const Buffer<float> x(std::vector<float>{2});
  const Buffer<float> y(std::vector<float>{0});
  const Stream stream;
  const Stream side;
  const Event fork;
  const Event join;
  for (const bool joins : {true, false}) {
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    scale(x.get(), x.get(), 1, 3, stream);
    must(cudaEventRecord(fork, stream));
    must(cudaStreamWaitEvent(side, fork));
    scale(x.get(), y.get(), 1, 5, side);
    must(cudaEventRecord(join, side));
    if (joins) must(cudaStreamWaitEvent(stream, join));
    cudaGraph_t graph = nullptr;
    if (!joins) {
      CHECK_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureUnjoined);
      last();
      break;
    }
    must(cudaStreamEndCapture(stream, &graph));
    cudaGraphExec_t exec = nullptr;
    must(cudaGraphInstantiate(&exec, graph));
    must(cudaGraphLaunch(exec, stream));
    must(cudaGraphLaunch(exec, stream));
    CHECK_EQ(y.read()[0], 90);  // x: 2, 6, 18
    must(cudaGraphExecDestroy(exec));
    must(cudaGraphDestroy(graph));
  }
  scale(x.get(), y.get(), 1, 1, side);  // no longer part of a capture
  CHECK_EQ(y.read()[0], 18);
}

TEST_CASE("a mistake in queued work comes out of the call that runs it") {
  const Buffer<float> y(64);
  const Stream stream;
  const Queued queued;
  barrier_after_exit(y.get(), stream);
  CHECK_THROWS_AS(cudaStreamSynchronize(stream), simt::Error);
  CHECK_EQ(cudaStreamSynchronize(stream), cudaSuccess);
}
