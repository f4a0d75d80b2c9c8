// What the S4 kernels share on the device. Private to cuda/.
#pragma once

#include "cuda/math.h"
#include "cuda/runtime.h"
#include "engine/kernels/s4_math.h"

namespace adder::cuda {

// Pairs (re, im) that lie one behind the other; a gradient is stored as the conjugate of the g in
// dL = Re(g dz) (see s4_math.h).
template <typename T>
struct Pairs {
  T* data = nullptr;
  __device__ explicit operator bool() const { return data != nullptr; }
  __device__ s4::Cx operator[](std::int64_t i) const {
    return {static_cast<double>(data[2 * i]), static_cast<double>(data[2 * i + 1])};
  }
  __device__ void set(std::int64_t i, s4::Cx value) const {
    data[2 * i] = static_cast<T>(value.re);
    data[2 * i + 1] = static_cast<T>(value.im);
  }
  __device__ s4::Cx gradient(std::int64_t i) const {
    return data != nullptr ? conj((*this)[i]) : s4::Cx{};
  }
  __device__ void set_gradient(std::int64_t i, s4::Cx g) const { set(i, conj(g)); }
};

template <typename T>
Pairs<T> pairs(const Tensor& tensor) {
  return {tensor.defined() ? tensor.data<T>() : nullptr};
}
template <typename T>
T* data_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.data<T>() : nullptr;
}

// The (b, h) rows of a (B, H, L) tensor, or the (b, m, h) rows of a (B, M, H, L) one.
struct Sequences {
  float* data = nullptr;
  std::int64_t batch_stride = 0, output_stride = 0, channel_stride = 0;
  __device__ float* at(std::int64_t b, std::int64_t m, std::int64_t h) const {
    return data + b * batch_stride + m * output_stride + h * channel_stride;
  }
};

inline Sequences sequences(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  const int rank = tensor.rank();
  if (tensor.dim(-1) > 1 && tensor.stride(-1) != 1) {
    throw ShapeError(str("cuda s4: sequences ", tensor.shape(), " have stride ", tensor.stride(-1),
                         " along their steps, expected 1"));
  }
  return {tensor.data<float>(), tensor.stride(0), rank == 4 ? tensor.stride(1) : 0,
          tensor.stride(rank - 2)};
}

// A matrix of per-channel weights, 0 where it is undefined.
struct Skip {
  const float* data = nullptr;
  std::int64_t stride = 0;
  __device__ float at(std::int64_t m, std::int64_t h) const {
    return data != nullptr ? data[m * stride + h] : 0.0F;
  }
};

inline Skip skip(const Tensor& D) {
  if (!D.defined()) return {};
  return {D.data<float>(), D.stride(0)};
}

// Sum over the lanes that differ from this one in the bits below `lanes`; all of them get it.
template <typename T>
__device__ T sum_lanes(T value, int lanes) {
  for (int mask = lanes / 2; mask > 0; mask /= 2) value += warp_shfl_xor(value, mask);
  return value;
}

inline void check_float(const char* place, const Tensor& tensor) {
  if (tensor.dtype() != Dtype::f32) {
    throw DtypeError(str(place, ": ", dtype_name(tensor.dtype()), " on CUDA, expected float32"));
  }
}

}  // namespace adder::cuda
