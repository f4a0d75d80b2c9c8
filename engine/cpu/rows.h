// What element-wise and row-wise CPU kernels share: checks, dispatch on the element type, and loops
// over vectors with a tail. Private to engine/cpu.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "engine/cpu/parallel.h"
#include "engine/cpu/simd.h"
#include "engine/tensor.h"

namespace adder::cpu {

// Elements that one thread should have before a second one is worth waking.
inline constexpr std::int64_t kElementGrain = 16384;

inline std::int64_t row_grain(std::int64_t length) {
  return std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(length, 1));
}

// Calls f(float{}) or f(double{}); throws DtypeError for other types.
template <typename F>
void dispatch_real(const char* place, Dtype dtype, const F& f) {
  if (dtype == Dtype::f32) return f(float{});
  if (dtype == Dtype::f64) return f(double{});
  throw DtypeError(str(place, ": ", dtype_name(dtype), ", expected float32 or float64"));
}

inline void check_dtype(const char* place, const char* what, const Tensor& tensor, Dtype expected) {
  if (tensor.dtype() != expected) {
    throw DtypeError(str(place, ": ", what, " is ", dtype_name(tensor.dtype()), ", expected ",
                         dtype_name(expected)));
  }
}

// Throws unless consecutive elements of the last axis are adjacent in memory.
inline void check_dense_rows(const char* place, const char* what, const Tensor& tensor) {
  if (!tensor.defined()) throw ShapeError(str(place, ": ", what, " is undefined"));
  if (tensor.rank() > 0 && tensor.dim(-1) > 1 && tensor.stride(-1) != 1) {
    throw ShapeError(str(place, ": ", what, " ", tensor.shape(), " has column stride ",
                         tensor.stride(-1), ", expected 1"));
  }
}

// A (rows, length) matrix with dense rows that may be apart from each other.
template <typename T>
struct Matrix {
  T* data = nullptr;
  std::int64_t stride = 0;
  T* operator()(std::int64_t row) const { return data + row * stride; }
};

template <typename T>
Matrix<T> matrix(const char* place, const char* what, const Tensor& tensor, const Shape& shape) {
  check_dense_rows(place, what, tensor);
  check_dtype(place, what, tensor, DtypeOf<T>::value);
  check_shape(place, what, tensor, shape);
  return {tensor.data<T>(), tensor.stride(0)};
}

// A dense vector of `length` elements.
template <typename T>
T* vector(const char* place, const char* what, const Tensor& tensor, std::int64_t length) {
  return matrix<T>(place, what, tensor, {length}).data;
}

// Calls f(i, count) for every whole vector of [0, n), count being a constant then, and for the
// rest.
template <typename T, typename F>
inline void for_each_vector(std::int64_t n, const F& f) {
  constexpr std::int64_t kStep = kLanes<T>;
  std::int64_t i = 0;
  for (; i + kStep <= n; i += kStep) f(i, kStep);
  if (i < n) f(i, n - i);
}

// Calls body(pointers, count) on runs that cover tensors of one shape with dense rows, in parallel.
template <typename T, std::size_t Count, typename Body>
void for_each_run(const char* place, const std::array<const Tensor*, Count>& tensors,
                  const Body& body) {
  bool contiguous = true;
  for (const Tensor* tensor : tensors) {
    check_dense_rows(place, "tensor", *tensor);
    check_shape(place, "tensor", *tensor, tensors[0]->shape());
    check_dtype(place, "tensor", *tensor, DtypeOf<T>::value);
    contiguous = contiguous && tensor->is_contiguous();
  }
  const Shape& shape = tensors[0]->shape();
  if (shape.numel() == 0) return;
  std::array<T*, Count> base;
  for (std::size_t i = 0; i < Count; ++i) base[i] = tensors[i]->template data<T>();
  if (contiguous) {
    parallel_for(shape.numel(), kElementGrain, [&](std::int64_t begin, std::int64_t end) {
      std::array<T*, Count> run = base;
      for (T*& pointer : run) pointer += begin;
      body(run, end - begin);
    });
    return;
  }
  const std::int64_t length = shape[shape.rank() - 1];
  parallel_for(shape.numel() / length, row_grain(length),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t row = begin; row < end; ++row) {
                   std::array<T*, Count> run = base;
                   std::int64_t index = row;
                   for (int axis = shape.rank() - 2; axis >= 0; --axis) {
                     const std::int64_t at = index % shape[axis];
                     index /= shape[axis];
                     for (std::size_t i = 0; i < Count; ++i) {
                       run[i] += at * tensors[i]->strides()[axis];
                     }
                   }
                   body(run, length);
                 }
               });
}

}  // namespace adder::cpu
