// What the kernels of the selective scan share.
//
// Mapping: kLanes neighbouring lanes own one channel of one sequence, each kStates of its states in
// registers; a block owns a tile of kScanThreads / kLanes channels and walks the sequence, or a
// segment of it, in chunks of kScanChunk steps. What depends on (step, channel) alone is prepared
// once per chunk, four neighbouring channels to a thread, and handed over in shared memory; B and C
// are shared by all channels of the block. Sums over a channel's lanes go through shared memory,
// where an addition costs less than a shuffle.
#pragma once

#include "cuda/math.h"
#include "cuda/strided.h"
#include "cuda/vector.h"
#include "engine/kernels/scan.h"

namespace adder::cuda {

inline constexpr int kScanThreads = 128;
inline constexpr int kChunk = static_cast<int>(kScanChunk);

struct ScanShape {
  int length, channels, states;
  int segment_chunks;  // chunks of a segment, which blockIdx.z counts

  __device__ int chunks() const { return (length + kChunk - 1) / kChunk; }
  __device__ int first_chunk() const { return static_cast<int>(blockIdx.z) * segment_chunks; }
  __device__ int end_chunk() const {
    const int end = first_chunk() + segment_chunks;
    return end < chunks() ? end : chunks();
  }
  __device__ int steps(int chunk) const {
    const int left = length - chunk * kChunk;
    return left < kChunk ? left : kChunk;
  }
  // Where the first state of channel d is in the block's part of (batch, segment, channel, state).
  __device__ std::int64_t part_at(int d) const {
    const std::int64_t part = static_cast<std::int64_t>(blockIdx.y) * gridDim.z + blockIdx.z;
    return (part * channels + d) * states;
  }
  // The same in the checkpoints, which are (batch, chunk, channel, state).
  __device__ std::int64_t checkpoint_at(int chunk, int d) const {
    const std::int64_t part = static_cast<std::int64_t>(blockIdx.y) * chunks() + chunk;
    return (part * channels + d) * states;
  }
};

template <int kStates, int kLanes>
struct ScanTile {
  static constexpr int kChannels = kScanThreads / kLanes;
  static constexpr int kPadded = kStates * kLanes;   // states, with those that are padding
  static constexpr int kPlane = kChunk * kChannels;  // floats of one (step, channel) array
  static constexpr int kBC = kChunk * kPadded;       // floats of one of B, C
  // Quads of channels: a thread's are rows of one column of the plane.
  static constexpr int kColumns = kChannels / 4;
  static constexpr int kRowsApart = kScanThreads / kColumns;
  static constexpr int kItems = kRowsApart < kChunk ? kChunk / kRowsApart : 1;
  static constexpr bool kSpare = kRowsApart > kChunk;  // threads without a quad

  __device__ static int channel() { return static_cast<int>(threadIdx.x) / kLanes; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
  __device__ static int column() { return static_cast<int>(threadIdx.x) % kColumns * 4; }
  __device__ static int row(int item) {
    return static_cast<int>(threadIdx.x) / kColumns + item * kRowsApart;
  }

  // Parts of a sum over the lanes, one per (step, lane, channel): rows of channels, rotated so that
  // neither the threads that write nor the quads that are read meet in a bank.
  __device__ static int rotated(int lane, int channel) {
    constexpr int kRows = kChannels < 32 ? 32 / kChannels : 1;
    const int by = lane / kRows * (kWarp / kLanes) & ~3;
    return lane * kChannels + (channel + by) % kChannels;
  }
  __device__ static void add_lanes(const float* step_parts, int column, float (&sums)[4]) {
    const Quad<float> own = load_aligned(step_parts + rotated(0, column));
#pragma unroll
    for (int k = 0; k < 4; ++k) sums[k] = own.v[k];
#pragma unroll
    for (int lane = 1; lane < kLanes; ++lane) {
      const Quad<float> part = load_aligned(step_parts + rotated(lane, column));
#pragma unroll
      for (int k = 0; k < 4; ++k) sums[k] += part.v[k];
    }
  }
};

// Step t of the block's sequence. The host has seen that strides fit 32 bits, which spares two of
// three multiplications.
template <typename T>
__device__ __forceinline__ T* row_of(const Rows<T>& rows, int t) {
  return rows.at(blockIdx.y) + static_cast<std::int64_t>(t) * static_cast<int>(rows.stride);
}

// A thread's quads of one (B, L, D) array: of one chunk in registers, and where the next ones are.
template <typename T, typename Tile, bool kVector>
struct Plane {
  Quad<T> quad[Tile::kItems] = {};
  const T* at;
  int stride;

  // An array that is not there is not to be loaded.
  __device__ Plane(const Rows<const T>& from, int chunk, int column)
      : at(from.data == nullptr ? nullptr : row_of(from, chunk * kChunk + Tile::row(0)) + column),
        stride(static_cast<int>(from.stride)) {}
  // Fetches, and goes `chunks` on. `count`: the quad's channels that exist.
  __device__ void load(int steps, int count, int chunks) {
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) {
      quad[i] = load_quad<kVector>(at + static_cast<std::int64_t>(i * Tile::kRowsApart) * stride,
                                   Tile::row(i) < steps ? count : 0);
    }
    at += static_cast<std::int64_t>(chunks * kChunk) * stride;
  }
};

// The same of B or C: quads of states, zero beyond them and beyond the sequence.
template <typename T, int kPadded, bool kVector>
struct StatesPlane {
  static constexpr int kColumns = kPadded / 4;
  static constexpr int kQuads = kChunk * kColumns;
  static constexpr int kItems = (kQuads + kScanThreads - 1) / kScanThreads;
  static constexpr int kRowsApart = kScanThreads / kColumns;
  Quad<T> quad[kItems] = {};
  const T* at;
  int stride;

  __device__ static int row(int item) {
    return static_cast<int>(threadIdx.x) / kColumns + item * kRowsApart;
  }
  __device__ static int column() { return static_cast<int>(threadIdx.x) % kColumns * 4; }
  __device__ static bool has(int item) { return kQuads % kScanThreads == 0 || row(item) < kChunk; }
  __device__ StatesPlane(const Rows<const T>& from, int chunk)
      : at(row_of(from, chunk * kChunk + row(0)) + column()),
        stride(static_cast<int>(from.stride)) {}
  __device__ void load(int steps, int states, int chunks) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      quad[i] = load_quad<kVector>(at + static_cast<std::int64_t>(i * kRowsApart) * stride,
                                   row(i) < steps ? states - column() : 0);
    }
    at += static_cast<std::int64_t>(chunks * kChunk) * stride;
  }
};

// kStates neighbouring floats of global memory, those from `count` on are zero or left alone.
template <bool kVector, int kStates>
__device__ __forceinline__ void load_states(const float* from, int count, float (&to)[kStates]) {
#pragma unroll
  for (int i = 0; i < kStates; i += 4) {
    const Quad<float> quad = load_quad<kVector>(from + i, count - i);
#pragma unroll
    for (int k = 0; k < 4; ++k) to[i + k] = quad.v[k];
  }
}
template <bool kVector, int kStates>
__device__ __forceinline__ void store_states(float* to, int count, const float (&from)[kStates]) {
#pragma unroll
  for (int i = 0; i < kStates; i += 4) {
    Quad<float> quad;
#pragma unroll
    for (int k = 0; k < 4; ++k) quad.v[k] = from[i + k];
    store_quad<kVector>(to + i, count - i, quad);
  }
}

// Four channels' values of a per-channel array; zeros where there are none.
__device__ inline Quad<float> channel_quad(const float* from, int first, int count) {
  return load_quad<false>(from + first, from != nullptr ? count : 0);
}

// A state's decay rate, -exp(A_log) log2(e), so that a step's decay is one exp2 of one product;
// zero for padding, whose B is zero as well.
__device__ inline float decay_rate(const float* A_log, const ScanShape& s, int channel, int state) {
  if (channel >= s.channels || state >= s.states) return 0.0F;
  return -expf(A_log[static_cast<std::int64_t>(channel) * s.states + state]) * kLog2e;
}

// How many of a thread's four channels exist.
__device__ inline int channels_left(const ScanShape& s, int first) {
  const int left = s.channels - first;
  return left < 4 ? left : 4;
}

}  // namespace adder::cuda
