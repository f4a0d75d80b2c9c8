#include <cstring>

#include "engine/kernels/matmul.h"
#include "tests/engine/kernel_test.h"

using adder::Dtype;
using adder::MatmulArgs;
using adder::Shape;
using adder::ShapeError;
using adder::Tensor;
using adder::test::poisoned;
using adder::test::spread;
using adder::test::uniform;

namespace {

std::vector<double> reference(const MatmulArgs& args, const std::vector<double>& old_c) {
  const Tensor a64 = (args.trans_a ? args.a.transpose(0, 1) : args.a).to(Dtype::f64).contiguous();
  const Tensor b64 = (args.trans_b ? args.b.transpose(0, 1) : args.b).to(Dtype::f64).contiguous();
  const std::int64_t M = a64.dim(0), K = a64.dim(1), N = b64.dim(1);
  std::vector<double> c(static_cast<std::size_t>(M * N));
  for (std::int64_t m = 0; m < M; ++m) {
    for (std::int64_t k = 0; k < K; ++k) {
      const double factor = args.alpha * a64.data<double>()[m * K + k];
      for (std::int64_t n = 0; n < N; ++n) {
        c[static_cast<std::size_t>(m * N + n)] += factor * b64.data<double>()[k * N + n];
      }
    }
  }
  if (args.beta != 0) {
    for (std::size_t i = 0; i < c.size(); ++i) c[i] += args.beta * old_c[i];
  }
  return c;
}

void check_case(std::int64_t M, std::int64_t N, std::int64_t K, Dtype dtype, Dtype b_dtype,
                bool trans_a, bool trans_b, bool strided, double alpha, double beta) {
  INFO("M " << M << " N " << N << " K " << K << " " << adder::dtype_name(b_dtype) << " ta "
            << trans_a << " tb " << trans_b << " strided " << strided << " beta " << beta);
  MatmulArgs args;  // mostly positive, so that no sum cancels
  args.a = uniform(trans_a ? Shape{K, M} : Shape{M, K}, dtype, 1, -0.5, 1);
  args.b = uniform(trans_b ? Shape{N, K} : Shape{K, N}, b_dtype, 2, -0.5, 1);
  args.c = beta == 0 ? poisoned({M, N}, dtype) : uniform({M, N}, dtype, 3);
  if (strided) {
    args.a = spread(args.a);
    args.b = spread(args.b);
    args.c = spread(args.c);
  }
  args.trans_a = trans_a;
  args.trans_b = trans_b;
  args.alpha = alpha;
  args.beta = beta;
  const std::vector<double> expected = reference(args, args.c.to_vector());
  adder::kernel::matmul({}, args);
  CHECK(adder::test::error(args.c, expected) <= adder::test::tolerance(dtype));
}

}  // namespace

TEST_CASE("matmul against plain sums: transposes, strides, alpha and beta") {
  for (const Dtype dtype : adder::test::kReal) {
    for (const bool trans_a : {false, true}) {
      for (const bool trans_b : {false, true}) {
        for (const bool strided : {false, true}) {
          check_case(37, 29, 53, dtype, dtype, trans_a, trans_b, strided, 1, 0);
          check_case(37, 29, 53, dtype, dtype, trans_a, trans_b, strided, -0.5, 0.75);
          check_case(5, 8, 3, dtype, dtype, trans_a, trans_b, strided, 2, 1);
        }
      }
    }
  }
}

TEST_CASE("matmul of few rows, one column, one term") {
  for (const Dtype dtype : adder::test::kReal) {
    for (const std::int64_t M : {1, 2, 3, 4, 5}) {
      for (const std::int64_t K : {1, 7, 16, 64, 200, 1537}) {
        check_case(M, 33, K, dtype, dtype, false, true, K == 200, 1, 0);
        check_case(M, 33, K, dtype, dtype, false, true, false, 0.5, 2);
      }
      check_case(M, 1, 40, dtype, dtype, false, true, false, 1, 0);
      check_case(M, 1, 40, dtype, dtype, true, false, false, 1, 0);
      check_case(M, 40, 9, dtype, dtype, false, false, true, 1, 0);
    }
    check_case(100, 1, 1, dtype, dtype, false, true, true, 1, 0);
    check_case(1, 1, 1, dtype, dtype, false, false, false, 3, 0);
  }
}

TEST_CASE("matmul widens 16-bit weights") {
  for (const Dtype half : {Dtype::bf16, Dtype::f16}) {
    for (const bool trans_b : {false, true}) {
      for (const std::int64_t M : {1, 2, 3, 4, 9}) {
        check_case(M, 70, 131, Dtype::f32, half, false, trans_b, false, 1, 0);
        check_case(M, 70, 131, Dtype::f32, half, false, trans_b, true, 0.5, 1);
      }
      check_case(6, 300, 5000, Dtype::f32, half, false, trans_b, false, 1, 0);  // several panels
      check_case(6, 300, 5000, Dtype::f32, half, true, trans_b, true, 1, 0.5);
    }
  }
}

TEST_CASE("matmul on the shapes of a model, several thread counts") {
  adder::test::with_threads([] {
    check_case(65, 160, 96, Dtype::f32, Dtype::f32, false, true, false, 1, 0);
    check_case(130, 8, 300, Dtype::f32, Dtype::f32, false, true, false, 1, 0);
    check_case(130, 300, 8, Dtype::f32, Dtype::f32, false, true, false, 2, 1);
    check_case(1, 3000, 100, Dtype::f32, Dtype::bf16, false, true, false, 1, 0);
    check_case(1, 3000, 100, Dtype::f32, Dtype::f32, false, true, false, 1, 0);
  });
}

TEST_CASE("matmul leaves what lies between strided rows alone") {
  const Tensor wide = Tensor::full({6, 20}, 7);
  const Tensor c = wide.slice(1, 3, 9);
  const Tensor a = uniform({6, 4}, Dtype::f32, 1);
  const Tensor b = uniform({6, 4}, Dtype::f32, 2);
  adder::kernel::matmul({}, {.a = a, .b = b, .c = c, .trans_b = true});
  for (std::int64_t row = 0; row < 6; ++row) {
    for (std::int64_t i = 0; i < 20; ++i) {
      if (i < 3 || i >= 9) CHECK(wide.item(row * 20 + i) == 7);
    }
  }
}

TEST_CASE("matmul with empty extents only scales c") {
  for (const Dtype dtype : adder::test::kReal) {
    const Tensor c = Tensor::full({2, 3}, 4, dtype);
    adder::kernel::matmul({}, {.a = Tensor::empty({2, 0}, dtype),
                               .b = Tensor::empty({0, 3}, dtype),
                               .c = c,
                               .beta = 0.5});
    CHECK(c.to_vector() == std::vector<double>(6, 2));
    const Tensor fresh = poisoned({2, 3}, dtype);
    adder::kernel::matmul({}, {.a = Tensor::empty({2, 0}, dtype),
                               .b = Tensor::empty({3, 0}, dtype),
                               .c = fresh,
                               .trans_b = true});
    CHECK(fresh.to_vector() == std::vector<double>(6, 0));
    adder::kernel::matmul({}, {.a = Tensor::empty({0, 4}, dtype),
                               .b = Tensor::empty({4, 3}, dtype),
                               .c = Tensor::empty({0, 3}, dtype)});
    adder::kernel::matmul({}, {.a = Tensor::empty({2, 4}, dtype),
                               .b = Tensor::empty({4, 0}, dtype),
                               .c = Tensor::empty({2, 0}, dtype)});
  }
}

TEST_CASE("matmul lets NaN and infinities through") {
  const Tensor a = Tensor::full({5, 3}, 1);
  const Tensor b = Tensor::full({2, 3}, 1);
  a.select(0, 2).fill(std::numeric_limits<double>::quiet_NaN());
  const Tensor c = Tensor::zeros({5, 2});
  adder::kernel::matmul({}, {.a = a, .b = b, .c = c, .trans_b = true});
  CHECK(std::isnan(c.item(4)));
  CHECK(c.item(0) == 3);
}

TEST_CASE("matmul says which shapes and types do not fit") {
  const Tensor a = Tensor::zeros({4, 3});
  const Tensor b = Tensor::zeros({5, 3});
  const Tensor c = Tensor::zeros({4, 5});
  CHECK_THROWS_AS(adder::kernel::matmul({}, {.a = a, .b = b, .c = c}), ShapeError);
  CHECK_THROWS_AS(
      adder::kernel::matmul({}, {.a = a, .b = b, .c = Tensor::zeros({5, 4}), .trans_b = true}),
      ShapeError);
  CHECK_THROWS_AS(adder::kernel::matmul({}, {.a = a, .b = b}), ShapeError);
  CHECK_THROWS_AS(
      adder::kernel::matmul({}, {.a = a.reshape({12}), .b = b, .c = c, .trans_b = true}),
      ShapeError);
  CHECK_THROWS_AS(
      adder::kernel::matmul(
          {}, {.a = Tensor::zeros({3, 4}).transpose(0, 1), .b = b, .c = c, .trans_b = true}),
      ShapeError);
  CHECK_THROWS_AS(
      adder::kernel::matmul({}, {.a = a, .b = b.to(Dtype::f64), .c = c, .trans_b = true}),
      adder::DtypeError);
  CHECK_THROWS_AS(
      adder::kernel::matmul({}, {.a = a.to(Dtype::bf16), .b = b, .c = c, .trans_b = true}),
      adder::DtypeError);
  try {
    adder::kernel::matmul({}, {.a = a, .b = b, .c = c});
    FAIL("no error");
  } catch (const ShapeError& e) {
    CHECK(std::string(e.what()).find("[4, 3]") != std::string::npos);
    CHECK(std::string(e.what()).find("[5, 3]") != std::string::npos);
  }
  CHECK(std::strlen(adder::matmul_library()) > 0);
}
