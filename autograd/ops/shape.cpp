#include <numeric>

#include "autograd/op_cases.h"
#include "autograd/ops.h"

namespace adder {

Var reshape(const Var& x, Shape shape) {
  const Tensor y = x.value().reshape(shape);
  if (!Tape::needs_grad({&x})) return Var(y);
  const Var out = Var::leaf(y);
  Tape::record("reshape", [shape = x.shape(), out_slot = out.slot(), x_slot = x.slot()] {
    const Tensor dy = out_slot->take();
    if (dy.defined()) x_slot->accumulate(dy.reshape(shape));
  });
  return out;
}

Var slice(const Var& x, int axis, std::int64_t begin, std::int64_t end) {
  const Tensor y = x.value().slice(axis, begin, end);
  if (!Tape::needs_grad({&x})) return Var(y);
  const Var out = Var::leaf(y);
  Tape::record("slice",
               [axis, begin, end, shape = x.shape(), out_slot = out.slot(), x_slot = x.slot()] {
                 const Tensor dy = out_slot->take();
                 if (!dy.defined()) return;
                 const Tensor dx = Tensor::zeros(shape, dy.dtype(), dy.device());
                 dx.slice(axis, begin, end).copy_from(dy);
                 x_slot->accumulate(dx);
               });
  return out;
}

Var transpose(const Var& x, int a, int b) {
  const Tensor y = x.value().transpose(a, b).clone();
  if (!Tape::needs_grad({&x})) return Var(y);
  const Var out = Var::leaf(y);
  Tape::record("transpose", [a, b, out_slot = out.slot(), x_slot = x.slot()] {
    const Tensor dy = out_slot->take();
    if (dy.defined()) x_slot->accumulate(dy.transpose(a, b).clone());
  });
  return out;
}

Var concat_last(const std::vector<Var>& parts) {
  if (parts.empty()) throw ShapeError("concat_last: no parts");
  Shape shape = parts[0].shape();
  std::int64_t width = 0;
  for (const Var& part : parts) {
    Shape expected = shape;
    expected[shape.rank() - 1] = part.dim(-1);
    check_shape("concat_last", "part", part.value(), expected);
    width += part.dim(-1);
  }
  shape[shape.rank() - 1] = width;
  const Tensor y = Tensor::empty(shape, parts[0].dtype(), parts[0].value().device());
  bool needs = false;
  std::vector<SlotPtr> slots;
  std::vector<std::int64_t> sizes;
  std::int64_t begin = 0;
  for (const Var& part : parts) {
    y.slice(-1, begin, begin + part.dim(-1)).copy_from(part.value());
    begin += part.dim(-1);
    needs = needs || Tape::needs_grad({&part});
    slots.push_back(part.slot());
    sizes.push_back(part.dim(-1));
  }
  if (!needs) return Var(y);
  const Var out = Var::leaf(y);
  Tape::record("concat_last", [slots, sizes, out_slot = out.slot()] {
    const Tensor dy = out_slot->take();
    if (!dy.defined()) return;
    std::int64_t at = 0;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      if (slots[i]) slots[i]->accumulate(dy.slice(-1, at, at + sizes[i]).clone());
      at += sizes[i];
    }
  });
  return out;
}

std::vector<Var> split_last(const Var& x, const std::vector<std::int64_t>& sizes) {
  const std::int64_t width = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
  if (x.shape().rank() < 1 || x.dim(-1) != width) {
    throw ShapeError(str("split_last: pieces add up to ", width, ", x is ", x.shape()));
  }
  const bool needs = Tape::needs_grad({&x});
  auto target = std::make_shared<SplitTarget>();
  target->shape = x.shape();
  target->dtype = x.dtype();
  target->device = x.value().device();
  std::vector<Var> parts;
  std::vector<SlotPtr> slots;
  std::int64_t begin = 0;
  for (const std::int64_t size : sizes) {
    const Tensor part = x.value().slice(-1, begin, begin + size);
    if (needs) {
      parts.push_back(Var::leaf(part));
      parts.back().slot()->target_ = target;
      parts.back().slot()->target_begin_ = begin;
      slots.push_back(parts.back().slot());
    } else {
      parts.emplace_back(part);
    }
    begin += size;
  }
  if (!needs) return parts;
  Tape::record("split_last", [target, slots, sizes, x_slot = x.slot()] {
    bool any = false;
    for (const SlotPtr& slot : slots) any = any || slot->grad().defined();
    if (!any) return;
    std::int64_t at = 0;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const Tensor gradient = slots[i]->take();
      const Tensor place = target->part(at, at + sizes[i]);
      if (!gradient.defined()) {
        place.fill(0);
      } else if (gradient.raw() != place.raw()) {
        place.copy_from(gradient);  // it was formed elsewhere
      }
      at += sizes[i];
    }
    x_slot->accumulate(target->whole);
    target->whole = Tensor();
  });
  return parts;
}

std::vector<OpCase> shape_cases() {
  std::vector<OpCase> cases;
  const OpInput x{"x", {2, 3, 4}};
  using Run = std::function<std::vector<Var>(const std::vector<Var>&)>;
  const auto add_case = [&](const char* op, const char* name, Run run) {
    cases.push_back({.op = op, .name = name, .inputs = {x}, .run = std::move(run)});
  };
  add_case("reshape", "merge axes", [](const std::vector<Var>& in) -> std::vector<Var> {
    return {square(reshape(in[0], {6, 4}))};
  });
  add_case("slice", "middle axis", [](const std::vector<Var>& in) -> std::vector<Var> {
    return {square(slice(in[0], 1, 1, 3)), slice(in[0], 2, 0, 1)};
  });
  add_case("transpose", "outer axes", [](const std::vector<Var>& in) -> std::vector<Var> {
    return {square(transpose(in[0], 0, 2))};
  });
  add_case("split_last", "all parts used", [](const std::vector<Var>& in) -> std::vector<Var> {
    const auto parts = split_last(in[0], {1, 3});
    return {square(parts[0]), silu(parts[1])};
  });
  add_case("split_last", "one part unused, one used twice",
           [](const std::vector<Var>& in) -> std::vector<Var> {
             const auto parts = split_last(in[0], {1, 2, 1});
             return {add(square(parts[1]), parts[1]), concat_last({parts[2], square(parts[1])})};
           });
  add_case("concat_last", "same twice", [](const std::vector<Var>& in) -> std::vector<Var> {
    return {square(concat_last({in[0], in[0]}))};
  });
  return cases;
}

}  // namespace adder
