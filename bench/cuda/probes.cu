#include "bench/cuda/probes.h"
#include "cuda/math.h"
#include "cuda/runtime.h"

namespace adder::bench {
namespace {

using namespace adder::cuda;

constexpr int kThreads = 128;  // a warp for each scheduler of a multiprocessor
constexpr int kChains = 16;

__device__ inline std::uint32_t hash(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352dU;
  x = (x ^ (x >> 15)) * 0x846ca68bU;
  return x ^ (x >> 16);
}

template <typename T>
__global__ void draw_kernel(T* values, std::int64_t count, float low, float high,
                            std::uint32_t seed) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const std::uint32_t bits = hash(hash(static_cast<std::uint32_t>(i)) + 0x9e3779b9U * seed +
                                  static_cast<std::uint32_t>(i >> 32));
  values[i] = from_float<T>(low + (high - low) * (static_cast<float>(bits >> 8) * 0x1p-24F));
}

struct alignas(16) Piece {
  float values[4];
};

__global__ void copy_kernel(const Piece* from, Piece* to, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) to[i] = from[i];
}

__global__ void read_kernel(const Piece* from, std::int64_t count, int rounds, float* sink) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  float sum = 0;
  for (int round = 0; round < rounds; ++round) {
    // Another place each round, so that no multiprocessor finds its own pieces in its L1.
    const std::int64_t shift = round * (count / 3 + 1) % count;
    for (std::int64_t i = first; i < count; i += stride) {
      const Piece piece = from[i + shift < count ? i + shift : i + shift - count];
      sum += (piece.values[0] + piece.values[1]) + (piece.values[2] + piece.values[3]);
    }
  }
  sink[first] = sum;
}

struct Exp2 {
  __device__ static float next(float x) { return fast_exp2(-x); }
};
struct MultiplyAdd {
  __device__ static float next(float x) { return x * 0.75F + 0.125F; }
};
struct Shuffle {
  __device__ static float next(float x) { return warp_shfl_xor(x, 1U); }
};

// Results are stored, so that no chain can be left out.
template <typename Step>
__global__ void chains_kernel(int rounds, float* sink) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  float x[kChains];
#pragma unroll
  for (int k = 0; k < kChains; ++k) x[k] = static_cast<float>(threadIdx.x % 7U) * 0.1F + 0.01F * k;
#pragma unroll 4
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int k = 0; k < kChains; ++k) x[k] = Step::next(x[k]);
  }
  float sum = 0;
#pragma unroll
  for (int k = 0; k < kChains; ++k) sum += x[k];
  sink[thread] = sum;
}

__global__ void atomic_add_kernel(float* sums, std::int64_t count, int rounds) {
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int round = 0; round < rounds; ++round) {
    const std::int64_t at = first + round * std::int64_t{4096} % count;
    atomicAdd(&sums[at < count ? at : at - count], 1.0F);
  }
}

int blocks_of(const Tensor& sink, int threads) {
  return static_cast<int>(
      std::min<std::int64_t>(multiprocessors(sink.device()), sink.numel() / threads));
}

template <typename Step>
double chains(const Tensor& sink, int warps, int rounds) {
  const int threads = kThreads * warps;
  const int blocks = blocks_of(sink, threads);
  ADDER_LAUNCH((chains_kernel<Step>), blocks, threads, 0, stream(sink.device()), rounds,
               sink.data<float>());
  return static_cast<double>(blocks) * threads * kChains * rounds;
}

}  // namespace

void draw_on_device(const Tensor& tensor, float low, float high, std::uint32_t seed) {
  const std::int64_t count = tensor.numel();
  if (count == 0) return;
  dispatch_storage("draw_on_device", tensor.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((draw_kernel<T>), blocks_for(count, kThreads), kThreads, 0,
                 stream(tensor.device()), tensor.data<T>(), count, low, high, seed);
  });
}

double probe_copy(const Tensor& from, const Tensor& to) {
  const std::int64_t count = from.numel() / 4;
  ADDER_LAUNCH(copy_kernel, blocks_for(count, kThreads), kThreads, 0, stream(from.device()),
               static_cast<const Piece*>(from.raw()), static_cast<Piece*>(to.raw()), count);
  return 32.0 * static_cast<double>(count);
}

double probe_read(const Tensor& from, const Tensor& sink, int rounds) {
  const std::int64_t count = from.numel() / 4;
  const int blocks = blocks_of(sink, kThreads * 16) * 16;
  ADDER_LAUNCH(read_kernel, blocks, kThreads, 0, stream(from.device()),
               static_cast<const Piece*>(from.raw()), count, rounds, sink.data<float>());
  return 16.0 * static_cast<double>(count) * rounds;
}

double probe_exp2(const Tensor& sink, int warps, int rounds) {
  return chains<Exp2>(sink, warps, rounds);
}
double probe_multiply_add(const Tensor& sink, int warps, int rounds) {
  return chains<MultiplyAdd>(sink, warps, rounds);
}
double probe_shuffle(const Tensor& sink, int warps, int rounds) {
  return chains<Shuffle>(sink, warps, rounds);
}

double probe_atomic_add(const Tensor& sums, int rounds) {
  const int blocks = blocks_of(sums, kThreads * 16) * 16;
  ADDER_LAUNCH(atomic_add_kernel, blocks, kThreads, 0, stream(sums.device()), sums.data<float>(),
               sums.numel(), rounds);
  return static_cast<double>(blocks) * kThreads * rounds;
}

}  // namespace adder::bench
