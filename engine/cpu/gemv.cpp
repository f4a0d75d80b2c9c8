#include "engine/cpu/gemv.h"

#include <bit>

#include "engine/cpu/parallel.h"
#include "engine/cpu/vec.h"

namespace adder::cpu {
namespace {

constexpr std::int64_t kBytesPerThread = 64 << 10;  // below that waking a thread costs more
constexpr std::int64_t kPrefetchBytes = 2048;       // ahead: hides what the hardware prefetcher
                                                    // loses at the page ends

typedef std::uint32_t VecU __attribute__((vector_size(kVectorBytes)));

// One vector of words of the weight row makes kParts vectors of float.
template <typename W>
struct Weights;
template <>
struct Weights<float> {
  static constexpr int kParts = 1;
  static void widen(VecF words, VecF* parts) { parts[0] = words; }
};
// Two bfloat16 in a word: the even ones are its low halves, the odd ones its high halves, so that
// widening is a shift and a mask. Rows of a are rearranged to match, once per call.
template <>
struct Weights<BFloat16> {
  static constexpr int kParts = 2;
  static void widen(VecF words, VecF* parts) {
    const VecU bits = std::bit_cast<VecU>(words);
    parts[0] = std::bit_cast<VecF>(bits << 16);
    parts[1] = std::bit_cast<VecF>(bits & 0xffff0000U);
  }
};
template <typename W>
constexpr std::int64_t kStep = Weights<W>::kParts* kLanes<float>;

// The rows of a, one after the other, each filled up with zeros to whole steps.
template <typename W>
std::int64_t arrange(std::int64_t M, std::int64_t K, const float* a, std::int64_t lda,
                     Scratch<float>& out) {
  constexpr int kParts = Weights<W>::kParts;
  const std::int64_t padded = (K + kStep<W> - 1) / kStep<W> * kStep<W>;
  out.assign(static_cast<std::size_t>(M * padded), 0.0F);
  for (std::int64_t m = 0; m < M; ++m) {
    for (std::int64_t k = 0; k < K; ++k) {
      const std::int64_t step = k / kStep<W> * kStep<W>;
      const std::int64_t at = step + (k % kParts) * kLanes<float> + (k - step) / kParts;
      out[static_cast<std::size_t>(m * padded + at)] = a[m * lda + k];
    }
  }
  return padded;
}

// One weight row against M rows of a, with several accumulators per product to hide the latency of
// the multiply-add. Several weight rows at a time would share the loads of a, but memory delivers
// one sequential stream twice as fast as four.
template <int M, typename W>
inline void dot_rows(std::int64_t K, const float* a, std::int64_t lda, const W* w, float* sums) {
  constexpr int kParts = Weights<W>::kParts;
  constexpr int kUnroll = (M == 1 ? 4 : 2) / kParts;
  VecF acc[M][kUnroll][kParts] = {};
  const auto multiply = [&](std::int64_t k, VecF words, int u) {
    VecF parts[kParts];
    Weights<W>::widen(words, parts);
    for (int m = 0; m < M; ++m) {
      for (int p = 0; p < kParts; ++p) {
        const VecF row = load(a + m * lda + k + p * kLanes<float>);
        acc[m][u][p] = mul_add(parts[p], row, acc[m][u][p]);
      }
    }
  };
  std::int64_t k = 0;
  for (; k + kUnroll * kStep<W> <= K; k += kUnroll * kStep<W>) {
    for (int u = 0; u < kUnroll; ++u) {
      const W* from = w + k + u * kStep<W>;
      if (u * kVectorBytes % 64 == 0) {
        __builtin_prefetch(reinterpret_cast<const char*>(from) + kPrefetchBytes);
      }
      VecF words;
      std::memcpy(&words, from, sizeof words);
      multiply(k + u * kStep<W>, words, u);
    }
  }
  for (; k + kStep<W> <= K; k += kStep<W>) {
    VecF words;
    std::memcpy(&words, w + k, sizeof words);
    multiply(k, words, 0);
  }
  if (k < K) {
    VecF words{};
    std::memcpy(&words, w + k, static_cast<std::size_t>(K - k) * sizeof(W));
    multiply(k, words, 0);
  }
  for (int m = 0; m < M; ++m) {
    VecF total{};
    for (int u = 0; u < kUnroll; ++u) {
      for (int p = 0; p < kParts; ++p) total += acc[m][u][p];
    }
    sums[m] = sum_lanes<float>(total);
  }
}

template <int M, typename W>
void run(std::int64_t N, std::int64_t K, float alpha, const float* a, std::int64_t lda, const W* b,
         std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
  Scratch<float> arranged;
  const std::int64_t padded = arrange<W>(M, K, a, lda, arranged);
  const std::int64_t row_bytes =
      std::max<std::int64_t>(K * static_cast<std::int64_t>(sizeof(W)), 1);
  parallel_for(N, std::max<std::int64_t>(kBytesPerThread / row_bytes, 1),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t n = begin; n < end; ++n) {
                   float sums[M];
                   dot_rows<M>(K, arranged.data(), padded, b + n * ldb, sums);
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
