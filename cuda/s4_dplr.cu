// The convolution kernel of a diagonal-plus-low-rank layer and its gradient, in float64.
//
// A node has (1 + R)(M + R) sums g_xy over the modes; they lie side by side in scratch memory
// (H, nodes, sums). One thread forms one of them; one thread then applies Woodbury's identity to
// one node, in scratch memory so that any rank will do. In the gradient a block owns one (h, n),
// its threads stride over the nodes and sum; one thread per mode turns that into the parameters'
// gradients, and one per shared parameter adds up the channels. Traffic: the sums of a node are
// written and read once forward, and read (1 + R)(M + R) times for each mode in the gradient.
#include "cuda/fft.h"
#include "cuda/s4_device.h"
#include "cuda/strided.h"
#include "engine/kernels/s4_dplr.h"
#include "engine/kernels/s4_dplr_math.h"

namespace adder::cuda {
namespace {

using s4::Cx;
using s4::DplrShape;

constexpr int kThreads = 128;
constexpr int kModeThreads = 64;

struct Dplr {
  DplrShape shape;
  S4Options options;
  const float* A_real;
  const float* A_imag;
  const float* dt_raw;
  Pairs<const float> B, P, C;

  __device__ double dt(std::int64_t h) const {
    return options.rate * s4::transform(options.dt, dt_raw[h]);
  }
  __device__ Cx A(std::int64_t h, std::int64_t n) const {
    const std::int64_t at = h % shape.copies * shape.modes + n;
    return {-s4::transform(options.real, A_real[at]),
            options.imag_sign * s4::transform(options.imag, A_imag[at])};
  }
  __device__ s4::DplrMode<Pairs<const float>> mode(std::int64_t h, std::int64_t n) const {
    return {B, P, C, shape, h, n, s4::beyond_band(options, A(h, n), dt(h))};
  }
  // 2 (1 - w) and 1 + w at node j.
  __device__ void node(std::int64_t j, Cx* a, Cx* c) const {
    double sine = 0;
    double cosine = 0;
    sin_cos_pi(-2.0 * static_cast<double>(j) / static_cast<double>(shape.nodes), &sine, &cosine);
    *a = {2 * (1 - cosine), -2 * sine};
    *c = {1 + cosine, sine};
  }
};

template <typename Args>
Dplr dplr_of(const Args& args, const Tensor& K) {
  return {{args.C.dim(1), args.P.dim(1), args.P.dim(2), args.P.dim(0), args.C.dim(0), args.nodes,
           K.dim(2)},
          args.options,
          args.A_real.template data<float>(),
          args.A_imag.template data<float>(),
          args.dt.template data<float>(),
          {args.B.template data<float>()},
          {args.P.template data<float>()},
          {args.C.template data<float>()}};
}

// Thread (h, j, xy): g_xy = sum_n 2 v / (a - c alpha) + 2 conj(v) / (a - c conj(alpha)), v = dt x
// y.
__global__ void __launch_bounds__(kThreads) s4_dplr_sums_kernel(Dplr p, Cx* g) {
  const DplrShape& s = p.shape;
  const std::int64_t i = global_index();
  if (i >= s.channels * s.bins() * s.sums()) return;
  const std::int64_t xy = i % s.sums();
  const std::int64_t j = i / s.sums() % s.bins();
  const std::int64_t h = i / s.sums() / s.bins();
  const double dt = p.dt(h);
  Cx a;
  Cx c;
  p.node(j, &a, &c);
  Cx sum;
  bool refused = !(dt > 0);  // what the host refuses becomes NaN
  for (std::int64_t n = 0; n < s.modes; ++n) {
    refused = refused || !(p.A(h, n).re <= 0);
    const auto mode = p.mode(h, n);
    const Cx v = (2 * dt) * (mode.x(xy / s.columns()) * mode.y(xy % s.columns()));
    const Cx alpha = dt * p.A(h, n);
    sum = sum + v / (a - c * alpha) + conj(v) / (a - c * conj(alpha));
  }
  if (refused) sum = {nan(""), nan("")};
  g[i] = sum;
}

// Thread (h, j): the spectrum (M, H, bins) of K.
__global__ void __launch_bounds__(kThreads)
    s4_dplr_woodbury_kernel(Dplr p, Cx* g, Cx* work, Cx* spectrum) {
  const DplrShape& s = p.shape;
  const std::int64_t i = global_index();
  if (i >= s.channels * s.bins()) return;
  Cx a;
  Cx c;
  p.node(i % s.bins(), &a, &c);
  const Cx half = 0.5 * c;
  Cx* node = g + i * s.sums();
  const Cx* t = s4::woodbury_solution(s, half, node, work + i * s.work());
  for (std::int64_t m = 0; m < s.outputs; ++m) {
    spectrum[m * s.channels * s.bins() + i] = s4::woodbury_value(s, half, node, t, m);
  }
}

// Thread (h, j): overwrites the node's sums by their gradients, `spectrum` being that of dK.
__global__ void __launch_bounds__(kThreads, 4)
    s4_dplr_woodbury_bwd_kernel(Dplr p, Cx* g, Cx* work, const Cx* spectrum) {
  const DplrShape& s = p.shape;
  const std::int64_t i = global_index();
  if (i >= s.channels * s.bins()) return;
  const std::int64_t j = i % s.bins();
  Cx a;
  Cx c;
  p.node(j, &a, &c);
  // Nodes between the ends stand for their mirror images too.
  const bool single = j == 0 || 2 * j == s.nodes;
  const double weight = (single ? 1.0 : 2.0) / static_cast<double>(s.nodes);
  s4::woodbury_gradient(s, 0.5 * c, g + i * s.sums(), work + i * s.work(), [&](std::int64_t m) {
    return weight * conj(spectrum[m * s.channels * s.bins() + i]);
  });
}

__global__ void __launch_bounds__(kThreads)
    s4_dplr_unpad_kernel(DplrShape s, const double* padded, Sequences K) {
  const std::int64_t i = global_index();
  if (i >= s.outputs * s.channels * s.length) return;
  const std::int64_t l = i % s.length;
  const std::int64_t row = i / s.length;
  K.at(row / s.channels, 0, row % s.channels)[l] =
      static_cast<float>(padded[row * s.nodes + l] / static_cast<double>(s.nodes));
}

__global__ void __launch_bounds__(kThreads)
    s4_dplr_pad_kernel(DplrShape s, Sequences dK, double* padded) {
  const std::int64_t i = global_index();
  if (i >= s.outputs * s.channels * s.nodes) return;
  const std::int64_t l = i % s.nodes;
  const std::int64_t row = i / s.nodes;
  padded[i] = l < s.length ? dK.at(row / s.channels, 0, row % s.channels)[l] : 0.0;
}

// Sum over the block's threads, in every thread.
__device__ inline Cx block_sum(Cx value, Cx* parts) {
  const int thread = static_cast<int>(threadIdx.x);
  value = {sum_lanes(value.re, kWarp), sum_lanes(value.im, kWarp)};
  __syncthreads();  // parts may still be read from the sum before
  if (thread % kWarp == 0) parts[thread / kWarp] = value;
  __syncthreads();
  Cx total;
  for (int w = 0; w < kModeThreads / kWarp; ++w) total = total + parts[w];
  return total;
}

// Block (n, h): from the sums' gradients, V (H, N, sums), those of v_xy, and (H, N), that of dt A.
__global__ void __launch_bounds__(kModeThreads)
    s4_dplr_mode_kernel(Dplr p, const Cx* g, Cx* V, Cx* g_alpha) {
  ADDER_SHARED(Cx, parts);
  const DplrShape& s = p.shape;
  const std::int64_t n = blockIdx.x;
  const std::int64_t h = blockIdx.y;
  const std::int64_t at = h * s.modes + n;
  const double dt = p.dt(h);
  const Cx alpha = dt * p.A(h, n);
  const auto mode = p.mode(h, n);
  Cx rate;
  for (std::int64_t xy = 0; xy < s.sums(); ++xy) {
    const Cx v = dt * (mode.x(xy / s.columns()) * mode.y(xy % s.columns()));
    Cx sum;
    for (std::int64_t j = threadIdx.x; j < s.bins(); j += kModeThreads) {
      Cx a;
      Cx c;
      p.node(j, &a, &c);
      const Cx kappa = g[(h * s.bins() + j) * s.sums() + xy];
      const Cx own = Cx{1, 0} / (a - c * alpha);
      const Cx mirror = Cx{1, 0} / (a - c * conj(alpha));
      const Cx first = kappa * own;
      const Cx second = kappa * mirror;
      sum = sum + first + conj(second);
      rate = rate + first * own * c * v + conj(second * mirror * c * conj(v));
    }
    sum = block_sum(sum, parts);
    if (threadIdx.x == 0) V[at * s.sums() + xy] = 2.0 * sum;
  }
  rate = block_sum(rate, parts);
  if (threadIdx.x == 0) g_alpha[at] = 2.0 * rate;
}

struct ModeGradients {
  Cx* A;       // (H, N)
  Cx* x;       // (H, N, 1 + R): of B and P
  double* dt;  // (H, N)
};

__global__ void __launch_bounds__(kModeThreads)
    s4_dplr_parameters_kernel(Dplr p, const Cx* V, const Cx* g_alpha, ModeGradients out,
                              Pairs<float> dC) {
  const DplrShape& s = p.shape;
  const std::int64_t i = global_index();
  if (i >= s.channels * s.modes) return;
  const std::int64_t h = i / s.modes;
  const std::int64_t n = i % s.modes;
  const auto mode = p.mode(h, n);
  const s4::ModeGradient g = s4::dplr_gradient(
      mode, p.A(h, n), p.dt(h), g_alpha[i], [&](std::int64_t xy) { return V[i * s.sums() + xy]; },
      out.x + i * (1 + s.ranks),
      [&](std::int64_t m, Cx value) {
        if (dC) dC.set_gradient((m * s.channels + h) * s.modes + n, value);
      });
  out.A[i] = g.A;
  out.dt[i] = g.dt * p.options.rate * s4::transform_slope(p.options.dt, p.dt_raw[h]);
}

// Thread i sums over the channels that share copy i of A, B and P, and over the modes of channel i.
__global__ void __launch_bounds__(kThreads)
    s4_dplr_share_kernel(Dplr p, ModeGradients g, float* dA_real, float* dA_imag, float* ddt,
                         Pairs<float> dB, Pairs<float> dP) {
  const DplrShape& s = p.shape;
  const std::int64_t i = global_index();
  const std::int64_t shared = s.copies * s.modes;
  const std::int64_t count = s.channels * s.modes;
  if (i < shared) {
    Cx sum_A;
    for (std::int64_t j = i; j < count; j += shared) sum_A = sum_A + g.A[j];
    if (dA_real != nullptr) {
      dA_real[i] = static_cast<float>(-sum_A.re * s4::transform_slope(p.options.real, p.A_real[i]));
    }
    if (dA_imag != nullptr) {
      dA_imag[i] = static_cast<float>(-sum_A.im * p.options.imag_sign *
                                      s4::transform_slope(p.options.imag, p.A_imag[i]));
    }
    for (std::int64_t x = 0; x <= s.ranks; ++x) {
      Cx sum;
      for (std::int64_t j = i; j < count; j += shared) sum = sum + g.x[j * (1 + s.ranks) + x];
      if (x == 0) {
        if (dB) dB.set_gradient(i, sum);
      } else if (dP) {
        dP.set_gradient((x - 1) * shared + i, sum);
      }
    }
  }
  if (ddt != nullptr && i < s.channels) {
    double sum = 0;
    for (std::int64_t n = 0; n < s.modes; ++n) sum += g.dt[i * s.modes + n];
    ddt[i] = static_cast<float>(sum);
  }
}

// Numbers of the device's scratch memory as Cx.
Tensor numbers(Device device, std::int64_t count) {
  return Tensor::empty({count, 2}, Dtype::f64, device);
}
Cx* data(const Tensor& tensor) {
  return reinterpret_cast<Cx*>(tensor.data<double>());
}

}  // namespace

void s4_dplr_kernel_fwd(const S4DplrKernelFwdArgs& args) {
  check_s4_dplr("s4_dplr_kernel_fwd", args);
  check_float("s4_dplr_kernel_fwd", args.C);
  const Dplr p = dplr_of(args, args.K);
  const DplrShape& s = p.shape;
  const Device device = args.K.device();
  const cudaStream_t queue = stream(device);
  const std::int64_t nodes = s.channels * s.bins();
  const Tensor g = numbers(device, nodes * s.sums());
  const Tensor work = numbers(device, nodes * s.work());
  const Tensor spectrum = numbers(device, s.outputs * nodes);
  const Tensor padded = Tensor::empty({s.outputs * s.channels, s.nodes}, Dtype::f64, device);
  ADDER_LAUNCH(s4_dplr_sums_kernel, blocks_for(nodes * s.sums(), kThreads), kThreads, 0, queue, p,
               data(g));
  ADDER_LAUNCH(s4_dplr_woodbury_kernel, blocks_for(nodes, kThreads), kThreads, 0, queue, p, data(g),
               data(work), data(spectrum));
  fft_inverse(device, s.nodes, s.outputs * s.channels, spectrum.data<double>(),
              padded.data<double>());
  ADDER_LAUNCH(s4_dplr_unpad_kernel, blocks_for(s.outputs * s.channels * s.length, kThreads),
               kThreads, 0, queue, s, padded.data<double>(), sequences(args.K));
}

void s4_dplr_kernel_bwd(const S4DplrKernelBwdArgs& args) {
  check_s4_dplr("s4_dplr_kernel_bwd", args);
  check_float("s4_dplr_kernel_bwd", args.C);
  const Dplr p = dplr_of(args, args.dK);
  const DplrShape& s = p.shape;
  const Device device = args.dK.device();
  const cudaStream_t queue = stream(device);
  const std::int64_t nodes = s.channels * s.bins();
  const std::int64_t modes = s.channels * s.modes;
  const Tensor g = numbers(device, nodes * s.sums());
  const Tensor work = numbers(device, nodes * s.work());
  const Tensor spectrum = numbers(device, s.outputs * nodes);
  const Tensor padded = Tensor::empty({s.outputs * s.channels, s.nodes}, Dtype::f64, device);
  ADDER_LAUNCH(s4_dplr_pad_kernel, blocks_for(padded.numel(), kThreads), kThreads, 0, queue, s,
               sequences(args.dK), padded.data<double>());
  fft_forward(device, s.nodes, s.outputs * s.channels, padded.data<double>(),
              spectrum.data<double>());
  ADDER_LAUNCH(s4_dplr_sums_kernel, blocks_for(nodes * s.sums(), kThreads), kThreads, 0, queue, p,
               data(g));
  ADDER_LAUNCH(s4_dplr_woodbury_bwd_kernel, blocks_for(nodes, kThreads), kThreads, 0, queue, p,
               data(g), data(work), data(spectrum));
  const Tensor V = numbers(device, modes * s.sums());
  const Tensor g_alpha = numbers(device, modes);
  const dim3 grid(static_cast<unsigned>(s.modes), static_cast<unsigned>(s.channels));
  ADDER_LAUNCH(s4_dplr_mode_kernel, grid, kModeThreads, kModeThreads / kWarp * sizeof(Cx), queue, p,
               data(g), data(V), data(g_alpha));
  const Tensor g_A = numbers(device, modes);
  const Tensor g_x = numbers(device, modes * (1 + s.ranks));
  const Tensor g_dt = Tensor::empty({modes}, Dtype::f64, device);
  const ModeGradients gradients{data(g_A), data(g_x), g_dt.data<double>()};
  ADDER_LAUNCH(s4_dplr_parameters_kernel, blocks_for(modes, kModeThreads), kModeThreads, 0, queue,
               p, data(V), data(g_alpha), gradients, pairs<float>(args.dC));
  ADDER_LAUNCH(s4_dplr_share_kernel, blocks_for(modes, kThreads), kThreads, 0, queue, p, gradients,
               data_or_null<float>(args.dA_real), data_or_null<float>(args.dA_imag),
               data_or_null<float>(args.ddt), pairs<float>(args.dB), pairs<float>(args.dP));
}

}  // namespace adder::cuda
