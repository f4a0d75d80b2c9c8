// Adds up what the blocks of the backward scan left: parts of dB and dC by tile of channels, of dA
// by sequence and segment, each in its order, so the result is the same in every run. One thread
// per sum; traffic: each part is read once.
#include "cuda/runtime.h"
#include "cuda/scan_bwd.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;

// dB and dC from the parts of the tiles, in their order. One thread per (b, group, B or C, n) and
// its kGroup steps.
template <typename T>
__global__ void selective_scan_bc_kernel(ScanShape s, int batch, int tiles, const float* parts,
                                         Rows<T> dB, Rows<T> dC) {
  const std::int64_t i = global_index();
  const int groups = (s.length + kGroup - 1) / kGroup;
  const std::int64_t size = static_cast<std::int64_t>(batch) * groups * 2 * s.states;
  if (i >= size) return;
  Quad<float> sum = {};
  for (int tile = 0; tile < tiles; ++tile) {
    const Quad<float> more = load_aligned(parts + (tile * size + i) * kGroup);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) sum.v[k] += more.v[k];
  }
  const std::int64_t row = i / (2 * s.states);
  const int within = static_cast<int>(i - row * 2 * s.states);
  const bool is_C = within >= s.states;
  // Values, not one of two structs, are chosen: the choice of an address would need local memory.
  T* const data = is_C ? dC.data : dB.data;
  if (data == nullptr) return;
  const Rows<T> to{data, is_C ? dC.batch_stride : dB.batch_stride, is_C ? dC.stride : dB.stride};
  const std::int64_t b = row / groups;
  const int t0 = static_cast<int>(row - b * groups) * kGroup;
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    if (t0 + k >= s.length) continue;
    to.at(b, t0 + k)[within - (is_C ? s.states : 0)] = from_float<T>(sum.v[k]);
  }
}

// dA_log of the listed channels (all when the list is null): A = -exp(A_log) is its own slope.
__global__ void selective_scan_dA_kernel(ScanShape s, std::int64_t size, const float* parts,
                                         const float* A_log, const std::int32_t* channels,
                                         std::int64_t rows, float* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows * s.states) return;
  const std::int64_t d = channels != nullptr ? channels[i / s.states] : i / s.states;
  const std::int64_t at = d * s.states + i % s.states;
  float sum = 0;
  for (std::int64_t part = 0; part < size; ++part) {
    sum += parts[part * s.channels * s.states + at];
  }
  out[i] = -expf(A_log[at]) * sum;
}

}  // namespace

template <typename T>
void add_scan_parts_BC(const ScanShape& s, std::int64_t batch, int tiles, const Tensor& parts,
                       const Tensor& dB, const Tensor& dC) {
  const std::int64_t groups = (s.length + kGroup - 1) / kGroup;
  const std::int64_t count = batch * groups * 2 * s.states;
  ADDER_LAUNCH((selective_scan_bc_kernel<T>), blocks_for(count, kThreads), kThreads, 0,
               stream(parts.device()), s, static_cast<int>(batch), tiles, parts.data<float>(),
               rows<T>(dB), rows<T>(dC));
}
template void add_scan_parts_BC<float>(const ScanShape&, std::int64_t, int, const Tensor&,
                                       const Tensor&, const Tensor&);
template void add_scan_parts_BC<BFloat16>(const ScanShape&, std::int64_t, int, const Tensor&,
                                          const Tensor&, const Tensor&);

void add_scan_parts_A(const ScanShape& s, const Tensor& parts, const Tensor& A_log,
                      const Tensor& channels, const Tensor& dA_log) {
  ADDER_LAUNCH(selective_scan_dA_kernel, blocks_for(dA_log.numel(), kThreads), kThreads, 0,
               stream(parts.device()), s, parts.dim(0), parts.data<float>(), A_log.data<float>(),
               channels.defined() ? channels.data<std::int32_t>() : nullptr, dA_log.dim(0),
               dA_log.data<float>());
}

}  // namespace adder::cuda
