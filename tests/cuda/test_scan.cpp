// The scan's kernels over lengths around the chunk, channels beside the tile, and all state counts.
#include <cmath>

#include "cuda/scan_hooks.h"
#include "engine/kernels/scan.h"
#include "tests/cuda/device_test.h"

using namespace adder;
using namespace adder::test;

namespace {

template <int& (*kHook)()>
struct Forced {
  explicit Forced(int value) { kHook() = value; }
  ~Forced() { kHook() = 0; }
  Forced(const Forced&) = delete;
  Forced& operator=(const Forced&) = delete;
};
using ForcedSegments = Forced<cuda::forced_segment_chunks>;
using ForcedStates = Forced<cuda::forced_states_per_lane>;

struct Case {
  std::int64_t b, l, d, n;
  Dtype dtype = Dtype::f32;
  bool z = true, bias = true, h0 = false;
};

struct Problem {
  explicit Problem(const Case& c) {
    const Dtype io = c.dtype;
    u = draw({c.b, c.l, c.d}, -1, 1, io, 1);
    dt = draw({c.b, c.l, c.d}, -9.2, 3, io, 2);  // delta from 1e-4 on
    // The last channel's delta is 20 and more: softplus is the identity there.
    for (Tensor* t : {&dt.device, &dt.exact}) t->slice(2, c.d - 1, c.d).fill(20.5);
    A_log = draw({c.d, c.n}, std::log(1e-3), std::log(16.0), Dtype::f32, 3);
    B = draw({c.b, c.l, c.n}, -1, 1, io, 4);
    C = draw({c.b, c.l, c.n}, -1, 1, io, 5);
    D = draw({c.d}, -1, 1, Dtype::f32, 6);
    if (c.z) z = draw({c.b, c.l, c.d}, -3, 3, io, 7);
    if (c.bias) dt_bias = draw({c.d}, -0.5, 0.5, Dtype::f32, 8);
    if (c.h0) h0 = draw({c.b, c.d, c.n}, -1, 1, Dtype::f32, 9);
    dout = draw({c.b, c.l, c.d}, -1, 1, io, 10);
    out = poisoned({c.b, c.l, c.d}, io);
    h_last = poisoned({c.b, c.d, c.n}, Dtype::f32);
    checkpoints = poisoned({scan_checkpoint_numel(c.b, c.l, c.d, c.n)}, Dtype::f32);
  }
  template <typename F>
  void both(const F& f) {
    f(kCuda, [](const Twin& t) { return t.device; });
    f(Device{}, [](const Twin& t) { return t.exact; });
  }
  void forward() {
    both([&](Device device, const auto& side) {
      kernel::selective_scan_fwd(device, {.u = side(u),
                                          .dt = side(dt),
                                          .A_log = side(A_log),
                                          .B = side(B),
                                          .C = side(C),
                                          .D = side(D),
                                          .z = side(z),
                                          .dt_bias = side(dt_bias),
                                          .h0 = side(h0),
                                          .out = side(out),
                                          .h_last = side(h_last),
                                          .checkpoints = side(checkpoints)});
    });
  }
  Twin u, dt, A_log, B, C, D, z, dt_bias, h0, dout, out, h_last, checkpoints;
};

void check_case(const Case& c) {
  CAPTURE(c.l);
  CAPTURE(c.d);
  CAPTURE(c.n);
  CAPTURE(dtype_name(c.dtype));
  const bool half = c.dtype == Dtype::bf16;
  Problem p(c);
  p.forward();
  check_close("out", p.out, half ? 1e-2 : 1e-5);
  check_close("h_last", p.h_last, 1e-5);
  const Shape bld{c.b, c.l, c.d};
  const Shape bln{c.b, c.l, c.n};
  Twin du = poisoned(bld, c.dtype);
  Twin ddt = poisoned(bld, c.dtype);
  Twin dz = poisoned(bld, c.dtype);
  Twin dB = poisoned(bln, c.dtype);
  Twin dC = poisoned(bln, c.dtype);
  Twin dA = poisoned({c.d, c.n}, Dtype::f32);
  Twin dD = poisoned({c.d}, Dtype::f32);
  Twin dbias = poisoned({c.d}, Dtype::f32);
  Twin dh0 = poisoned({c.b, c.d, c.n}, Dtype::f32);
  p.both([&](Device device, const auto& side) {
    kernel::selective_scan_bwd(device, {.u = side(p.u),
                                        .dt = side(p.dt),
                                        .A_log = side(p.A_log),
                                        .B = side(p.B),
                                        .C = side(p.C),
                                        .D = side(p.D),
                                        .z = side(p.z),
                                        .dt_bias = side(p.dt_bias),
                                        .checkpoints = side(p.checkpoints),
                                        .dout = side(p.dout),
                                        .du = side(du),
                                        .ddt = side(ddt),
                                        .dA_log = side(dA),
                                        .dB = side(dB),
                                        .dC = side(dC),
                                        .dD = side(dD),
                                        .dz = c.z ? side(dz) : Tensor(),
                                        .ddt_bias = side(dbias),
                                        .dh0 = side(dh0)});
  });
  const double tolerance = half ? 1e-2 : 5e-5;
  check_close("du", du, tolerance);
  check_close("ddt", ddt, tolerance);
  if (c.z) check_close("dz", dz, tolerance);
  check_close("dB", dB, tolerance);
  check_close("dC", dC, tolerance);
  check_close("dA_log", dA, half ? 1e-2 : 5e-5);
  check_close("dD", dD, tolerance);
  check_close("ddt_bias", dbias, tolerance);
  check_close("dh0", dh0, tolerance);
}

}  // namespace

TEST_CASE("scan: lengths around the chunk") {
  if (!has_device()) return;
  for (const std::int64_t length : {1, 3, 31, 63, 64, 65, 100}) {
    check_case({2, length, 37, 16});
    check_case({1, length, 36, 16});
    check_case({1, length, 36, 16, Dtype::bf16});
  }
}

TEST_CASE("scan: every number of states") {
  if (!has_device()) return;
  for (const std::int64_t states : {1, 4, 5, 8, 16, 32, 64}) {
    check_case({1, 35, 9, states, Dtype::f32, true, true, true});
    check_case({2, 35, 72, states, Dtype::f32, true, true, true});
  }
}

// With so few channels the device's own rule splits it over L; the other one is told not to.
TEST_CASE("scan: a long sequence, split and whole") {
  if (!has_device()) return;
  check_case({1, 2048, 3, 4});
  check_case({1, 2048, 4, 16, Dtype::bf16});
  const ForcedSegments whole(-1);
  check_case({1, 2048, 3, 4});
}

TEST_CASE("scan: split over L into segments of one, two and three chunks") {
  if (!has_device()) return;
  for (const int chunks : {1, 2, 3}) {
    const ForcedSegments forced(chunks);
    for (const std::int64_t length : {31, 63, 64, 65, 100, 161}) check_case({2, length, 37, 16});
    check_case({1, 100, 8, 5, Dtype::f32, true, true, true});
    check_case({1, 130, 12, 64, Dtype::f32, false, false, true});
    check_case({2, 97, 40, 16, Dtype::bf16, true, true, true});
  }
}

// Eight states a lane are for batches that fill the device several times over; channels a multiple
// of four and others, as only the former are read four at a time.
TEST_CASE("scan: every number of states a lane can have") {
  if (!has_device()) return;
  for (const int per_lane : {4, 8}) {
    const ForcedStates forced(per_lane);
    for (const std::int64_t states : {12, 16}) {
      check_case({1, 35, 68, states});
      check_case({1, 35, 67, states, Dtype::bf16, true, true, true});
    }
  }
}

TEST_CASE("scan: without gate and bias, and in bfloat16") {
  if (!has_device()) return;
  check_case({2, 33, 40, 16, Dtype::f32, false, false});
  for (const std::int64_t length : {1, 3, 31, 63, 64, 65}) {
    check_case({2, length, 40, 16, Dtype::bf16});
  }
  check_case({1, 100, 70, 8, Dtype::bf16, false, true});
}

TEST_CASE("scan: chosen channels of dA_log equal the dense rows") {
  if (!has_device()) return;
  const Case c{2, 40, 33, 5};
  Problem p(c);
  p.forward();
  const auto run = [&](const Tensor& channels, const Tensor& dA) {
    const Tensor du = Tensor::empty({c.b, c.l, c.d}, Dtype::f32, kCuda);
    kernel::selective_scan_bwd(kCuda, {.u = p.u.device,
                                       .dt = p.dt.device,
                                       .A_log = p.A_log.device,
                                       .B = p.B.device,
                                       .C = p.C.device,
                                       .D = p.D.device,
                                       .z = p.z.device,
                                       .dt_bias = p.dt_bias.device,
                                       .checkpoints = p.checkpoints.device,
                                       .dout = p.dout.device,
                                       .du = du,
                                       .dA_log = dA,
                                       .dA_channels = channels});
  };
  const Tensor dense = poisoned({c.d, c.n}, Dtype::f32).device;
  run({}, dense);
  const std::vector<std::int32_t> channels{0, 7, 31, 32};
  const Tensor some = poisoned({4, c.n}, Dtype::f32).device;
  run(Tensor::from({4}, channels).to(kCuda), some);
  for (std::int64_t i = 0; i < 4; ++i) {
    CHECK(some.select(0, i).to_vector() ==
          dense.select(0, channels[static_cast<std::size_t>(i)]).to_vector());
  }
}

TEST_CASE("scan: one step equals the sequence's next") {
  if (!has_device()) return;
  for (const std::int64_t states : {1, 16, 40}) {
    const Case c{3, 1, 21, states, Dtype::f32, true, true, true};
    Problem p(c);
    Twin h{p.h0.device.clone(), p.h0.exact.clone()};
    p.both([&](Device device, const auto& side) {
      const auto row = [&](const Twin& t) { return side(t).select(1, 0); };
      kernel::selective_scan_step(device, {.u = row(p.u),
                                           .dt = row(p.dt),
                                           .A_log = side(p.A_log),
                                           .B = row(p.B),
                                           .C = row(p.C),
                                           .D = side(p.D),
                                           .z = row(p.z),
                                           .dt_bias = side(p.dt_bias),
                                           .h = side(h),
                                           .out = row(p.out)});
    });
    check_close("out", p.out, 1e-5);
    check_close("h", h, 1e-5);
  }
}
