// Column gathering for compact weight gradients.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

// out[row, i] = x[row, columns[i]].
struct GatherColumnsArgs {
  Tensor x;  // (rows, D), rows may be strided
  const std::vector<std::int32_t>* columns = nullptr;
  Tensor out;  // (rows, |columns|), written
};

ADDER_KERNEL(gather_columns, GatherColumnsArgs);

}  // namespace adder
