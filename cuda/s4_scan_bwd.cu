// The backward scan of the diagonal recurrence; see s4_scan_tile.h for the mapping. A chunk's
// states are recomputed into shared memory from its checkpoint. Traffic per (b, h, l): u and dy
// read and du written once for each pass and output. Sums over a chunk's steps are float32, all
// others float64.
#include "cuda/runtime.h"
#include "cuda/s4_scan_tile.h"
#include "cuda/strided.h"

namespace adder::cuda {
namespace {

struct ScanBwd {
  S4Scan scan;
  Pairs<const float> checkpoints;
  Sequences dy;
  Pairs<const float> dx_last;
  Sequences du;
  Pairs<float> dx0;
  // Of each sequence: (row, mode, 4 + 2 M) sums of dp, db and the outputs' dC; (row, M) of dD.
  double* sums;
  double* skip_sums;
};

template <int kLanes>
constexpr std::size_t scan_bwd_shared() {
  return (2 * kS4Steps * kS4Threads + 3 * (kS4Threads / kLanes) * kS4Pitch) * sizeof(float);
}

template <int kLanes>
__global__ void __launch_bounds__(kS4Threads, 4) s4_scan_bwd_kernel(ScanBwd p) {
  using Where = S4Place<kLanes>;
  ADDER_SHARED(float, x_re);  // (step, thread): states after each step
  float* const x_im = x_re + kS4Steps * kS4Threads;
  float* const u = x_im + kS4Steps * kS4Threads;  // (slot, step)
  float* const dy = u + Where::kRows * kS4Pitch;
  float* const du = dy + Where::kRows * kS4Pitch;
  const S4ScanShape& s = p.scan.shape;
  const Where at(s);
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t terms = 4 + 2 * s.outputs;
  for (std::int64_t m = 0; m < s.outputs; ++m) {
    for (std::int64_t group = 0; group < s.modes; group += kLanes) {
      const std::int64_t n = group + at.lane;
      const bool own = at.exists && n < s.modes;
      const bool first_pass = m == 0 && group == 0;
      const std::int64_t state = at.row * s.modes + n;
      const S4Coefficients c = coefficients(p.scan, at.exists, at.row, m, n);
      float g_re = 0;  // q g of the step after
      float g_im = 0;
      if (own && m == 0 && p.dx_last.data != nullptr) {
        g_re = p.dx_last.data[2 * state];
        g_im = -p.dx_last.data[2 * state + 1];
      }
      double sums[6] = {0, 0, 0, 0, 0, 0};
      double skip_sum = 0;
      for (std::int64_t chunk = s.chunks() - 1; chunk >= 0; --chunk) {
        const std::int64_t t0 = chunk * kS4Steps;
        const int steps = static_cast<int>(s.length - t0 < kS4Steps ? s.length - t0 : kS4Steps);
        __syncthreads();  // du of the chunk before may still be read
        for_each_element<kLanes>(s, at.first, steps, [&](int slot, int t, std::int64_t row) {
          const std::int64_t b = row / s.channels;
          const std::int64_t h = row % s.channels;
          u[slot * kS4Pitch + t] = p.scan.u.at(b, 0, h)[t0 + t];
          dy[slot * kS4Pitch + t] = p.dy.at(b, m, h)[t0 + t];
        });
        float begin_re = 0;
        float begin_im = 0;
        if (own) {
          const std::int64_t saved = s.checkpoint(chunk, at.row, n);
          begin_re = p.checkpoints.data[2 * saved];
          begin_im = p.checkpoints.data[2 * saved + 1];
        }
        __syncthreads();
        float re = begin_re;
        float im = begin_im;
        for (int t = 0; t < steps; ++t) {
          advance(c, at.exists ? u[at.slot * kS4Pitch + t] : 0.0F, re, im);
          x_re[t * kS4Threads + thread] = re;
          x_im[t * kS4Threads + thread] = im;
        }
        float part[6] = {0, 0, 0, 0, 0, 0};
        for (int t = steps - 1; t >= 0; --t) {
          const float input = at.exists ? u[at.slot * kS4Pitch + t] : 0.0F;
          const float slope = at.exists ? dy[at.slot * kS4Pitch + t] : 0.0F;
          const float before_re = t > 0 ? x_re[(t - 1) * kS4Threads + thread] : begin_re;
          const float before_im = t > 0 ? x_im[(t - 1) * kS4Threads + thread] : begin_im;
          g_re += c.c_re * slope;
          g_im += c.c_im * slope;
          const float sum = lane_sum<kLanes>(c.b_re * g_re - c.b_im * g_im);
          if (at.lane == 0) du[at.slot * kS4Pitch + t] = sum;
          part[0] += g_re * before_re - g_im * before_im;
          part[1] += g_re * before_im + g_im * before_re;
          part[2] += g_re * input;
          part[3] += g_im * input;
          part[4] += slope * x_re[t * kS4Threads + thread];
          part[5] += slope * x_im[t * kS4Threads + thread];
          if (group == 0 && t % kLanes == at.lane) {
            skip_sum += static_cast<double>(slope) * static_cast<double>(input);
          }
          const float old = g_re;
          g_re = c.p_re * old + (old - c.p_im * g_im);
          g_im = c.p_im * old + (c.p_re * g_im + g_im);
        }
#pragma unroll
        for (int k = 0; k < 6; ++k) sums[k] += static_cast<double>(part[k]);
        __syncthreads();
        if (p.du.data == nullptr) continue;
        for_each_element<kLanes>(s, at.first, steps, [&](int slot, int t, std::int64_t row) {
          const std::int64_t h = row % s.channels;
          float* out = p.du.at(row / s.channels, 0, h) + t0 + t;
          float value = first_pass ? 0.0F : *out;
          if (group == 0) value += p.scan.D.at(m, h) * dy[slot * kS4Pitch + t];
          *out = value + du[slot * kS4Pitch + t];
        });
      }
      if (own) {
        double* out = p.sums + state * terms;
#pragma unroll
        for (int k = 0; k < 4; ++k) out[k] = m == 0 ? sums[k] : out[k] + sums[k];
        out[4 + 2 * m] = sums[4];
        out[5 + 2 * m] = sums[5];
        if (p.dx0.data != nullptr) {
          p.dx0.data[2 * state] = m == 0 ? g_re : p.dx0.data[2 * state] + g_re;
          p.dx0.data[2 * state + 1] = m == 0 ? -g_im : p.dx0.data[2 * state + 1] - g_im;
        }
      }
      if (group == 0) {
        skip_sum = sum_lanes(skip_sum, kLanes);
        if (at.exists && at.lane == 0) p.skip_sums[at.row * s.outputs + m] = skip_sum;
      }
    }
  }
}

// Thread (h, n, term) adds up what the sequences of channel h contribute, in order.
__global__ void __launch_bounds__(kS4Threads)
    s4_scan_sums_kernel(S4ScanShape s, const double* sums, Pairs<double> dp, Pairs<double> db,
                        Pairs<float> dC) {
  const std::int64_t pairs_of_terms = 2 + s.outputs;
  const std::int64_t i = global_index();
  if (i >= s.channels * s.modes * pairs_of_terms) return;
  const std::int64_t term = i % pairs_of_terms;
  const std::int64_t at = i / pairs_of_terms;
  s4::Cx sum;
  for (std::int64_t b = 0; b < s.batch; ++b) {
    const double* from = sums + ((b * s.channels * s.modes + at) * pairs_of_terms + term) * 2;
    sum = sum + s4::Cx{from[0], from[1]};
  }
  if (term == 0) {
    if (dp) dp.set_gradient(at, sum);
  } else if (term == 1) {
    if (db) db.set_gradient(at, sum);
  } else if (dC) {
    dC.set_gradient((term - 2) * s.channels * s.modes + at, 2.0 * sum);
  }
}

__global__ void __launch_bounds__(kS4Threads)
    s4_scan_skip_kernel(S4ScanShape s, const double* skip_sums, float* dD, std::int64_t stride) {
  const std::int64_t i = global_index();
  if (i >= s.channels * s.outputs) return;
  const std::int64_t h = i % s.channels;
  const std::int64_t m = i / s.channels;
  double sum = 0;
  for (std::int64_t b = 0; b < s.batch; ++b) {
    sum += skip_sums[(b * s.channels + h) * s.outputs + m];
  }
  dD[m * stride + h] = static_cast<float>(sum);
}

}  // namespace

void s4_scan_bwd(const S4ScanBwdArgs& args) {
  check_s4("s4_scan_bwd", args);
  check_float("s4_scan_bwd", args.u);
  const S4ScanShape shape = scan_shape(args.u, args.C);
  const Device device = args.u.device();
  const Tensor sums =
      Tensor::empty({shape.rows(), shape.modes, 4 + 2 * shape.outputs}, Dtype::f64, device);
  const Tensor skip_sums = Tensor::empty({shape.rows(), shape.outputs}, Dtype::f64, device);
  const ScanBwd p{scan_of(args, shape), {args.checkpoints.data<float>()},
                  sequences(args.dy),   const_pairs(args.dx_last),
                  sequences(args.du),   pairs<float>(args.dx0),
                  sums.data<double>(),  skip_sums.data<double>()};
  dispatch_lanes(shape.modes, [&](auto lanes) {
    constexpr int kLanes = decltype(lanes)::value;
    constexpr std::size_t kShared = scan_bwd_shared<kLanes>();
    static_assert(kShared <= std::size_t{48} << 10);
    ADDER_LAUNCH((s4_scan_bwd_kernel<kLanes>), blocks_for(shape.rows(), kS4Threads / kLanes),
                 kS4Threads, kShared, stream(device), p);
  });
  const std::int64_t terms = shape.channels * shape.modes * (2 + shape.outputs);
  ADDER_LAUNCH(s4_scan_sums_kernel, blocks_for(terms, kS4Threads), kS4Threads, 0, stream(device),
               shape, sums.data<double>(), pairs<double>(args.dp), pairs<double>(args.db),
               pairs<float>(args.dC));
  if (!args.dD.defined()) return;
  ADDER_LAUNCH(s4_scan_skip_kernel, blocks_for(shape.channels * shape.outputs, kS4Threads),
               kS4Threads, 0, stream(device), shape, skip_sums.data<double>(),
               args.dD.data<float>(), args.dD.stride(0));
}

}  // namespace adder::cuda
