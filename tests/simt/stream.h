// Streams, events and captures as the emulator keeps them.
#pragma once

#include <chrono>
#include <deque>
#include <map>

#include "tests/simt/internal.h"

namespace simt {

using StreamPointer = std::shared_ptr<CUstream_st>;

// A place in a stream: everything up to its work number `count`.
struct Position {
  StreamPointer stream;
  std::uint64_t count = 0;
  bool reached() const;
};

// What cudaStreamBeginCapture starts. Work is replayed in the order in which it was recorded, which
// satisfies every dependency that events can express.
struct Capture {
  struct Member {
    std::uint64_t recorded = 0;  // work of this stream
    std::uint64_t joined = 0;    // how much of it other streams of the capture wait for
  };
  CUstream_st* origin = nullptr;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool invalid = false;
  std::vector<Work> nodes;
  std::map<CUstream_st*, Member> members;
};

struct Item {
  Work work;
  std::vector<Position> after;
};

}  // namespace simt

struct CUstream_st {
  unsigned flags = cudaStreamDefault;
  std::deque<simt::Item> queue;
  std::uint64_t submitted = 0;
  std::uint64_t done = 0;
  std::shared_ptr<simt::Capture> capture;
};

struct CUevent_st {
  struct Moment {
    std::chrono::steady_clock::time_point time;
  };
  unsigned flags = cudaEventDefault;
  simt::Position position;
  std::shared_ptr<Moment> moment;  // set when the stream gets there
  std::shared_ptr<simt::Capture> capture;
  CUstream_st* capture_stream = nullptr;
  std::uint64_t capture_count = 0;
};

namespace simt {

// The live handle; null for one that was destroyed or never made. Both null pointer and
// cudaStreamLegacy name the default stream.
StreamPointer find_stream(cudaStream_t stream);
std::shared_ptr<CUevent_st> find_event(cudaEvent_t event);
void run_until(const Position& position);
cudaError_t invalidate(Capture& capture, cudaError_t error);
std::vector<std::shared_ptr<Capture>> active_captures();
bool is_legacy(const CUstream_st* stream);

}  // namespace simt
