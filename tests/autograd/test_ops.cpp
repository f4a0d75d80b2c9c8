#include <doctest/doctest.h>
#include <limits>

#include "autograd/op_cases.h"
#include "autograd/ops.h"

using namespace adder;

TEST_CASE("every operation's gradient equals central differences in float64") {
  for (const OpCase& op_case : all_op_cases()) {
    if (op_case.benchmark) continue;
    CAPTURE(op_case.op);
    CAPTURE(op_case.name);
    const GradcheckResult result = gradcheck(op_case, 11);
    CAPTURE(result.input);
    CHECK(result.worst <= 1e-7);
  }
}

TEST_CASE("float32 agrees with float64 on every case") {
  for (const OpCase& op_case : all_op_cases()) {
    if (op_case.benchmark) continue;
    CAPTURE(op_case.op);
    CAPTURE(op_case.name);
    const OpResult single = run_case(op_case, make_case_inputs(op_case, Dtype::f32, 5), 5);
    const OpResult exact = run_case(op_case, make_case_inputs(op_case, Dtype::f64, 5), 5);
    for (std::size_t i = 0; i < exact.outputs.size(); ++i) {
      CAPTURE(i);
      CHECK(relative_error(single.outputs[i], exact.outputs[i]) <= op_case.tolerance_f32);
    }
    for (std::size_t i = 0; i < exact.gradients.size(); ++i) {
      CAPTURE(i);
      CHECK(relative_error(single.gradients[i], exact.gradients[i]) <= op_case.tolerance_f32);
    }
  }
}

TEST_CASE("the gradient check notices a wrong gradient") {
  OpCase wrong{.op = "wrong",
               .name = "half the gradient",
               .inputs = {{"x", {3}}},
               .run = [](const std::vector<Var>& in) -> std::vector<Var> {
                 const Tensor y = square(Var(in[0].value())).value();
                 if (!Tape::needs_grad({&in[0]})) return {Var(y)};
                 const Var out = Var::leaf(y);
                 Tape::record("wrong", [x = in[0], slot = out.slot()] {
                   x.slot()->accumulate(mul(Var(slot->take()), Var(x.value())).value());
                 });
                 return {out};
               }};
  CHECK_FALSE(gradcheck(wrong, 1).worst <= 1e-7);
}

TEST_CASE("relative_error is not fooled by NaN") {
  const Tensor nan = Tensor::full({2}, std::numeric_limits<double>::quiet_NaN());
  CHECK_FALSE(relative_error(nan, Tensor::full({2}, 1)) <= 1);
}
