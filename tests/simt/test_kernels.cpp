// Correct kernels give correct results, whatever the order of threads and blocks.
#include <cmath>

#include "tests/simt/kernels/kernels.h"
#include "tests/simt/support.h"

using namespace simt_test;

TEST_CASE("a block reduction by shuffles, shared memory and a barrier") {
  for (const int n : {1, 63, 64, 1000}) {
    const auto values = numbers(static_cast<std::size_t>(n), 1);
    const Buffer<float> x(values);
    for (const int block : {64, 256}) {
      const int blocks = (n + block - 1) / block;
      std::vector<double> expected(static_cast<std::size_t>(blocks));
      for (int i = 0; i < n; ++i)
        expected[static_cast<std::size_t>(i / block)] += values[static_cast<std::size_t>(i)];
      Buffer<float> sums(static_cast<std::size_t>(blocks));
      simt::in_all_orders([&](simt::Order order) {
        CAPTURE(simt::order_name(order));
        sums.poison();
        block_sums(x.get(), sums.get(), n, block, nullptr);
        CHECK_LT(relative_error(sums.read(), expected), 1e-6);
      });
    }
  }
}

TEST_CASE("31 shuffles leave lane i with the warp's sum of value i") {
  const std::size_t warps = 6;
  const auto values = numbers(warps * 32 * 32, 2);
  std::vector<double> expected(warps * 32);
  for (std::size_t warp = 0; warp < warps; ++warp) {
    for (std::size_t lane = 0; lane < 32; ++lane) {
      for (std::size_t i = 0; i < 32; ++i) {
        expected[warp * 32 + i] += values[(warp * 32 + lane) * 32 + i];
      }
    }
  }
  const Buffer<float> x(values);
  Buffer<float> sums(warps * 32);
  simt::in_all_orders([&](simt::Order order) {
    CAPTURE(simt::order_name(order));
    sums.poison();
    warp_reduce_scatter(x.get(), sums.get(), static_cast<int>(warps), nullptr);
    CHECK_LT(relative_error(sums.read(), expected), 1e-6);
  });
}

TEST_CASE("shuffles of 8 bytes and a ballot") {
  const auto values = numbers<double>(32, 3);
  const Buffer<double> x(values);
  const Buffer<double> out(128);
  const Buffer<unsigned> ballot(1);
  simt::in_all_orders([&](simt::Order order) {
    CAPTURE(simt::order_name(order));
    exchange_in_warp(x.get(), out.get(), ballot.get(), nullptr);
    const auto got = out.read();
    for (std::size_t i = 0; i < 32; ++i) {
      CHECK_EQ(got[i], values[i < 31 ? i + 1 : i]);
      CHECK_EQ(got[32 + i], values[i < 2 ? i : i - 2]);
      CHECK_EQ(got[64 + i], values[5]);
      CHECK_EQ(got[96 + i], doctest::Approx(static_cast<float>(values[i ^ 3U]) + 1.0F));
    }
    CHECK_EQ(ballot.read()[0], 0xaaaaaaaaU);
  });
}

TEST_CASE("every thread of a three-dimensional grid runs once, in its place") {
  for (const auto& [grid, block] : {std::pair{dim3(3, 2, 4), dim3(4, 3, 2)},
                                    std::pair{dim3(1), dim3(1024)}, std::pair{dim3(5), dim3(1)}}) {
    const std::size_t count = std::size_t{grid.x} * grid.y * grid.z * block.x * block.y * block.z;
    simt::in_all_orders([&, grid = grid, block = block](simt::Order order) {
      CAPTURE(simt::order_name(order));
      const Buffer<int> out(std::vector<int>(count, 0));
      write_places(out.get(), grid, block, nullptr);
      const auto got = out.read();
      for (std::size_t i = 0; i < count; ++i) REQUIRE_EQ(got[i], static_cast<int>(i));
    });
  }
}

TEST_CASE("an argument that a thread changes is its own") {
  const auto values = numbers(300, 4);
  const Buffer<float> x(values);
  const Buffer<float> y(300);
  simt::in_all_orders([&](simt::Order) {
    scale(x.get(), y.get(), 300, 3.0F, nullptr);
    const auto got = y.read();
    for (std::size_t i = 0; i < 300; ++i) REQUIRE_EQ(got[i], values[i] * 3.0F);
  });
}

TEST_CASE("bfloat16 rounds to nearest, and 16-byte accesses carry four floats") {
  std::vector<float> values = numbers(64, 5);
  values[0] = 1.00390625F;  // half way between 1 and 1.0078125: to even
  values[1] = 1.01171875F;
  for (std::size_t i = 3; i < values.size(); i += 4) values[i] = std::abs(values[i]) + 0.1F;
  const Buffer<float> x(values);
  const Buffer<float> y(64);
  round_trip_bf16(x.get(), y.get(), 64, nullptr);
  const auto got = y.read();
  CHECK_EQ(got[0], 1.0F);
  CHECK_EQ(got[1], 1.015625F);
  for (std::size_t i = 0; i < 64; i += 4) {
    CHECK_LE(std::abs(got[i] - values[i]), std::abs(values[i]) / 256);
    CHECK_EQ(got[i + 2], values[i + 2]);
    CHECK_EQ(got[i + 3], doctest::Approx(1 / values[i + 3]).epsilon(1e-5));
  }
}

namespace {

// The same recurrence in float64.
std::vector<double> reference_scan(const std::vector<float>& x, const std::vector<float>& dt,
                                   const std::vector<float>& A, const std::vector<float>& B,
                                   const std::vector<float>& C, const std::vector<float>& D,
                                   std::size_t batch, std::size_t length, std::size_t channels) {
  const std::size_t states = 16;
  std::vector<double> y(batch * length * channels);
  for (std::size_t b = 0; b < batch; ++b) {
    for (std::size_t d = 0; d < channels; ++d) {
      std::vector<double> h(states);
      for (std::size_t l = 0; l < length; ++l) {
        const std::size_t row = b * length + l;
        const double u = x[row * channels + d];
        const double step = dt[row * channels + d];
        double sum = D[d] * u;
        for (std::size_t n = 0; n < states; ++n) {
          h[n] = std::exp(step * A[d * states + n]) * h[n] + step * u * B[row * states + n];
          sum += h[n] * C[row * states + n];
        }
        y[row * channels + d] = sum;
      }
    }
  }
  return y;
}

}  // namespace

TEST_CASE("a selective scan with shared tiles fetched one ahead") {
  const ScanShape shapes[] = {{1, 1, 1}, {2, 31, 64}, {1, 32, 65}, {2, 77, 100}, {1, 64, 40}};
  for (const ScanShape shape : shapes) {
    const auto batch = static_cast<std::size_t>(shape.batch);
    const auto length = static_cast<std::size_t>(shape.length);
    const auto channels = static_cast<std::size_t>(shape.channels);
    CAPTURE(length);
    CAPTURE(channels);
    const auto x = numbers(batch * length * channels, 6);
    auto dt = numbers(batch * length * channels, 7);
    for (float& value : dt) value = 0.05F * (value + 1.01F);
    auto A = numbers(channels * 16, 8);
    for (float& value : A) value = -8.0F * (value + 1.001F);
    const auto B = numbers(batch * length * 16, 9);
    const auto C = numbers(batch * length * 16, 10);
    const auto D = numbers(channels, 11);
    const auto expected = reference_scan(x, dt, A, B, C, D, batch, length, channels);
    const Buffer<float> gx(x), gdt(dt), gA(A), gB(B), gC(C), gD(D);
    Buffer<float> y(x.size());
    simt::in_all_orders([&](simt::Order order) {
      CAPTURE(simt::order_name(order));
      y.poison();
      scan(gx.get(), gdt.get(), gA.get(), gB.get(), gC.get(), gD.get(), y.get(), shape, nullptr);
      CHECK_LT(relative_error(y.read(), expected), 1e-6);
    });
  }
}
