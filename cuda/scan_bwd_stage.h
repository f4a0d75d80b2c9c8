// The backward scan's shared memory and how a chunk gets into it. Private to cuda/.
#pragma once

#include "cuda/scan_bwd.h"

namespace adder::cuda {

template <int kLanes>
struct BwdShared {
  using Tile = ScanBwdTile<kLanes>;
  float* B;      // (step, copy, state)
  float* C;      // (step, copy, state)
  float* delta;  // (step, channel, delta or delta u)
  float* dy;     // (step, channel), as the next three
  float* input;  // u
  float* slope;  // of softplus
  float* gate;   // dout silu'(z)
  float* saved;  // (group, thread, slot)
  float* parts;  // (y, d_delta or d_delta_u; step, lane, channel)
  float* sums;   // (warp, group, B or C, state, step)

  __device__ explicit BwdShared(float* shared)
      : B(shared),
        C(B + kChunk * Tile::kRow),
        delta(C + kChunk * Tile::kRow),
        dy(delta + 2 * Tile::kPlane),
        input(dy + Tile::kPlane),
        slope(input + Tile::kPlane),
        gate(slope + Tile::kPlane),
        saved(gate + Tile::kPlane),
        parts(saved + Tile::kSaved),
        sums(parts + 3 * Tile::kParts) {}
};

// Prepares a chunk: what depends on (step, channel) alone, and B and C in all orders. `first` is
// the thread's first channel, `count` how many of its four exist, `bias` their dt_bias.
template <bool kVector, typename T, int kLanes>
__device__ __forceinline__ void stage_chunk(const ScanBwd<T>& p, const BwdShared<kLanes>& to,
                                            int chunk, int first, int count,
                                            const Quad<float>& bias) {
  using Tile = ScanBwdTile<kLanes>;
  using States = StatesPlane<T, Tile::kPadded, kVector>;
  const ScanShape& s = p.shape;
  const int steps = s.steps(chunk);

  Plane<T, Tile, kVector> u(p.u, chunk, first);
  Plane<T, Tile, kVector> dt(p.dt, chunk, first);
  Plane<T, Tile, kVector> dout(p.dout, chunk, first);
  Plane<T, Tile, kVector> z(p.z, chunk, first);
  States B_rows(p.B, chunk);
  States C_rows(p.C, chunk);
  u.load(steps, count, 0);
  dt.load(steps, count, 0);
  dout.load(steps, count, 0);
  if (p.z.data != nullptr) z.load(steps, count, 0);
  B_rows.load(steps, s.states, 0);
  C_rows.load(steps, s.states, 0);
#pragma unroll
  for (int i = 0; i < Tile::kItems; ++i) {
    const int row = Tile::row(i);
    const int at = row * Tile::kChannels + Tile::column();
    if (Tile::kSpare && row >= kChunk) continue;
    Quad<float> low = {};  // steps beyond the end change nothing
    Quad<float> high = {};
    Quad<float> arriving = {};
    if (row < steps) {
      const Quad<float> x = floats(dt.quad[i]);
      const Quad<float> u_value = floats(u.quad[i]);
      Quad<float> slopes;
      Quad<float> through = {};
      arriving = floats(dout.quad[i]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float value = softplus(x.v[k] + bias.v[k], slopes.v[k]);
        (k < 2 ? low : high).v[k % 2 * 2] = value;
        (k < 2 ? low : high).v[k % 2 * 2 + 1] = value * u_value.v[k];
      }
      if (p.z.data != nullptr) {
        const Quad<float> z_value = floats(z.quad[i]);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float sigmoid_z = sigmoid(z_value.v[k]);
          through.v[k] = arriving.v[k] * silu_slope(z_value.v[k], sigmoid_z);
          arriving.v[k] *= z_value.v[k] * sigmoid_z;
        }
      }
      store_aligned(to.input + at, u_value);
      store_aligned(to.slope + at, slopes);
      store_aligned(to.gate + at, through);
    }
    store_aligned(to.delta + at * 2, low);
    store_aligned(to.delta + at * 2 + 4, high);
    store_aligned(to.dy + at, arriving);
  }
#pragma unroll
  for (int i = 0; i < States::kItems; ++i) {
    if (!States::has(i)) continue;
    const Quad<float> b = floats(B_rows.quad[i]);
    const Quad<float> c_value = floats(C_rows.quad[i]);
#pragma unroll
    for (int k = 0; k < Tile::kOrders; ++k) {
      const int m = Tile::order(k);
      const int at = States::row(i) * Tile::kRow + k * Tile::kPadded + States::column();
      store_aligned(to.B + at, Quad<float>{b.v[m], b.v[1 ^ m], b.v[2 ^ m], b.v[3 ^ m]});
      store_aligned(to.C + at, Quad<float>{c_value.v[m], c_value.v[1 ^ m], c_value.v[2 ^ m],
                                           c_value.v[3 ^ m]});
    }
  }
}

}  // namespace adder::cuda
