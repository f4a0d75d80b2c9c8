#include "engine/cpu/gemv.h"

#include <bit>

#include "engine/cpu/parallel.h"
#include "engine/cpu/vec.h"

namespace adder::cpu {
namespace {

constexpr std::int64_t kBytesPerThread = 64 << 10;  // below that waking a thread costs more

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
  constexpr std::int64_t kWidth = kLanes<float>;
  const std::int64_t padded = (K + kStep<W> - 1) / kStep<W> * kStep<W>;
  out.resize(static_cast<std::size_t>(M * padded));
  for (std::int64_t m = 0; m < M; ++m) {
    for (std::int64_t k = 0; k < padded; k += kStep<W>) {
      const float* from = a + m * lda + k;
      float* to = out.data() + m * padded + k;
      if constexpr (kParts == 1) {
        store(to, load(from, K - k));
      } else {
        float step[kParts * kWidth] = {};
        std::memcpy(step, from, static_cast<std::size_t>(std::min(K - k, kStep<W>)) * sizeof *step);
        for (int p = 0; p < kParts; ++p) {
          for (std::int64_t i = 0; i < kWidth; ++i) to[p * kWidth + i] = step[i * kParts + p];
        }
      }
    }
  }
  return padded;
}

// R weight rows against M rows of a. A product's order of summation does not depend on R.
template <int R, int M, typename W>
[[gnu::always_inline]] inline void dot_rows(std::int64_t K, const float* a, std::int64_t lda,
                                            const W* const (&w)[R], float (&sums)[R][M]) {
  constexpr int kParts = Weights<W>::kParts;
  constexpr int kUnroll = 2 / kParts;  // hides the latency of the multiply-add
  VecF acc[R][M][kUnroll][kParts] = {};
  const auto multiply = [&](std::int64_t k, int r, VecF words, int u) {
    VecF parts[kParts];
    Weights<W>::widen(words, parts);
    for (int m = 0; m < M; ++m) {
      for (int p = 0; p < kParts; ++p) {
        const VecF row = load(a + m * lda + k + p * kLanes<float>);
        acc[r][m][u][p] = mul_add(parts[p], row, acc[r][m][u][p]);
      }
    }
  };
  const auto step = [&](std::int64_t k, int u, std::int64_t count) {
    for (int r = 0; r < R; ++r) {
      VecF words{};
      std::memcpy(&words, w[r] + k, static_cast<std::size_t>(count) * sizeof(W));
      multiply(k, r, words, u);
    }
  };
  std::int64_t k = 0;
  for (; k + kUnroll * kStep<W> <= K; k += kUnroll * kStep<W>) {
    for (int u = 0; u < kUnroll; ++u) step(k + u * kStep<W>, u, kStep<W>);
  }
  for (; k + kStep<W> <= K; k += kStep<W>) step(k, 0, kStep<W>);
  if (k < K) step(k, 0, K - k);
  for (int r = 0; r < R; ++r) {
    for (int m = 0; m < M; ++m) {
      VecF total{};
      for (int u = 0; u < kUnroll; ++u) {
        for (int p = 0; p < kParts; ++p) total += acc[r][m][u][p];
      }
      sums[r][m] = sum_lanes<float>(total);
    }
  }
}

// Every thread reads its weight rows as two streams, one from the beginning and one from the
// middle: that draws more from memory than one (and than four), and halves the loads of a.
template <int M, typename W>
void run(std::int64_t N, std::int64_t K, float alpha, const float* a, std::int64_t lda, const W* b,
         std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
  Scratch<float> arranged;
  const std::int64_t padded = arrange<W>(M, K, a, lda, arranged);
  const float* rows = arranged.data();
  const std::int64_t row_bytes =
      std::max<std::int64_t>(K * static_cast<std::int64_t>(sizeof(W)), 1);
  const auto put = [&](std::int64_t n, const float(&sums)[M]) {
    for (int m = 0; m < M; ++m) {
      float& out = c[m * ldc + n];
      out = beta == 0 ? alpha * sums[m] : alpha * sums[m] + beta * out;
    }
  };
  parallel_for(N, std::max<std::int64_t>(kBytesPerThread / row_bytes, 1),
               [&](std::int64_t begin, std::int64_t end) {
                 const std::int64_t half = (end - begin) / 2;
                 for (std::int64_t n = begin; n < begin + half; ++n) {
                   float sums[2][M];
                   dot_rows<2, M, W>(K, rows, padded, {b + n * ldb, b + (n + half) * ldb}, sums);
                   put(n, sums[0]);
                   put(n + half, sums[1]);
                 }
                 for (std::int64_t n = begin + 2 * half; n < end; ++n) {
                   float sums[1][M];
                   dot_rows<1, M, W>(K, rows, padded, {b + n * ldb}, sums);
                   put(n, sums[0]);
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
