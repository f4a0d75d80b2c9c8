// Element order of strided tensors inside kernels. Private to cuda/.
#pragma once

#include <cstdint>

#include "cuda/portable.h"
#include "engine/tensor.h"

namespace adder::cuda {

// This thread's number in a grid of one dimension.
__device__ inline std::int64_t global_index() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Extents and strides of a tensor, by value for a kernel.
struct Strided {
  int rank = 0;
  std::int64_t extent[Shape::kMaxRank] = {};
  std::int64_t stride[Shape::kMaxRank] = {};

  // Where element `index` of the row-major order lies.
  __host__ __device__ std::int64_t offset(std::int64_t index) const {
    std::int64_t at = 0;
    // Unrolled with constant subscripts: with others the arrays would be copied to local memory.
#pragma unroll
    for (int axis = Shape::kMaxRank - 1; axis >= 0; --axis) {
      if (axis >= rank) continue;
      at += index % extent[axis] * stride[axis];
      index /= extent[axis];
    }
    return at;
  }
};

// Axes that lie evenly behind each other are merged: a contiguous tensor has one axis.
inline Strided strided(const Tensor& tensor) {
  Strided s;
  for (int axis = 0; axis < tensor.rank(); ++axis) {
    if (tensor.dim(axis) == 1) continue;
    if (s.rank > 0 && s.stride[s.rank - 1] == tensor.stride(axis) * tensor.dim(axis)) {
      s.extent[s.rank - 1] *= tensor.dim(axis);
      s.stride[s.rank - 1] = tensor.stride(axis);
      continue;
    }
    s.extent[s.rank] = tensor.dim(axis);
    s.stride[s.rank] = tensor.stride(axis);
    ++s.rank;
  }
  return s;
}

// A matrix with dense rows: base and distance of rows.
template <typename T>
struct Matrix {
  T* data = nullptr;
  std::int64_t stride = 0;
  __host__ __device__ T* operator()(std::int64_t row) const { return data + row * stride; }
};

template <typename T>
Matrix<T> matrix(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {tensor.data<T>(), tensor.stride(0)};
}

inline void check_dense_rows(const char* place, const Tensor& tensor) {
  if (tensor.defined() && tensor.rank() == 2 && (tensor.dim(1) <= 1 || tensor.stride(1) == 1)) {
    return;
  }
  throw ShapeError(str(place, ": ", tensor.shape(), ", expected a matrix with dense rows"));
}

// A (B, L, D) or (B, D) tensor with a dense last axis; null when undefined.
template <typename T>
struct Rows {
  T* data = nullptr;
  std::int64_t batch_stride = 0;
  std::int64_t stride = 0;
  __host__ __device__ T* at(std::int64_t batch, std::int64_t row = 0) const {
    return data + batch * batch_stride + row * stride;
  }
};

template <typename T>
Rows<T> rows(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {tensor.data<T>(), tensor.stride(0), tensor.rank() == 3 ? tensor.stride(1) : 0};
}

}  // namespace adder::cuda
