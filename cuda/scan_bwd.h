// The backward scan's tile and arguments; scan_bwd.cu has the kernel, scan_bwd_sums.cu what adds up
// the blocks' parts. Private to cuda/.
#pragma once

#include "cuda/scan_tile.h"

namespace adder::cuda {

inline constexpr int kBwdStates = 4;       // of a lane
inline constexpr int kGroup = 4;           // steps whose states are in registers at once
inline constexpr int kRound = 2 * kGroup;  // steps between two exchanges over the block
inline constexpr int kValues = 2 * kGroup * kBwdStates;  // of dB and dC in a group: 32
inline constexpr int kWarps = kScanThreads / kWarp;

template <typename T>
struct ScanBwd {
  ScanShape shape;
  Rows<const T> u, dt, B, C, z, dout;
  const float* A_log;
  const float* D;
  const float* dt_bias;
  const float* checkpoints;
  const float* starts;  // (B, segments, D, N) gradient from behind, or null: zero
  Rows<T> du, ddt, dz;
  float* part_A;     // (B, segments, D, N), or null
  float* part_D;     // (B, segments, D), or null
  float* part_bias;  // (B, segments, D), or null
  float* part_BC;    // (tiles, B, groups of L, 2, N, kGroup), or null
  float* dh0;        // (B, D, N), or null
};

template <int kLanes>
struct ScanBwdTile : ScanTile<kBwdStates, kLanes> {
  using Base = ScanTile<kBwdStates, kLanes>;
  static constexpr int kWarpChannels = kWarp / kLanes;
  static constexpr int kOrders = kWarpChannels < 4 ? kWarpChannels : 4;
  static constexpr int kRow = kOrders * Base::kPadded;  // of B or C in all orders
  static constexpr int kSaved = kChunk / kGroup * kBwdStates * kScanThreads;
  static constexpr int kParts = kRound * kScanThreads;
  static constexpr int kQuads = kRound / kGroup * 2 * Base::kPadded;  // of dB and dC in a round
  static constexpr std::size_t kBytes =
      (2 * kChunk * kRow + 6 * Base::kPlane + kSaved + 3 * kParts + kWarps * kQuads * kGroup) *
      sizeof(float);

  // Copy k of a row has state i ^ order(k) in slot i.
  __device__ static constexpr int order(int copy) { return kOrders == 2 ? 2 * copy : copy; }
  // From the order of states to that of slots, or back.
  __device__ static void reorder(float (&x)[kBwdStates], int order) {
    const auto swap = [&](bool wanted, int i, int j) {
      const float a = x[i];
      const float b = x[j];
      x[i] = wanted ? b : a;
      x[j] = wanted ? a : b;
    };
    swap((order & 2) != 0, 0, 2);
    swap((order & 2) != 0, 1, 3);
    swap((order & 1) != 0, 0, 1);
    swap((order & 1) != 0, 2, 3);
  }
  __device__ static int copy(int warp_lane) {
    return kOrders == 4 ? warp_lane / 8 : kOrders == 2 ? warp_lane / 16 : 0;
  }
};

// Adds values[slot][B or C][step] over the lanes that differ in the bits from kLanes up to kMask:
// every lane ends with kCount / 2^stages of the sums, the first of which is number `first` (in its
// own order of slots). By recursion, because nvcc does not unroll a loop over masks whose inner
// bound shrinks, and would spill the array.
template <int kLanes, int kMask, int kCount>
__device__ __forceinline__ void reduce_scatter(float (&values)[kValues], int lane, int& first) {
  if constexpr (kMask >= kLanes) {
    constexpr int kHalf = kCount / 2;
    constexpr bool kSlots = kHalf >= 2 * kGroup;  // halves are slots, which the order takes care of
    const bool upper = !kSlots && (lane & kMask) != 0;
#pragma unroll
    for (int q = 0; q < kHalf; ++q) {
      // Both are read before one is chosen: choosing an address would need local memory.
      const float low = values[q];
      const float high = values[q + kHalf];
      values[q] = (upper ? high : low) + warp_shfl_xor(upper ? low : high, kMask);
    }
    if (upper) first += kHalf;
    reduce_scatter<kLanes, kMask / 2, kHalf>(values, lane, first);
  }
}

// Adds the tiles' parts of dB and dC, and the sequences' and segments' of dA, in their order.
template <typename T>
void add_scan_parts_BC(const ScanShape& s, std::int64_t batch, int tiles, const Tensor& parts,
                       const Tensor& dB, const Tensor& dC);
// dA_log of the listed channels, of all when the list is undefined.
void add_scan_parts_A(const ScanShape& s, const Tensor& parts, const Tensor& A_log,
                      const Tensor& channels, const Tensor& dA_log);

}  // namespace adder::cuda
