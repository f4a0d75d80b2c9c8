// The forward scan of the diagonal recurrence, and one step of it; see s4_scan_tile.h for the
// mapping. Traffic per (b, h, l): u read and y written once for each pass and output; a pair per
// mode in every kS4Chunk steps.
#include "cuda/runtime.h"
#include "cuda/s4_scan_tile.h"
#include "cuda/strided.h"

namespace adder::cuda {
namespace {

struct ScanFwd {
  S4Scan scan;
  Pairs<const float> x0;
  Sequences y;
  Pairs<float> x_last;
  Pairs<float> checkpoints;
};

template <int kLanes>
__global__ void __launch_bounds__(kS4Threads) s4_scan_fwd_kernel(ScanFwd p) {
  using Where = S4Place<kLanes>;
  ADDER_SHARED(float, shared);
  float* const u = shared;  // (slot, step)
  float* const y = shared + Where::kRows * kS4Pitch;
  const S4ScanShape& s = p.scan.shape;
  const Where at(s);
  for (std::int64_t m = 0; m < s.outputs; ++m) {
    for (std::int64_t group = 0; group < s.modes; group += kLanes) {
      const std::int64_t n = group + at.lane;
      const bool own = at.exists && n < s.modes;
      const S4Coefficients c = coefficients(p.scan, at.exists, at.row, m, n);
      float re = 0;
      float im = 0;
      if (own && p.x0.data != nullptr) {
        re = p.x0.data[2 * (at.row * s.modes + n)];
        im = p.x0.data[2 * (at.row * s.modes + n) + 1];
      }
      for (std::int64_t chunk = 0; chunk < s.chunks(); ++chunk) {
        const std::int64_t t0 = chunk * kS4Steps;
        const int steps = static_cast<int>(s.length - t0 < kS4Steps ? s.length - t0 : kS4Steps);
        __syncthreads();  // y of the chunk before may still be read
        for_each_element<kLanes>(s, at.first, steps, [&](int slot, int t, std::int64_t row) {
          u[slot * kS4Pitch + t] = p.scan.u.at(row / s.channels, 0, row % s.channels)[t0 + t];
        });
        if (own && m == 0 && p.checkpoints.data != nullptr) {
          const std::int64_t saved = s.checkpoint(chunk, at.row, n);
          p.checkpoints.data[2 * saved] = re;
          p.checkpoints.data[2 * saved + 1] = im;
        }
        __syncthreads();
        for (int t = 0; t < steps; ++t) {
          // A slot beyond the sequences has coefficients of 0 and must not read what nobody wrote.
          advance(c, at.exists ? u[at.slot * kS4Pitch + t] : 0.0F, re, im);
          const float sum = lane_sum<kLanes>(c.c_re * re - c.c_im * im);
          if (at.lane == 0) y[at.slot * kS4Pitch + t] = sum;
        }
        __syncthreads();
        for_each_element<kLanes>(s, at.first, steps, [&](int slot, int t, std::int64_t row) {
          const std::int64_t h = row % s.channels;
          float* out = p.y.at(row / s.channels, m, h) + t0 + t;
          const float before = group == 0 ? p.scan.D.at(m, h) * u[slot * kS4Pitch + t] : *out;
          *out = before + y[slot * kS4Pitch + t];
        });
      }
      if (own && m == 0 && p.x_last.data != nullptr) {
        p.x_last.data[2 * (at.row * s.modes + n)] = re;
        p.x_last.data[2 * (at.row * s.modes + n) + 1] = im;
      }
    }
  }
}

struct Step {
  S4Scan scan;
  std::int64_t y_batch, y_output;  // strides
  Pairs<float> x;
  float* y;
};

__global__ void __launch_bounds__(kS4Threads) s4_step_kernel(Step p) {
  const S4ScanShape& s = p.scan.shape;
  const std::int64_t row = global_index() / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool exists = row < s.rows();
  const std::int64_t b = row / s.channels;
  const std::int64_t h = row % s.channels;
  const float u = exists ? *p.scan.u.at(b, 0, h) : 0.0F;
  for (std::int64_t m = 0; m < s.outputs; ++m) {
    float sum = 0;
    for (std::int64_t n = lane; exists && n < s.modes; n += kWarp) {
      const S4Coefficients c = coefficients(p.scan, exists, row, m, n);
      float* x = p.x.data + 2 * (row * s.modes + n);
      float re = x[0];
      float im = x[1];
      if (m == 0) {
        advance(c, u, re, im);
        x[0] = re;
        x[1] = im;
      }
      sum += c.c_re * re - c.c_im * im;
    }
    sum = lane_sum<kWarp>(sum);
    if (exists && lane == 0) p.y[b * p.y_batch + m * p.y_output + h] = sum + p.scan.D.at(m, h) * u;
  }
}

}  // namespace

void s4_scan_fwd(const S4ScanFwdArgs& args) {
  check_s4("s4_scan_fwd", args);
  check_float("s4_scan_fwd", args.u);
  const S4ScanShape shape = scan_shape(args.u, args.C);
  const ScanFwd p{scan_of(args, shape), const_pairs(args.x0), sequences(args.y),
                  pairs<float>(args.x_last), pairs<float>(args.checkpoints)};
  dispatch_lanes(shape.modes, [&](auto lanes) {
    constexpr int kLanes = decltype(lanes)::value;
    constexpr int kRows = kS4Threads / kLanes;
    ADDER_LAUNCH((s4_scan_fwd_kernel<kLanes>), blocks_for(shape.rows(), kRows), kS4Threads,
                 2 * kRows * kS4Pitch * sizeof(float), stream(args.u.device()), p);
  });
}

void s4_step(const S4StepArgs& args) {
  check_s4("s4_step", args);
  check_float("s4_step", args.u);
  const S4ScanShape shape{args.u.dim(0), args.u.dim(1), 1, args.C.dim(0), args.C.dim(2)};
  S4Scan scan{shape,
              {args.p.data<double>()},
              {args.b.data<double>()},
              {args.C.data<float>()},
              skip(args.D),
              {args.u.data<float>(), args.u.stride(0), 0, 1}};
  const Step p{scan, args.y.stride(0), args.y.stride(1), pairs<float>(args.x),
               args.y.data<float>()};
  ADDER_LAUNCH(s4_step_kernel, blocks_for(shape.rows() * kWarp, kS4Threads), kS4Threads, 0,
               stream(args.u.device()), p);
}

}  // namespace adder::cuda
