// Host side of the scan's kernels: lanes by the number of states, and the split over L.
#pragma once

#include <type_traits>

#include "cuda/runtime.h"
#include "cuda/scan_tile.h"

namespace adder::cuda {

inline ScanShape scan_shape(std::int64_t length, std::int64_t channels, std::int64_t states,
                            int segment_chunks) {
  if (length * std::max<std::int64_t>(states, 1) > (1 << 29) || channels > (1 << 29)) {
    throw ShapeError(str("selective_scan: ", length, " steps of ", channels, " channels and ",
                         states, " states on CUDA"));
  }
  return {static_cast<int>(length), static_cast<int>(channels), static_cast<int>(states),
          segment_chunks};
}

// Calls f(integral_constant kLanes) with the lanes that give each at most kStates states. At least
// two, as a tile of 128 channels would not fit the shared memory of sm_89.
template <int kStates, typename F>
void dispatch_lanes(const char* place, std::int64_t states, const F& f) {
  if (states <= kStates * 2) return f(std::integral_constant<int, 2>{});
  if (states <= kStates * 4) return f(std::integral_constant<int, 4>{});
  if (states <= kStates * 8) return f(std::integral_constant<int, 8>{});
  if (states <= kStates * 16) return f(std::integral_constant<int, 16>{});
  if (states <= kStates * 32) return f(std::integral_constant<int, 32>{});
  throw ShapeError(str(place, ": ", states, " states, at most ", kStates * 32, " on CUDA"));
}

// Kernels count a row's distance in 32 bits.
template <typename T>
Rows<T> scan_rows(const Tensor& tensor) {
  const Rows<T> r = rows<T>(tensor);
  if (r.stride > (1 << 30)) {
    throw ShapeError(str("selective_scan: rows ", r.stride, " elements apart on CUDA"));
  }
  return r;
}
template <typename T>
Rows<const T> read_rows(const Tensor& tensor) {
  const Rows<T> r = scan_rows<T>(tensor);
  return {r.data, r.batch_stride, r.stride};
}

inline float* optional_floats(const Tensor& tensor) {
  return tensor.defined() ? tensor.data<float>() : nullptr;
}

// The split of sequences into segments that run side by side, for batches too small to fill the
// device: a first launch finds what each segment adds to the recurrence's state, a second carries
// it from segment to segment, and the third is the usual kernel, each segment with its own start.
struct ScanSplit {
  int segments = 1;
  int segment_chunks;

  // By the blocks of an unsplit launch. The first pass costs about 0.8 of a forward scan, so blocks
  // must fill less than half of the multiprocessors; a segment is no shorter than 4 chunks.
  static ScanSplit choose(Device device, std::int64_t batch, std::int64_t length,
                          std::int64_t channels, std::int64_t states);
};

template <typename T>
struct ScanEnds {
  ScanShape shape;
  Rows<const T> u, dt, B, C, z, dout;  // u, B forward; C, dout, z backward
  const float* A_log;
  const float* dt_bias;
};

// The state each segment starts with, (batch, segment, channel, state): forward h, from h0;
// backward the gradient that arrives from the segment behind it.
template <typename T>
Tensor scan_starts(const ScanEnds<T>& p, const ScanSplit& split, std::int64_t batch,
                   const float* h0, bool reverse, Device device, bool vectors);

}  // namespace adder::cuda
