// The optimiser's launches over many tensors at once, against the CPU's column.
#include <cmath>

#include "engine/kernels/optim.h"
#include "tests/cuda/device_test.h"

using namespace adder;
using namespace adder::test;

namespace {

// Tensors around the borders of blocks, a displacement every third.
struct Items {
  std::vector<OptimItem> cpu, device;
  std::vector<Tensor> cpu_grads, device_grads;
};

Items make_items(std::uint64_t seed, bool second) {
  Items items;
  for (const std::int64_t n : {1, 7, 1023, 0, 1024, 1025, 9000, 3, 2048}) {
    const auto make = [&](Shape shape, double low, double high) {
      const Tensor values = Tensor::empty(shape, Dtype::f32);
      fill_uniform(values, low, high, seed++, 0);
      return values;
    };
    OptimItem item{.value = make({n}, -1, 1),
                   .grad = make({n}, -1, 1),
                   .first = make({n}, -1, 1),
                   .second = second ? make({n}, 0, 1) : Tensor()};
    if (items.cpu.size() % 3 == 1) {
      std::vector<std::int64_t> positions;
      for (std::int64_t i = 0; i < n; ++i) positions.push_back(2 * (n - 1 - i));
      item.positions = Tensor::from({n}, positions);
      item.base = make({n}, -1, 1);
      item.target = make({2, n}, -1, 1);
      item.scale = 0.7;
    }
    OptimItem twin = item;
    for (Tensor* tensor : {&twin.value, &twin.grad, &twin.first, &twin.second, &twin.positions,
                           &twin.base, &twin.target}) {
      if (tensor->defined()) *tensor = tensor->to(kCuda);
    }
    items.cpu_grads.push_back(item.grad);
    items.device_grads.push_back(twin.grad);
    items.cpu.push_back(std::move(item));
    items.device.push_back(std::move(twin));
  }
  return items;
}

void check_items(const Items& items, double tolerance) {
  for (std::size_t i = 0; i < items.cpu.size(); ++i) {
    CAPTURE(i);
    const OptimItem& a = items.cpu[i];
    const OptimItem& b = items.device[i];
    CHECK(relative_error(b.value, a.value) <= tolerance);
    CHECK(relative_error(b.first, a.first) <= tolerance);
    if (a.second.defined()) CHECK(relative_error(b.second, a.second) <= tolerance);
    if (a.target.defined()) CHECK(relative_error(b.target, a.target) <= tolerance);
  }
}

}  // namespace

TEST_CASE("one launch updates all tensors as the CPU does, clipped by what lies on the device") {
  if (!has_device()) return;
  for (const double max_norm : {0.0, 1.0}) {
    Items adamw = make_items(1, true);
    Items sgd = make_items(100, false);
    const Tensor clip = Tensor::full({2}, std::nan(""), Dtype::f64);
    const Tensor device_clip = clip.to(kCuda);
    for (std::int64_t step = 1; step <= 3; ++step) {
      kernel::gradient_norm({}, {adamw.cpu_grads, max_norm, clip});
      kernel::gradient_norm(kCuda, {adamw.device_grads, max_norm, device_clip});
      CHECK(relative_error(device_clip, clip) <= 1e-12);
      CHECK((clip.item(1) < 1) == (max_norm > 0));
      AdamwArgs a{.items = adamw.cpu, .lr = 0.1, .weight_decay = 0.1, .step = step, .clip = clip};
      kernel::adamw_step({}, a);
      a.items = adamw.device;
      a.clip = device_clip;
      kernel::adamw_step(kCuda, a);
      SgdArgs s{.items = sgd.cpu, .lr = 0.1, .momentum = 0.9, .grad_scale = 0.5, .step = step};
      kernel::sgd_step({}, s);
      s.items = sgd.device;
      kernel::sgd_step(kCuda, s);
    }
    check_items(adamw, 1e-5);
    check_items(sgd, 1e-5);
  }
}

TEST_CASE("on the device a gradient that is not finite changes nothing") {
  if (!has_device()) return;
  const Items items = make_items(7, true);
  items.device_grads[5].slice(0, 1000, 1001).fill(std::nan(""));
  const Tensor clip = Tensor::zeros({2}, Dtype::f64, kCuda);
  kernel::gradient_norm(kCuda, {items.device_grads, 1, clip});
  CHECK(std::isnan(clip.item(0)));
  CHECK(std::isnan(clip.item(1)));
  kernel::adamw_step(kCuda, {.items = items.device, .lr = 0.1, .clip = clip});
  check_items(items, 0);
}
