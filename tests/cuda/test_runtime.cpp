// What a device gives to tensors beside kernels: copies through pinned memory, readbacks, memory.
#include <numeric>

#include "engine/kernels/embedding.h"
#include "engine/kernels/matmul.h"
#include "engine/readback.h"
#include "tests/cuda/device_test.h"

using namespace adder;
using namespace adder::test;

namespace {

Tensor counted(std::int64_t count, std::int32_t first) {
  std::vector<std::int32_t> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), first);
  return Tensor::from({count}, values);
}

}  // namespace

TEST_CASE("copies to the device of every size arrive, whatever becomes of their source") {
  if (!has_device()) return;
  std::vector<Tensor> arrived;
  std::vector<std::vector<double>> expected;
  // Together several times the ring of pinned memory; one alone is larger than it.
  for (const std::int64_t count : {1, 1000, 3, 40000, 16384, 1200000, 7, 200000, 200000, 31}) {
    const Tensor source = counted(count, static_cast<std::int32_t>(count));
    expected.push_back(source.to_vector());
    arrived.push_back(source.to(kCuda));
    source.fill(-1);
  }
  for (std::size_t i = 0; i < arrived.size(); ++i) {
    CAPTURE(i);
    CHECK(arrived[i].to_vector() == expected[i]);
  }
}

TEST_CASE("a readback has the numbers of its time, in any order of looking") {
  for (const Device device : {Device{}, kCuda}) {
    if (!device.is_cpu() && !has_device()) return;
    const Tensor tensor = counted(5, 0).to(device);
    Readback first(tensor);
    tensor.fill(7);
    Readback second(tensor.slice(0, 1, 3));
    Readback dropped(tensor);
    tensor.fill(8);
    dropped = Readback(tensor);
    Readback moved = std::move(first);
    CHECK(dropped.values() == std::vector<double>(5, 8.0));
    CHECK(second.values() == std::vector<double>(2, 7.0));
    CHECK(moved.values() == std::vector<double>{0, 1, 2, 3, 4});
    CHECK(Readback(Tensor::empty({0}, Dtype::f32, device)).values().empty());
  }
}

TEST_CASE("the sums of a batch's losses") {
  if (!has_device()) return;
  for (const std::int64_t rows : {0, 1, 255, 1000}) {
    const Twin losses = draw({rows}, 0, 9, Dtype::f32, 1);
    const Tensor targets = counted(rows, 0);
    const Tensor argmax = counted(rows, 0);
    if (rows > 3) argmax.slice(0, 0, 3).fill(-1);
    const Tensor sums = poisoned({2}, Dtype::f64).device;
    const Tensor loss = poisoned({1}, Dtype::f32).device;
    kernel::loss_sums(kCuda, {.losses = losses.device.to(Dtype::f64),
                              .argmax = argmax.to(kCuda),
                              .targets = targets.to(kCuda),
                              .sums = sums,
                              .loss = loss,
                              .factor = 0.25});
    const Tensor cpu_sums = poisoned({2}, Dtype::f64).exact;
    const Tensor cpu_loss = Tensor::empty({1});
    kernel::loss_sums({}, {.losses = losses.exact,
                           .argmax = argmax,
                           .targets = targets,
                           .sums = cpu_sums,
                           .loss = cpu_loss,
                           .factor = 0.25});
    CAPTURE(rows);
    CHECK(relative_error(sums, cpu_sums) <= 1e-13);
    CHECK(relative_error(loss, cpu_loss) <= 1e-6);
    CHECK(sums.item(1) == static_cast<double>(rows > 3 ? rows - 3 : rows));
  }
}

TEST_CASE("products of all layouts and alignments, each shape more than once") {
  if (!has_device()) return;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    for (const bool trans_a : {false, true}) {
      for (const bool trans_b : {false, true}) {
        for (const std::int64_t offset : {0, 1, 4, 0}) {
          const auto matrix = [&](std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
            Twin twin = draw({rows, columns + 8}, -1, 1, dtype, seed);
            twin.device = twin.device.slice(1, offset, offset + columns);
            twin.exact = twin.exact.slice(1, offset, offset + columns).contiguous();
            return twin;
          };
          const Twin a = trans_a ? matrix(11, 6, 1) : matrix(6, 11, 1);
          const Twin b = trans_b ? matrix(5, 11, 2) : matrix(11, 5, 2);
          for (const double beta : {0.0, 0.5}) {
            Twin c = beta == 0 ? poisoned({6, 5}, Dtype::f32) : draw({6, 5}, -1, 1, Dtype::f32, 3);
            kernel::matmul(kCuda, {.a = a.device,
                                   .b = b.device,
                                   .c = c.device,
                                   .trans_a = trans_a,
                                   .trans_b = trans_b,
                                   .alpha = 1.5,
                                   .beta = beta});
            kernel::matmul({}, {.a = a.exact,
                                .b = b.exact,
                                .c = c.exact,
                                .trans_a = trans_a,
                                .trans_b = trans_b,
                                .alpha = 1.5,
                                .beta = beta});
            CAPTURE(offset);
            check_close("product", c, 1e-6);
          }
        }
      }
    }
  }
}
