// The forward selective scan; see scan_tile.h for the mapping. Traffic per (b, l, d): u, dt, z read
// and out written once, u once more from the caches; a checkpoint of the states every kScanChunk
// steps. Per (b, l, d, n) the recurrence is one exp2, two multiplications and two multiply-adds.
#include "cuda/runtime.h"
#include "cuda/scan_tile.h"

namespace adder::cuda {
namespace {

constexpr int kStatesPerLane = 4;

template <typename T>
struct ScanFwd {
  ScanShape shape;
  Rows<const T> u, dt, B, C, z;
  const float* A_log;
  const float* D;
  const float* dt_bias;
  const float* h0;
  Rows<T> out;
  float* h_last;
  float* checkpoints;
};

template <int kStates, int kLanes>
constexpr std::size_t scan_fwd_shared() {
  using Tile = ScanTile<kStates, kLanes>;
  return (2 * Tile::kBC + 3 * Tile::kPlane) * sizeof(float);
}

template <typename T, int kStates, int kLanes>
__global__ void __launch_bounds__(kScanThreads) selective_scan_fwd_kernel(ScanFwd<T> p) {
  using Tile = ScanTile<kStates, kLanes>;
  ADDER_SHARED(float, shared);
  float* const B = shared;             // (step, state)
  float* const C = B + Tile::kBC;      // (step, state)
  float* const delta = C + Tile::kBC;  // (step, channel)
  float* const delta_u = delta + Tile::kPlane;
  float* const y = delta_u + Tile::kPlane;
  const ScanShape& s = p.shape;
  const std::int64_t b = blockIdx.y;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * Tile::kChannels;
  const int c = Tile::channel_in_tile();
  const std::int64_t d = first + c;
  const int n0 = Tile::lane() * kStates;
  const std::int64_t chunks = (s.length + kChunk - 1) / kChunk;

  float rate[kStates];
  float h[kStates];
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    const bool exists = d < s.channels && n0 + i < s.states;
    rate[i] = decay_rate(p.A_log, s, d, n0 + i);
    h[i] = exists && p.h0 != nullptr ? p.h0[(b * s.channels + d) * s.states + n0 + i] : 0.0F;
  }
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    const std::int64_t t0 = chunk * kChunk;
    const int steps = static_cast<int>(s.length - t0 < kChunk ? s.length - t0 : kChunk);
    load_states_tile<Tile::kPadded>(p.B, s, b, t0, B);
    load_states_tile<Tile::kPadded>(p.C, s, b, t0, C);
    for (int i = static_cast<int>(threadIdx.x); i < Tile::kPlane; i += kScanThreads) {
      const std::int64_t t = t0 + i / Tile::kChannels;
      const std::int64_t channel = first + i % Tile::kChannels;
      const bool inside = t < s.length && channel < s.channels;
      const float input = inside ? to_float(p.u.at(b, t)[channel]) : 0.0F;
      float x = inside ? to_float(p.dt.at(b, t)[channel]) : 0.0F;
      if (inside && p.dt_bias != nullptr) x += p.dt_bias[channel];
      delta[i] = inside ? softplus(x) : 0.0F;
      delta_u[i] = delta[i] * input;
    }
    if (p.checkpoints != nullptr && d < s.channels) {
#pragma unroll
      for (int i = 0; i < kStates; ++i) {
        if (n0 + i < s.states) p.checkpoints[checkpoint_at(s, b, chunk, chunks, n0 + i, d)] = h[i];
      }
    }
    __syncthreads();
    for (int t = 0; t < steps; ++t) {
      const float step = delta[t * Tile::kChannels + c];
      const float step_u = delta_u[t * Tile::kChannels + c];
      const float* b_row = B + t * Tile::kPadded + n0;
      const float* c_row = C + t * Tile::kPadded + n0;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kStates; ++i) {
        h[i] = fast_exp2(step * rate[i]) * h[i] + step_u * b_row[i];
        sum += h[i] * c_row[i];
      }
      sum = lane_sum<kLanes>(sum);
      if (Tile::lane() == 0) y[t * Tile::kChannels + c] = sum;
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < steps * Tile::kChannels; i += kScanThreads) {
      const std::int64_t t = t0 + i / Tile::kChannels;
      const std::int64_t channel = first + i % Tile::kChannels;
      if (channel >= s.channels) continue;
      float value = y[i] + p.D[channel] * to_float(p.u.at(b, t)[channel]);
      if (p.z.data != nullptr) value *= silu(to_float(p.z.at(b, t)[channel]));
      p.out.at(b, t)[channel] = from_float<T>(value);
    }
    __syncthreads();  // the next chunk overwrites B, C and y
  }
  if (p.h_last == nullptr || d >= s.channels) return;
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    if (n0 + i < s.states) p.h_last[(b * s.channels + d) * s.states + n0 + i] = h[i];
  }
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
  const std::int64_t d =
      static_cast<std::int64_t>(blockIdx.x) * (kScanThreads / kWarp) + threadIdx.x / kWarp;
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

}  // namespace

void selective_scan_fwd(const SelectiveScanFwdArgs& args) {
  const char* place = "selective_scan_fwd";
  check_scan(place, args);
  const Device device = args.u.device();
  const ScanShape shape{args.u.dim(1), args.u.dim(2), static_cast<int>(args.A_log.dim(1))};
  const std::int64_t batch = args.u.dim(0);
  if (args.u.numel() == 0) {
    if (args.h_last.defined())
      args.h0.defined() ? args.h_last.copy_from(args.h0) : args.h_last.fill(0);
    return;
  }
  dispatch_storage(place, args.u.dtype(), [&](auto type) {
    using T = decltype(type);
    const ScanFwd<T> p{.shape = shape,
                       .u = read_rows<T>(args.u),
                       .dt = read_rows<T>(args.dt),
                       .B = read_rows<T>(args.B),
                       .C = read_rows<T>(args.C),
                       .z = read_rows<T>(args.z),
                       .A_log = args.A_log.data<float>(),
                       .D = args.D.data<float>(),
                       .dt_bias = optional_floats(args.dt_bias),
                       .h0 = optional_floats(args.h0),
                       .out = rows<T>(args.out),
                       .h_last = optional_out(args.h_last),
                       .checkpoints = optional_out(args.checkpoints)};
    dispatch_lanes<kStatesPerLane>(place, shape.states, [&](auto lanes) {
      constexpr int kLanes = decltype(lanes)::value;
      constexpr std::size_t shared = scan_fwd_shared<kStatesPerLane, kLanes>();
      const auto kernel = selective_scan_fwd_kernel<T, kStatesPerLane, kLanes>;
      allow_shared(reinterpret_cast<const void*>(kernel), shared);
      const dim3 grid(static_cast<unsigned>(blocks_for(shape.channels, kScanThreads / kLanes)),
                      static_cast<unsigned>(batch));
      ADDER_LAUNCH((selective_scan_fwd_kernel<T, kStatesPerLane, kLanes>), grid, kScanThreads,
                   shared, stream(device), p);
    });
  });
}

void selective_scan_step(const SelectiveScanStepArgs& args) {
  const char* place = "selective_scan_step";
  check_scan(place, args);
  const ScanShape shape{1, args.u.dim(1), static_cast<int>(args.A_log.dim(1))};
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
                        .out = rows<T>(args.out)};
    const dim3 grid(static_cast<unsigned>(blocks_for(shape.channels, kScanThreads / kWarp)),
                    static_cast<unsigned>(args.u.dim(0)));
    ADDER_LAUNCH((selective_scan_step_kernel<T>), grid, kScanThreads, 0, stream(args.u.device()),
                 p);
  });
}

}  // namespace adder::cuda
