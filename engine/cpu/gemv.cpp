#include "engine/cpu/gemv.h"

#include "engine/cpu/parallel.h"
#include "engine/cpu/simd.h"

namespace adder::cpu {
namespace {

constexpr std::int64_t kBytesPerThread = 64 << 10;  // below that waking a thread costs more
constexpr std::int64_t kPrefetchBytes = 2048;       // ahead: hides what the hardware prefetcher
                                                    // loses at the page ends

inline VecF load_weight(const float* p, std::int64_t count) {
  return load(p, count);
}

inline VecF load_weight(const BFloat16* p, std::int64_t count) {
  constexpr int kBytes = kVectorBytes / 2;
  typedef std::uint16_t Half __attribute__((vector_size(kBytes)));
  typedef std::uint32_t Word __attribute__((vector_size(kVectorBytes)));
  Half half{};
  std::memcpy(&half, p, static_cast<std::size_t>(count) * sizeof(BFloat16));
  return std::bit_cast<VecF>(__builtin_convertvector(half, Word) << 16);
}

// One weight row against M rows of a: the row is read once, and several accumulators per product
// hide the latency of the multiply-add.
template <int M, typename W>
inline void dot_rows(std::int64_t K, const float* a, std::int64_t lda, const W* w, float* sums) {
  constexpr int kUnroll = M == 1 ? 4 : 2;
  constexpr std::int64_t kStep = kLanes<float>;
  VecF acc[M][kUnroll] = {};
  std::int64_t k = 0;
  for (; k + kUnroll * kStep <= K; k += kUnroll * kStep) {
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t at = k + u * kStep;
      if (u * kStep * static_cast<std::int64_t>(sizeof(W)) % 64 == 0) {
        __builtin_prefetch(reinterpret_cast<const char*>(w + at) + kPrefetchBytes);
      }
      const VecF weight = load_weight(w + at, kStep);
      for (int m = 0; m < M; ++m) acc[m][u] = mul_add(weight, load(a + m * lda + at), acc[m][u]);
    }
  }
  for (; k < K; k += kStep) {
    const std::int64_t count = std::min(kStep, K - k);
    const VecF weight = load_weight(w + k, count);
    for (int m = 0; m < M; ++m)
      acc[m][0] = mul_add(weight, load(a + m * lda + k, count), acc[m][0]);
  }
  for (int m = 0; m < M; ++m) {
    for (int u = 1; u < kUnroll; ++u) acc[m][0] += acc[m][u];
    sums[m] = sum_lanes<float>(acc[m][0]);
  }
}

template <int M, typename W>
void run(std::int64_t N, std::int64_t K, float alpha, const float* a, std::int64_t lda, const W* b,
         std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
  const std::int64_t row_bytes =
      std::max<std::int64_t>(K * static_cast<std::int64_t>(sizeof(W)), 1);
  parallel_for(N, std::max<std::int64_t>(kBytesPerThread / row_bytes, 1),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t n = begin; n < end; ++n) {
                   float sums[M];
                   dot_rows<M>(K, a, lda, b + n * ldb, sums);
                   for (int m = 0; m < M; ++m) {
                     float& out = c[m * ldc + n];
                     out = beta == 0 ? alpha * sums[m] : alpha * sums[m] + beta * out;
                   }
                 }
               });
}

template <typename W>
void dispatch_rows(std::int64_t M, std::int64_t N, std::int64_t K, float alpha, const float* a,
                   std::int64_t lda, const W* b, std::int64_t ldb, float beta, float* c,
                   std::int64_t ldc) {
  switch (M) {
    case 1:
      return run<1>(N, K, alpha, a, lda, b, ldb, beta, c, ldc);
    case 2:
      return run<2>(N, K, alpha, a, lda, b, ldb, beta, c, ldc);
    case 3:
      return run<3>(N, K, alpha, a, lda, b, ldb, beta, c, ldc);
    default:
      return run<4>(N, K, alpha, a, lda, b, ldb, beta, c, ldc);
  }
}

}  // namespace

void gemv(std::int64_t M, std::int64_t N, std::int64_t K, float alpha, const float* a,
          std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
          std::int64_t ldc) {
  dispatch_rows(M, N, K, alpha, a, lda, b, ldb, beta, c, ldc);
}

void gemv(std::int64_t M, std::int64_t N, std::int64_t K, float alpha, const float* a,
          std::int64_t lda, const BFloat16* b, std::int64_t ldb, float beta, float* c,
          std::int64_t ldc) {
  dispatch_rows(M, N, K, alpha, a, lda, b, ldb, beta, c, ldc);
}

}  // namespace adder::cpu
