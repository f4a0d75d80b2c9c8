#include "engine/tensor.h"

#include <algorithm>
#include <cstring>
#include <ostream>

#include "engine/device_runtime.h"
#include "engine/kernels/copy.h"

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

Tensor Tensor::empty_with_room(Shape shape, Dtype dtype, Device device) {
  if (device.is_cpu() || shape.rank() < 2) return empty(shape, dtype, device);
  const std::int64_t columns = shape[shape.rank() - 1];
  shape[shape.rank() - 1] += kRowRoom;
  const Tensor whole = empty(shape, dtype, device);
  whole.storage_->set_row_room(kRowRoom);
  return whole.slice(-1, 0, columns);
}

Tensor Tensor::zeros(Shape shape, Dtype dtype, Device device) {
  Tensor tensor = empty(shape, dtype, device);
  if (device.is_cpu() && tensor.nbytes() > 0) {
    std::memset(tensor.raw(), 0, tensor.nbytes());
  } else {
    tensor.fill(0);
  }
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

Tensor Tensor::expand(int axis, std::int64_t extent) const {
  if (dim(axis) != 1) {
    throw ShapeError(str("expand: axis ", axis, " of ", shape_, " has not the extent 1"));
  }
  if (axis < 0) axis += rank();
  Tensor view = *this;
  view.shape_[axis] = extent;
  view.strides_[axis] = 0;
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

Tensor Tensor::take_room(std::int64_t more) const {
  if (!storage_ || rank() != 2 || offset_ != 0 || storage_->row_room() < more ||
      stride(0) != dim(1) + storage_->row_room()) {
    return {};
  }
  storage_->set_row_room(0);
  Tensor wide = *this;
  wide.shape_[1] += more;
  return wide;
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

Tensor Tensor::to(Device device) const {
  if (device == this->device()) return *this;
  Tensor moved = empty(shape_, dtype_, device);
  moved.copy_from(*this);
  return moved;
}

void Tensor::copy_from(const Tensor& source) const {
  check_shape("copy", "source", source, shape_);
  if (numel() == 0) return;
  if (source.device() == device()) return kernel::copy(device(), {source, *this});
  // Bytes travel; conversion and strides are dealt with on either side.
  const Tensor dense = source.to(dtype_);
  const Tensor target = is_contiguous() ? *this : empty(shape_, dtype_, device());
  const DeviceRuntime& runtime = runtime_of(device().is_cpu() ? source.device() : device());
  runtime.copy(target.raw(), device(), dense.raw(), source.device(), nbytes());
  if (!is_contiguous()) kernel::copy(device(), {target, *this});
}

void Tensor::fill(double value) const {
  if (numel() > 0) kernel::fill(device(), {*this, value});
}

void Tensor::add_(const Tensor& other) const {
  check_shape("add_", "other", other, shape_);
  if (other.dtype_ != dtype_) {
    throw DtypeError(str("add_: ", dtype_name(dtype_), " += ", dtype_name(other.dtype_)));
  }
  if (numel() > 0) kernel::add_in_place(device(), {other, *this});
}

void Tensor::scale_(double factor) const {
  if (numel() > 0) kernel::scale_in_place(device(), {*this, factor});
}

double Tensor::item(std::int64_t flat_index) const {
  if (flat_index < 0 || flat_index >= numel()) {
    throw ShapeError(str("item: element ", flat_index, " of ", shape_));
  }
  Tensor element = *this;
  for (int axis = rank() - 1; axis >= 0; --axis) {
    element.offset_ += flat_index % shape_[axis] * strides_[axis];
    flat_index /= shape_[axis];
  }
  element.shape_ = element.strides_ = Shape();
  const Tensor converted = Tensor::empty({}, Dtype::f64);
  converted.copy_from(element);
  return *converted.data<double>();
}

std::vector<double> Tensor::to_vector() const {
  const Tensor converted = to(Device{}).to(Dtype::f64);
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
