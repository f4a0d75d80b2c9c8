// Low-rank branches on the device: masks drawn inside the products, and one product for weight and
// branches, against float64 on the CPU.
#include "autograd/ops.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/low_rank.h"
#include "tests/cuda/device_test.h"

using namespace adder;
using namespace adder::test;

namespace {

template <typename F>
void on_both(const F& f) {
  f(kCuda, [](const Twin& t) { return t.device; });
  f(Device{}, [](const Twin& t) { return t.exact; });
}

// Columns [begin, end) of a wider tensor: rows that are apart.
Twin columns(const Twin& wide, std::int64_t begin, std::int64_t end) {
  return {wide.device.slice(1, begin, end), wide.exact.slice(1, begin, end)};
}

// NaN everywhere beside [begin, end): nothing was written there.
void check_untouched(const Twin& wide, std::int64_t begin, std::int64_t end) {
  for (const Tensor& beside :
       {wide.device.slice(1, 0, begin), wide.device.slice(1, end, wide.device.dim(1))}) {
    for (const double value : beside.to_vector()) REQUIRE(value != value);
  }
}

BranchDropout dropout_on(Device device, double p, bool offset) {
  BranchDropout d{.p = p, .seed = 11, .stream = offset ? 4U : 9U};
  if (offset) d.stream_offset = Tensor::from({1}, std::vector<std::int64_t>{5}).to(device);
  return d;
}

double tolerance(Dtype dtype) {
  return dtype == Dtype::bf16 ? 1e-2 : 1e-5;
}

}  // namespace

TEST_CASE("a branch's products draw the CPU's masks, whatever the shape and the rows' distance") {
  if (!has_device()) return;
  struct Case {
    std::int64_t rows, width, rank;
    bool apart;
  };
  for (const auto& [rows, width, rank, apart] :
       {Case{1, 1, 1, false}, Case{3, 7, 2, true}, Case{65, 130, 8, true}, Case{18, 132, 3, true},
        Case{5, 516, 11, false}, Case{130, 37, 17, false}, Case{9, 6, 16, true}}) {
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      for (const double p : {0.0, 0.3}) {
        CAPTURE(rows);
        CAPTURE(width);
        CAPTURE(rank);
        CAPTURE(p);
        CAPTURE(dtype_name(dtype));
        const std::int64_t more = apart ? 4 : 0;
        const Twin x = columns(draw({rows, width + more}, -2, 2, dtype, 1), 0, width);
        const Twin A = draw({rank, width}, -1, 1, dtype, 2);
        const Twin ds = columns(draw({rows, rank + more}, -1, 1, dtype, 3), more, rank + more);
        const Twin wide_s = poisoned({rows, rank + 5}, dtype);
        const Twin s = columns(wide_s, 3, rank + 3);
        const Twin dA = poisoned({rank, width}, Dtype::f32);
        const Twin dx = columns(draw({rows, width + more}, -1, 1, dtype, 4), 0, width);
        on_both([&](Device device, const auto& side) {
          const BranchDropout dropout = dropout_on(device, p, apart);
          kernel::low_rank_reduce(device, {side(x), side(A), side(s), 0.5, dropout});
          kernel::low_rank_da(device, {side(ds), side(x), side(dA), dropout});
          kernel::low_rank_dx(device, {side(ds), side(A), side(dx), dropout});
        });
        check_close("s", s, tolerance(dtype));
        check_untouched(wide_s, 3, rank + 3);
        check_close("dA", dA, 1e-5);
        check_close("dx", dx, tolerance(dtype));
      }
    }
  }
}

TEST_CASE("many rows: parts of several rows are added in a fixed order") {
  if (!has_device()) return;
  const Twin x = draw({8256, 5}, -2, 2, Dtype::f32, 1);
  const Twin ds = draw({8256, 2}, -1, 1, Dtype::f32, 2);
  const Twin dA = poisoned({2, 5}, Dtype::f32);
  on_both([&](Device device, const auto& side) {
    kernel::low_rank_da(device, {side(ds), side(x), side(dA), dropout_on(device, 0.3, false)});
  });
  check_close("dA", dA, 1e-5);
  const Twin again = poisoned({2, 5}, Dtype::f32);
  kernel::low_rank_da(kCuda, {ds.device, x.device, again.device, dropout_on(kCuda, 0.3, false)});
  CHECK(again.device.to_vector() == dA.device.to_vector());
}

TEST_CASE("a branch's mask is dropout's own, and everything goes at p = 1") {
  if (!has_device()) return;
  for (const std::int64_t width : {8, 11}) {
    const Tensor ones = Tensor::full({6, width}, 1, Dtype::f32, kCuda);
    std::vector<float> identity(static_cast<std::size_t>(width * width), 0.0F);
    for (std::int64_t i = 0; i < width; ++i) identity[static_cast<std::size_t>(i * width + i)] = 1;
    const Tensor A = Tensor::from({width, width}, identity).to(kCuda);
    const Tensor s = poisoned({6, width}, Dtype::f32).device;
    const Tensor expected = poisoned({6, width}, Dtype::f32).device;
    kernel::low_rank_reduce(kCuda, {ones, A, s, 1, dropout_on(kCuda, 0.4, false)});
    kernel::dropout(kCuda, {ones, expected, 0.4, 11, 9});
    CHECK(s.to_vector() == expected.to_vector());

    const Tensor dA = poisoned({width, width}, Dtype::f32).device;
    const Tensor dx = ones.clone();
    const BranchDropout all = dropout_on(kCuda, 1, false);
    kernel::low_rank_reduce(kCuda, {ones, A, s, 1, all});
    kernel::low_rank_da(kCuda, {ones, ones, dA, all});
    kernel::low_rank_dx(kCuda, {ones, A, dx, all});
    CHECK(s.to_vector() == std::vector<double>(static_cast<std::size_t>(6 * width), 0));
    CHECK(dA.to_vector() == std::vector<double>(static_cast<std::size_t>(width * width), 0));
    CHECK(dx.to_vector() == ones.to_vector());
  }
}

TEST_CASE("the room behind rows is taken once, and by who asks for the whole of them") {
  CHECK_FALSE(Tensor::empty_with_room({2, 3}, Dtype::f32, {}).take_room(1).defined());
  if (!has_device()) return;
  const auto fresh = [] { return Tensor::empty_with_room({4, 2, 5}, Dtype::bf16, kCuda); };
  const Tensor x = fresh().flatten_rows();
  CHECK(x.shape() == Shape{8, 5});
  CHECK_FALSE(x.take_room(Tensor::kRowRoom + 1).defined());
  CHECK_FALSE(x.slice(1, 0, 4).take_room(1).defined());
  CHECK_FALSE(x.slice(1, 1, 5).take_room(1).defined());
  CHECK_FALSE(x.clone().take_room(1).defined());
  const Tensor wide = x.take_room(3);
  CHECK(wide.shape() == Shape{8, 8});
  CHECK(wide.raw() == x.raw());
  CHECK_FALSE(x.take_room(1).defined());
  CHECK(fresh().flatten_rows().take_room(Tensor::kRowRoom).defined());
}

TEST_CASE("weight and branches in one product: outputs and gradients, and when it is chosen") {
  if (!has_device()) return;
  struct Case {
    std::int64_t rows, in, out;
    Dtype dtype, weight;
    bool joined;
  };
  for (const auto& [rows, in, out, dtype, weight, joined] :
       {Case{33, 7, 9, Dtype::f32, Dtype::f32, true}, Case{3, 12, 8, Dtype::f32, Dtype::f32, false},
        Case{64, 12, 8, Dtype::bf16, Dtype::bf16, true},
        Case{3, 12, 8, Dtype::bf16, Dtype::f32, true},
        Case{5, 130, 37, Dtype::bf16, Dtype::bf16, false}}) {
    for (const double p : {0.0, 0.3}) {
      CAPTURE(rows);
      CAPTURE(dtype_name(dtype));
      CAPTURE(p);
      const Twin drawn = draw({1, rows, in}, -2, 2, dtype, 1);
      const Twin w = draw({out, in}, -1, 1, weight, 2);
      const Twin bias = draw({out}, -1, 1, Dtype::f32, 3);
      const Twin matrices[] = {
          draw({2, in}, -1, 1, Dtype::f32, 4), draw({out - 3, 2}, -1, 1, Dtype::f32, 5),
          draw({3, in}, -1, 1, Dtype::f32, 6), draw({4, 3}, -1, 1, Dtype::f32, 7)};
      const Twin dy = draw({1, rows, out}, -1, 1, dtype, 8);
      const auto run = [&](Device device, const auto& side) {
        Var x = Var::leaf(Tensor::empty_with_room({1, rows, in}, side(drawn).dtype(), device));
        x.value().copy_from(side(drawn));
        std::vector<Var> leaves{x};
        for (const Twin& each : matrices) leaves.push_back(Var::leaf(side(each)));
        const LowRank branches[] = {{leaves[1], leaves[2], 3, 0.3, p, 7, 0, {}},
                                    {leaves[3], leaves[4], 1, 2, p, 7, 1, {}}};
        Tape tape;
        const Var y = linear(x, side(w), side(bias), branches);
        if (!device.is_cpu()) {
          CHECK(x.value().flatten_rows().take_room(1).defined() == !joined);
        }
        tape.backward({y}, {side(dy)});
        std::vector<Tensor> results{y.value()};
        for (const Var& leaf : leaves) results.push_back(leaf.grad());
        return results;
      };
      const auto on_device = [](const Twin& t) { return t.device; };
      const std::vector<Tensor> got = run(kCuda, on_device);
      const std::vector<Tensor> again = run(kCuda, on_device);
      const std::vector<Tensor> expected = run(Device{}, [](const Twin& t) { return t.exact; });
      for (std::size_t i = 0; i < got.size(); ++i) {
        CAPTURE(i);
        CHECK(relative_error(got[i], expected[i]) <= tolerance(dtype));
        CHECK(got[i].to_vector() == again[i].to_vector());
      }
    }
  }
}
