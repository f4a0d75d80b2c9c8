#include "engine/kernels/norm.h"
#include "tests/engine/kernel_test.h"

using adder::Dtype;
using adder::RmsNormBwdArgs;
using adder::RmsNormFwdArgs;
using adder::Tensor;
using adder::test::error;
using adder::test::poisoned;
using adder::test::spread;
using adder::test::uniform;

namespace {

using Values = std::vector<double>;

struct Forward {
  Values sum, y, inv_rms;
};

Forward forward(const Values& x, const Values& residual, const Values& weight, double epsilon) {
  Forward f;
  const std::size_t D = weight.size();
  for (std::size_t i = 0; i < x.size(); ++i) {
    f.sum.push_back(x[i] + (residual.empty() ? 0 : residual[i]));
  }
  for (std::size_t row = 0; row * D < x.size(); ++row) {
    double squares = 0;
    for (std::size_t d = 0; d < D; ++d) squares += f.sum[row * D + d] * f.sum[row * D + d];
    f.inv_rms.push_back(1 / std::sqrt(squares / static_cast<double>(D) + epsilon));
    for (std::size_t d = 0; d < D; ++d) {
      f.y.push_back(f.sum[row * D + d] * f.inv_rms[row] * weight[d]);
    }
  }
  return f;
}

// The Jacobian written out: d y_i / d r_j = w_i (delta_ij s - r_i r_j s^3 / D).
void backward(const Values& r, const Values& w, const Values& inv_rms, const Values& dy, Values& dr,
              Values& dw) {
  const std::size_t D = w.size();
  dr.assign(r.size(), 0);
  dw.assign(D, 0);
  for (std::size_t row = 0; row * D < r.size(); ++row) {
    const double s = inv_rms[row];
    for (std::size_t i = 0; i < D; ++i) {
      const double g = dy[row * D + i] * w[i];
      dw[i] += dy[row * D + i] * r[row * D + i] * s;
      dr[row * D + i] += g * s;
      for (std::size_t j = 0; j < D; ++j) {
        dr[row * D + j] -= g * r[row * D + i] * r[row * D + j] * s * s * s / static_cast<double>(D);
      }
    }
  }
}

}  // namespace

TEST_CASE("rms_norm against plain sums") {
  const std::int64_t cases[][2] = {{1, 1}, {1, 48}, {5, 1}, {7, 33}, {200, 64}, {3, 770}};
  for (const Dtype dtype : adder::test::kReal) {
    const double tolerance = adder::test::tolerance(dtype);
    for (const auto& [rows, D] : cases) {
      for (const bool with_residual : {false, true}) {
        for (const bool strided : {false, true}) {
          INFO("rows " << rows << " D " << D << " " << adder::dtype_name(dtype) << " residual "
                       << with_residual << " strided " << strided);
          const auto in = [&](std::uint64_t seed) {
            const Tensor t = uniform({rows, D}, dtype, seed);
            return strided ? spread(t) : t;
          };
          const auto out = [&] {
            const Tensor t = poisoned({rows, D}, dtype);
            return strided ? spread(t) : t;
          };
          const Tensor weight = uniform({D}, dtype, 9, 0.5, 2);
          RmsNormFwdArgs f{.x = in(1),
                           .weight = weight,
                           .epsilon = 1e-3,
                           .y = out(),
                           .inv_rms = poisoned({rows}, dtype)};
          if (with_residual) {
            f.residual = in(2);
            f.residual_out = out();
          }
          const Forward expected =
              forward(f.x.to_vector(), with_residual ? f.residual.to_vector() : Values{},
                      weight.to_vector(), 1e-3);
          adder::test::with_threads([&] {
            adder::kernel::rms_norm_fwd({}, f);
            CHECK(error(f.y, expected.y) <= tolerance);
            CHECK(error(f.inv_rms, expected.inv_rms) <= tolerance);
            if (with_residual) CHECK(error(f.residual_out, expected.sum) <= tolerance);
          });

          RmsNormBwdArgs b{.residual = with_residual ? f.residual_out : f.x,
                           .weight = weight,
                           .inv_rms = f.inv_rms,
                           .dy = in(3),
                           .dresidual = out(),
                           .dweight = poisoned({D}, dtype)};
          if (with_residual) b.dresidual_in = in(4);
          Values dr, dw;
          backward(expected.sum, weight.to_vector(), expected.inv_rms, b.dy.to_vector(), dr, dw);
          if (with_residual) {
            const Values through = b.dresidual_in.to_vector();
            for (std::size_t i = 0; i < dr.size(); ++i) dr[i] += through[i];
          }
          Values first;
          adder::test::with_threads([&] {
            b.dweight.fill(std::nan(""));
            adder::kernel::rms_norm_bwd({}, b);
            // Cancellation: with one column the gradient is nearly zero.
            CHECK(error(b.dresidual, dr) <= (D == 1 ? 1e4 : 3) * tolerance);
            CHECK(error(b.dweight, dw) <= tolerance);
            if (first.empty()) first = b.dweight.to_vector();
            CHECK(b.dweight.to_vector() == first);  // the same bits for every thread count
          });
          RmsNormBwdArgs only_weight = b;
          only_weight.dresidual = Tensor();
          only_weight.dweight = poisoned({D}, dtype);
          adder::kernel::rms_norm_bwd({}, only_weight);
          CHECK(only_weight.dweight.to_vector() == first);
          RmsNormBwdArgs in_place = b;
          in_place.dweight = Tensor();
          in_place.dresidual = b.dy;
          adder::kernel::rms_norm_bwd({}, in_place);
          CHECK(in_place.dresidual.to_vector() == b.dresidual.to_vector());
        }
      }
    }
  }
}

TEST_CASE("rms_norm of no rows, and without inv_rms") {
  const Tensor none = Tensor::empty({0, 4});
  const Tensor weight = Tensor::full({4}, 1);
  adder::kernel::rms_norm_fwd({}, {.x = none, .weight = weight, .y = none});
  const Tensor dweight = poisoned({4}, Dtype::f32);
  adder::kernel::rms_norm_bwd({}, {.residual = none,
                                   .weight = weight,
                                   .inv_rms = Tensor::empty({0}),
                                   .dy = none,
                                   .dresidual = none,
                                   .dweight = dweight});
  CHECK(dweight.to_vector() == Values(4, 0));
  const Tensor y = poisoned({1, 4}, Dtype::f32);
  adder::kernel::rms_norm_fwd(
      {}, {.x = Tensor::zeros({1, 4}), .weight = weight, .epsilon = 1e-5, .y = y});
  CHECK(y.to_vector() == Values(4, 0));
}

TEST_CASE("rms_norm refuses what does not fit") {
  const Tensor x = Tensor::zeros({2, 4});
  const Tensor weight = Tensor::zeros({4});
  CHECK_THROWS_AS(adder::kernel::rms_norm_fwd({}, {.x = x, .weight = Tensor::zeros({3}), .y = x}),
                  adder::ShapeError);
  CHECK_THROWS_AS(
      adder::kernel::rms_norm_fwd({}, {.x = x, .residual = x, .weight = weight, .y = x}),
      adder::ShapeError);
  CHECK_THROWS_AS(
      adder::kernel::rms_norm_fwd({}, {.x = x, .weight = weight.to(Dtype::f64), .y = x}),
      adder::DtypeError);
  CHECK_THROWS_AS(adder::kernel::rms_norm_fwd({}, {.x = Tensor::zeros({4}), .weight = weight}),
                  adder::ShapeError);
}
