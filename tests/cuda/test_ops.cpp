// Every operation's cases on the device, against float64 on the CPU.
#include "tests/cuda/device_test.h"

using namespace adder;
using namespace adder::test;

TEST_CASE("every operation agrees with float64 on the CPU") {
  if (!has_device()) return;
  for (const OpCase& op_case : all_op_cases()) {
    if (op_case.benchmark) continue;
    CAPTURE(op_case.op);
    CAPTURE(op_case.name);
    std::vector<Tensor> inputs = make_case_inputs(op_case, Dtype::f32, 5);
    for (Tensor& input : inputs) input = input.to(kCuda);
    const OpResult single = run_case(op_case, inputs, 5);
    const OpResult exact = run_case(op_case, make_case_inputs(op_case, Dtype::f64, 5), 5);
    REQUIRE(single.outputs.size() == exact.outputs.size());
    for (std::size_t i = 0; i < exact.outputs.size(); ++i) {
      CAPTURE(i);
      CHECK(relative_error(single.outputs[i], exact.outputs[i]) <= 1e-5);
    }
    REQUIRE(single.gradients.size() == exact.gradients.size());
    for (std::size_t i = 0; i < exact.gradients.size(); ++i) {
      CAPTURE(i);
      CHECK(relative_error(single.gradients[i], exact.gradients[i]) <= 5e-5);
    }
  }
}
