// From an S4 layer's parameters to its modes and their convolution kernel, with the gradients.
//
// Discretisation: one thread for each (h, n), in float64; it is H N work. Kernel: a block of
// kThreads threads owns as many l of one (m, h), thread i its l, and loops over the modes, whose
// weights and rates lie in shared memory; the phase l Im(log q) is reduced in float64, the rest is
// float32. Its gradient: a block owns one (h, n), its threads stride over l and sum in float64.
// Traffic: K written once, dK read once for each mode (from L2 mostly).
#include "cuda/s4_device.h"
#include "cuda/strided.h"

namespace adder::cuda {
namespace {

using s4::Cx;

constexpr int kThreads = 128;

struct Parameters {
  S4Options options;
  std::int64_t channels, copies, modes, dt_columns;
  const float* A_real;
  const float* A_imag;
  const float* dt;
  Pairs<float> B;

  __device__ std::int64_t copy(std::int64_t h, std::int64_t n) const {
    return h % copies * modes + n;
  }
  __device__ double raw_dt(std::int64_t h, std::int64_t n) const {
    return dt[h * dt_columns + (dt_columns > 1 ? n : 0)];
  }
  __device__ double step(std::int64_t h, std::int64_t n) const {
    return options.rate * s4::transform(options.dt, raw_dt(h, n));
  }
  __device__ Cx A(std::int64_t h, std::int64_t n) const {
    const std::int64_t at = copy(h, n);
    return {-s4::transform(options.real, A_real[at]),
            options.imag_sign * s4::transform(options.imag, A_imag[at])};
  }
  __device__ Cx b_of(std::int64_t h, std::int64_t n) const { return B ? B[copy(h, n)] : Cx{1, 0}; }
  __device__ double length() const { return static_cast<double>(options.length); }
};

template <typename Args>
Parameters parameters(const Args& args) {
  return {args.options,
          args.dt.dim(0),
          args.A_real.dim(0),
          args.A_real.dim(1),
          args.dt.rank() == 2 ? args.dt.dim(1) : 1,
          args.A_real.template data<float>(),
          args.A_imag.template data<float>(),
          args.dt.template data<float>(),
          pairs<float>(args.B)};
}

// What the host refuses becomes NaN here, since looking would mean waiting for the device.
__global__ void __launch_bounds__(kThreads)
    s4_discretize_fwd_kernel(Parameters p, Pairs<double> log_q, Pairs<double> p_out,
                             Pairs<double> b) {
  const std::int64_t i = global_index();
  if (i >= p.channels * p.modes) return;
  const std::int64_t h = i / p.modes;
  const std::int64_t n = i % p.modes;
  const Cx A = p.A(h, n);
  const double dt = p.step(h, n);
  s4::Mode mode = s4::discretize(p.options.method, A, dt, p.length());
  if (!(A.re <= 0) || !(dt > 0)) {
    const double bad = nan("");
    mode = {{bad, bad}, {bad, bad}, {bad, bad}};
  }
  log_q.set(i, mode.log_q);
  p_out.set(i, mode.p);
  b.set(i, s4::beyond_band(p.options, A, dt) ? Cx{} : p.b_of(h, n) * mode.phi);
}

struct ModeGradients {
  Pairs<double> A, B;  // (H, N)
  double* dt;          // (H, N)
};

__global__ void __launch_bounds__(kThreads)
    s4_discretize_bwd_kernel(Parameters p, Pairs<double> dlog_q, Pairs<double> dp, Pairs<double> db,
                             ModeGradients out) {
  const std::int64_t i = global_index();
  if (i >= p.channels * p.modes) return;
  const std::int64_t h = i / p.modes;
  const std::int64_t n = i % p.modes;
  const Cx A = p.A(h, n);
  const double dt = p.step(h, n);
  const Cx g_b = s4::beyond_band(p.options, A, dt) ? Cx{} : db.gradient(i);
  const s4::ModeGradient g = s4::discretize_gradient(
      p.options.method, A, dt, p.length(), dlog_q.gradient(i), dp.gradient(i), g_b * p.b_of(h, n));
  out.A.set(i, g.A);
  out.B.set(i, g_b * s4::discretize(p.options.method, A, dt, p.length()).phi);
  out.dt[i] = g.dt * p.options.rate * s4::transform_slope(p.options.dt, p.raw_dt(h, n));
}

// Thread i sums over the channels that share copy i of A and B, and over the modes that share
// step i.
__global__ void __launch_bounds__(kThreads)
    s4_discretize_sums_kernel(Parameters p, ModeGradients g, float* dA_real, float* dA_imag,
                              float* ddt, Pairs<float> dB) {
  const std::int64_t i = global_index();
  const std::int64_t shared = p.copies * p.modes;
  if (i < shared) {
    Cx sum_A;
    Cx sum_B;
    for (std::int64_t j = i; j < p.channels * p.modes; j += shared) {
      sum_A = sum_A + g.A[j];
      sum_B = sum_B + g.B[j];
    }
    const S4Options& o = p.options;
    if (dA_real != nullptr) {
      dA_real[i] = static_cast<float>(-sum_A.re * s4::transform_slope(o.real, p.A_real[i]));
    }
    if (dA_imag != nullptr) {
      dA_imag[i] =
          static_cast<float>(-sum_A.im * o.imag_sign * s4::transform_slope(o.imag, p.A_imag[i]));
    }
    if (dB) dB.set_gradient(i, sum_B);
  }
  if (ddt != nullptr && i < p.channels * p.dt_columns) {
    const std::int64_t count = p.modes / p.dt_columns;
    double sum = 0;
    for (std::int64_t k = 0; k < count; ++k) sum += g.dt[i * count + k];
    ddt[i] = static_cast<float>(sum);
  }
}

constexpr double kHalfTurns = 0.31830988618379067;  // 1 / pi

// e^(l log q), `rate` being the decay per step and `turn` the phase per step in half turns.
__device__ inline void power(double rate, double turn, std::int64_t l, float* re, float* im) {
  const double steps = static_cast<double>(l);
  const double half_turns = turn * steps;
  const double rest = half_turns - 2.0 * rint(0.5 * half_turns);
  const float magnitude = expf(static_cast<float>(rate * steps));
  float sine = 0;
  float cosine = 0;
  sin_cos_pi(static_cast<float>(rest), &sine, &cosine);
  *re = magnitude * cosine;
  *im = magnitude * sine;
}

struct KernelShape {
  std::int64_t outputs, channels, modes, length;
};

__global__ void __launch_bounds__(kThreads)
    s4_kernel_fwd_kernel(KernelShape s, Pairs<const double> log_q, Pairs<const double> b,
                         Pairs<const float> C, Matrix<float> K, std::int64_t K_stride) {
  ADDER_SHARED(double, rates);  // (N, 2): decay, half turns
  float* const weights = reinterpret_cast<float*>(rates + 2 * s.modes);  // (N, 2): 2 C b
  const std::int64_t h = blockIdx.y % s.channels;
  const std::int64_t m = blockIdx.y / s.channels;
  for (std::int64_t n = threadIdx.x; n < s.modes; n += kThreads) {
    const Cx rate = log_q[h * s.modes + n];
    const Cx weight = 2.0 * (C[(m * s.channels + h) * s.modes + n] * b[h * s.modes + n]);
    rates[2 * n] = rate.re;
    rates[2 * n + 1] = kHalfTurns * rate.im;
    weights[2 * n] = static_cast<float>(weight.re);
    weights[2 * n + 1] = static_cast<float>(weight.im);
  }
  __syncthreads();
  const std::int64_t l = global_index();
  if (l >= s.length) return;
  float sum = 0;
  for (std::int64_t n = 0; n < s.modes; ++n) {
    float re = 0;
    float im = 0;
    power(rates[2 * n], rates[2 * n + 1], l, &re, &im);
    sum += weights[2 * n] * re - weights[2 * n + 1] * im;
  }
  (K.data + m * K_stride + h * K.stride)[l] = sum;
}

__global__ void __launch_bounds__(kThreads)
    s4_kernel_bwd_kernel(KernelShape s, Pairs<const double> log_q, Pairs<const double> b,
                         Pairs<const float> C, Matrix<const float> dK, std::int64_t dK_stride,
                         Pairs<double> dlog_q, Pairs<double> db, Pairs<float> dC) {
  ADDER_SHARED(double, parts);  // (warps, 4)
  const std::int64_t n = blockIdx.x;
  const std::int64_t h = blockIdx.y;
  const std::int64_t at = h * s.modes + n;
  const int thread = static_cast<int>(threadIdx.x);
  const Cx rate = log_q[at];
  const double turn = kHalfTurns * rate.im;
  const Cx mode_b = b[at];
  Cx g_q;
  Cx g_b;
  for (std::int64_t m = 0; m < s.outputs; ++m) {
    const float* g = dK.data + m * dK_stride + h * dK.stride;
    double sums[4] = {0, 0, 0, 0};  // sum g q^l and sum l g q^l
    for (std::int64_t l = thread; l < s.length; l += kThreads) {
      float re = 0;
      float im = 0;
      power(rate.re, turn, l, &re, &im);
      const double x = static_cast<double>(g[l]) * static_cast<double>(re);
      const double y = static_cast<double>(g[l]) * static_cast<double>(im);
      sums[0] += x;
      sums[1] += y;
      sums[2] += static_cast<double>(l) * x;
      sums[3] += static_cast<double>(l) * y;
    }
    __syncthreads();  // parts may still be read for the output before
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      sums[k] = sum_lanes(sums[k], kWarp);
      if (thread % kWarp == 0) parts[thread / kWarp * 4 + k] = sums[k];
    }
    __syncthreads();
    if (thread == 0) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        sums[k] = 0;
        for (int w = 0; w < kThreads / kWarp; ++w) sums[k] += parts[w * 4 + k];
      }
      const std::int64_t mode = m * s.channels * s.modes + at;
      const Cx s0{sums[0], sums[1]};
      const Cx s1{sums[2], sums[3]};
      g_q = g_q + 2.0 * (C[mode] * mode_b * s1);
      g_b = g_b + 2.0 * (C[mode] * s0);
      if (dC) dC.set_gradient(mode, 2.0 * (mode_b * s0));
    }
  }
  if (thread != 0) return;
  if (dlog_q) dlog_q.set_gradient(at, g_q);
  if (db) db.set_gradient(at, g_b);
}

KernelShape kernel_shape(const Tensor& C, const Tensor& K) {
  return {C.dim(0), C.dim(1), C.dim(2), K.dim(2)};
}

}  // namespace

void s4_discretize_fwd(const S4DiscretizeFwdArgs& args) {
  check_s4("s4_discretize_fwd", args);
  check_float("s4_discretize_fwd", args.A_real);
  const Parameters p = parameters(args);
  ADDER_LAUNCH(s4_discretize_fwd_kernel, blocks_for(p.channels * p.modes, kThreads), kThreads, 0,
               stream(args.dt.device()), p, pairs<double>(args.log_q), pairs<double>(args.p),
               pairs<double>(args.b));
}

void s4_discretize_bwd(const S4DiscretizeBwdArgs& args) {
  check_s4("s4_discretize_bwd", args);
  check_float("s4_discretize_bwd", args.A_real);
  const Parameters p = parameters(args);
  const Device device = args.dt.device();
  const Tensor scratch = Tensor::empty({5, p.channels, p.modes}, Dtype::f64, device);
  double* data = scratch.data<double>();
  const std::int64_t count = p.channels * p.modes;
  const ModeGradients g{{data}, {data + 2 * count}, data + 4 * count};
  ADDER_LAUNCH(s4_discretize_bwd_kernel, blocks_for(count, kThreads), kThreads, 0, stream(device),
               p, pairs<double>(args.dlog_q), pairs<double>(args.dp), pairs<double>(args.db), g);
  ADDER_LAUNCH(s4_discretize_sums_kernel, blocks_for(count, kThreads), kThreads, 0, stream(device),
               p, g, data_or_null<float>(args.dA_real), data_or_null<float>(args.dA_imag),
               data_or_null<float>(args.ddt), pairs<float>(args.dB));
}

void s4_kernel_fwd(const S4KernelFwdArgs& args) {
  check_s4("s4_kernel_fwd", args);
  check_float("s4_kernel_fwd", args.C);
  const KernelShape s = kernel_shape(args.C, args.K);
  const auto shared = static_cast<std::size_t>(s.modes) * 2 * (sizeof(double) + sizeof(float));
  allow_shared(reinterpret_cast<const void*>(&s4_kernel_fwd_kernel), shared);
  const dim3 grid(static_cast<unsigned>(blocks_for(s.length, kThreads)),
                  static_cast<unsigned>(s.outputs * s.channels));
  ADDER_LAUNCH(s4_kernel_fwd_kernel, grid, kThreads, shared, stream(args.K.device()), s,
               Pairs<const double>{args.log_q.data<double>()},
               Pairs<const double>{args.b.data<double>()}, Pairs<const float>{args.C.data<float>()},
               Matrix<float>{args.K.data<float>(), args.K.stride(1)}, args.K.stride(0));
}

void s4_kernel_bwd(const S4KernelBwdArgs& args) {
  check_s4("s4_kernel_bwd", args);
  check_float("s4_kernel_bwd", args.C);
  const KernelShape s = kernel_shape(args.C, args.dK);
  const dim3 grid(static_cast<unsigned>(s.modes), static_cast<unsigned>(s.channels));
  ADDER_LAUNCH(s4_kernel_bwd_kernel, grid, kThreads, kThreads / kWarp * 4 * sizeof(double),
               stream(args.dK.device()), s, Pairs<const double>{args.log_q.data<double>()},
               Pairs<const double>{args.b.data<double>()}, Pairs<const float>{args.C.data<float>()},
               Matrix<const float>{args.dK.data<float>(), args.dK.stride(1)}, args.dK.stride(0),
               pairs<double>(args.dlog_q), pairs<double>(args.db), pairs<float>(args.dC));
}

}  // namespace adder::cuda
