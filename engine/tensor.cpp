#include "engine/tensor.h"

#include <algorithm>
#include <cstring>
#include <ostream>

#include "engine/cpu/parallel.h"

namespace adder {
namespace {

int normalise_axis(int axis, int rank, const char* place) {
  const int positive = axis < 0 ? axis + rank : axis;
  if (positive < 0 || positive >= rank) {
    throw ShapeError(str(place, ": axis ", axis, " of a tensor of rank ", rank));
  }
  return positive;
}

Shape contiguous_strides(const Shape& shape) {
  Shape strides = shape;
  std::int64_t step = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides[axis] = step;
    step *= shape[axis];
  }
  return strides;
}

// Shapes may come from files: an extent that is negative or a size that overflows is an error.
std::size_t bytes_of(const Shape& shape, Dtype dtype) {
  auto bytes = static_cast<std::int64_t>(dtype_size(dtype));
  bool empty = false;
  bool overflow = false;  // also where a later extent is 0: strides are products of the others
  for (int axis = 0; axis < shape.rank(); ++axis) {
    const std::int64_t extent = shape[axis];
    if (extent < 0) throw ShapeError(str("tensor: negative extent in ", shape));
    empty = empty || extent == 0;
    overflow = overflow || __builtin_mul_overflow(bytes, extent == 0 ? 1 : extent, &bytes);
  }
  if (overflow) throw ShapeError(str("tensor: ", shape, " has too many elements"));
  if (empty) return 0;
  return static_cast<std::size_t>(bytes);
}

// Calls visit(offset) for the first element of every innermost run, in row-major order.
template <typename Visit>
void for_each_row(const Shape& shape, const Shape& strides, int axis, std::int64_t offset,
                  const Visit& visit) {
  if (axis >= shape.rank() - 1) {
    visit(offset);
    return;
  }
  for (std::int64_t i = 0; i < shape[axis]; ++i) {
    for_each_row(shape, strides, axis + 1, offset + i * strides[axis], visit);
  }
}

template <typename F>
void dispatch(Dtype dtype, const F& f) {
  switch (dtype) {
    case Dtype::f32:
      return f(float{});
    case Dtype::f64:
      return f(double{});
    case Dtype::bf16:
      return f(BFloat16{});
    case Dtype::f16:
      return f(Float16{});
    case Dtype::i32:
      return f(std::int32_t{});
    case Dtype::i64:
      return f(std::int64_t{});
    case Dtype::u8:
      return f(std::uint8_t{});
  }
}

template <typename To, typename From>
To convert(From value) {
  constexpr bool half_from = std::is_same_v<From, BFloat16> || std::is_same_v<From, Float16>;
  constexpr bool half_to = std::is_same_v<To, BFloat16> || std::is_same_v<To, Float16>;
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (half_from && half_to) {
    return To(static_cast<float>(value));
  } else if constexpr (half_to) {
    return To(static_cast<float>(value));
  } else if constexpr (half_from) {
    return static_cast<To>(static_cast<float>(value));
  } else {
    return static_cast<To>(value);
  }
}

template <typename To, typename From>
void copy_rows(const Tensor& to, const Tensor& from) {
  std::vector<std::int64_t> starts;
  const int rank = from.rank();
  const std::int64_t length = rank == 0 ? 1 : from.dim(-1);
  const std::int64_t from_step = rank == 0 ? 1 : from.stride(-1);
  const std::int64_t to_step = rank == 0 ? 1 : to.stride(-1);
  for_each_row(from.shape(), from.strides(), 0, 0,
               [&](std::int64_t offset) { starts.push_back(offset); });
  const From* source = from.data<From>();
  To* target = to.data<To>();
  std::size_t row = 0;
  for_each_row(to.shape(), to.strides(), 0, 0, [&](std::int64_t offset) {
    const From* s = source + starts[row++];
    To* t = target + offset;
    if constexpr (std::is_same_v<To, From>) {
      if (from_step == 1 && to_step == 1) {
        std::copy_n(s, length, t);
        return;
      }
    }
    for (std::int64_t i = 0; i < length; ++i) t[i * to_step] = convert<To>(s[i * from_step]);
  });
}

}  // namespace

Shape::Shape(std::initializer_list<std::int64_t> extents)
    : Shape(std::span<const std::int64_t>(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const std::int64_t> extents) {
  for (const std::int64_t extent : extents) push_back(extent);
}

void Shape::push_back(std::int64_t extent) {
  if (rank_ == kMaxRank) throw ShapeError(str("a shape has at most ", kMaxRank, " dimensions"));
  extents_[static_cast<std::size_t>(rank_++)] = extent;
}

std::int64_t Shape::numel() const {
  std::int64_t count = 1;
  for (int axis = 0; axis < rank_; ++axis) count *= (*this)[axis];
  return count;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (int axis = 0; axis < rank_; ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string((*this)[axis]);
  }
  return text + "]";
}

bool operator==(const Shape& a, const Shape& b) {
  return a.rank_ == b.rank_ &&
         std::equal(a.extents_.begin(), a.extents_.begin() + a.rank_, b.extents_.begin());
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << shape.to_string();
}

Tensor Tensor::empty(Shape shape, Dtype dtype, Device device) {
  const std::size_t bytes = bytes_of(shape, dtype);
  return from_storage(Storage::allocate(bytes, device), 0, shape, dtype);
}

Tensor Tensor::zeros(Shape shape, Dtype dtype, Device device) {
  Tensor tensor = empty(shape, dtype, device);
  if (tensor.nbytes() > 0) std::memset(tensor.raw(), 0, tensor.nbytes());
  return tensor;
}

Tensor Tensor::full(Shape shape, double value, Dtype dtype, Device device) {
  Tensor tensor = empty(shape, dtype, device);
  tensor.fill(value);
  return tensor;
}

Tensor Tensor::from_storage(std::shared_ptr<Storage> storage, std::size_t byte_offset, Shape shape,
                            Dtype dtype) {
  const std::size_t size = dtype_size(dtype);
  const std::size_t needed = bytes_of(shape, dtype);
  if (byte_offset % size != 0 || byte_offset > storage->bytes() ||
      needed > storage->bytes() - byte_offset) {
    throw ShapeError(str("tensor: ", needed, " bytes at offset ", byte_offset,
                         " do not fit a storage of ", storage->bytes(), " bytes"));
  }
  Tensor tensor;
  tensor.storage_ = std::move(storage);
  tensor.offset_ = static_cast<std::int64_t>(byte_offset / size);
  tensor.shape_ = shape;
  tensor.strides_ = contiguous_strides(shape);
  tensor.dtype_ = dtype;
  return tensor;
}

Tensor Tensor::from_bytes(Shape shape, Dtype dtype, const void* values, std::size_t count) {
  Tensor tensor = empty(shape, dtype);
  if (static_cast<std::size_t>(tensor.numel()) != count) {
    throw ShapeError(str("tensor: ", count, " values for shape ", shape));
  }
  if (count > 0) std::memcpy(tensor.raw(), values, tensor.nbytes());
  return tensor;
}

std::int64_t Tensor::dim(int axis) const {
  return shape_[normalise_axis(axis, rank(), "tensor")];
}

std::int64_t Tensor::stride(int axis) const {
  return strides_[normalise_axis(axis, rank(), "tensor")];
}

bool Tensor::is_contiguous() const {
  std::int64_t step = 1;
  for (int axis = rank() - 1; axis >= 0; --axis) {
    if (shape_[axis] != 1 && strides_[axis] != step) return false;
    step *= shape_[axis];
  }
  return true;
}

void Tensor::wrong_type(Dtype asked) const {
  throw DtypeError(str("tensor: elements are ", dtype_name(dtype_), ", not ", dtype_name(asked)));
}

void* Tensor::raw() const {
  if (!storage_) throw ShapeError("tensor: undefined");
  return static_cast<char*>(storage_->data()) +
         static_cast<std::size_t>(offset_) * dtype_size(dtype_);
}

Tensor Tensor::slice(int axis, std::int64_t begin, std::int64_t end) const {
  axis = normalise_axis(axis, rank(), "slice");
  if (begin < 0 || end < begin || end > shape_[axis]) {
    throw ShapeError(str("slice: [", begin, ", ", end, ") of axis ", axis, " of ", shape_));
  }
  Tensor view = *this;
  view.offset_ += begin * strides_[axis];
  view.shape_[axis] = end - begin;
  return view;
}

Tensor Tensor::select(int axis, std::int64_t index) const {
  axis = normalise_axis(axis, rank(), "select");
  Tensor view = slice(axis, index, index + 1);
  Shape shape;
  Shape strides;
  for (int i = 0; i < rank(); ++i) {
    if (i == axis) continue;
    shape.push_back(view.shape_[i]);
    strides.push_back(view.strides_[i]);
  }
  view.shape_ = shape;
  view.strides_ = strides;
  return view;
}

Tensor Tensor::transpose(int a, int b) const {
  a = normalise_axis(a, rank(), "transpose");
  b = normalise_axis(b, rank(), "transpose");
  Tensor view = *this;
  std::swap(view.shape_[a], view.shape_[b]);
  std::swap(view.strides_[a], view.strides_[b]);
  return view;
}

Tensor Tensor::reshape(Shape shape) const {
  std::int64_t known = 1;
  int unknown = -1;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (shape[axis] == -1 && unknown < 0) {
      unknown = axis;
    } else {
      known *= shape[axis];
    }
  }
  if (unknown >= 0 && known > 0 && numel() % known == 0) shape[unknown] = numel() / known;
  bool fits = shape.numel() == numel();
  for (int axis = 0; axis < shape.rank(); ++axis) fits = fits && shape[axis] >= 0;
  if (!fits) throw ShapeError(str("reshape: ", shape_, " to ", shape));
  Tensor view = contiguous();
  view.shape_ = shape;
  view.strides_ = contiguous_strides(shape);
  return view;
}

Tensor Tensor::flatten_rows() const {
  if (rank() == 0) return reshape({1, 1});
  if (rank() == 1) return reshape({1, shape_[0]});
  for (int axis = 0; axis + 2 < rank(); ++axis) {
    if (shape_[axis] != 1 && strides_[axis] != strides_[axis + 1] * shape_[axis + 1]) {
      return reshape({-1, dim(-1)});
    }
  }
  Tensor view = *this;
  const std::int64_t rows = dim(-1) == 0 ? 0 : numel() / dim(-1);
  view.shape_ = Shape{rows, dim(-1)};
  view.strides_ = Shape{stride(-2), stride(-1)};
  return view;
}

Tensor Tensor::clone() const {
  Tensor copy = empty(shape_, dtype_, device());
  copy.copy_from(*this);
  return copy;
}

Tensor Tensor::contiguous() const {
  return is_contiguous() ? *this : clone();
}

Tensor Tensor::to(Dtype dtype) const {
  if (dtype == dtype_) return contiguous();
  Tensor converted = empty(shape_, dtype, device());
  converted.copy_from(*this);
  return converted;
}

void Tensor::copy_from(const Tensor& source) const {
  check_shape("copy", "source", source, shape_);
  if (numel() == 0) return;
  dispatch(dtype_, [&](auto to) {
    dispatch(source.dtype_,
             [&](auto from) { copy_rows<decltype(to), decltype(from)>(*this, source); });
  });
}

void Tensor::fill(double value) const {
  if (numel() == 0) return;
  dispatch(dtype_, [&](auto type) {
    using T = decltype(type);
    const T element = convert<T>(value);
    T* out = data<T>();
    const std::int64_t length = rank() == 0 ? 1 : dim(-1);
    const std::int64_t step = rank() == 0 ? 1 : stride(-1);
    for_each_row(shape_, strides_, 0, 0, [&](std::int64_t offset) {
      for (std::int64_t i = 0; i < length; ++i) out[offset + i * step] = element;
    });
  });
}

void Tensor::add_(const Tensor& other) const {
  check_shape("add_", "other", other, shape_);
  if (other.dtype_ != dtype_) {
    throw DtypeError(str("add_: ", dtype_name(dtype_), " += ", dtype_name(other.dtype_)));
  }
  const Tensor source = other.contiguous();
  const auto add = [&](auto type) {
    using T = decltype(type);
    const T* from = source.data<T>();
    T* to = data<T>();
    if (is_contiguous()) {  // the gradients of activations: large enough to share out
      cpu::parallel_for(numel(), 1 << 16, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) to[i] += from[i];
      });
      return;
    }
    const std::int64_t length = rank() == 0 ? 1 : dim(-1);
    const std::int64_t step = rank() == 0 ? 1 : stride(-1);
    for_each_row(shape_, strides_, 0, 0, [&](std::int64_t offset) {
      for (std::int64_t i = 0; i < length; ++i) to[offset + i * step] += from[i];
      from += length;
    });
  };
  if (numel() == 0) return;
  if (dtype_ == Dtype::f32) return add(float{});
  if (dtype_ == Dtype::f64) return add(double{});
  throw DtypeError(str("add_: ", dtype_name(dtype_), " is only stored, not computed with"));
}

void Tensor::scale_(double factor) const {
  const auto scale = [&](auto type) {
    using T = decltype(type);
    T* to = data<T>();
    const std::int64_t length = rank() == 0 ? 1 : dim(-1);
    const std::int64_t step = rank() == 0 ? 1 : stride(-1);
    for_each_row(shape_, strides_, 0, 0, [&](std::int64_t offset) {
      for (std::int64_t i = 0; i < length; ++i) to[offset + i * step] *= static_cast<T>(factor);
    });
  };
  if (numel() == 0) return;
  if (dtype_ == Dtype::f32) return scale(float{});
  if (dtype_ == Dtype::f64) return scale(double{});
  throw DtypeError(str("scale_: ", dtype_name(dtype_), " is only stored, not computed with"));
}

double Tensor::item(std::int64_t flat_index) const {
  if (flat_index < 0 || flat_index >= numel()) {
    throw ShapeError(str("item: element ", flat_index, " of ", shape_));
  }
  std::int64_t offset = 0;
  for (int axis = rank() - 1; axis >= 0; --axis) {
    offset += flat_index % shape_[axis] * strides_[axis];
    flat_index /= shape_[axis];
  }
  double value = 0;
  dispatch(dtype_, [&](auto type) {
    using T = decltype(type);
    value = convert<double>(data<T>()[offset]);
  });
  return value;
}

std::vector<double> Tensor::to_vector() const {
  const Tensor converted = to(Dtype::f64);
  if (numel() == 0) return {};
  const double* values = converted.data<double>();
  return {values, values + numel()};
}

void check_shape(const char* place, const char* what, const Tensor& tensor, const Shape& expected) {
  if (tensor.shape() != expected) {
    throw ShapeError(str(place, ": ", what, " is ", tensor.shape(), ", expected ", expected));
  }
}

}  // namespace adder
