#include "engine/cpu/parallel.h"

#include <algorithm>
#include <thread>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace adder::cpu {
namespace {

int hardware_threads() {
#ifdef _OPENMP
  return std::max(1, omp_get_max_threads());
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
  thread_setting() = threads > 0 ? threads : hardware_threads();
#ifdef _OPENMP
  omp_set_num_threads(thread_setting());  // the matrix product library follows this setting
#endif
}

int num_threads() { return thread_setting(); }

}  // namespace adder::cpu
