// Times of one S4D layer's parts and forms at batch 64, 64 channels, 16 modes, length 1024,
// float32, forward and backward; bench/baselines/pytorch_s4.py times the same in PyTorch.
//
// floor_us of the convolution is its transforms at the rate that one transform in a thread's own
// cache has here; library_floor_us is the same at the rate of the FFT library (Eigen). The kernel's
// floor is its arithmetic in float64, at half the rate of float32's products, and its exponentials
// at the math library's rate; of the other parts it is explained in bench/floor.h.
#include <benchmark/benchmark.h>
#include <complex>
#include <cstdint>
#include <numbers>
#include <unsupported/Eigen/FFT>
#include <vector>

#include "autograd/s4_ops.h"
#include "bench/floor.h"
#include "engine/cpu/lane_fft.h"
#include "engine/kernels/s4_math.h"
#include "engine/random.h"

namespace adder {
namespace {

constexpr std::int64_t kBatch = 64;
constexpr std::int64_t kChannels = 64;
constexpr std::int64_t kModes = 16;
constexpr std::int64_t kLength = 1024;
constexpr double kSequences = static_cast<double>(kBatch * kChannels);

Tensor uniform(Shape shape, double low, double high, std::uint64_t stream) {
  Tensor values = Tensor::empty(shape);
  fill_uniform(values, low, high, 1, stream);
  return values;
}

struct Layer {
  explicit Layer(std::int64_t batch = kBatch, std::int64_t modes = kModes,
                 std::int64_t length = kLength)
      : A_real(Var::leaf(Tensor::full({kChannels, modes}, -0.6931))),
        A_imag(Var::leaf(Tensor::empty({kChannels, modes}))),
        dt(Var::leaf(uniform({kChannels}, -6.9, -2.3, 1))),
        C(Var::leaf(uniform({1, kChannels, modes, 2}, -1, 1, 2))),
        D(Var::leaf(uniform({1, kChannels}, -1, 1, 3))),
        u(Var::leaf(uniform({batch, kChannels, length}, -1, 1, 4))),
        dy(uniform({batch, 1, kChannels, length}, -1, 1, 5)) {
    for (std::int64_t i = 0; i < kChannels * modes; ++i) {
      A_imag.value().data<float>()[i] = std::numbers::pi_v<float> * static_cast<float>(i % modes);
    }
  }
  S4Modes modes() const { return s4_discretize({A_real, A_imag, dt, {}}, {}); }
  // The same without gradients.
  Layer frozen() const {
    Layer layer = *this;
    for (Var* v : {&layer.A_real, &layer.A_imag, &layer.dt, &layer.C, &layer.D, &layer.u}) {
      *v = Var(v->value());
    }
    return layer;
  }
  void clear() const {
    for (const Var* v : {&A_real, &A_imag, &dt, &C, &D, &u}) v->slot()->clear();
  }
  Var A_real, A_imag, dt, C, D, u;
  Tensor dy;
};

Var scan_form(const Layer& layer) {
  return s4_scan(layer.u, layer.modes(), layer.C, layer.D).y;
}
Var convolution_form(const Layer& layer) {
  return s4_convolve(layer.u, s4_kernel(layer.modes(), layer.C, layer.u.dim(2)), layer.D);
}
Var kernel_alone(const Layer& layer) {
  return s4_kernel(layer.modes(), layer.C, kLength);
}

// Seconds of one transform of a vector of sequences, of the convolution's length, on all threads.
double transform_seconds() {
  static const double seconds = [] {
    const cpu::LaneFft<float> fft(s4_fft_length(kLength));
    const int threads = cpu::num_threads();
    constexpr int kRounds = 32;
    const double all = bench::least_seconds(5, [&] {
      cpu::parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          cpu::Scratch<float> values(fft.size(), 0.0F);
          for (int round = 0; round < kRounds; ++round) fft.forward(values.data());
          benchmark::DoNotOptimize(values.data());
        }
      });
    });
    return all / kRounds / threads;
  }();
  return seconds;
}

// The FFT library's transform of as many sequences as a vector has lanes, one after the other.
class LibraryTransform {
 public:
  LibraryTransform() { run(); }  // plans it
  void run() {
    for (int lane = 0; lane < cpu::kLanes<float>; ++lane) {
      fft_.fwd(to_.data(), from_.data(), static_cast<Eigen::Index>(from_.size()));
      benchmark::DoNotOptimize(to_.data());
    }
  }

 private:
  Eigen::FFT<float> fft_;
  std::vector<std::complex<float>> from_ = std::vector<std::complex<float>>(s4_fft_length(kLength));
  std::vector<std::complex<float>> to_ = from_;
};

// Seconds of one such transform, on all threads.
double library_transform_seconds() {
  static const double seconds = [] {
    const int threads = cpu::num_threads();
    std::vector<LibraryTransform> transforms(static_cast<std::size_t>(threads));
    const double all = bench::least_seconds(8, [&] {
      cpu::parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) transforms[static_cast<std::size_t>(i)].run();
      });
    });
    return all / threads;
  }();
  return seconds;
}

// Seconds of one complex exponential in float64, on all threads.
double exponential_seconds() {
  static const double seconds = [] {
    const int threads = cpu::num_threads();
    constexpr int kCount = 4096;
    const double all = bench::least_seconds(5, [&] {
      cpu::parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          s4::Cx sum;
          for (int k = 0; k < kCount; ++k) sum = sum + s4::exp({-1e-3 * k, 0.05 * k});
          benchmark::DoNotOptimize(sum);
        }
      });
    });
    return all / kCount / threads;
  }();
  return seconds;
}

struct Part {
  Var (*form)(const Layer&);
  double bytes;
  double flops = 0;         // float32
  double transforms = 0;    // of a vector of channels each
  double doubles = 0;       // operations in float64
  double exponentials = 0;  // complex, in float64
};

void report(benchmark::State& state, const Part& part) {
  bench::report(state, part.bytes, part.flops);
  if (part.transforms > 0) {
    state.counters["floor_us"] = 1e6 * part.transforms * transform_seconds();
    state.counters["library_floor_us"] = 1e6 * part.transforms * library_transform_seconds();
  }
  if (part.doubles > 0) {
    state.counters["floor_us"] = 1e6 * (part.doubles / (bench::product_rate() / 2) +
                                        part.exponentials * exponential_seconds());
  }
}

// Runs f in each round and reports the least time of one beside the mean: floors and the PyTorch
// script take the least of theirs.
template <typename F>
void repeat(benchmark::State& state, const F& f) {
  double least = 1e30;
  for (auto _ : state) least = std::min(least, bench::least_seconds(1, f));
  state.counters["least_us"] = 1e6 * least;
}

void forward(benchmark::State& state, const Part& part) {
  const Layer layer = Layer().frozen();
  repeat(state, [&] { benchmark::DoNotOptimize(part.form(layer).value().raw()); });
  report(state, part);
}

void run_both(const Layer& layer, Var (*form)(const Layer&)) {
  Tape tape;
  const Var y = form(layer);
  const Tensor slope =
      y.shape() == layer.dy.shape() ? layer.dy : layer.dy.slice(0, 0, 1).reshape(y.shape());
  tape.backward(std::vector<Var>{y}, {slope});
  layer.clear();
}

void both_passes(benchmark::State& state, const Part& part) {
  const Layer layer;
  repeat(state, [&] { run_both(layer, part.form); });
  report(state, part);
}

// Both passes of a form beside the other one, for s4_scan_is_faster: modes, length. `chosen` is 1
// in the row that it takes.
void choice(benchmark::State& state, Var (*form)(const Layer&)) {
  const std::int64_t modes = state.range(0);
  const std::int64_t length = state.range(1);
  const Layer layer(std::max<std::int64_t>(kBatch * kLength / length, 2), modes, length);
  repeat(state, [&] { run_both(layer, form); });
  state.counters["chosen"] = s4_scan_is_faster({}, modes, length) == (form == scan_form) ? 1 : 0;
}

void step(benchmark::State& state) {
  const Layer layer = Layer().frozen();
  const S4Modes modes = layer.modes();
  const Tensor x = Tensor::zeros({kBatch, kChannels, kModes, 2});
  const S4StepArgs args{layer.u.value().select(2, 0).contiguous(),
                        modes.p.value(),
                        modes.b.value(),
                        layer.C.value(),
                        layer.D.value(),
                        x,
                        Tensor::empty({kBatch, 1, kChannels})};
  for (auto _ : state) kernel::s4_step({}, args);
  bench::report(state, 8.0 * static_cast<double>(x.numel()), kSequences * kModes * 16);
}

// As many sequences as a vector has lanes through one transform of the convolution's length, on one
// thread: ours, all lanes at once, and Eigen's, one sequence after the other.
void transform_lanes(benchmark::State& state) {
  const cpu::LaneFft<float> fft(s4_fft_length(kLength));
  cpu::Scratch<float> values(fft.size(), 0.0F);
  for (auto _ : state) {
    fft.forward(values.data());
    benchmark::DoNotOptimize(values.data());
  }
}

void transform_library(benchmark::State& state) {
  LibraryTransform transform;
  for (auto _ : state) transform.run();
}

constexpr double kOneTensor = 4 * kSequences * kLength;  // bytes
constexpr double kElements = kSequences * kLength * kModes;

// Of the kernel, for each mode and step: 2 products and sums forward; backward 2 for each of the
// sums over g and over l g. For each mode and pass the powers of one block and of the blocks'
// starts, 6 operations each. Exponentials in each pass: q, and one to discretise.
constexpr double kAllModes = 1.0 * kChannels * kModes;
constexpr double kPowers = kAllModes * 6 * (64.0 + kLength / 64.0);
constexpr double kKernelDoubles = 4 * kAllModes * kLength + kPowers;
constexpr double kKernelBothDoubles = 12 * kAllModes * kLength + 2 * kPowers;

// Two sequences share a complex transform. Forward: u and y. Backward: u, dy and du.
constexpr double kPairs = kSequences / 2 / cpu::kLanes<float>;

void shape(benchmark::internal::Benchmark* bench) {
  bench->Unit(benchmark::kMillisecond)->UseRealTime();
}

void choices(benchmark::internal::Benchmark* bench) {
  shape(bench);
  bench->ArgNames({"modes", "length"});
  bench->ArgsProduct({{2, 4, 8, 12, 16, 24, 32, 64}, {64, 200, 784, 1024, 4096, 16384}});
}

constexpr Part kKernelForward{kernel_alone, 4.0 * kChannels* kLength, 0, 0, kKernelDoubles,
                              2 * kAllModes};
constexpr Part kKernelBoth{kernel_alone, 8.0 * kChannels* kLength, 0, 0, kKernelBothDoubles,
                           4 * kAllModes};
constexpr Part kConvolutionForward{convolution_form, 2 * kOneTensor, 0, 2 * kPairs};
constexpr Part kConvolutionBoth{convolution_form, 5 * kOneTensor, 0, 5 * kPairs};
constexpr Part kScanForward{scan_form, 2 * kOneTensor, 16 * kElements};
constexpr Part kScanBoth{scan_form, 5 * kOneTensor, 47 * kElements};

BENCHMARK_CAPTURE(forward, kernel, kKernelForward)->Apply(shape);
BENCHMARK_CAPTURE(both_passes, kernel, kKernelBoth)->Apply(shape);
BENCHMARK_CAPTURE(forward, convolution, kConvolutionForward)->Apply(shape);
BENCHMARK_CAPTURE(both_passes, convolution, kConvolutionBoth)->Apply(shape);
BENCHMARK_CAPTURE(forward, scan, kScanForward)->Apply(shape);
BENCHMARK_CAPTURE(both_passes, scan, kScanBoth)->Apply(shape);
BENCHMARK_CAPTURE(choice, scan, scan_form)->Apply(choices);
BENCHMARK_CAPTURE(choice, convolution, convolution_form)->Apply(choices);
BENCHMARK(step)->Apply(shape);
BENCHMARK(transform_lanes)->Unit(benchmark::kMicrosecond);
BENCHMARK(transform_library)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace adder

BENCHMARK_MAIN();
