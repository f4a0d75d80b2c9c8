#include "engine/cpu/philox.h"
#include "engine/cpu/rows.h"
#include "engine/kernels/elementwise.h"

namespace adder::cpu {
namespace {

// Element i is kept if word i % 4 of counter i / 4 reaches p * 2^32.
template <typename T>
void run(const DropoutArgs& args) {
  const T* x = args.x.data<T>();
  T* y = args.y.data<T>();
  const auto factor = static_cast<T>(1.0 / (1.0 - args.p));
  const auto threshold = static_cast<std::uint32_t>(std::ceil(args.p * 4294967296.0));
  const std::int64_t n = args.x.numel();
  const std::int64_t blocks = (n + kPhiloxWords - 1) / kPhiloxWords;
  std::uint64_t stream = args.stream;
  if (args.stream_offset.defined()) {
    stream += static_cast<std::uint64_t>(*args.stream_offset.data<std::int64_t>());
  }
  parallel_for(blocks, 64, [&](std::int64_t begin, std::int64_t end) {
    alignas(64) std::uint32_t words[kPhiloxWords];
    for (std::int64_t block = begin; block < end; ++block) {
      philox_words(args.seed, stream, static_cast<std::uint64_t>(block * kPhiloxCounters), words);
      const T* from = x + block * kPhiloxWords;
      T* to = y + block * kPhiloxWords;
      const std::int64_t count = std::min<std::int64_t>(kPhiloxWords, n - block * kPhiloxWords);
#pragma omp simd
      for (std::int64_t i = 0; i < count; ++i) {
        const T scaled = from[i] * factor;
        to[i] = words[i] >= threshold ? scaled : T{0};
      }
    }
  });
}

}  // namespace

void dropout(const DropoutArgs& args) {
  check_shape("dropout", "y", args.y, args.x.shape());
  check_dtype("dropout", "y", args.y, args.x.dtype());
  if (!(args.p >= 0 && args.p <= 1)) {
    throw ConfigError(str("dropout: p is ", args.p, ", expected [0, 1]"));
  }
  if (args.x.numel() == 0) return;
  if (!args.x.is_contiguous() || !args.y.is_contiguous()) {
    throw ShapeError(str("dropout: x and y ", args.x.shape(), " must be contiguous"));
  }
  if (args.p == 1) return args.y.fill(0);  // 2^32 is no 32-bit threshold, and 1 / (1 - p) no number
  dispatch_real("dropout", args.x.dtype(), [&](auto t) { run<decltype(t)>(args); });
}

}  // namespace adder::cpu
