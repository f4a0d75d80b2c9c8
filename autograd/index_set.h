// IndexSet: which entries of a parameter train, and the compact layout of their gradient.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/tensor.h"

namespace adder {

// A set of positions in a tensor, with an order that defines the compact tensor holding them.
class IndexSet {
 public:
  enum class Kind : std::uint8_t {
    all,      // every entry; the compact tensor has the full shape
    entries,  // a list of row-major positions; the compact tensor is (count)
    block     // rows x columns of a matrix; the compact tensor is (|rows|, |columns|)
  };

  // Throws ShapeError when a position lies outside `full` or appears twice.
  static IndexSet all(Shape full);
  static IndexSet entries(Shape full, std::vector<std::int64_t> positions);
  static IndexSet block(Shape full, std::vector<std::int32_t> rows,
                        std::vector<std::int32_t> columns);

  Kind kind() const { return kind_; }
  const Shape& full_shape() const { return full_; }
  Shape compact_shape() const;
  std::int64_t size() const { return compact_shape().numel(); }
  const std::vector<std::int64_t>& positions() const { return positions_; }  // Kind::entries
  const std::vector<std::int32_t>& rows() const { return rows_; }            // Kind::block
  const std::vector<std::int32_t>& columns() const { return columns_; }      // Kind::block

  std::vector<std::int64_t> flat_positions() const;  // row-major positions in compact order
  // The same lists where a kernel can read them; made on first use and kept.
  Tensor positions_on(Device device) const;                       // (size) int64: flat_positions
  Tensor rows_on(Device device) const;                            // (|rows|) int32; Kind::block
  Tensor columns_on(Device device) const;                         // (|columns|) int32; Kind::block
  Tensor gather(const Tensor& full) const;                        // compact copy
  void scatter(const Tensor& compact, const Tensor& full) const;  // full[position] = compact

 private:
  Kind kind_ = Kind::all;
  Shape full_;
  std::vector<std::int64_t> positions_;
  std::vector<std::int32_t> rows_;
  std::vector<std::int32_t> columns_;
  std::shared_ptr<struct IndexLists> lists_;  // shared by copies
};

}  // namespace adder
