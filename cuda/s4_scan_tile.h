// What the forward and the backward scan of the diagonal recurrence share on the device.
//
// kLanes neighbouring lanes own one sequence (b, h), each lane one mode at a time; more modes than
// kLanes take several passes over the sequence. A block of kS4Threads threads owns
// kS4Threads / kLanes sequences and walks along time in chunks of kS4Chunk steps, whose inputs and
// outputs pass through shared memory so that global memory is read along the sequences. Private to
// cuda/.
#pragma once

#include <type_traits>

#include "cuda/s4_device.h"

namespace adder::cuda {

inline constexpr int kS4Threads = 128;
inline constexpr int kS4Steps = static_cast<int>(kS4Chunk);
inline constexpr int kS4Pitch =
    kS4Steps + 1;                         // of a sequence's row in shared memory: no bank conflicts
inline constexpr int kS4FewestLanes = 4;  // fewer would need too much shared memory

struct S4ScanShape {
  std::int64_t batch, channels, length, outputs, modes;
  __host__ __device__ std::int64_t rows() const { return batch * channels; }
  __host__ __device__ std::int64_t chunks() const { return (length + kS4Steps - 1) / kS4Steps; }
  __device__ std::int64_t checkpoint(std::int64_t chunk, std::int64_t row, std::int64_t n) const {
    return (chunk * rows() + row) * modes + n;
  }
};

inline S4ScanShape scan_shape(const Tensor& u, const Tensor& C) {
  return {u.dim(0), u.dim(1), u.dim(2), C.dim(0), C.dim(2)};
}

struct S4Scan {
  S4ScanShape shape;
  Pairs<const double> p, b;
  Pairs<const float> C;
  Skip D;
  Sequences u;
};

// Where this thread is: its sequence and its lane.
template <int kLanes>
struct S4Place {
  static constexpr int kRows = kS4Threads / kLanes;
  __device__ explicit S4Place(const S4ScanShape& s)
      : lane(static_cast<int>(threadIdx.x) % kLanes),
        slot(static_cast<int>(threadIdx.x) / kLanes),
        first(static_cast<std::int64_t>(blockIdx.x) * kRows),
        row(first + slot),
        exists(row < s.rows()) {}
  int lane, slot;
  std::int64_t first, row;
  bool exists;
};

struct S4Coefficients {
  float p_re = 0, p_im = 0, b_re = 0, b_im = 0, c_re = 0, c_im = 0;  // c is 2 C
};

__device__ inline S4Coefficients coefficients(const S4Scan& scan, bool exists, std::int64_t row,
                                              std::int64_t m, std::int64_t n) {
  S4Coefficients c;
  const S4ScanShape& s = scan.shape;
  if (!exists || n >= s.modes) return c;
  const std::int64_t at = row % s.channels * s.modes + n;
  c.p_re = static_cast<float>(scan.p.data[2 * at]);
  c.p_im = static_cast<float>(scan.p.data[2 * at + 1]);
  c.b_re = static_cast<float>(scan.b.data[2 * at]);
  c.b_im = static_cast<float>(scan.b.data[2 * at + 1]);
  const std::int64_t output = m * s.channels * s.modes + at;
  c.c_re = 2.0F * scan.C.data[2 * output];
  c.c_im = 2.0F * scan.C.data[2 * output + 1];
  return c;
}

__device__ inline void advance(const S4Coefficients& c, float u, float& re, float& im) {
  const float old = re;
  re = c.b_re * u + (c.p_re * old + (old - c.p_im * im));
  im = c.b_im * u + (c.p_im * old + (c.p_re * im + im));
}

// Calls f(slot, t, row's pointer at the chunk) for the chunk's elements of the block's sequences.
template <int kLanes, typename F>
__device__ void for_each_element(const S4ScanShape& s, std::int64_t first, int steps, const F& f) {
  for (int i = static_cast<int>(threadIdx.x); i < kS4Threads / kLanes * kS4Steps; i += kS4Threads) {
    const int slot = i / kS4Steps;
    const int t = i % kS4Steps;
    if (t < steps && first + slot < s.rows()) f(slot, t, first + slot);
  }
}

template <typename Args>
S4Scan scan_of(const Args& args, const S4ScanShape& shape) {
  return {shape,
          {args.p.template data<double>()},
          {args.b.template data<double>()},
          {args.C.template data<float>()},
          skip(args.D),
          sequences(args.u)};
}

inline Pairs<const float> const_pairs(const Tensor& tensor) {
  return {data_or_null<float>(tensor)};
}

// Calls f with the number of lanes as a constant.
template <typename F>
void dispatch_lanes(std::int64_t modes, const F& f) {
  if (modes <= kS4FewestLanes) return f(std::integral_constant<int, kS4FewestLanes>{});
  if (modes <= 8) return f(std::integral_constant<int, 8>{});
  if (modes <= 16) return f(std::integral_constant<int, 16>{});
  return f(std::integral_constant<int, 32>{});
}

}  // namespace adder::cuda
