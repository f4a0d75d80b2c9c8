// Gathering and scattering by index lists, for compact gradients.
#pragma once

#include "engine/kernel.h"
#include "engine/tensor.h"

namespace adder {

// out[row, i] = x[row, columns[i]].
struct GatherColumnsArgs {
  Tensor x;        // (rows, D), rows may be strided
  Tensor columns;  // (k) int32, each in [0, D)
  Tensor out;      // (rows, k), written
};

// out[i, :] = x[rows[i], :], or back.
struct GatherRowsArgs {
  Tensor x;     // (R, D), rows may be strided
  Tensor rows;  // (k) int64, each in [0, R)
  Tensor out;   // (k, D), rows may be strided, written
};

struct ScatterRowsArgs {
  Tensor x;     // (k, D), rows may be strided
  Tensor rows;  // (k) int64, each at most once
  Tensor out;   // (R, D), rows may be strided; rows that are not listed stay as they are
};

// compact[i] = full[positions[i]], or back.
struct GatherEntriesArgs {
  Tensor full;       // contiguous
  Tensor positions;  // (k) int64, row-major positions in `full`
  Tensor compact;    // k elements, contiguous, written
};

struct ScatterEntriesArgs {
  Tensor compact;    // k elements, contiguous
  Tensor positions;  // (k) int64, each at most once
  Tensor full;       // contiguous, written at `positions` only
};

ADDER_KERNEL(gather_columns, GatherColumnsArgs);
ADDER_KERNEL(gather_rows, GatherRowsArgs);
ADDER_KERNEL(scatter_rows, ScatterRowsArgs);
ADDER_KERNEL(gather_entries, GatherEntriesArgs);
ADDER_KERNEL(scatter_entries, ScatterEntriesArgs);

}  // namespace adder
