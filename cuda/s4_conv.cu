// Causal convolution by cuFFT: sequences are padded to s4_fft_length(L) elements, beyond which
// nothing wraps around. The kernels here pad, multiply spectra and take results out of their
// padding, one thread for each element. Traffic besides the transforms' own: each padded sequence
// and each spectrum once written and once read.
#include "cuda/fft.h"
#include "cuda/s4_device.h"
#include "cuda/strided.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;

struct ConvShape {
  std::int64_t batch, outputs, channels, length, size;
  __host__ __device__ std::int64_t bins() const { return size / 2 + 1; }
};

// Element (b, m, h, i) of padded sequences: from `past` up to the length, from `future` reversed at
// the end of the padding, where it stands for negative times.
__global__ void __launch_bounds__(kThreads)
    s4_pad_kernel(ConvShape s, std::int64_t count, Sequences past, Sequences future,
                  float* padded) {
  const std::int64_t i = global_index();
  if (i >= count) return;
  const std::int64_t t = i % s.size;
  const std::int64_t row = i / s.size;
  const std::int64_t h = row % s.channels;
  const std::int64_t m = row / s.channels % s.outputs;
  const std::int64_t b = row / s.channels / s.outputs;
  float value = t < s.length ? past.at(b, m, h)[t] : 0.0F;
  if (future.data != nullptr && s.size - 1 - t < s.length) {
    value += future.at(b, m, h)[s.size - 1 - t];
  }
  padded[i] = value;
}

struct Complex {
  float re, im;
};

// y (B, M, H, bins) = u (B, H, bins) K (M, H, bins).
__global__ void __launch_bounds__(kThreads)
    s4_multiply_kernel(ConvShape s, const Complex* u, const Complex* K, Complex* y) {
  const std::int64_t i = global_index();
  const std::int64_t per_batch = s.channels * s.bins();
  if (i >= s.batch * s.outputs * per_batch) return;
  const Complex a = u[i / (s.outputs * per_batch) * per_batch + i % per_batch];
  const Complex k = K[i % (s.outputs * per_batch)];
  y[i] = {a.re * k.re - a.im * k.im, a.re * k.im + a.im * k.re};
}

// du (B, H, bins) = sum_m dy conj(K).
__global__ void __launch_bounds__(kThreads)
    s4_input_gradient_kernel(ConvShape s, const Complex* dy, const Complex* K, Complex* du) {
  const std::int64_t i = global_index();
  const std::int64_t per_batch = s.channels * s.bins();
  if (i >= s.batch * per_batch) return;
  Complex sum{0, 0};
  for (std::int64_t m = 0; m < s.outputs; ++m) {
    const Complex g = dy[(i / per_batch * s.outputs + m) * per_batch + i % per_batch];
    const Complex k = K[m * per_batch + i % per_batch];
    sum.re += g.re * k.re + g.im * k.im;
    sum.im += g.im * k.re - g.re * k.im;
  }
  du[i] = sum;
}

// dK (M, H, bins) = sum_b conj(u) dy.
__global__ void __launch_bounds__(kThreads)
    s4_kernel_gradient_kernel(ConvShape s, const Complex* u, const Complex* dy, Complex* dK) {
  const std::int64_t i = global_index();
  const std::int64_t per_batch = s.channels * s.bins();
  if (i >= s.outputs * per_batch) return;
  double re = 0;
  double im = 0;
  for (std::int64_t b = 0; b < s.batch; ++b) {
    const Complex a = u[b * per_batch + i % per_batch];
    const Complex g = dy[b * s.outputs * per_batch + i];
    re += static_cast<double>(a.re * g.re + a.im * g.im);
    im += static_cast<double>(a.re * g.im - a.im * g.re);
  }
  dK[i] = {static_cast<float>(re), static_cast<float>(im)};
}

// y = padded / size + D u, element (b, m, h, t).
__global__ void __launch_bounds__(kThreads)
    s4_output_kernel(ConvShape s, const float* padded, Sequences u, Skip D, Sequences y) {
  const std::int64_t i = global_index();
  if (i >= s.batch * s.outputs * s.channels * s.length) return;
  const std::int64_t t = i % s.length;
  const std::int64_t row = i / s.length;
  const std::int64_t h = row % s.channels;
  const std::int64_t m = row / s.channels % s.outputs;
  const std::int64_t b = row / s.channels / s.outputs;
  const float factor = 1.0F / static_cast<float>(s.size);
  y.at(b, m, h)[t] = factor * padded[row * s.size + t] + D.at(m, h) * u.at(b, 0, h)[t];
}

// du = padded / size + sum_m D dy, element (b, h, t).
__global__ void __launch_bounds__(kThreads)
    s4_input_kernel(ConvShape s, const float* padded, Sequences dy, Skip D, Sequences du) {
  const std::int64_t i = global_index();
  if (i >= s.batch * s.channels * s.length) return;
  const std::int64_t t = i % s.length;
  const std::int64_t row = i / s.length;
  const std::int64_t h = row % s.channels;
  const std::int64_t b = row / s.channels;
  float value = padded[row * s.size + t] / static_cast<float>(s.size);
  for (std::int64_t m = 0; m < s.outputs; ++m) value += D.at(m, h) * dy.at(b, m, h)[t];
  du.at(b, 0, h)[t] = value;
}

// dK out of its padding, element (m, h, l); the future's half from the end.
__global__ void __launch_bounds__(kThreads)
    s4_unpad_kernel(ConvShape s, const float* padded, Sequences past, Sequences future) {
  const std::int64_t i = global_index();
  if (i >= s.outputs * s.channels * s.length) return;
  const std::int64_t l = i % s.length;
  const std::int64_t row = i / s.length;
  const std::int64_t h = row % s.channels;
  const std::int64_t m = row / s.channels;
  const float factor = 1.0F / static_cast<float>(s.size);
  past.at(m, 0, h)[l] = factor * padded[row * s.size + l];
  if (future.data != nullptr) {
    future.at(m, 0, h)[l] = factor * padded[row * s.size + s.size - 1 - l];
  }
}

// A block owns one (m, h): dD = sum over b and t of dy u.
__global__ void __launch_bounds__(kThreads)
    s4_skip_gradient_kernel(ConvShape s, Sequences u, Sequences dy, float* dD,
                            std::int64_t stride) {
  ADDER_SHARED(double, parts);
  const std::int64_t h = blockIdx.x;
  const std::int64_t m = blockIdx.y;
  const int thread = static_cast<int>(threadIdx.x);
  double sum = 0;
  for (std::int64_t b = 0; b < s.batch; ++b) {
    const float* input = u.at(b, 0, h);
    const float* slope = dy.at(b, m, h);
    for (std::int64_t t = thread; t < s.length; t += kThreads) {
      sum += static_cast<double>(input[t]) * static_cast<double>(slope[t]);
    }
  }
  sum = sum_lanes(sum, kWarp);
  if (thread % kWarp == 0) parts[thread / kWarp] = sum;
  __syncthreads();
  if (thread != 0) return;
  sum = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) sum += parts[w];
  dD[m * stride + h] = static_cast<float>(sum);
}

// The transforms of one convolution's tensors.
class Transforms {
 public:
  Transforms(const Tensor& u, const Tensor& K, bool bidirectional)
      : device_(u.device()),
        bidirectional_(bidirectional),
        shape_{u.dim(0), bidirectional ? K.dim(0) / 2 : K.dim(0), u.dim(1), u.dim(2),
               s4_fft_length(u.dim(2))} {}

  const ConvShape& shape() const { return shape_; }

  Tensor input(const Tensor& u) const { return forward(sequences(u), {}, shape_.batch, 1); }
  Tensor output(const Tensor& y) const {
    return forward(sequences(y), {}, shape_.batch, shape_.outputs);
  }
  Tensor kernel(const Tensor& K) const {
    const auto [past, future] = halves(K);
    return forward(past, future, shape_.outputs, 1);
  }
  // The two directions of a kernel as (M, 1, H, L).
  std::pair<Sequences, Sequences> halves(const Tensor& K) const {
    const Sequences past = sequences(K);
    Sequences future;
    if (bidirectional_) {
      future = past;
      future.data += shape_.outputs * past.batch_stride;
    }
    return {past, future};
  }
  Tensor inverse(const Tensor& spectrum, std::int64_t rows) const {
    Tensor padded = Tensor::empty({rows, shape_.size}, Dtype::f32, device_);
    fft_inverse(device_, shape_.size, rows, spectrum.data<float>(), padded.data<float>());
    return padded;
  }
  Tensor spectrum(std::int64_t rows) const {
    return Tensor::empty({rows, shape_.bins(), 2}, Dtype::f32, device_);
  }

 private:
  Tensor forward(const Sequences& past, const Sequences& future, std::int64_t batch,
                 std::int64_t outputs) const {
    const ConvShape s{batch, outputs, shape_.channels, shape_.length, shape_.size};
    const std::int64_t rows = batch * outputs * s.channels;
    const Tensor padded = Tensor::empty({rows, s.size}, Dtype::f32, device_);
    ADDER_LAUNCH(s4_pad_kernel, blocks_for(rows * s.size, kThreads), kThreads, 0, stream(device_),
                 s, rows * s.size, past, future, padded.data<float>());
    Tensor result = spectrum(rows);
    fft_forward(device_, s.size, rows, padded.data<float>(), result.data<float>());
    return result;
  }

  Device device_;
  bool bidirectional_;
  ConvShape shape_;
};

Complex* complex_data(const Tensor& tensor) {
  return reinterpret_cast<Complex*>(tensor.data<float>());
}

}  // namespace

void s4_conv_fwd(const S4ConvFwdArgs& args) {
  check_s4("s4_conv_fwd", args);
  check_float("s4_conv_fwd", args.u);
  const Transforms transforms(args.u, args.K, args.bidirectional);
  const ConvShape& s = transforms.shape();
  const cudaStream_t queue = stream(args.u.device());
  const std::int64_t rows = s.batch * s.outputs * s.channels;
  const Tensor u = transforms.input(args.u);
  const Tensor K = transforms.kernel(args.K);
  const Tensor y = transforms.spectrum(rows);
  ADDER_LAUNCH(s4_multiply_kernel, blocks_for(rows * s.bins(), kThreads), kThreads, 0, queue, s,
               complex_data(u), complex_data(K), complex_data(y));
  const Tensor padded = transforms.inverse(y, rows);
  ADDER_LAUNCH(s4_output_kernel, blocks_for(rows * s.length, kThreads), kThreads, 0, queue, s,
               padded.data<float>(), sequences(args.u), skip(args.D), sequences(args.y));
}

void s4_conv_bwd(const S4ConvBwdArgs& args) {
  check_s4("s4_conv_bwd", args);
  check_float("s4_conv_bwd", args.u);
  const Transforms transforms(args.u, args.K, args.bidirectional);
  const ConvShape& s = transforms.shape();
  const cudaStream_t queue = stream(args.u.device());
  const Tensor dy = transforms.output(args.dy);
  if (args.du.defined()) {
    const std::int64_t rows = s.batch * s.channels;
    const Tensor K = transforms.kernel(args.K);
    const Tensor du = transforms.spectrum(rows);
    ADDER_LAUNCH(s4_input_gradient_kernel, blocks_for(rows * s.bins(), kThreads), kThreads, 0,
                 queue, s, complex_data(dy), complex_data(K), complex_data(du));
    const Tensor padded = transforms.inverse(du, rows);
    ADDER_LAUNCH(s4_input_kernel, blocks_for(rows * s.length, kThreads), kThreads, 0, queue, s,
                 padded.data<float>(), sequences(args.dy), skip(args.D), sequences(args.du));
  }
  if (args.dK.defined()) {
    const std::int64_t rows = s.outputs * s.channels;
    const Tensor u = transforms.input(args.u);
    const Tensor dK = transforms.spectrum(rows);
    ADDER_LAUNCH(s4_kernel_gradient_kernel, blocks_for(rows * s.bins(), kThreads), kThreads, 0,
                 queue, s, complex_data(u), complex_data(dy), complex_data(dK));
    const Tensor padded = transforms.inverse(dK, rows);
    const auto [past, future] = transforms.halves(args.dK);
    ADDER_LAUNCH(s4_unpad_kernel, blocks_for(rows * s.length, kThreads), kThreads, 0, queue, s,
                 padded.data<float>(), past, future);
  }
  if (!args.dD.defined()) return;
  const dim3 grid(static_cast<unsigned>(s.channels), static_cast<unsigned>(s.outputs));
  ADDER_LAUNCH(s4_skip_gradient_kernel, grid, kThreads, kThreads / kWarp * sizeof(double), queue, s,
               sequences(args.u), sequences(args.dy), args.dD.data<float>(), args.dD.stride(0));
}

}  // namespace adder::cuda
