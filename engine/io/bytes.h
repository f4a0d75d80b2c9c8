// What the readers of tensor files share. Private to engine/io.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "engine/io/file.h"
#include "engine/tensor.h"

namespace adder::io {

// An unsigned little-endian number of `count` bytes; the caller has checked the bounds.
inline std::uint64_t load_le(const char* bytes, int count) {
  std::uint64_t value = 0;
  for (int i = count - 1; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

// Text from a file, fit for a message: control characters become '?', long text is cut.
std::string printable(std::string_view text, std::size_t limit = 120);

// The product of the extents, or nothing if one is negative or if the product, with zeros counted
// as ones, exceeds 2^58: byte counts of any dtype then fit every integer used here.
std::optional<std::int64_t> checked_numel(std::span<const std::int64_t> extents);

// A contiguous tensor at `offset` of the file (bounds checked by the caller): a read-only view that
// keeps the file mapped when it is aligned to its element size, otherwise a copy.
Tensor tensor_in_file(const std::shared_ptr<MappedFile>& file, std::uint64_t offset,
                      const Shape& shape, Dtype dtype);

}  // namespace adder::io
