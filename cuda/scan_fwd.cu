// The forward selective scan; see scan_tile.h for the mapping. Traffic per (b, l, d): u, dt, z read
// and out written, once each, plus a checkpoint of the states every kScanChunk steps. Per
// (b, l, d, n) the recurrence is one exp2, two multiplications and two multiply-adds; with loads
// and its share of softplus and gate it stays below the 8 issue slots in which the special-function
// unit delivers one exp2, which is therefore the limit (bench/results/README.md). The next chunk's
// u, dt, B and C are fetched while the present one is computed.
#include "cuda/runtime.h"
#include "cuda/scan_hooks.h"
#include "cuda/scan_launch.h"

namespace adder::cuda {
namespace {

constexpr int kStepsAtOnce = 8;

template <typename T>
struct ScanFwd {
  ScanShape shape;
  Rows<const T> u, dt, B, C, z;
  const float* A_log;
  const float* D;
  const float* dt_bias;
  const float* starts;  // (B, segments, D, N), or null: zero
  Rows<T> out;
  float* h_last;
  float* checkpoints;
};

template <int kStates, int kLanes>
struct ScanFwdShared {
  using Tile = ScanTile<kStates, kLanes>;
  // B and C, (delta, delta u) by (step, channel), parts of y by (step, lane, channel).
  static constexpr std::size_t kBytes =
      (2 * Tile::kBC + 2 * Tile::kPlane + kChunk * kScanThreads) * sizeof(float);
};

// bench/kernel_counts.json has these numbers too.
static_assert(ScanFwdShared<4, 4>::kBytes == 28672 && ScanFwdShared<8, 2>::kBytes == 36864);

template <typename T, int kStates, int kLanes, bool kVector>
__global__ void __launch_bounds__(kScanThreads) selective_scan_fwd_kernel(ScanFwd<T> p) {
  using Tile = ScanTile<kStates, kLanes>;
  using States = StatesPlane<T, Tile::kPadded, kVector>;
  ADDER_SHARED(float, shared);
  float* const B = shared;             // (step, state)
  float* const C = B + Tile::kBC;      // (step, state)
  float* const delta = C + Tile::kBC;  // (step, channel, delta or delta u)
  float* const parts = delta + 2 * Tile::kPlane;
  const ScanShape& s = p.shape;
  const int first = static_cast<int>(blockIdx.x) * Tile::kChannels;
  const int c = Tile::channel();
  const int d = first + c;
  const int n0 = Tile::lane() * kStates;
  const int own_states = d < s.channels ? s.states - n0 : 0;
  const int begin = s.first_chunk();
  const int end = s.end_chunk();
  float* const my_part = parts + Tile::rotated(Tile::lane(), c);

  // The quad of channels that this thread prepares and finishes.
  const int column = Tile::column();
  const int count = channels_left(s, first + column);
  const Quad<float> bias = channel_quad(p.dt_bias, first + column, count);
  const Quad<float> skip = channel_quad(p.D, first + column, count);
  Plane<T, Tile, kVector> u(p.u, begin, first + column);
  Plane<T, Tile, kVector> dt(p.dt, begin, first + column);
  Plane<T, Tile, kVector> z(p.z, begin, first + column);
  States B_next(p.B, begin);
  States C_next(p.C, begin);
  T* out = row_of(p.out, begin * kChunk + Tile::row(0)) + first + column;
  const int out_stride = static_cast<int>(p.out.stride);
  float* checkpoint =
      p.checkpoints == nullptr ? nullptr : p.checkpoints + s.checkpoint_at(begin, d) + n0;

  float rate[kStates];
  float h[kStates] = {};
#pragma unroll
  for (int i = 0; i < kStates; ++i) rate[i] = decay_rate(p.A_log, s, d, n0 + i);
  if (p.starts != nullptr) load_states<kVector>(p.starts + s.part_at(d) + n0, own_states, h);
  const auto fetch = [&](int chunk) {
    const int steps = s.steps(chunk);
    u.load(steps, count, 1);
    dt.load(steps, count, 1);
    B_next.load(steps, s.states, 1);
    C_next.load(steps, s.states, 1);
  };
  fetch(begin);
  for (int chunk = begin; chunk < end; ++chunk) {
    const int steps = s.steps(chunk);
    Quad<T> input[Tile::kItems];
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) {
      const int row = Tile::row(i);
      input[i] = u.quad[i];
      Quad<float> low = {};
      Quad<float> high = {};
      if (row < steps) {  // those beyond the end leave the states as they are
        const Quad<float> x = floats(dt.quad[i]);
        const Quad<float> u_value = floats(input[i]);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float value = softplus(x.v[k] + bias.v[k]);
          (k < 2 ? low : high).v[k % 2 * 2] = value;
          (k < 2 ? low : high).v[k % 2 * 2 + 1] = value * u_value.v[k];
        }
      }
      if (Tile::kSpare && row >= kChunk) continue;
      store_aligned(delta + (row * Tile::kChannels + column) * 2, low);
      store_aligned(delta + (row * Tile::kChannels + column) * 2 + 4, high);
    }
#pragma unroll
    for (int i = 0; i < States::kItems; ++i) {
      if (!States::has(i)) continue;
      const int at = States::row(i) * Tile::kPadded + States::column();
      store_aligned(B + at, floats(B_next.quad[i]));
      store_aligned(C + at, floats(C_next.quad[i]));
    }
    if (checkpoint != nullptr) {
      store_states<kVector>(checkpoint, own_states, h);
      checkpoint += static_cast<std::int64_t>(s.channels) * s.states;
    }
    __syncthreads();
    if (chunk + 1 < end) fetch(chunk + 1);
    if (p.z.data != nullptr) z.load(steps, count, 1);
#pragma unroll 1
    for (int group = 0; group < steps; group += kStepsAtOnce) {
#pragma unroll
      for (int j = 0; j < kStepsAtOnce; ++j) {
        const int t = group + j;
        const float step = delta[(t * Tile::kChannels + c) * 2];
        const float step_u = delta[(t * Tile::kChannels + c) * 2 + 1];
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kStates; i += 4) {
          const Quad<float> b = load_aligned(B + t * Tile::kPadded + n0 + i);
          const Quad<float> c_value = load_aligned(C + t * Tile::kPadded + n0 + i);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            h[i + k] = fast_exp2(step * rate[i + k]) * h[i + k] + step_u * b.v[k];
            sum += h[i + k] * c_value.v[k];
          }
        }
        my_part[t * kScanThreads] = sum;
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) {
      const int row = Tile::row(i);
      if (row >= steps) continue;
      float y[4];
      Tile::add_lanes(parts + row * kScanThreads, column, y);
      const Quad<float> u_value = floats(input[i]);
#pragma unroll
      for (int k = 0; k < 4; ++k) y[k] += skip.v[k] * u_value.v[k];
      if (p.z.data != nullptr) {
        const Quad<float> gate = floats(z.quad[i]);
#pragma unroll
        for (int k = 0; k < 4; ++k) y[k] *= silu(gate.v[k]);
      }
      store_quad<kVector>(out + static_cast<std::int64_t>(i * Tile::kRowsApart) * out_stride, count,
                          stored<T>(y));
    }
    out += static_cast<std::int64_t>(kChunk) * out_stride;
  }
  if (p.h_last == nullptr || end < s.chunks()) return;
  const std::int64_t last = (static_cast<std::int64_t>(blockIdx.y) * s.channels + d) * s.states;
  store_states<kVector>(p.h_last + last + n0, own_states, h);
}

template <typename T>
struct ScanStep {
  ScanShape shape;
  Rows<const T> u, dt, B, C, z;
  const float* A_log;
  const float* D;
  const float* dt_bias;
  float* h;
  Rows<T> out;
};

// One token: a warp's lanes are the states of one channel, so that h is read in its own order.
template <typename T>
__global__ void __launch_bounds__(kScanThreads) selective_scan_step_kernel(ScanStep<T> p) {
  const ScanShape& s = p.shape;
  const int d = static_cast<int>(blockIdx.x * (kScanThreads / kWarp) + threadIdx.x / kWarp);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t b = blockIdx.y;
  const bool inside = d < s.channels;
  const float input = inside ? to_float(p.u.at(b)[d]) : 0.0F;
  float x = inside ? to_float(p.dt.at(b)[d]) : 0.0F;
  if (inside && p.dt_bias != nullptr) x += p.dt_bias[d];
  const float delta = softplus(x);
  float sum = 0;
  if (inside) {
    for (int n = lane; n < s.states; n += kWarp) {
      float& h = p.h[(b * s.channels + d) * s.states + n];
      h = fast_exp2(delta * decay_rate(p.A_log, s, d, n)) * h +
          delta * input * to_float(p.B.at(b)[n]);
      sum += h * to_float(p.C.at(b)[n]);
    }
  }
  sum = lane_sum<kWarp>(sum);
  if (!inside || lane != 0) return;
  float value = sum + p.D[d] * input;
  if (p.z.data != nullptr) value *= silu(to_float(p.z.at(b)[d]));
  p.out.at(b)[d] = from_float<T>(value);
}

// Eight states a lane spare instructions, four occupy the device with fewer channels. For 9 to 16
// states; with more, the rows of B and C that a thread fetches ahead would need its registers.
bool eight_states(Device device, std::int64_t batch, std::int64_t channels, std::int64_t states) {
  if (states <= 8 || states > 16) return false;
  if (forced_states_per_lane() != 0) return forced_states_per_lane() == 8;
  constexpr std::int64_t kPerBlock = kScanThreads / 2;
  return batch * ((channels + kPerBlock - 1) / kPerBlock) >= 4 * multiprocessors(device);
}

}  // namespace

int& forced_states_per_lane() {
  static int forced = 0;
  return forced;
}

void selective_scan_fwd(const SelectiveScanFwdArgs& args) {
  const char* place = "selective_scan_fwd";
  check_scan(place, args);
  const Device device = args.u.device();
  const std::int64_t batch = args.u.dim(0);
  const std::int64_t channels = args.u.dim(2);
  const std::int64_t states = args.A_log.dim(1);
  if (args.u.numel() == 0) {
    if (args.h_last.defined())
      args.h0.defined() ? args.h_last.copy_from(args.h0) : args.h_last.fill(0);
    return;
  }
  const ScanSplit split = ScanSplit::choose(device, batch, args.u.dim(1), channels, states);
  const ScanShape shape = scan_shape(args.u.dim(1), channels, states, split.segment_chunks);
  const bool vectors = in_quads({&args.u, &args.dt, &args.B, &args.C, &args.z, &args.out, &args.h0,
                                 &args.h_last, &args.checkpoints});
  dispatch_storage(place, args.u.dtype(), [&](auto type) {
    using T = decltype(type);
    ScanFwd<T> p{.shape = shape,
                 .u = read_rows<T>(args.u),
                 .dt = read_rows<T>(args.dt),
                 .B = read_rows<T>(args.B),
                 .C = read_rows<T>(args.C),
                 .z = read_rows<T>(args.z),
                 .A_log = args.A_log.data<float>(),
                 .D = args.D.data<float>(),
                 .dt_bias = optional_floats(args.dt_bias),
                 .starts = optional_floats(args.h0),
                 .out = scan_rows<T>(args.out),
                 .h_last = optional_floats(args.h_last),
                 .checkpoints = optional_floats(args.checkpoints)};
    Tensor starts;
    if (split.segments > 1) {
      const ScanEnds<T> ends{.shape = shape,
                             .u = p.u,
                             .dt = p.dt,
                             .B = p.B,
                             .C = {},
                             .z = {},
                             .dout = {},
                             .A_log = p.A_log,
                             .dt_bias = p.dt_bias};
      starts = scan_starts(ends, split, batch, p.starts, false, device, vectors);
      p.starts = starts.data<float>();
    }
    const auto run = [&](auto per_lane, auto lanes) {
      dispatch_bool(vectors, [&](auto vector) {
        constexpr int kStates = decltype(per_lane)::value;
        constexpr int kLanes = decltype(lanes)::value;
        constexpr bool kVector = decltype(vector)::value;
        constexpr std::size_t shared = ScanFwdShared<kStates, kLanes>::kBytes;
        const auto kernel = selective_scan_fwd_kernel<T, kStates, kLanes, kVector>;
        allow_shared(reinterpret_cast<const void*>(kernel), shared);
        const dim3 grid(static_cast<unsigned>(blocks_for(channels, kScanThreads / kLanes)),
                        static_cast<unsigned>(batch), static_cast<unsigned>(split.segments));
        ADDER_LAUNCH((selective_scan_fwd_kernel<T, kStates, kLanes, kVector>), grid, kScanThreads,
                     shared, stream(device), p);
      });
    };
    constexpr std::integral_constant<int, 4> kFour;
    if (eight_states(device, batch, channels, states)) {
      return run(std::integral_constant<int, 8>{}, std::integral_constant<int, 2>{});
    }
    dispatch_lanes<4>(place, states, [&](auto lanes) { run(kFour, lanes); });
  });
}

void selective_scan_step(const SelectiveScanStepArgs& args) {
  const char* place = "selective_scan_step";
  check_scan(place, args);
  const ScanShape shape = scan_shape(1, args.u.dim(1), args.A_log.dim(1), 1);
  if (args.u.numel() == 0) return;
  dispatch_storage(place, args.u.dtype(), [&](auto type) {
    using T = decltype(type);
    const ScanStep<T> p{.shape = shape,
                        .u = read_rows<T>(args.u),
                        .dt = read_rows<T>(args.dt),
                        .B = read_rows<T>(args.B),
                        .C = read_rows<T>(args.C),
                        .z = read_rows<T>(args.z),
                        .A_log = args.A_log.data<float>(),
                        .D = args.D.data<float>(),
                        .dt_bias = optional_floats(args.dt_bias),
                        .h = args.h.data<float>(),
                        .out = scan_rows<T>(args.out)};
    const dim3 grid(static_cast<unsigned>(blocks_for(shape.channels, kScanThreads / kWarp)),
                    static_cast<unsigned>(args.u.dim(0)));
    ADDER_LAUNCH((selective_scan_step_kernel<T>), grid, kScanThreads, 0, stream(args.u.device()),
                 p);
  });
}

}  // namespace adder::cuda
