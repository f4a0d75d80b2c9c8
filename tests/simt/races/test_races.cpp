// Kernels compiled with -fsanitize=thread: races are found in every order, results right or wrong.
#include "tests/simt/kernels/kernels.h"
#include "tests/simt/support.h"

using namespace simt_test;

TEST_CASE("a missing barrier is a race even in the order that hides it") {
  const Buffer<float> y(64);
  check_error({"missing_barrier_kernel: block (0, 0, 0), thread (",
               "a race: ", " of shared memory, planted.cu:", "of the same block ",
               "with no synchronisation in between"},
              [&] { missing_barrier(y.get(), 64, nullptr); });
}

TEST_CASE("a copy into a buffer that others read") {
  const Buffer<float> x(numbers(128, 1));
  const Buffer<float> y(32);
  check_error({"early_copy_kernel", "a race: ", " of shared memory, ", "cp_async_16 (planted.cu:"},
              [&] { early_copy(x.get(), y.get(), nullptr); });
}

TEST_CASE("blocks that write one element race; atomics do not") {
  const Buffer<int> y(std::vector<int>{0});
  check_error({"same_element_kernel: block (", "a race: writes device memory, planted.cu:"},
              [&] { same_element(y.get(), false, nullptr); });
  must(cudaMemset(y.get(), 0, 4));
  simt::in_all_orders([&](simt::Order) { same_element(y.get(), true, nullptr); });
  CHECK_EQ(y.read()[0], 5 * 64);
  const Buffer<int> z(16);
  check_error({"block_order_kernel: block (", "device memory, planted.cu:", " of block ("},
              [&] { block_order(z.get(), 16, nullptr); });
}

TEST_CASE("lanes are not in step without warp_sync") {
  const Buffer<float> y(32);
  check_error({"lanes_in_step_kernel", "a race: "},
              [&] { lanes_in_step(y.get(), false, nullptr); });
  simt::in_all_orders([&](simt::Order) { lanes_in_step(y.get(), true, nullptr); });
  CHECK_EQ(y.read()[6], 7.0F);
}
