// The backward selective scan; see scan_tile.h for the mapping and engine/cpu/scan_bwd.cpp for the
// formulas. Chunks are taken from the last to the first. Within one, a first sweep from the
// checkpoint leaves the states of every kGroup-th step in shared memory; then each group is run
// forward once more into registers and walked backwards. Sums over channels (dB, dC) are formed by
// a reduce-scatter over the warp's channels, then over warps in shared memory, then over tiles of
// channels by a second launch: no atomics, so the result is the same in every run.
#include "cuda/runtime.h"
#include "cuda/scan_tile.h"
#include "engine/kernels/elementwise.h"

namespace adder::cuda {
namespace {

constexpr int kStatesPerLane = 4;
constexpr int kGroup = 4;                             // steps whose states are in registers at once
constexpr int kValues = 2 * kGroup * kStatesPerLane;  // of dB and dC in a group: 32
constexpr int kWarps = kScanThreads / kWarp;

template <typename T>
struct ScanBwd {
  ScanShape shape;
  Rows<const T> u, dt, B, C, z, dout;
  const float* A_log;
  const float* D;
  const float* dt_bias;
  const float* checkpoints;
  Rows<T> du, ddt, dz;
  float* part_A;     // (B, D, N), or null
  float* part_D;     // (B, D), or null
  float* part_bias;  // (B, D), or null
  float* part_BC;    // (tiles, B, L, 2, N)
  float* dh0;        // (B, D, N), or null
};

template <int kLanes>
struct ScanBwdShared {
  using Tile = ScanTile<kStatesPerLane, kLanes>;
  static constexpr int kSaved = kChunk / kGroup * kStatesPerLane * kScanThreads;
  static constexpr int kSums = kWarps * kChunk * 2 * Tile::kPadded;
  static constexpr std::size_t kBytes =
      (2 * Tile::kBC + 8 * Tile::kPlane + kSaved + kSums) * sizeof(float);
};

// Adds values over the lanes that differ in the bits from kLanes up to kMask: every lane ends with
// kCount / 2^stages of the sums, the first of which is number `first`. By recursion, because nvcc
// does not unroll a loop over masks whose inner bound shrinks, and would spill the array.
template <int kLanes, int kMask, int kCount>
__device__ __forceinline__ void reduce_scatter(float (&values)[kValues], int lane, int& first) {
  if constexpr (kMask >= kLanes) {
    constexpr int kHalf = kCount / 2;
    const bool upper = (lane & kMask) != 0;
#pragma unroll
    for (int q = 0; q < kHalf; ++q) {
      // Both are read before one is chosen: choosing an address would need local memory.
      float keep = values[q];
      float send = values[q + kHalf];
      if (upper) {
        const float low = keep;
        keep = send;
        send = low;
      }
      values[q] = keep + warp_shfl_xor(send, kMask);
    }
    if (upper) first += kHalf;
    reduce_scatter<kLanes, kMask / 2, kHalf>(values, lane, first);
  }
}

template <typename T, int kLanes, bool kA>
__global__ void __launch_bounds__(kScanThreads, 3) selective_scan_bwd_kernel(ScanBwd<T> p) {
  constexpr int kStates = kStatesPerLane;
  using Tile = ScanTile<kStates, kLanes>;
  ADDER_SHARED(float, shared);
  float* const B = shared;
  float* const C = B + Tile::kBC;
  float* const delta = C + Tile::kBC;  // planes of (step, channel)
  float* const delta_u = delta + Tile::kPlane;
  float* const dy = delta_u + Tile::kPlane;
  float* const gate = dy + Tile::kPlane;
  float* const slope = gate + Tile::kPlane;
  float* const y = slope + Tile::kPlane;
  float* const d_delta = y + Tile::kPlane;
  float* const d_delta_u = d_delta + Tile::kPlane;
  float* const saved = d_delta_u + Tile::kPlane;              // (group, state, thread)
  float* const sums = saved + ScanBwdShared<kLanes>::kSaved;  // (warp, step, B or C, state)
  const ScanShape& s = p.shape;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp_lane = thread % kWarp;
  const std::int64_t b = blockIdx.y;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * Tile::kChannels;
  const int c = Tile::channel_in_tile();
  const std::int64_t d = first + c;
  const int n0 = Tile::lane() * kStates;
  const std::int64_t chunks = (s.length + kChunk - 1) / kChunk;
  // The channel whose (step, channel) elements this thread finishes is the same in every round.
  const std::int64_t own = first + thread % Tile::kChannels;

  float rate[kStates];
  float carry[kStates] = {};  // a_{t+1} dh_{t+1}
  float dA[kStates] = {};
  float dD = 0;
  float dbias = 0;
#pragma unroll
  for (int i = 0; i < kStates; ++i) rate[i] = decay_rate(p.A_log, s, d, n0 + i);

  for (std::int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
    const std::int64_t t0 = chunk * kChunk;
    const int steps = static_cast<int>(s.length - t0 < kChunk ? s.length - t0 : kChunk);
    const int groups = (steps + kGroup - 1) / kGroup;
    load_states_tile<Tile::kPadded>(p.B, s, b, t0, B);
    load_states_tile<Tile::kPadded>(p.C, s, b, t0, C);
    for (int i = thread; i < Tile::kPlane; i += kScanThreads) {
      const std::int64_t t = t0 + i / Tile::kChannels;
      const bool inside = t < s.length && own < s.channels;
      const float input = inside ? to_float(p.u.at(b, t)[own]) : 0.0F;
      float x = inside ? to_float(p.dt.at(b, t)[own]) : 0.0F;
      if (inside && p.dt_bias != nullptr) x += p.dt_bias[own];
      float arriving = inside ? to_float(p.dout.at(b, t)[own]) : 0.0F;
      float through_gate = 0;
      if (inside && p.z.data != nullptr) {
        const float z = to_float(p.z.at(b, t)[own]);
        const float sigmoid_z = sigmoid(z);
        through_gate = arriving * silu_slope(z, sigmoid_z);
        arriving *= z * sigmoid_z;
      }
      delta[i] = inside ? softplus(x) : 0.0F;
      delta_u[i] = delta[i] * input;
      dy[i] = arriving;
      gate[i] = through_gate;
      slope[i] = softplus_slope(x);
    }
    float h[kStates];
#pragma unroll
    for (int i = 0; i < kStates; ++i) {
      const bool exists = d < s.channels && n0 + i < s.states;
      h[i] = exists ? p.checkpoints[checkpoint_at(s, b, chunk, chunks, n0 + i, d)] : 0.0F;
    }
    __syncthreads();

    for (int group = 0; group < groups; ++group) {
#pragma unroll
      for (int i = 0; i < kStates; ++i) {
        saved[(group * kStates + i) * kScanThreads + thread] = h[i];
      }
      if (group + 1 == groups) break;
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        const int t = group * kGroup + j;
        const float step = delta[t * Tile::kChannels + c];
        const float step_u = delta_u[t * Tile::kChannels + c];
#pragma unroll
        for (int i = 0; i < kStates; ++i) {
          h[i] = fast_exp2(step * rate[i]) * h[i] + step_u * B[t * Tile::kPadded + n0 + i];
        }
      }
    }
    for (int group = groups - 1; group >= 0; --group) {
      float decay[kGroup][kStates];
      float before[kGroup][kStates];
#pragma unroll
      for (int i = 0; i < kStates; ++i) {
        h[i] = saved[(group * kStates + i) * kScanThreads + thread];
      }
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        const int t = group * kGroup + j;
        const float step = delta[t * Tile::kChannels + c];
        const float step_u = delta_u[t * Tile::kChannels + c];
#pragma unroll
        for (int i = 0; i < kStates; ++i) {
          decay[j][i] = fast_exp2(step * rate[i]);
          before[j][i] = h[i];
          h[i] = decay[j][i] * h[i] + step_u * B[t * Tile::kPadded + n0 + i];
        }
      }
      float values[kValues];  // dB, then dC: (step, state)
#pragma unroll
      for (int j = kGroup - 1; j >= 0; --j) {
        const int t = group * kGroup + j;
        const int at = t * Tile::kChannels + c;
        const float step = delta[at];
        const float step_u = delta_u[at];
        const float grad = dy[at];
        float sum_y = 0;
        float sum_delta = 0;
        float sum_delta_u = 0;
#pragma unroll
        for (int i = 0; i < kStates; ++i) {
          const float b_value = B[t * Tile::kPadded + n0 + i];
          const float c_value = C[t * Tile::kPadded + n0 + i];
          const float after = j + 1 < kGroup ? before[(j + 1) % kGroup][i] : h[i];
          const float dh = carry[i] + grad * c_value;
          values[j * kStates + i] = dh * step_u;
          values[kGroup * kStates + j * kStates + i] = grad * after;
          sum_y += after * c_value;
          sum_delta_u += dh * b_value;
          carry[i] = dh * decay[j][i];
          const float w = carry[i] * before[j][i];
          sum_delta += w * rate[i];
          if constexpr (kA) dA[i] += w * step;
        }
        sum_y = lane_sum<kLanes>(sum_y);
        sum_delta = lane_sum<kLanes>(sum_delta);
        sum_delta_u = lane_sum<kLanes>(sum_delta_u);
        if (Tile::lane() == 0) {
          y[at] = sum_y;
          d_delta[at] = sum_delta;
          d_delta_u[at] = sum_delta_u;
        }
      }
      int base = 0;
      reduce_scatter<kLanes, kWarp / 2, kValues>(values, warp_lane, base);
      // log2(32 / kLanes) halvings of kValues leave kLanes sums, in the order (B or C, step,
      // state).
#pragma unroll
      for (int q = 0; q < kLanes; ++q) {
        const int index = base + q;
        const int which = index / (kGroup * kStates);
        const int t = group * kGroup + index / kStates % kGroup;
        const int row = (thread / kWarp * kChunk + t) * 2 + which;
        sums[row * Tile::kPadded + n0 + index % kStates] = values[q];
      }
    }
    __syncthreads();
    for (int i = thread; i < steps * 2 * s.states; i += kScanThreads) {
      const int t = i / (2 * s.states);
      const int which = i / s.states % 2;
      const int n = i % s.states;
      float sum = 0;
      for (int w = 0; w < kWarps; ++w) {
        sum += sums[((w * kChunk + t) * 2 + which) * Tile::kPadded + n];
      }
      const std::int64_t row = (blockIdx.x * gridDim.y + b) * s.length + t0 + t;
      p.part_BC[(row * 2 + which) * s.states + n] = sum;
    }
    if (own < s.channels) {
      for (int i = thread; i < steps * Tile::kChannels; i += kScanThreads) {
        const std::int64_t t = t0 + i / Tile::kChannels;
        const float input = to_float(p.u.at(b, t)[own]);
        const float of_delta = d_delta[i] * kLn2 + d_delta_u[i] * input;
        const float of_dt = of_delta * slope[i];
        dD += dy[i] * input;
        dbias += of_dt;
        if (p.ddt.data != nullptr) p.ddt.at(b, t)[own] = from_float<T>(of_dt);
        if (p.du.data != nullptr) {
          p.du.at(b, t)[own] = from_float<T>(d_delta_u[i] * delta[i] + dy[i] * p.D[own]);
        }
        if (p.dz.data != nullptr) {
          p.dz.at(b, t)[own] = from_float<T>(gate[i] * (y[i] + p.D[own] * input));
        }
      }
    }
    __syncthreads();  // the next chunk overwrites the planes
  }

#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    if (d >= s.channels || n0 + i >= s.states) continue;
    const std::int64_t at = (b * s.channels + d) * s.states + n0 + i;
    if constexpr (kA) p.part_A[at] = dA[i];
    if (p.dh0 != nullptr) p.dh0[at] = carry[i];
  }
  // A channel's (step, channel) elements were shared by kLanes threads.
  shared[thread] = dD;
  shared[kScanThreads + thread] = dbias;
  __syncthreads();
  if (thread >= Tile::kChannels || own >= s.channels) return;
  float total_D = 0;
  float total_bias = 0;
  for (int k = 0; k < kLanes; ++k) {
    total_D += shared[k * Tile::kChannels + thread];
    total_bias += shared[kScanThreads + k * Tile::kChannels + thread];
  }
  if (p.part_D != nullptr) p.part_D[b * s.channels + own] = total_D;
  if (p.part_bias != nullptr) p.part_bias[b * s.channels + own] = total_bias;
}

// dB and dC from the parts of the tiles, in their order. One thread per (b, l, B or C, n).
template <typename T>
__global__ void selective_scan_bc_kernel(ScanShape s, std::int64_t batch, std::int64_t tiles,
                                         const float* parts, Rows<T> dB, Rows<T> dC) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t size = batch * s.length * 2 * s.states;
  if (i >= size) return;
  float sum = 0;
  for (std::int64_t tile = 0; tile < tiles; ++tile) sum += parts[tile * size + i];
  const std::int64_t row = i / (2 * s.states);
  const int n = static_cast<int>(i % s.states);
  const std::int64_t b = row / s.length;
  const std::int64_t t = row % s.length;
  if (i / s.states % 2 == 0) {
    if (dB.data != nullptr) dB.at(b, t)[n] = from_float<T>(sum);
  } else {
    if (dC.data != nullptr) dC.at(b, t)[n] = from_float<T>(sum);
  }
}

// dA_log of the listed channels (all when the list is null): A = -exp(A_log) is its own slope.
__global__ void selective_scan_dA_kernel(ScanShape s, std::int64_t batch, const float* parts,
                                         const float* A_log, const std::int32_t* channels,
                                         std::int64_t rows, float* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows * s.states) return;
  const std::int64_t d = channels != nullptr ? channels[i / s.states] : i / s.states;
  const std::int64_t at = d * s.states + i % s.states;
  float sum = 0;
  for (std::int64_t b = 0; b < batch; ++b) sum += parts[b * s.channels * s.states + at];
  out[i] = -expf(A_log[at]) * sum;
}

template <typename T>
void run(const SelectiveScanBwdArgs& args) {
  const char* place = "selective_scan_bwd";
  const Device device = args.u.device();
  const ScanShape s{args.u.dim(1), args.u.dim(2), static_cast<int>(args.A_log.dim(1))};
  const std::int64_t batch = args.u.dim(0);
  const auto scratch = [&](bool wanted, Shape shape) {
    return wanted ? Tensor::empty(shape, Dtype::f32, device) : Tensor();
  };
  const Tensor part_A = scratch(args.dA_log.defined(), {batch, s.channels, s.states});
  const Tensor part_D = scratch(args.dD.defined(), {batch, s.channels});
  const Tensor part_bias = scratch(args.ddt_bias.defined(), {batch, s.channels});
  // Two lanes at least: with one, a tile of 128 channels would not fit the shared memory of sm_89.
  dispatch_lanes<
      kStatesPerLane>(place, std::max<std::int64_t>(s.states, kStatesPerLane + 1), [&](auto lanes) {
    constexpr int kLanes = std::max(2, decltype(lanes)::value);
    const int tiles = blocks_for(s.channels, kScanThreads / kLanes);
    const Tensor part_BC = Tensor::empty({tiles, batch, s.length, 2, s.states}, Dtype::f32, device);
    const ScanBwd<T> p{.shape = s,
                       .u = read_rows<T>(args.u),
                       .dt = read_rows<T>(args.dt),
                       .B = read_rows<T>(args.B),
                       .C = read_rows<T>(args.C),
                       .z = read_rows<T>(args.z),
                       .dout = read_rows<T>(args.dout),
                       .A_log = args.A_log.data<float>(),
                       .D = args.D.data<float>(),
                       .dt_bias = optional_floats(args.dt_bias),
                       .checkpoints = args.checkpoints.data<float>(),
                       .du = rows<T>(args.du),
                       .ddt = rows<T>(args.ddt),
                       .dz = rows<T>(args.dz),
                       .part_A = optional_out(part_A),
                       .part_D = optional_out(part_D),
                       .part_bias = optional_out(part_bias),
                       .part_BC = part_BC.data<float>(),
                       .dh0 = optional_out(args.dh0)};
    constexpr std::size_t shared = ScanBwdShared<kLanes>::kBytes;
    const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(batch));
    const auto launch = [&](auto with_A) {
      constexpr bool kA = decltype(with_A)::value;
      const auto kernel = selective_scan_bwd_kernel<T, kLanes, kA>;
      allow_shared(reinterpret_cast<const void*>(kernel), shared);
      ADDER_LAUNCH((selective_scan_bwd_kernel<T, kLanes, kA>), grid, kScanThreads, shared,
                   stream(device), p);
    };
    part_A.defined() ? launch(std::true_type{}) : launch(std::false_type{});
    if (!args.dB.defined() && !args.dC.defined()) return;
    const std::int64_t count = batch * s.length * 2 * s.states;
    ADDER_LAUNCH((selective_scan_bc_kernel<T>), blocks_for(count, 256), 256, 0, stream(device), s,
                 batch, static_cast<std::int64_t>(tiles), part_BC.data<float>(), rows<T>(args.dB),
                 rows<T>(args.dC));
  });
  if (args.dA_log.defined() && args.dA_log.numel() > 0) {
    ADDER_LAUNCH(selective_scan_dA_kernel, blocks_for(args.dA_log.numel(), 256), 256, 0,
                 stream(device), s, batch, part_A.data<float>(), args.A_log.data<float>(),
                 args.dA_channels.defined() ? args.dA_channels.data<std::int32_t>() : nullptr,
                 args.dA_log.dim(0), args.dA_log.data<float>());
  }
  if (part_D.defined()) column_sum({part_D, args.dD});
  if (part_bias.defined()) column_sum({part_bias, args.ddt_bias});
}

}  // namespace

void selective_scan_bwd(const SelectiveScanBwdArgs& args) {
  check_scan("selective_scan_bwd", args);
  if (args.u.numel() == 0) {
    for (const Tensor* out : {&args.dA_log, &args.dD, &args.ddt_bias, &args.dh0}) {
      if (out->defined()) out->fill(0);
    }
    return;
  }
  dispatch_storage("selective_scan_bwd", args.u.dtype(),
                   [&](auto type) { run<decltype(type)>(args); });
}

}  // namespace adder::cuda
