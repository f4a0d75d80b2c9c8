// Threads for CPU kernels. OpenMP, because the matrix product libraries bring it anyway and two
// thread pools would fight over the cores.
#pragma once

#include <cstdint>

namespace adder::cpu {

void set_num_threads(int threads);  // 0: as many as the machine has cores
int num_threads();

// Calls body(begin, end) on contiguous pieces of [0, count), one per thread at most; the split
// depends on count, grain and num_threads() alone, so a run is repeatable. body must not throw.
template <typename Body>
void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
  const std::int64_t pieces =
      grain <= 0 ? 1 : (count + grain - 1) / grain < num_threads() ? (count + grain - 1) / grain
                                                                   : num_threads();
  if (pieces <= 1) {
    if (count > 0) body(std::int64_t{0}, count);
    return;
  }
#pragma omp parallel for schedule(static, 1) num_threads(static_cast<int>(pieces))
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    body(count * piece / pieces, count * (piece + 1) / pieces);
  }
}

}  // namespace adder::cpu
