// Access to the complex tensors of the S4 kernels. Private to engine/cpu.
#pragma once

#include <cstdint>
#include <type_traits>

#include "engine/cpu/parallel.h"
#include "engine/cpu/rows.h"
#include "engine/cpu/simd.h"
#include "engine/kernels/s4_math.h"

namespace adder::cpu {

// Results from this size on are written past the caches.
inline constexpr std::size_t kStreamedBytes = std::size_t{8} << 20;

// Pairs (re, im) that lie one behind the other. A gradient is stored as the conjugate of the g in
// dL = Re(g dz) (see s4_math.h).
template <typename T>
struct Pairs {
  explicit Pairs(const Tensor& tensor) : data(tensor.data<T>()) {}
  // Null when the tensor is undefined.
  static Pairs optional(const Tensor& tensor) { return tensor.defined() ? Pairs(tensor) : Pairs(); }
  explicit operator bool() const { return data != nullptr; }
  s4::Cx operator[](std::int64_t i) const {
    return {static_cast<double>(data[2 * i]), static_cast<double>(data[2 * i + 1])};
  }
  void set(std::int64_t i, s4::Cx value) const {
    data[2 * i] = static_cast<T>(value.re);
    data[2 * i + 1] = static_cast<T>(value.im);
  }
  s4::Cx gradient(std::int64_t i) const { return data != nullptr ? conj((*this)[i]) : s4::Cx{}; }
  void set_gradient(std::int64_t i, s4::Cx g) const { set(i, conj(g)); }

  T* data = nullptr;

 private:
  Pairs() = default;
};

// A tensor's elements; null when it is undefined.
template <typename T>
T* data_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.data<T>() : nullptr;
}

// The (b, h) rows of a (B, H, L) tensor, or the (b, m, h) rows of a (B, M, H, L) one. Either their
// steps lie side by side or, when step_stride is not 1, the channels do.
template <typename T>
struct Sequences {
  explicit Sequences(const Tensor& tensor) {
    if (!tensor.defined()) return;
    data = tensor.data<T>();
    batch_stride = tensor.stride(0);
    if (tensor.rank() == 4) output_stride = tensor.stride(1);
    channel_stride = tensor.stride(tensor.rank() - 2);
    step_stride = tensor.stride(tensor.rank() - 1);
  }
  explicit operator bool() const { return data != nullptr; }
  T* at(std::int64_t b, std::int64_t h) const {
    return data + b * batch_stride + h * channel_stride;
  }
  T* at(std::int64_t b, std::int64_t m, std::int64_t h) const {
    return at(b, h) + m * output_stride;
  }

  T* data = nullptr;
  std::int64_t batch_stride = 0;
  std::int64_t output_stride = 0;
  std::int64_t channel_stride = 0;
  std::int64_t step_stride = 1;
};

// Sequences that are written by whole vectors at multiples of a vector's elements: past the caches
// where they are larger than those and every such vector is aligned. Each thread ends with
// streamed().
template <typename T>
struct Outputs {
  explicit Outputs(const Tensor& tensor) : rows(tensor) {
    if (!tensor.defined() || tensor.nbytes() < kStreamedBytes) return;
    streams = reinterpret_cast<std::uintptr_t>(rows.data) % kVectorBytes == 0;
    const std::int64_t sparse = rows.step_stride == 1 ? rows.channel_stride : rows.step_stride;
    for (const std::int64_t stride : {rows.batch_stride, rows.output_stride, sparse}) {
      if (stride % kLanes<T> != 0) streams = false;
    }
  }
  explicit operator bool() const { return static_cast<bool>(rows); }
  Sequences<T> rows;
  bool streams = false;
};

// Element (m, h) of a matrix of per-channel weights, 0 when it is undefined.
template <typename T>
T skip_weight(const Tensor& D, std::int64_t m, std::int64_t h) {
  return D.defined() ? D.data<T>()[m * D.stride(0) + h] : T{0};
}

}  // namespace adder::cpu
