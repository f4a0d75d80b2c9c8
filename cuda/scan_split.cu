// The scan of few channels, split over L so that it fills the device; see ScanSplit. Three plain
// launches, in this order: ends (here), starts (here), the usual kernel with a block per segment.
//
// Ends: mapping as in scan_tile.h, a block per segment but the last (forward) or first (backward).
// It runs the recurrence h = a h + delta u B, or backwards carry = (carry + dy C) a, from zero, and
// leaves the outcome with the decay over the segment, which is one exp2 of the rate times the sum
// of delta. Traffic per (b, l, d): two reads forward, three backward. Starts: a thread per state
// adds up the segments in order, so the result is the same in every run.
#include "cuda/runtime.h"
#include "cuda/scan_hooks.h"
#include "cuda/scan_launch.h"

namespace adder::cuda {
namespace {

constexpr int kStates = 4;

template <typename T, int kLanes, bool kReverse, bool kVector>
__global__ void __launch_bounds__(kScanThreads)
    selective_scan_ends_kernel(ScanEnds<T> p, float* ends, float* decays) {
  using Tile = ScanTile<kStates, kLanes>;
  using States = StatesPlane<T, Tile::kPadded, kVector>;
  ADDER_SHARED(float, shared);
  float* const matrix = shared;               // (step, state): B or C
  float* const delta = matrix + Tile::kBC;    // (step, channel)
  float* const input = delta + Tile::kPlane;  // (step, channel): delta u or dy
  const ScanShape& s = p.shape;
  const int first = static_cast<int>(blockIdx.x) * Tile::kChannels;
  const int c = Tile::channel();
  const int d = first + c;
  const int n0 = Tile::lane() * kStates;
  const int segment = static_cast<int>(blockIdx.z) + (kReverse ? 1 : 0);
  const int begin = segment * s.segment_chunks;
  const int end = begin + s.segment_chunks < s.chunks() ? begin + s.segment_chunks : s.chunks();
  const int column = Tile::column();
  const int count = channels_left(s, first + column);
  const Quad<float> bias = channel_quad(p.dt_bias, first + column, count);

  float rate[kStates];
  float state[kStates] = {};
  float sum_delta = 0;
#pragma unroll
  for (int i = 0; i < kStates; ++i) rate[i] = decay_rate(p.A_log, s, d, n0 + i);
  for (int turn = begin; turn < end; ++turn) {
    const int chunk = kReverse ? end - 1 - (turn - begin) : turn;
    const int steps = s.steps(chunk);
    Plane<T, Tile, kVector> dt(p.dt, chunk, first + column);
    Plane<T, Tile, kVector> in(kReverse ? p.dout : p.u, chunk, first + column);
    Plane<T, Tile, kVector> z(p.z, chunk, first + column);
    States rows(kReverse ? p.C : p.B, chunk);
    dt.load(steps, count, 0);
    in.load(steps, count, 0);
    if (kReverse && p.z.data != nullptr) z.load(steps, count, 0);
    rows.load(steps, s.states, 0);
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) {
      const int row = Tile::row(i);
      Quad<float> step = {};
      Quad<float> value = {};
      if (row < steps) {  // those beyond the end leave the states as they are
        const Quad<float> x = floats(dt.quad[i]);
        value = floats(in.quad[i]);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          step.v[k] = softplus(x.v[k] + bias.v[k]);
          if (!kReverse) value.v[k] *= step.v[k];
        }
        if (kReverse && p.z.data != nullptr) {
          const Quad<float> gate = floats(z.quad[i]);
#pragma unroll
          for (int k = 0; k < 4; ++k) value.v[k] *= silu(gate.v[k]);
        }
      }
      if (Tile::kSpare && row >= kChunk) continue;
      store_aligned(delta + row * Tile::kChannels + column, step);
      store_aligned(input + row * Tile::kChannels + column, value);
    }
#pragma unroll
    for (int i = 0; i < States::kItems; ++i) {
      if (!States::has(i)) continue;
      store_aligned(matrix + States::row(i) * Tile::kPadded + States::column(),
                    floats(rows.quad[i]));
    }
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < kChunk; ++k) {
      const int t = kReverse ? kChunk - 1 - k : k;
      const float step = delta[t * Tile::kChannels + c];
      const float value = input[t * Tile::kChannels + c];
      const Quad<float> row = load_aligned(matrix + t * Tile::kPadded + n0);
      sum_delta += step;
#pragma unroll
      for (int i = 0; i < kStates; ++i) {
        const float decay = fast_exp2(step * rate[i]);
        state[i] =
            kReverse ? (state[i] + value * row.v[i]) * decay : decay * state[i] + value * row.v[i];
      }
    }
    __syncthreads();  // the next chunk overwrites what was read
  }
  const int own_states = d < s.channels ? s.states - n0 : 0;
  float decay[kStates];
#pragma unroll
  for (int i = 0; i < kStates; ++i) decay[i] = fast_exp2(sum_delta * rate[i]);
  store_states<kVector>(ends + s.part_at(d) + n0, own_states, state);
  store_states<kVector>(decays + s.part_at(d) + n0, own_states, decay);
}

// One thread per (b, d, n): `size` of them per sequence.
__global__ void selective_scan_starts_kernel(std::int64_t size, int segments, bool reverse,
                                             const float* ends, const float* decays,
                                             const float* h0, float* starts) {
  const std::int64_t i = global_index();
  if (i >= size) return;
  const std::int64_t b = blockIdx.y;
  float state = h0 != nullptr ? h0[b * size + i] : 0.0F;
  for (int k = 0; k < segments; ++k) {
    const int segment = reverse ? segments - 1 - k : k;
    starts[(b * segments + segment) * size + i] = state;
    if (k + 1 == segments) break;
    const std::int64_t at = (b * (segments - 1) + segment - (reverse ? 1 : 0)) * size + i;
    state = decays[at] * state + ends[at];
  }
}

}  // namespace

int& forced_segment_chunks() {
  static int forced = 0;
  return forced;
}

ScanSplit ScanSplit::choose(Device device, std::int64_t batch, std::int64_t length,
                            std::int64_t channels, std::int64_t states) {
  const std::int64_t chunks = (length + kChunk - 1) / kChunk;
  const int forced = forced_segment_chunks();
  std::int64_t per_segment = chunks;
  if (forced > 0) {
    per_segment = forced;
  } else if (forced == 0) {
    const std::int64_t blocks =
        batch * ((channels * states + kScanThreads * kStates - 1) / (kScanThreads * kStates));
    const std::int64_t room = 3 * multiprocessors(device) / blocks;
    const std::int64_t segments = std::min(room, chunks / 4);
    if (room >= 6 && segments > 1) per_segment = (chunks + segments - 1) / segments;
  }
  per_segment = std::max<std::int64_t>(1, std::min(per_segment, chunks));
  return {static_cast<int>((chunks + per_segment - 1) / per_segment),
          static_cast<int>(per_segment)};
}

template <typename T>
Tensor scan_starts(const ScanEnds<T>& p, const ScanSplit& split, std::int64_t batch,
                   const float* h0, bool reverse, Device device, bool vectors) {
  const ScanShape& s = p.shape;
  const std::int64_t size = static_cast<std::int64_t>(s.channels) * s.states;
  const Tensor ends = Tensor::empty({batch, split.segments - 1, size}, Dtype::f32, device);
  const Tensor decays = Tensor::empty({batch, split.segments - 1, size}, Dtype::f32, device);
  const Tensor starts = Tensor::empty({batch, split.segments, size}, Dtype::f32, device);
  dispatch_lanes<kStates>("selective_scan", s.states, [&](auto lanes) {
    constexpr int kLanes = decltype(lanes)::value;
    using Tile = ScanTile<kStates, kLanes>;
    constexpr std::size_t shared = (Tile::kBC + 2 * Tile::kPlane) * sizeof(float);
    const dim3 grid(static_cast<unsigned>(blocks_for(s.channels, Tile::kChannels)),
                    static_cast<unsigned>(batch), static_cast<unsigned>(split.segments - 1));
    dispatch_bool(reverse, [&](auto backwards) {
      dispatch_bool(vectors, [&](auto vector) {
        constexpr bool kReverse = decltype(backwards)::value;
        constexpr bool kVector = decltype(vector)::value;
        ADDER_LAUNCH((selective_scan_ends_kernel<T, kLanes, kReverse, kVector>), grid, kScanThreads,
                     shared, stream(device), p, ends.data<float>(), decays.data<float>());
      });
    });
  });
  constexpr int kThreads = 256;
  const dim3 grid(static_cast<unsigned>(blocks_for(size, kThreads)), static_cast<unsigned>(batch));
  ADDER_LAUNCH(selective_scan_starts_kernel, grid, kThreads, 0, stream(device), size,
               split.segments, reverse, ends.data<float>(), decays.data<float>(), h0,
               starts.data<float>());
  return starts;
}

template Tensor scan_starts(const ScanEnds<float>&, const ScanSplit&, std::int64_t, const float*,
                            bool, Device, bool);
template Tensor scan_starts(const ScanEnds<BFloat16>&, const ScanSplit&, std::int64_t, const float*,
                            bool, Device, bool);

}  // namespace adder::cuda
