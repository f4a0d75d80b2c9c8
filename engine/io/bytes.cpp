#include "engine/io/bytes.h"

#include <algorithm>
#include <cstring>

namespace adder::io {

std::string printable(std::string_view text, std::size_t limit) {
  std::string shown(text.substr(0, limit));
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  if (text.size() > limit) shown += "...";
  return shown;
}

std::optional<std::int64_t> checked_numel(std::span<const std::int64_t> extents) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 58;
  std::int64_t numel = 1;
  bool zero = false;
  for (const std::int64_t extent : extents) {
    if (extent < 0) return std::nullopt;
    zero = zero || extent == 0;
    if (extent > 0 && numel > kLimit / extent) return std::nullopt;
    numel *= std::max<std::int64_t>(extent, 1);
  }
  return zero ? 0 : numel;
}

Tensor tensor_in_file(const std::shared_ptr<MappedFile>& file, std::uint64_t offset,
                      const Shape& shape, Dtype dtype) {
  const std::size_t size = dtype_size(dtype);
  const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * size;
  if (bytes == 0) return Tensor::empty(shape, dtype);
  const char* data = file->data() + offset;
  if (reinterpret_cast<std::uintptr_t>(data) % size == 0) {
    return Tensor::from_storage(Storage::wrap(const_cast<char*>(data), bytes, file), 0, shape,
                                dtype);
  }
  Tensor copy = Tensor::empty(shape, dtype);
  std::memcpy(copy.raw(), data, bytes);
  return copy;
}

}  // namespace adder::io
