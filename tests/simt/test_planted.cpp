// The emulator finds the mistakes of planted.cu.
#include <cmath>

#include "tests/simt/kernels/kernels.h"
#include "tests/simt/sanitizer.h"
#include "tests/simt/support.h"

using namespace simt_test;

TEST_CASE("a missing barrier: some orders hide it, the set of them does not") {
  const std::size_t block = 64;
  Buffer<float> y(block);
  std::size_t wrong_forward = 0;
  std::size_t wrong_in_all = 0;
  simt::in_all_orders([&](simt::Order order) {
    y.poison();
    missing_barrier(y.get(), static_cast<int>(block), nullptr);
    const auto got = y.read();
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < block; ++i) {
      const auto expected = static_cast<float>(i == 0 ? 0 : i - 1);
      if (!(got[i] == expected)) ++wrong;
    }
    MESSAGE(simt::order_name(order), ": ", wrong, " of 64 values are wrong");
    if (order.kind == simt::Order::Kind::forward) wrong_forward = wrong;
    if (order.kind == simt::Order::Kind::reverse) CHECK_EQ(wrong, 63);
    if (order.kind == simt::Order::Kind::random) CHECK_GT(wrong, 10);
    wrong_in_all += wrong;
  });
  CHECK_EQ(wrong_forward, 0);
  CHECK_GT(wrong_in_all, 63);
}

TEST_CASE("warp collectives that not all lanes reach") {
  const Buffer<float> y(64);
  check_error({"divergent_shuffle_kernel: block (0, 0, 0), thread (", "divergent warp collective",
               "lanes of warp 1: ", "16 threads wait at warp_shfl_down (planted.cu:",
               "16 threads wait at warp_shfl_xor"},
              [&] { divergent_shuffle(y.get(), nullptr); });
  check_error({"shuffle_after_exit_kernel: block (0, 0, 0), thread (32, 0, 0)",
               "not reached by all 32 lanes of warp 1", "31 threads wait at warp_shfl (planted.cu:",
               "1 thread has returned, first (37, 0, 0)"},
              [&] { shuffle_after_exit(y.get(), nullptr); });
  check_error({"shuffle_and_barrier_kernel: block (0, ", "thread (1, 0, 0)",
               "16 threads wait at __syncthreads (planted.cu:", "16 threads wait at warp_shfl"},
              [&] { shuffle_and_barrier(y.get(), nullptr); });
  check_error({"partial_warp_kernel: block (0, 0, 0), thread (",
               "warp_shfl (planted.cu:", "in a warp of 16 lanes"},
              [&] { shuffle_in_partial_warp(y.get(), nullptr); });
}

TEST_CASE("barriers that not all threads reach") {
  const Buffer<float> y(64);
  check_error(
      {"barrier_after_exit_kernel: block (0, 0, 0), thread (0, 0, 0): __syncthreads (planted.cu:",
       "after threads of the block have returned", "1 thread has returned, first (3, 0, 0)"},
      [&] { barrier_after_exit(y.get(), nullptr); });
  check_error({"different_barriers_kernel", "wait at different barriers",
               "32 threads wait at __syncthreads"},
              [&] { different_barriers(y.get(), nullptr); });
}

TEST_CASE("asynchronous copies: a missing wait, a copy that comes too early, a misaligned one") {
  const auto values = numbers(136, 1);
  const Buffer<float> x(values);
  const Buffer<float> y(32);
  simt::in_all_orders([&](simt::Order) {
    missing_wait(x.get(), y.get(), nullptr);
    for (const float value : y.read()) CHECK(std::isnan(value));
  });
  bool found = false;
  simt::in_all_orders([&](simt::Order) {
    early_copy(x.get(), y.get(), nullptr);
    for (const float value : y.read()) found |= std::isnan(value);
  });
  CHECK(found);
  check_error(
      {"misaligned_copy_kernel: block (0, 0, 0), thread (", "cp_async from a source of 16 bytes"},
      [&] { misaligned_copy(x.get(), y.get(), nullptr); });
}

TEST_CASE("shared memory that nobody wrote reads as NaN") {
  const Buffer<float> y(32);
  simt::in_all_orders([&](simt::Order) {
    uninitialised_shared(y.get(), 32, nullptr);
    const auto got = y.read();
    for (std::size_t i = 0; i < 32; ++i) CHECK_EQ(std::isnan(got[i]), i == 5);
  });
  check_error({"wants_shared_kernel", "the launch gave it none"},
              [&] { no_shared_memory(y.get(), nullptr); });
}

TEST_CASE("a shared-memory overrun, by the canary behind it") {
  if (simt::kAddressSanitizer) {
    MESSAGE("the address sanitizer ends the process: the test simt/asan_shared has it");
    return;
  }
  const Buffer<float> y(64);
  check_error({"shared_overrun_kernel: block (0, 0, 0)",
               "outside its 256 bytes of shared memory, at byte 256"},
              [&] { shared_overrun(y.get(), 64, nullptr); });
}

TEST_CASE("blocks that build on each other") {
  const Buffer<int> y(16);
  int wrong = 0;
  simt::in_all_orders([&](simt::Order order) {
    must(cudaMemset(y.get(), 0, 16 * sizeof(int)));
    block_order(y.get(), 16, nullptr);
    const int last = y.read()[15];
    if (order.kind == simt::Order::Kind::forward) CHECK_EQ(last, 16);
    wrong += last != 16 ? 1 : 0;
  });
  CHECK_EQ(wrong, 4);
}

TEST_CASE("a pointer to host memory, or to memory that was freed, as a kernel's argument") {
  std::vector<float> host(4);
  const Buffer<float> y(4);
  check_error({"scale_kernel: argument 1 points neither to device memory"},
              [&] { scale(host.data(), y.get(), 4, 1.0F, nullptr); });
  float* freed = nullptr;
  must(cudaMalloc(&freed, 16));
  must(cudaFree(freed));
  check_error({"scale_kernel: argument 2 points neither to device memory"},
              [&] { scale(y.get(), freed, 4, 1.0F, nullptr); });
}

TEST_CASE("after an error every frame is unwound, and the next launch is sound") {
  const Buffer<float> y(std::vector<float>(64, 0.0F));
  simt::in_all_orders([&](simt::Order order) {
    CAPTURE(simt::order_name(order));
    must(cudaMemset(y.get(), 0, 64 * sizeof(float)));
    CHECK_THROWS_WITH_AS(throws(y.get(), nullptr), "thrown by a kernel", std::runtime_error);
    const float begun = y.read()[0];  // as many as had begun, and not more
    CHECK_GE(begun, 1.0F);
    CHECK_LE(begun, 64.0F);
    if (order.kind == simt::Order::Kind::forward) CHECK_EQ(begun, 21.0F);
    const Buffer<float> x(numbers(64, 2));
    scale(x.get(), y.get(), 64, 1.0F, nullptr);
    CHECK_EQ(y.read(), x.read());
  });
}

// The tests asan_* run these by name, in processes of their own that the sanitizer ends.
TEST_CASE("asan: a shared-memory overrun" * doctest::skip()) {
  const Buffer<float> y(64);
  shared_overrun(y.get(), 64, nullptr);
}

TEST_CASE("asan: a device-memory overrun" * doctest::skip()) {
  const Buffer<float> y(50);
  global_overrun(y.get(), 50, nullptr);
}

TEST_CASE("asan: the host reads device memory" * doctest::skip()) {
  const Buffer<float> y(50);
  const volatile float* pointer = y.get();
  MESSAGE(pointer[3]);
}

TEST_CASE("what a switch costs" * doctest::skip()) {
  for (const int block : {32, 128, 512, 1024}) {
    const int rounds = 4000000 / block;
    barriers_only(block, 10, nullptr);
    cudaEvent_t start = nullptr;
    cudaEvent_t end = nullptr;
    must(cudaEventCreate(&start));
    must(cudaEventCreate(&end));
    const auto before = simt::switches();
    must(cudaEventRecord(start));
    barriers_only(block, rounds, nullptr);
    must(cudaEventRecord(end));
    float milliseconds = 0;
    must(cudaEventElapsedTime(&milliseconds, start, end));
    const auto resumed = static_cast<double>(simt::switches() - before);
    MESSAGE("block of ", block, ": ", milliseconds * 1e6 / resumed,
            " ns from a thread's barrier to the next thread (two switches)");
    must(cudaEventDestroy(start));
    must(cudaEventDestroy(end));
  }
}
