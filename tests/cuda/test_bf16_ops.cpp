// Operations and kernels with bfloat16 activations on the device, against float64 on the CPU from
// the same numbers.
#include <set>

#include "engine/kernels/conv.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/embedding.h"
#include "engine/kernels/matmul.h"
#include "engine/kernels/norm.h"
#include "tests/cuda/device_test.h"

using namespace adder;
using namespace adder::test;

namespace {

constexpr double kTolerance = 1e-2;

// The operations of a training step, and what among their inputs is float32 beside activations.
const std::set<std::string> kOps = {"linear",   "causal_conv_silu", "selective_scan",
                                    "rms_norm", "head_loss",        "embedding",
                                    "dropout",  "split_last"};
const std::set<std::string> kFloat32 = {"weight", "bias",  "A0", "B0",      "A1",    "B1",
                                        "A_log",  "delta", "D",  "dt_bias", "table", "residual"};

Twin draw16(Shape shape, std::uint64_t seed) {
  return draw(shape, -2, 2, Dtype::bf16, seed);
}

Twin draw32(Shape shape, std::uint64_t seed) {
  return draw(shape, -1, 1, Dtype::f32, seed);
}

template <typename F>
void on_both(const F& f) {
  f(kCuda, [](const Twin& t) { return t.device; });
  f(Device{}, [](const Twin& t) { return t.exact; });
}

// The middle columns of a wider tensor: rows that are apart.
Twin middle(const Twin& wide, std::int64_t begin, std::int64_t end) {
  return {wide.device.slice(-1, begin, end), wide.exact.slice(-1, begin, end)};
}

}  // namespace

TEST_CASE("every operation of a training step agrees in bfloat16 with float64 on the CPU") {
  if (!has_device()) return;
  std::set<std::string> seen;
  for (const OpCase& op_case : all_op_cases()) {
    if (op_case.benchmark || !kOps.contains(op_case.op)) continue;
    CAPTURE(op_case.op);
    CAPTURE(op_case.name);
    seen.insert(op_case.op);
    std::vector<Tensor> inputs;
    std::vector<Tensor> exact_inputs;
    for (std::size_t i = 0; i < op_case.inputs.size(); ++i) {
      const Tensor drawn = make_case_inputs(op_case, Dtype::bf16, 5)[i];
      const bool wide = kFloat32.contains(op_case.inputs[i].name);
      inputs.push_back(drawn.to(wide ? Dtype::f32 : Dtype::bf16).to(kCuda));
      exact_inputs.push_back(drawn.to(Dtype::f64));
    }
    const OpResult half = run_case(op_case, inputs, 5);
    const OpResult exact = run_case(op_case, exact_inputs, 5);
    REQUIRE(half.outputs.size() == exact.outputs.size());
    for (std::size_t i = 0; i < exact.outputs.size(); ++i) {
      CAPTURE(i);
      CHECK(relative_error(half.outputs[i], exact.outputs[i]) <= kTolerance);
    }
    std::size_t next = 0;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (!op_case.inputs[i].differentiable) continue;
      CAPTURE(op_case.inputs[i].name);
      const Tensor& gradient = half.gradients[next];
      CHECK(gradient.dtype() == inputs[i].dtype());  // float32 for what trains
      CHECK(relative_error(gradient, exact.gradients[next]) <= kTolerance);
      ++next;
    }
  }
  CHECK(seen == kOps);
}

TEST_CASE("bfloat16 convolution: lengths around a segment, rows apart") {
  if (!has_device()) return;
  for (const std::int64_t length : {1, 3, 31, 63, 64, 65, 100}) {
    for (const std::int64_t channels : {1, 37, 130}) {
      CAPTURE(length);
      CAPTURE(channels);
      const Twin x = middle(draw16({2, length, channels + 5}, 1), 2, channels + 2);
      const Twin weight = draw32({channels, 4}, 2);
      const Twin bias = draw32({channels}, 3);
      const Twin dy = draw16({2, length, channels}, 4);
      const Twin y = poisoned({2, length, channels}, Dtype::bf16);
      const Twin dx = poisoned({2, length, channels}, Dtype::bf16);
      const Twin frozen_dx = poisoned({2, length, channels}, Dtype::bf16);
      const Twin dweight = poisoned({channels, 4}, Dtype::f32);
      const Twin dbias = poisoned({channels}, Dtype::f32);
      on_both([&](Device device, const auto& side) {
        kernel::causal_conv_silu_fwd(device, {side(x), side(weight), side(bias), side(y)});
        kernel::causal_conv_silu_bwd(device, {side(x), side(weight), side(bias), side(dy), side(dx),
                                              side(dweight), side(dbias)});
        kernel::causal_conv_silu_bwd(
            device, {side(x), side(weight), side(bias), side(dy), side(frozen_dx), {}, {}});
      });
      check_close("y", y, kTolerance);
      check_close("dx", dx, kTolerance);
      check_close("dx, frozen", frozen_dx, kTolerance);
      check_close("dweight", dweight, 1e-4);  // summed in float32 from exact inputs
      check_close("dbias", dbias, 1e-4);
    }
  }
}

TEST_CASE("bfloat16 convolution, one token: the window keeps its inputs exactly") {
  if (!has_device()) return;
  const Twin x = middle(draw16({3, 45}, 1), 4, 41);
  const Twin weight = draw32({37, 4}, 2);
  const Twin window = draw16({3, 4, 37}, 3);
  const Twin y = poisoned({3, 37}, Dtype::bf16);
  on_both([&](Device device, const auto& side) {
    kernel::causal_conv_silu_step(device, {side(x), side(weight), {}, side(window), side(y)});
  });
  check_close("y", y, kTolerance);
  CHECK(window.device.to_vector() == window.exact.to_vector());
}

TEST_CASE("RMSNorm between bfloat16 activations and a float32 residual stream") {
  if (!has_device()) return;
  for (const auto& [rows, width] :
       {std::pair{1, 1}, std::pair{1, 37}, std::pair{33, 130}, std::pair{65, 12}}) {
    for (const bool first : {true, false}) {  // the first layer's x is the stream itself
      CAPTURE(rows);
      CAPTURE(width);
      CAPTURE(first);
      const Shape shape{rows, width};
      const Twin x = first ? draw32(shape, 1) : draw16(shape, 1);
      const Twin residual = first ? Twin{} : draw32(shape, 2);
      const Twin weight = draw32({width}, 3);
      const Twin dy = draw16(shape, 4);
      const Twin through = draw32(shape, 5);
      const Twin y = poisoned(shape, Dtype::bf16);
      const Twin sum = first ? Twin{} : poisoned(shape, Dtype::f32);
      const Twin inv_rms = poisoned({rows}, Dtype::f32);
      const Twin dsum = poisoned(shape, Dtype::f32);
      const Twin dx = poisoned(shape, Dtype::bf16);
      const Twin dweight = poisoned({width}, Dtype::f32);
      on_both([&](Device device, const auto& side) {
        kernel::rms_norm_fwd(device, {.x = side(x),
                                      .residual = side(residual),
                                      .weight = side(weight),
                                      .epsilon = 0.1,
                                      .residual_out = side(sum),
                                      .y = side(y),
                                      .inv_rms = side(inv_rms)});
        kernel::rms_norm_bwd(device, {.residual = first ? side(x) : side(sum),
                                      .weight = side(weight),
                                      .inv_rms = side(inv_rms),
                                      .dy = side(dy),
                                      .dresidual_in = side(through),
                                      .dresidual = side(dsum),
                                      .dweight = side(dweight),
                                      .dx = device.is_cpu() || first ? Tensor() : side(dx)});
      });
      check_close("y", y, kTolerance);
      if (!first) check_close("sum", sum, 1e-6);
      check_close("dsum", dsum, 1e-5);
      check_close("dweight", dweight, 1e-5);
      if (!first) CHECK(dx.device.to_vector() == dsum.device.to(Dtype::bf16).to_vector());
      // Without the gradient of the stream: below the last layer that trains nothing needs it.
      const Tensor only = poisoned(shape, Dtype::bf16).device;
      kernel::rms_norm_bwd(kCuda, {.residual = first ? x.device : sum.device,
                                   .weight = weight.device,
                                   .inv_rms = inv_rms.device,
                                   .dy = dy.device,
                                   .dresidual_in = through.device,
                                   .dx = only});
      CHECK(only.to_vector() == dsum.device.to(Dtype::bf16).to_vector());
    }
  }
}

TEST_CASE("bfloat16 rows with float32 bias, sums and products") {
  if (!has_device()) return;
  for (const auto& [rows, width] : {std::pair{1, 1}, std::pair{65, 37}, std::pair{130, 300}}) {
    CAPTURE(rows);
    CAPTURE(width);
    const Twin y = middle(draw16({rows, width + 3}, 1), 1, width + 1);
    const Twin bias = draw32({width}, 2);
    const Twin total = poisoned({width}, Dtype::f32);
    const Twin x = draw16({rows, 5}, 3);
    const Twin product = poisoned({width, 5}, Dtype::f32);
    on_both([&](Device device, const auto& side) {
      kernel::column_sum(device, {side(y), side(total)});
      kernel::matmul(device, {.a = side(y), .b = side(x), .c = side(product), .trans_a = true});
      kernel::add_bias(device, {side(bias), side(y)});
    });
    check_close("column_sum", total, 1e-5);
    check_close("float32 product", product, 1e-5);
    check_close("add_bias", y, kTolerance);
  }
}

TEST_CASE("float32 logits with a bfloat16 gradient of their own") {
  if (!has_device()) return;
  for (const auto& [rows, classes] : {std::pair{1, 1}, std::pair{3, 29}, std::pair{2, 1000}}) {
    CAPTURE(classes);
    const Twin logits = draw({rows, classes}, -30, 30, Dtype::f32, 1);
    const std::vector<double> before = logits.device.to_vector();
    std::vector<std::int32_t> labels(static_cast<std::size_t>(rows), classes - 1);
    const Tensor targets = Tensor::from({rows}, labels);
    const Twin losses{Tensor::full({rows}, -1, Dtype::f64, kCuda),
                      Tensor::zeros({rows}, Dtype::f64)};
    const Twin gradient = poisoned({rows, classes}, Dtype::bf16);
    on_both([&](Device device, const auto& side) {
      kernel::cross_entropy(device, {.logits = side(logits),
                                     .targets = targets.to(device),
                                     .losses = side(losses),
                                     .write_gradient = true,
                                     .scale = 0.25,
                                     .gradient = side(gradient)});
    });
    if (classes > 1) check_close("losses", losses, 1e-6);
    if (classes > 1) check_close("gradient", gradient, kTolerance);
    if (classes == 1) CHECK(gradient.device.to_vector() == std::vector<double>{0});
    CHECK(logits.device.to_vector() == before);
  }
}
