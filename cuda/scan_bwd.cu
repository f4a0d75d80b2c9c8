// The backward selective scan; see scan_tile.h for the mapping and engine/cpu/scan_bwd.cpp for the
// formulas. Chunks are taken from the last to the first. Within one, a first sweep from the
// checkpoint leaves the states of every kGroup-th step in shared memory; then each group is run
// forward once more into registers and walked backwards. Sums over channels (dB, dC) are formed by
// a reduce-scatter over the warp's channels, then over warps in shared memory, then over tiles of
// channels by a second launch: no atomics, so the result is the same in every run.
//
// The first two halvings of the reduce-scatter split a thread's four states. Lanes hold them in
// different orders (slot i is state i ^ order, by which copy of B and C they read), so that every
// lane keeps its first slots and sends its last: nothing has to be selected.
//
// Traffic per (b, l, d): u, dt, z, dout read and du, ddt, dz written once each, the checkpoints
// read, and 2 N / 32 floats of parts of dB and dC written and read (N 16). Bound by instructions,
// two exp2 per (b, l, d, n) among them: bench/results/README.md.
#include "cuda/runtime.h"
#include "cuda/scan_bwd_stage.h"
#include "cuda/scan_launch.h"
#include "engine/kernels/elementwise.h"

namespace adder::cuda {
namespace {

constexpr int kStates = kBwdStates;

static_assert(ScanBwdTile<4>::kBytes == 73728);  // bench/kernel_counts.json has it too

// kA, kSums: whether the gradients of A, and of D or dt_bias, are formed.
template <typename T, int kLanes, bool kVector, bool kA, bool kSums>
__global__ void __launch_bounds__(kScanThreads, 3) selective_scan_bwd_kernel(ScanBwd<T> p) {
  using Tile = ScanBwdTile<kLanes>;
  constexpr int kChannels = Tile::kChannels;
  ADDER_SHARED(float, shared);
  const BwdShared<kLanes> tile(shared);
  float* const delta = tile.delta;
  const ScanShape& s = p.shape;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp_lane = thread % kWarp;
  const int first = static_cast<int>(blockIdx.x) * kChannels;
  const int c = Tile::channel();
  const int d = first + c;
  const int n0 = Tile::lane() * kStates;
  const int copy = Tile::copy(warp_lane);
  const int order = Tile::order(copy);
  const int bc_at = copy * Tile::kPadded + n0;
  const int begin = s.first_chunk();
  const int end = s.end_chunk();
  float* const my_part = tile.parts + Tile::rotated(Tile::lane(), c);

  // The quad of channels that this thread prepares, and finishes in a round.
  const int column = Tile::column();
  const int count = channels_left(s, first + column);
  const Quad<float> bias = channel_quad(p.dt_bias, first + column, count);
  const Quad<float> skip = channel_quad(p.D, first + column, count);
  const int round_row = thread / Tile::kColumns;
  const std::int64_t parts_before = static_cast<std::int64_t>(blockIdx.x) * gridDim.y + blockIdx.y;
  const std::int64_t groups = (s.length + kGroup - 1) / kGroup;
  float* const part_BC =
      p.part_BC == nullptr ? nullptr : p.part_BC + parts_before * groups * 2 * s.states * kGroup;

  float rate[kStates];
  float carry[kStates] = {};  // a_{t+1} dh_{t+1}
  float dA[kStates] = {};
  float dD[4] = {};
  float dbias[4] = {};
  const int own_states = d < s.channels ? s.states - n0 : 0;
#pragma unroll
  for (int i = 0; i < kStates; ++i) rate[i] = decay_rate(p.A_log, s, d, n0 + (i ^ order));
  if (p.starts != nullptr) {
    load_states<kVector>(p.starts + s.part_at(d) + n0, own_states, carry);
    Tile::reorder(carry, order);
  }

  for (int chunk = end - 1; chunk >= begin; --chunk) {
    const int steps = s.steps(chunk);
    const int rounds = (steps + kRound - 1) / kRound;
    stage_chunk<kVector>(p, tile, chunk, first + column, count, bias);
    float h[kStates];
    load_states<kVector>(p.checkpoints + s.checkpoint_at(chunk, d) + n0, own_states, h);
    Tile::reorder(h, order);
    __syncthreads();

    const auto save = [&](int group) {
      store_aligned(tile.saved + (group * kScanThreads + thread) * kStates,
                    Quad<float>{h[0], h[1], h[2], h[3]});
    };
#pragma unroll 1
    for (int group = 0; group + 1 < rounds * 2; ++group) {
      save(group);
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        const int t = group * kGroup + j;
        const float step = delta[(t * kChannels + c) * 2];
        const float step_u = delta[(t * kChannels + c) * 2 + 1];
        const Quad<float> b = load_aligned(tile.B + t * Tile::kRow + bc_at);
#pragma unroll
        for (int i = 0; i < kStates; ++i) {
          h[i] = fast_exp2(step * rate[i]) * h[i] + step_u * b.v[i];
        }
      }
    }
    save(rounds * 2 - 1);
#pragma unroll 1
    for (int round = rounds - 1; round >= 0; --round) {
#pragma unroll 1
      for (int half = 1; half >= 0; --half) {
        const int group = round * 2 + half;
        float decay[kGroup][kStates];
        float before[kGroup + 1][kStates];
        float step[kGroup];
        float step_u[kGroup];
        const Quad<float> from =
            load_aligned(tile.saved + (group * kScanThreads + thread) * kStates);
#pragma unroll
        for (int i = 0; i < kStates; ++i) before[0][i] = from.v[i];
#pragma unroll
        for (int j = 0; j < kGroup; ++j) {
          const int t = group * kGroup + j;
          step[j] = delta[(t * kChannels + c) * 2];
          step_u[j] = delta[(t * kChannels + c) * 2 + 1];
          const Quad<float> b = load_aligned(tile.B + t * Tile::kRow + bc_at);
#pragma unroll
          for (int i = 0; i < kStates; ++i) {
            decay[j][i] = fast_exp2(step[j] * rate[i]);
            before[j + 1][i] = decay[j][i] * before[j][i] + step_u[j] * b.v[i];
          }
        }
        float values[kValues];
#pragma unroll
        for (int j = kGroup - 1; j >= 0; --j) {
          const int t = group * kGroup + j;
          const float grad = tile.dy[t * kChannels + c];
          const Quad<float> b = load_aligned(tile.B + t * Tile::kRow + bc_at);
          const Quad<float> c_value = load_aligned(tile.C + t * Tile::kRow + bc_at);
          float sum_y = 0;
          float sum_delta = 0;
          float sum_delta_u = 0;
#pragma unroll
          for (int i = 0; i < kStates; ++i) {
            const float after = before[j + 1][i];
            const float dh = carry[i] + grad * c_value.v[i];
            values[i * 2 * kGroup + j] = dh * step_u[j];
            values[i * 2 * kGroup + kGroup + j] = grad * after;
            sum_y += after * c_value.v[i];
            sum_delta_u += dh * b.v[i];
            carry[i] = dh * decay[j][i];
            const float w = carry[i] * before[j][i];
            sum_delta += w * rate[i];
            if constexpr (kA) dA[i] += w * step[j];
          }
          float* const part = my_part + (half * kGroup + j) * kScanThreads;
          part[0] = sum_y;
          part[Tile::kParts] = sum_delta;
          part[2 * Tile::kParts] = sum_delta_u;
        }
        int base = 0;
        reduce_scatter<kLanes, kWarp / 2, kValues>(values, warp_lane, base);
        // log2(32 / kLanes) halvings of kValues leave kLanes sums.
        const auto place = [&](int number) {
          const int state = n0 + (number / (2 * kGroup) ^ order);
          const int which = number / kGroup % 2;
          const int row = ((thread / kWarp * 2 + half) * 2 + which) * Tile::kPadded + state;
          return tile.sums + row * kGroup + number % kGroup;
        };
        if constexpr (kLanes >= kGroup) {
#pragma unroll
          for (int q = 0; q < kLanes; q += kGroup) {
            store_aligned(place(base + q),
                          Quad<float>{values[q], values[q + 1], values[q + 2], values[q + 3]});
          }
        } else {
#pragma unroll
          for (int q = 0; q < kLanes; ++q) *place(base + q) = values[q];
        }
      }
      __syncthreads();
      // From the last thread on, as the first ones have the round's (step, channel) quads to do.
      constexpr int kTurns = (Tile::kQuads + kScanThreads - 1) / kScanThreads;
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
        const int i = (turn + 1) * kScanThreads - 1 - thread;
        const int n = i % Tile::kPadded;
        const int half_and_which = i / Tile::kPadded;
        const int group = chunk * (kChunk / kGroup) + round * 2 + half_and_which / 2;
        if (part_BC == nullptr || i >= Tile::kQuads || n >= s.states ||
            group * kGroup >= s.length) {
          continue;
        }
        Quad<float> sum = load_aligned(tile.sums + i * kGroup);
#pragma unroll
        for (int w = 1; w < kWarps; ++w) {
          const Quad<float> more = load_aligned(tile.sums + (w * Tile::kQuads + i) * kGroup);
#pragma unroll
          for (int k = 0; k < kGroup; ++k) sum.v[k] += more.v[k];
        }
        const int at = (group * 2 + half_and_which % 2) * s.states + n;
        store_aligned(part_BC + at * kGroup, sum);
      }
      const int row = round * kRound + round_row;
      if (round_row < kRound && row < steps) {
        const int at = row * kChannels + column;
        const float* const part = tile.parts + round_row * kScanThreads;
        float y[4];
        float d_delta[4];
        float d_delta_u[4];
        Tile::add_lanes(part, column, y);
        Tile::add_lanes(part + Tile::kParts, column, d_delta);
        Tile::add_lanes(part + 2 * Tile::kParts, column, d_delta_u);
        const Quad<float> low = load_aligned(delta + at * 2);
        const Quad<float> high = load_aligned(delta + at * 2 + 4);
        const Quad<float> grad = load_aligned(tile.dy + at);
        const Quad<float> u = load_aligned(tile.input + at);
        const Quad<float> slopes = load_aligned(tile.slope + at);
        const Quad<float> through = load_aligned(tile.gate + at);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float value = (k < 2 ? low : high).v[k % 2 * 2];
          const float of_dt = (d_delta[k] * kLn2 + d_delta_u[k] * u.v[k]) * slopes.v[k];
          if constexpr (kSums) {
            dD[k] += grad.v[k] * u.v[k];
            dbias[k] += of_dt;
          }
          d_delta[k] = of_dt;
          d_delta_u[k] = d_delta_u[k] * value + grad.v[k] * skip.v[k];
          y[k] = through.v[k] * (y[k] + skip.v[k] * u.v[k]);
        }
        const int t = chunk * kChunk + row;
        const auto write = [&](const Rows<T>& to, const float(&from)[4]) {
          if (to.data == nullptr) return;
          store_quad<kVector>(row_of(to, t) + first + column, count, stored<T>(from));
        };
        write(p.ddt, d_delta);
        write(p.du, d_delta_u);
        write(p.dz, y);
      }
      __syncthreads();  // the next round overwrites parts and sums
    }
  }

  if (kA && p.part_A != nullptr) {
    Tile::reorder(dA, order);
    store_states<kVector>(p.part_A + s.part_at(d) + n0, own_states, dA);
  }
  if (p.dh0 != nullptr && begin == 0) {
    Tile::reorder(carry, order);
    const std::int64_t at = (static_cast<std::int64_t>(blockIdx.y) * s.channels + d) * s.states;
    store_states<kVector>(p.dh0 + at + n0, own_states, carry);
  }
  if constexpr (kSums) {
    // A channel's (step, channel) elements were shared by the threads of its column.
    store_aligned(shared + thread * 4, Quad<float>{dD[0], dD[1], dD[2], dD[3]});
    store_aligned(shared + (kScanThreads + thread) * 4,
                  Quad<float>{dbias[0], dbias[1], dbias[2], dbias[3]});
    __syncthreads();
    if (thread >= kChannels || first + thread >= s.channels) return;
    float total_D = 0;
    float total_bias = 0;
    for (int k = 0; k < Tile::kRowsApart; ++k) {
      total_D += shared[k * kChannels + thread];
      total_bias += shared[4 * kScanThreads + k * kChannels + thread];
    }
    const std::int64_t at = s.part_at(0) / s.states + first + thread;
    if (p.part_D != nullptr) p.part_D[at] = total_D;
    if (p.part_bias != nullptr) p.part_bias[at] = total_bias;
  }
}

template <typename T>
void run(const SelectiveScanBwdArgs& args) {
  const char* place = "selective_scan_bwd";
  const Device device = args.u.device();
  const std::int64_t batch = args.u.dim(0);
  const std::int64_t length = args.u.dim(1);
  const std::int64_t channels = args.u.dim(2);
  const std::int64_t states = args.A_log.dim(1);
  const ScanSplit split = ScanSplit::choose(device, batch, length, channels, states);
  const ScanShape s = scan_shape(length, channels, states, split.segment_chunks);
  const std::int64_t parts = batch * split.segments;
  const auto scratch = [&](bool wanted, Shape shape) {
    return wanted ? Tensor::empty(shape, Dtype::f32, device) : Tensor();
  };
  const Tensor part_A = scratch(args.dA_log.defined(), {parts, channels, states});
  const Tensor part_D = scratch(args.dD.defined(), {parts, channels});
  const Tensor part_bias = scratch(args.ddt_bias.defined(), {parts, channels});
  const bool vectors = in_quads({&args.u, &args.dt, &args.B, &args.C, &args.z, &args.dout, &args.du,
                                 &args.ddt, &args.dz, &args.checkpoints, &args.dh0});
  ScanBwd<T> p{.shape = s,
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
               .starts = nullptr,
               .du = scan_rows<T>(args.du),
               .ddt = scan_rows<T>(args.ddt),
               .dz = scan_rows<T>(args.dz),
               .part_A = optional_floats(part_A),
               .part_D = optional_floats(part_D),
               .part_bias = optional_floats(part_bias),
               .part_BC = nullptr,
               .dh0 = optional_floats(args.dh0)};
  Tensor starts;
  if (split.segments > 1) {
    const ScanEnds<T> ends{p.shape, p.u, p.dt, p.B, p.C, p.z, p.dout, p.A_log, p.dt_bias};
    starts = scan_starts(ends, split, batch, nullptr, true, device, vectors);
    p.starts = starts.data<float>();
  }
  dispatch_lanes<kStates>(place, states, [&](auto lanes) {
    constexpr int kLanes = decltype(lanes)::value;
    const int tiles = blocks_for(channels, kScanThreads / kLanes);
    const std::int64_t groups = (length + kGroup - 1) / kGroup;
    const Tensor part_BC = scratch(args.dB.defined() || args.dC.defined(),
                                   {tiles, batch, groups, 2 * states * kGroup});
    p.part_BC = optional_floats(part_BC);
    const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(batch),
                    static_cast<unsigned>(split.segments));
    const auto launch = [&](auto vector, auto with_A, auto with_sums) {
      constexpr std::size_t shared = ScanBwdTile<kLanes>::kBytes;
      const auto kernel =
          selective_scan_bwd_kernel<T, kLanes, decltype(vector)::value, decltype(with_A)::value,
                                    decltype(with_sums)::value>;
      allow_shared(reinterpret_cast<const void*>(kernel), shared);
      ADDER_LAUNCH((selective_scan_bwd_kernel<T, kLanes, decltype(vector)::value,
                                              decltype(with_A)::value, decltype(with_sums)::value>),
                   grid, kScanThreads, shared, stream(device), p);
    };
    // Unaligned tensors are rare: one kernel, which forms everything, serves them all.
    if (!vectors) {
      launch(std::false_type{}, std::true_type{}, std::true_type{});
    } else {
      dispatch_bool(part_A.defined(), [&](auto with_A) {
        dispatch_bool(part_D.defined() || part_bias.defined(),
                      [&](auto with_sums) { launch(std::true_type{}, with_A, with_sums); });
      });
    }
    if (!part_BC.defined()) return;
    add_scan_parts_BC<T>(s, batch, tiles, part_BC, args.dB, args.dC);
  });
  if (args.dA_log.defined() && args.dA_log.numel() > 0) {
    add_scan_parts_A(s, part_A, args.A_log, args.dA_channels, args.dA_log);
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
