#include "engine/kernels/gather.h"

#include "engine/cpu/parallel.h"

namespace adder::cpu {
namespace {

template <typename T>
void gather(const GatherColumnsArgs& args) {
  const std::vector<std::int32_t>& columns = *args.columns;
  const std::int64_t stride = args.x.stride(0);
  const T* x = args.x.data<T>();
  T* out = args.out.data<T>();
  const auto width = static_cast<std::int64_t>(columns.size());
  parallel_for(args.x.dim(0), 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t i = 0; i < width; ++i) {
        out[row * width + i] = x[row * stride + columns[static_cast<std::size_t>(i)]];
      }
    }
  });
}

}  // namespace

void gather_columns(const GatherColumnsArgs& args) {
  if (args.x.rank() != 2 || args.x.stride(1) != 1) {
    throw ShapeError(str("gather_columns: x is ", args.x.shape(), ", expected dense rows"));
  }
  check_shape("gather_columns", "out", args.out,
              {args.x.dim(0), static_cast<std::int64_t>(args.columns->size())});
  for (const std::int32_t column : *args.columns) {
    if (column < 0 || column >= args.x.dim(1)) {
      throw ShapeError(str("gather_columns: column ", column, " of x ", args.x.shape()));
    }
  }
  if (args.x.dtype() == Dtype::f64) return gather<double>(args);
  gather<float>(args);
}

}  // namespace adder::cpu
