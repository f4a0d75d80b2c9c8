// Tensor: a typed, strided view of shared memory on one device.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/device.h"
#include "engine/dtype.h"
#include "engine/error.h"
#include "engine/memory.h"

namespace adder {

// Extents or strides, outermost first; at most kMaxRank of them, held in place.
class Shape {
 public:
  static constexpr int kMaxRank = 6;
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents);
  explicit Shape(std::span<const std::int64_t> extents);

  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return extents_[static_cast<std::size_t>(axis)]; }
  std::int64_t& operator[](int axis) { return extents_[static_cast<std::size_t>(axis)]; }
  std::int64_t numel() const;  // 1 for rank 0
  void push_back(std::int64_t extent);
  std::string to_string() const;  // "[2, 64, 16]"
  friend bool operator==(const Shape& a, const Shape& b);

 private:
  std::array<std::int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape);

// A handle: copying shares the memory, clone() copies it. A default-constructed tensor is
// undefined (defined() == false) and stands for "absent" in optional arguments.
class Tensor {
 public:
  Tensor() = default;
  static Tensor empty(Shape shape, Dtype dtype = Dtype::f32, Device device = {});
  // On a device, rows lie kRowRoom elements further apart than they are long; on the CPU as
  // empty().
  static constexpr std::int64_t kRowRoom = 32;
  static Tensor empty_with_room(Shape shape, Dtype dtype, Device device);
  static Tensor zeros(Shape shape, Dtype dtype = Dtype::f32, Device device = {});
  static Tensor full(Shape shape, double value, Dtype dtype = Dtype::f32, Device device = {});
  // Takes `bytes` of `storage` from `byte_offset` on as a contiguous tensor.
  static Tensor from_storage(std::shared_ptr<Storage> storage, std::size_t byte_offset, Shape shape,
                             Dtype dtype);
  template <typename T>
  static Tensor from(Shape shape, const std::vector<T>& values) {
    return from_bytes(shape, DtypeOf<T>::value, values.data(), values.size());
  }

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }  // in elements
  std::int64_t dim(int axis) const;                  // negative axes count from the end
  std::int64_t stride(int axis) const;
  int rank() const { return shape_.rank(); }
  std::int64_t numel() const { return shape_.numel(); }
  std::size_t nbytes() const { return static_cast<std::size_t>(numel()) * dtype_size(dtype_); }
  Dtype dtype() const { return dtype_; }
  Device device() const { return storage_ ? storage_->device() : Device{}; }
  bool is_contiguous() const;
  bool shares_memory_only_here() const { return storage_.use_count() == 1; }

  // The first element. Throws DtypeError when T is not the element type.
  template <typename T>
  T* data() const {
    if (DtypeOf<T>::value != dtype_) wrong_type(DtypeOf<T>::value);
    return static_cast<T*>(raw());
  }
  void* raw() const;

  // Views; they share memory and throw ShapeError when the extents do not fit.
  Tensor slice(int axis, std::int64_t begin, std::int64_t end) const;
  Tensor select(int axis, std::int64_t index) const;  // drops the axis
  Tensor transpose(int a, int b) const;
  Tensor expand(int axis, std::int64_t extent) const;  // repeats an axis of extent 1; to be read
  Tensor reshape(Shape shape) const;  // one extent may be -1; copies when not contiguous
  // (product of the leading extents, last extent); a view wherever the rows are evenly spaced.
  Tensor flatten_rows() const;
  // (rows, columns + more) of this (rows, columns) tensor: what lies free behind the rows belongs
  // to whoever takes it first. Undefined where there is less.
  Tensor take_room(std::int64_t more) const;

  Tensor clone() const;  // contiguous copy
  Tensor contiguous() const;
  Tensor to(Dtype dtype) const;  // converted contiguous copy, or this tensor if it is that already
  Tensor to(Device device) const;  // contiguous copy there, or this tensor if it is there already
  void copy_from(const Tensor& source) const;  // same shape; converts, from any device
  void fill(double value) const;
  void add_(const Tensor& other) const;  // += ; same shape and floating dtype
  void scale_(double factor) const;
  double item(std::int64_t flat_index = 0) const;  // element of the row-major order, as a double
  std::vector<double> to_vector() const;

 private:
  static Tensor from_bytes(Shape shape, Dtype dtype, const void* values, std::size_t count);
  [[noreturn]] void wrong_type(Dtype asked) const;
  std::shared_ptr<Storage> storage_;
  std::int64_t offset_ = 0;  // elements
  Shape shape_;
  Shape strides_;
  Dtype dtype_ = Dtype::f32;
};

// Throws ShapeError "<place>: <what> is [..], expected [..]" unless the shapes are equal.
void check_shape(const char* place, const char* what, const Tensor& tensor, const Shape& expected);

}  // namespace adder
