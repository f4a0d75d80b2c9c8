// What the forward and backward selective scans share.
//
// Mapping: kLanes neighbouring lanes own one channel of one sequence, each kStates of its states in
// registers; a block owns a tile of kThreads / kLanes channels and walks the sequence in chunks of
// kScanChunk steps. What depends on (step, channel) alone is prepared once per chunk in shared
// memory, coalesced over channels; B and C are shared by all channels of the block.
#pragma once

#include "cuda/math.h"
#include "cuda/strided.h"
#include "engine/kernels/scan.h"

namespace adder::cuda {

inline constexpr int kScanThreads = 128;
inline constexpr int kChunk = static_cast<int>(kScanChunk);

struct ScanShape {
  std::int64_t length, channels;
  int states;
};

template <int kStates, int kLanes>
struct ScanTile {
  static constexpr int kChannels = kScanThreads / kLanes;
  static constexpr int kPadded = kStates * kLanes;   // states, with those that are padding
  static constexpr int kPlane = kChunk * kChannels;  // floats of one (step, channel) array
  static constexpr int kBC = kChunk * kPadded;       // floats of one of B, C

  __device__ static int channel_in_tile() { return static_cast<int>(threadIdx.x) / kLanes; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
};

// A state's decay rate, -exp(A_log) log2(e), so that a step's decay is one exp2 of one product;
// zero for padding, whose B is zero as well.
__device__ inline float decay_rate(const float* A_log, const ScanShape& s, std::int64_t channel,
                                   int state) {
  if (channel >= s.channels || state >= s.states) return 0.0F;
  return -expf(A_log[channel * s.states + state]) * kLog2e;
}

// Fills (step, kPadded) from rows of B or C; zero beyond the states and the sequence's end.
template <int kPadded, typename T>
__device__ inline void load_states_tile(const Rows<const T>& from, const ScanShape& s,
                                        std::int64_t b, std::int64_t t0, float* to) {
  for (int i = static_cast<int>(threadIdx.x); i < kChunk * kPadded; i += kScanThreads) {
    const std::int64_t t = t0 + i / kPadded;
    const int n = i % kPadded;
    to[i] = t < s.length && n < s.states ? to_float(from.at(b, t)[n]) : 0.0F;
  }
}

// Where the state n of channel d at the start of a chunk is kept.
__device__ inline std::int64_t checkpoint_at(const ScanShape& s, std::int64_t b, std::int64_t chunk,
                                             std::int64_t chunks, int n, std::int64_t d) {
  return ((b * chunks + chunk) * s.states + n) * s.channels + d;
}

// Calls f(integral_constant kLanes) with the lanes that give each at most kStates states.
template <int kStates, typename F>
void dispatch_lanes(const char* place, std::int64_t states, const F& f) {
  if (states <= kStates) return f(std::integral_constant<int, 1>{});
  if (states <= kStates * 2) return f(std::integral_constant<int, 2>{});
  if (states <= kStates * 4) return f(std::integral_constant<int, 4>{});
  if (states <= kStates * 8) return f(std::integral_constant<int, 8>{});
  if (states <= kStates * 16) return f(std::integral_constant<int, 16>{});
  if (states <= kStates * 32) return f(std::integral_constant<int, 32>{});
  throw ShapeError(str(place, ": ", states, " states, at most ", kStates * 32, " on CUDA"));
}

template <typename T>
Rows<const T> read_rows(const Tensor& tensor) {
  const Rows<T> r = rows<T>(tensor);
  return {r.data, r.batch_stride, r.stride};
}

inline const float* optional_floats(const Tensor& tensor) {
  return tensor.defined() ? tensor.data<float>() : nullptr;
}
inline float* optional_out(const Tensor& tensor) {
  return tensor.defined() ? tensor.data<float>() : nullptr;
}

}  // namespace adder::cuda
