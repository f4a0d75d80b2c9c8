// The S4 kernels on the device beyond their operations' cases: modes beside the warp's lanes,
// chunks, several outputs, strided sequences, steps, and phases that need float64.
#include <cmath>

#include "engine/kernels/s4.h"
#include "engine/kernels/s4_dplr.h"
#include "models/s4_dplr.h"
#include "models/s4_init.h"
#include "tests/cuda/device_test.h"

using namespace adder;
using namespace adder::test;

namespace {

struct Case {
  std::int64_t B, H, L, N, M;
};

// The modes of a layer on both sides, from one set of parameters.
struct Modes {
  Modes(std::int64_t H, std::int64_t N, double dt_low, double dt_high)
      : log_q(poisoned({H, N, 2}, Dtype::f64)),
        p(poisoned({H, N, 2}, Dtype::f64)),
        b(poisoned({H, N, 2}, Dtype::f64)) {
    const Twin A_real = draw({H, N}, -2, 0.5, Dtype::f32, 1);
    const Twin A_imag = draw({H, N}, 0, 47, Dtype::f32, 2);
    const Twin dt = draw({H}, dt_low, dt_high, Dtype::f32, 3);
    kernel::s4_discretize_fwd(
        kCuda, {A_real.device, A_imag.device, dt.device, {}, {}, log_q.device, p.device, b.device});
    kernel::s4_discretize_fwd(
        {}, {A_real.exact, A_imag.exact, dt.exact, {}, {}, log_q.exact, p.exact, b.exact});
  }
  Twin log_q, p, b;
};

Twin strided(Shape shape) {
  Shape wide = shape;
  wide[shape.rank() - 1] += 3;
  const std::int64_t last = shape[shape.rank() - 1];
  const Twin whole = poisoned(wide, Dtype::f32);
  return {whole.device.slice(-1, 2, 2 + last), whole.exact.slice(-1, 2, 2 + last)};
}

}  // namespace

TEST_CASE("s4: scan and steps on the device, for modes and lengths beside lanes and chunks") {
  if (!has_device()) return;
  for (const Case& c : {Case{1, 1, 1, 1, 1},
                        {2, 3, 33, 4, 1},
                        {1, 9, 32, 5, 2},
                        {3, 2, 40, 17, 1},
                        {1, 2, 65, 40, 2}}) {
    CAPTURE(c.L);
    CAPTURE(c.N);
    const Modes modes(c.H, c.N, -4, -1);
    check_close("log_q", modes.log_q, 1e-12);
    check_close("p", modes.p, 1e-12);
    check_close("b", modes.b, 1e-12);
    const Twin u = draw({c.B, c.H, c.L}, -1, 1, Dtype::f32, 4);
    const Twin C = draw({c.M, c.H, c.N, 2}, -1, 1, Dtype::f32, 5);
    const Twin D = draw({c.M, c.H}, -1, 1, Dtype::f32, 6);
    const Twin x0 = draw({c.B, c.H, c.N, 2}, -1, 1, Dtype::f32, 7);
    const Twin dy = draw({c.B, c.M, c.H, c.L}, -1, 1, Dtype::f32, 8);
    const Twin dx_last = draw({c.B, c.H, c.N, 2}, -1, 1, Dtype::f32, 9);
    const Twin y = strided({c.B, c.M, c.H, c.L});
    const Twin x_last = poisoned({c.B, c.H, c.N, 2}, Dtype::f32);
    const std::int64_t saved = s4_scan_checkpoint_numel(c.B, c.H, c.L, c.N);
    const Twin checkpoints = {poisoned({saved}, Dtype::f32).device,
                              Tensor::empty({saved}, Dtype::f64)};
    const Twin du = strided({c.B, c.H, c.L});
    const Twin dp = poisoned({c.H, c.N, 2}, Dtype::f64);
    const Twin db = poisoned({c.H, c.N, 2}, Dtype::f64);
    const Twin dC = poisoned({c.M, c.H, c.N, 2}, Dtype::f32);
    const Twin dD = poisoned({c.M, c.H}, Dtype::f32);
    const Twin dx0 = poisoned({c.B, c.H, c.N, 2}, Dtype::f32);
    for (const bool on_device : {true, false}) {
      const auto side = [&](const Twin& t) { return on_device ? t.device : t.exact; };
      const Device device = on_device ? kCuda : Device{};
      kernel::s4_scan_fwd(device, {side(u), side(modes.p), side(modes.b), side(C), side(D),
                                   side(x0), side(y), side(x_last), side(checkpoints)});
      kernel::s4_scan_bwd(device, {side(u), side(modes.p), side(modes.b), side(C), side(D),
                                   side(checkpoints), side(dy), side(dx_last), side(du), side(dp),
                                   side(db), side(dC), side(dD), side(dx0)});
    }
    check_close("y", y, 1e-5);
    check_close("x_last", x_last, 1e-5);
    check_close("du", du, 1e-5);
    check_close("dp", dp, 2e-5);
    check_close("db", db, 2e-5);
    check_close("dC", dC, 2e-5);
    check_close("dD", dD, 1e-5);
    check_close("dx0", dx0, 1e-5);

    const Tensor x = x0.device.clone();
    const Tensor stepped = Tensor::empty({c.B, c.M, c.H, c.L});
    for (std::int64_t t = 0; t < c.L; ++t) {
      const Tensor now = poisoned({c.B, c.M, c.H}, Dtype::f32).device;
      kernel::s4_step(kCuda, {u.device.select(2, t).contiguous(), modes.p.device, modes.b.device,
                              C.device, D.device, x, now});
      stepped.select(3, t).copy_from(now.to(Device{}));
    }
    CHECK(relative_error(stepped, y.exact) <= 1e-5);
    CHECK(relative_error(x, x_last.exact) <= 1e-5);
  }
}

TEST_CASE("s4: phases of a thousand radians on the device") {
  if (!has_device()) return;
  const Modes modes(2, 16, std::log(0.05), std::log(0.1));
  const Twin C = draw({1, 2, 16, 2}, -1, 1, Dtype::f32, 5);
  const Twin K = poisoned({1, 2, 300}, Dtype::f32);
  kernel::s4_kernel_fwd(kCuda, {modes.log_q.device, modes.b.device, C.device, K.device});
  kernel::s4_kernel_fwd({}, {modes.log_q.exact, modes.b.exact, C.exact, K.exact});
  check_close("K", K, 1e-6);
}

TEST_CASE("s4: steps of the low-rank layer on the device") {
  if (!has_device()) return;
  for (const std::int64_t d_state : {4, 80}) {
    const std::int64_t H = 2;
    const std::int64_t N = d_state / 2;
    const S4Init start = s4_init({.init = "legt", .d_state = d_state, .copies = H, .rank = 2});
    const Tensor real = start.A.select(2, 0).contiguous().clone();
    const Tensor imag = start.A.select(2, 1).contiguous().clone();
    real.scale_(-1);
    imag.scale_(-1);
    const S4Options options{
        .method = S4Method::bilinear, .real = S4Transform::none, .imag_sign = -1};
    const S4DplrSystem system{real,    imag,    Tensor::full({H}, -3, Dtype::f64),
                              start.B, start.P, options};
    const Twin C = draw({2, H, N, 2}, -1, 1, Dtype::f32, 1);
    const Twin D = draw({2, H}, -1, 1, Dtype::f32, 2);
    const Twin s = draw({3, H, N, 2}, -1, 1, Dtype::f32, 3);
    const Twin y = poisoned({3, 2, H}, Dtype::f32);
    for (int t = 0; t < 3; ++t) {
      const Twin u = draw({3, H}, -1, 1, Dtype::f32, 10 + static_cast<std::uint64_t>(t));
      for (const bool on_device : {true, false}) {
        const auto side = [&](const Twin& twin) { return on_device ? twin.device : twin.exact; };
        const Device device = on_device ? kCuda : Device{};
        S4DplrStepArgs args = s4_dplr_step_coefficients(system, side(C));
        args.u = side(u), args.D = side(D), args.s = side(s), args.y = side(y);
        args.scratch = Tensor::full({2, 3, H, N, 2}, std::nan(""), Dtype::f64, device);
        kernel::s4_dplr_step(device, args);
      }
      check_close("y", y, 1e-5);
      check_close("s", s, 1e-5);
    }
  }
}
