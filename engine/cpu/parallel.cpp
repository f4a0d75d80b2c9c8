#include "engine/cpu/parallel.h"

#include <algorithm>
#include <thread>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace adder::cpu {
namespace {

// Asked once, before set_num_threads changes what OpenMP answers.
int hardware_threads() {
#ifdef _OPENMP
  static const int threads = std::max(1, omp_get_max_threads());
  return threads;
#else
  return 1;
#endif
}

int& thread_setting() {
  static int threads = hardware_threads();
  return threads;
}

}  // namespace

void set_num_threads(int threads) {
  const int available = hardware_threads();
  thread_setting() = threads > 0 ? threads : available;
#ifdef _OPENMP
  omp_set_num_threads(thread_setting());  // the matrix product library follows this setting
#endif
}

int num_threads() {
  return thread_setting();
}

void detail::run_pieces(std::int64_t pieces, void (*piece)(const void* context, std::int64_t index),
                        const void* context) {
#pragma omp parallel for schedule(static, 1) num_threads(static_cast <int>(pieces))
  for (std::int64_t index = 0; index < pieces; ++index) piece(context, index);
}

}  // namespace adder::cpu
