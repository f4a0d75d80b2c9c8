#include "autograd/index_set.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "engine/error.h"
#include "engine/kernels/gather.h"

namespace adder {

// The lists as tensors, by device.
struct IndexLists {
  enum Which : std::uint8_t { positions, rows, columns };
  std::map<std::pair<std::string, Which>, Tensor> tensors;

  template <typename Make>
  Tensor get(Device device, Which which, const Make& make) {
    Tensor& tensor = tensors[{device_name(device), which}];
    if (!tensor.defined()) tensor = make().to(device);
    return tensor;
  }
};

namespace {

template <typename Index>
void check_distinct(std::vector<Index> indices, std::int64_t bound, const char* what,
                    const Shape& full) {
  std::sort(indices.begin(), indices.end());
  if (!indices.empty() && (indices.front() < 0 || indices.back() >= bound)) {
    throw ShapeError(str("index set: ", what, " ",
                         indices.front() < 0 ? indices.front() : indices.back(),
                         " lies outside a tensor of shape ", full));
  }
  const auto twice = std::adjacent_find(indices.begin(), indices.end());
  if (twice != indices.end()) {
    throw ShapeError(str("index set: ", what, " ", *twice, " is listed twice"));
  }
}

// Applies f(full_offset, compact_index) to every position; full must be contiguous.
template <typename F>
void for_each(const IndexSet& set, const F& f) {
  std::int64_t next = 0;
  switch (set.kind()) {
    case IndexSet::Kind::all:
      for (; next < set.size(); ++next) f(next, next);
      return;
    case IndexSet::Kind::entries:
      for (const std::int64_t position : set.positions()) f(position, next++);
      return;
    case IndexSet::Kind::block:
      for (const std::int32_t row : set.rows()) {
        for (const std::int32_t column : set.columns()) {
          f(row * set.full_shape()[1] + column, next++);
        }
      }
  }
}

void check_full(const IndexSet& set, const Tensor& full) {
  check_shape("index set", "full tensor", full, set.full_shape());
  if (!full.is_contiguous()) throw ShapeError("index set: the full tensor must be contiguous");
}

}  // namespace

IndexSet IndexSet::all(Shape full) {
  IndexSet set;
  set.lists_ = std::make_shared<IndexLists>();
  set.full_ = full;
  return set;
}

IndexSet IndexSet::entries(Shape full, std::vector<std::int64_t> positions) {
  check_distinct(positions, full.numel(), "position", full);
  IndexSet set;
  set.lists_ = std::make_shared<IndexLists>();
  set.kind_ = Kind::entries;
  set.full_ = full;
  set.positions_ = std::move(positions);
  return set;
}

IndexSet IndexSet::block(Shape full, std::vector<std::int32_t> rows,
                         std::vector<std::int32_t> columns) {
  if (full.rank() != 2) throw ShapeError(str("index set: a block of shape ", full));
  check_distinct(rows, full[0], "row", full);
  check_distinct(columns, full[1], "column", full);
  IndexSet set;
  set.lists_ = std::make_shared<IndexLists>();
  set.kind_ = Kind::block;
  set.full_ = full;
  set.rows_ = std::move(rows);
  set.columns_ = std::move(columns);
  return set;
}

Shape IndexSet::compact_shape() const {
  switch (kind_) {
    case Kind::all:
      return full_;
    case Kind::entries:
      return Shape{static_cast<std::int64_t>(positions_.size())};
    case Kind::block:
      break;
  }
  return Shape{static_cast<std::int64_t>(rows_.size()), static_cast<std::int64_t>(columns_.size())};
}

std::vector<std::int64_t> IndexSet::flat_positions() const {
  std::vector<std::int64_t> flat(static_cast<std::size_t>(size()));
  for_each(*this, [&](std::int64_t position, std::int64_t i) {
    flat[static_cast<std::size_t>(i)] = position;
  });
  return flat;
}

Tensor IndexSet::positions_on(Device device) const {
  return lists_->get(device, IndexLists::positions, [&] {
    const std::vector<std::int64_t> flat = flat_positions();
    return Tensor::from({size()}, flat);
  });
}

Tensor IndexSet::rows_on(Device device) const {
  return lists_->get(device, IndexLists::rows, [&] {
    return Tensor::from({static_cast<std::int64_t>(rows_.size())}, rows_);
  });
}

Tensor IndexSet::columns_on(Device device) const {
  return lists_->get(device, IndexLists::columns, [&] {
    return Tensor::from({static_cast<std::int64_t>(columns_.size())}, columns_);
  });
}

Tensor IndexSet::gather(const Tensor& full) const {
  check_full(*this, full);
  if (kind_ == Kind::all) return full.clone();
  Tensor compact = Tensor::empty(compact_shape(), full.dtype(), full.device());
  kernel::gather_entries(full.device(), {full, positions_on(full.device()), compact});
  return compact;
}

void IndexSet::scatter(const Tensor& compact, const Tensor& full) const {
  check_full(*this, full);
  check_shape("index set", "compact tensor", compact, compact_shape());
  if (kind_ == Kind::all) return full.copy_from(compact);
  kernel::scatter_entries(full.device(), {compact.contiguous(), positions_on(full.device()), full});
}

}  // namespace adder
