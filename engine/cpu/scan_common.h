// What the forward, backward and single-step scans share: row access, decay rates.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <numbers>

#include "engine/cpu/parallel.h"
#include "engine/cpu/simd.h"
#include "engine/kernels/arguments.h"
#include "engine/kernels/scan.h"

namespace adder::cpu {

// A (B, L, ·) or (B, ·, ·) tensor as base and strides; null when the tensor is undefined.
template <typename T>
struct Rows {
  explicit Rows(const Tensor& tensor) {
    if (!tensor.defined()) return;
    data = tensor.data<T>();
    batch_stride = tensor.stride(0);
    if (tensor.rank() == 3) stride = tensor.stride(1);
  }
  T* at(std::int64_t batch, std::int64_t row = 0) const {
    return data + batch * batch_stride + row * stride;
  }
  explicit operator bool() const { return data != nullptr; }

  T* data = nullptr;
  std::int64_t batch_stride = 0;
  std::int64_t stride = 0;
};

// The extents, with the channels cut into blocks of one vector.
template <typename T>
struct ScanExtents {
  static constexpr std::int64_t kWidth = kLanes<T>;
  ScanExtents(const Tensor& u, const Tensor& A_log)
      : batch(u.dim(0)),
        length(u.dim(1)),
        channels(u.dim(2)),
        states(A_log.dim(1)),
        blocks((channels + kWidth - 1) / kWidth),
        chunks((length + kScanChunk - 1) / kScanChunk),
        padded_blocks((channels + 15) / 16 * 16 / kWidth) {}

  std::int64_t lanes(std::int64_t block) const {
    return std::min(kWidth, channels - block * kWidth);
  }
  // Where the checkpoint of a block starts: (states, lanes) elements.
  std::int64_t checkpoint(std::int64_t b, std::int64_t chunk, std::int64_t block) const {
    return ((b * chunks + chunk) * padded_blocks + block) * states * kWidth;
  }

  std::int64_t batch, length, channels, states, blocks, chunks;
  std::int64_t padded_blocks;  // the checkpoint's size must not depend on the vector width
};

// A log2(e) = -exp(A_log) log2(e), transposed to (block, state, lane) and zero in padding lanes, so
// that the decay of a step is one exp2 of one product.
template <typename T>
Scratch<T> decay_rates(const Tensor& A_log, const ScanExtents<T>& e) {
  constexpr std::int64_t width = ScanExtents<T>::kWidth;
  Scratch<T> rates(static_cast<std::size_t>(e.blocks * e.states * width));
  const Rows<T> rows(A_log);
  parallel_for(e.blocks, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      for (std::int64_t n = 0; n < e.states; ++n) {
        const Vec<T> a = gather(rows.at(block * width) + n, rows.batch_stride, e.lanes(block));
        T* rate = rates.data() + (block * e.states + n) * width;
        store(rate, Vec<T>(exp(a) * broadcast(-std::numbers::log2e_v<T>)));
        for (std::int64_t i = e.lanes(block); i < width; ++i) rate[i] = 0;
      }
    }
  });
  return rates;
}

// Steps of one chunk for one block of channels, (step, lane): small enough to stay in L1.
template <typename T>
struct alignas(64) ChunkArray {
  T values[kScanChunk * kLanes<T>];
  T* at(std::int64_t step) { return values + step * kLanes<T>; }
};

// Calls run with float{} or double{}; throws DtypeError for what only a device computes with.
template <typename F>
void dispatch_float(Dtype dtype, const F& run) {
  if (dtype == Dtype::f64) return run(double{});
  if (dtype == Dtype::f32) return run(float{});
  throw DtypeError(str("scan or convolution in ", dtype_name(dtype),
                       " on the CPU, expected float32 or float64"));
}

}  // namespace adder::cpu
