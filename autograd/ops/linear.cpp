#include <memory>

#include "autograd/op_cases.h"
#include "autograd/ops.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/gather.h"
#include "engine/kernels/low_rank.h"
#include "engine/kernels/matmul.h"

namespace adder {
namespace {

Shape with_last(const Shape& shape, std::int64_t last) {
  Shape result = shape;
  result[result.rank() - 1] = last;
  return result;
}

bool is_consecutive(const std::vector<std::int32_t>& indices, std::int64_t* begin) {
  for (std::size_t i = 1; i < indices.size(); ++i) {
    if (indices[i] != indices[0] + static_cast<std::int32_t>(i)) return false;
  }
  *begin = indices.empty() ? 0 : indices[0];
  return true;
}

// A weight as products beside these activations take it: in their type where that is bfloat16.
Tensor beside(const Tensor& activations, const Tensor& weight) {
  return activations.dtype() == Dtype::bf16 ? weight.to(Dtype::bf16) : weight;
}

// Columns of x; `list` is `columns` where a kernel can read it.
Tensor take_columns(const Tensor& x, const std::vector<std::int32_t>& columns, const Tensor& list) {
  std::int64_t begin = 0;
  const auto count = static_cast<std::int64_t>(columns.size());
  if (is_consecutive(columns, &begin)) return x.slice(1, begin, begin + count);
  const Tensor out = Tensor::empty({x.dim(0), count}, x.dtype(), x.device());
  kernel::gather_columns(x.device(), {x, list, out});
  return out;
}

// dW = dy^T x, restricted to what W's slot wants, in the weight's own type.
void weight_gradient(GradSlot& slot, const Tensor& dy, const Tensor& x) {
  if (slot.wants_dense()) {
    const Tensor dw = Tensor::empty(slot.shape(), slot.dtype(), dy.device());
    kernel::matmul(dy.device(), {.a = dy, .b = x, .c = dw, .trans_a = true});
    slot.accumulate(dw);
    return;
  }
  for (const auto& selection : slot.selections()) {
    const IndexSet& index = selection->index;
    const Tensor compact = Tensor::empty(index.compact_shape(), slot.dtype(), dy.device());
    if (index.kind() == IndexSet::Kind::block) {
      kernel::matmul(dy.device(),
                     {.a = take_columns(dy, index.rows(), index.rows_on(dy.device())),
                      .b = take_columns(x, index.columns(), index.columns_on(x.device())),
                      .c = compact,
                      .trans_a = true});
      slot.accumulate(*selection, compact);
    } else {
      const Tensor dw = Tensor::empty(slot.shape(), slot.dtype(), dy.device());
      kernel::matmul(dy.device(), {.a = dy, .b = x, .c = dw, .trans_a = true});
      slot.accumulate(*selection, index.gather(dw));
    }
  }
}

struct Branch {
  LowRank spec;
  Tensor A, B;     // as products take them
  Tensor reduced;  // dropout(x) A^T, (rows, r)
  double scale;    // what `reduced` still lacks: 1 where it is scaled already
};

BranchDropout dropout_of(const LowRank& branch) {
  return {branch.dropout, branch.seed, branch.stream, branch.stream_offset};
}

// [x | s] where the branches' reduced inputs s shall stand behind the rows of x, such that one
// product with [W | B] writes y once. Undefined where two products move fewer bytes or exact
// results are kept: on the CPU, where x has no room, and where reading and writing the branches'
// part of y again costs less than copying W, which is converted anyway if it has another type.
Tensor joined_input(const Tensor& x, const Tensor& weight, std::span<const LowRank> branches) {
  if (x.device().is_cpu() || branches.empty()) return {};
  std::int64_t ranks = 0;
  std::int64_t rows_of_y = 0;
  for (const LowRank& branch : branches) {
    ranks += branch.A.dim(0);
    rows_of_y += branch.B.dim(0);
  }
  const bool converted = weight.dtype() != x.dtype();
  if (!converted && x.dim(0) * rows_of_y <= weight.numel()) return {};
  return x.take_room(ranks);
}

// [W | B] in the type of [x | s]; rows as far apart as products like them.
Tensor joined_weight(const Tensor& joined_x, const Tensor& weight,
                     const std::vector<Branch>& branches) {
  LowRankJoinArgs args{.W = weight, .B = {}, .row_begin = {}, .joined = {}};
  for (const Branch& branch : branches) {
    args.B.push_back(branch.B);
    args.row_begin.push_back(branch.spec.row_begin);
  }
  const std::int64_t columns = joined_x.dim(1);
  const std::int64_t apart = (columns + 7) / 8 * 8;
  args.joined =
      Tensor::empty({weight.dim(0), apart}, joined_x.dtype(), weight.device()).slice(1, 0, columns);
  kernel::low_rank_join(weight.device(), args);
  return args.joined;
}

void check(const Var& x, const Var& weight, const Var& bias, std::span<const LowRank> branches) {
  if (weight.shape().rank() != 2 || x.shape().rank() < 1 || x.dim(-1) != weight.dim(1)) {
    throw ShapeError(str("linear: x is ", x.shape(), ", weight is ", weight.shape(),
                         "; expected (..., in) and (out, in)"));
  }
  if (bias.defined()) check_shape("linear", "bias", bias.value(), {weight.dim(0)});
  for (const LowRank& branch : branches) {
    if (branch.A.shape().rank() != 2 || branch.B.shape().rank() != 2 ||
        branch.A.dim(1) != weight.dim(1) || branch.B.dim(1) != branch.A.dim(0) ||
        branch.row_begin < 0 || branch.row_begin + branch.B.dim(0) > weight.dim(0)) {
      throw ShapeError(str("linear: low-rank branch A ", branch.A.shape(), ", B ", branch.B.shape(),
                           " at row ", branch.row_begin, " does not fit weight ", weight.shape()));
    }
  }
}

}  // namespace

Var linear(const Var& x, const Var& weight, const Var& bias, std::span<const LowRank> branches) {
  check(x, weight, bias, branches);
  const Device device = x.value().device();
  const Tensor rows = x.value().flatten_rows();
  const Tensor y = Tensor::empty({rows.dim(0), weight.dim(0)}, x.dtype(), device);
  const Tensor joined = joined_input(rows, weight.value(), branches);
  Tensor w = weight.value();
  if (!joined.defined()) {
    w = beside(rows, w);
    kernel::matmul(device, {.a = rows, .b = w, .c = y, .trans_b = true});
    if (bias.defined()) kernel::add_bias(device, {bias.value(), y});
  }

  bool branch_grad = false;
  auto saved = std::make_shared<std::vector<Branch>>();
  std::int64_t column = rows.dim(1);
  for (const LowRank& branch : branches) {
    const Tensor A = beside(rows, branch.A.value());
    const Tensor B = beside(rows, branch.B.value());
    const std::int64_t rank = A.dim(0);
    const Tensor reduced = joined.defined() ? joined.slice(1, column, column + rank)
                                            : Tensor::empty({rows.dim(0), rank}, x.dtype(), device);
    column += rank;
    kernel::low_rank_reduce(device, {.x = rows,
                                     .A = A,
                                     .s = reduced,
                                     .alpha = joined.defined() ? branch.scale : 1,
                                     .dropout = dropout_of(branch)});
    if (!joined.defined()) {
      const Tensor part = y.slice(1, branch.row_begin, branch.row_begin + branch.B.dim(0));
      kernel::matmul(
          device,
          {.a = reduced, .b = B, .c = part, .trans_b = true, .alpha = branch.scale, .beta = 1});
    }
    branch_grad = branch_grad || branch.A.requires_grad() || branch.B.requires_grad();
    saved->push_back({branch, A, B, branch.B.requires_grad() ? reduced : Tensor(),
                      joined.defined() ? 1 : branch.scale});
  }
  if (joined.defined()) {
    const Tensor joined_w = joined_weight(joined, w, *saved);
    kernel::matmul(device, {.a = joined, .b = joined_w, .c = y, .trans_b = true});
    if (bias.defined()) kernel::add_bias(device, {bias.value(), y});
    if (w.dtype() != x.dtype()) w = joined_w.slice(1, 0, w.dim(1));  // converted, for the gradient
  }
  const Tensor shaped = y.reshape(with_last(x.shape(), weight.dim(0)));
  if (!Tape::needs_grad({&x, &weight, &bias}) && !(branch_grad && Tape::recording())) {
    return Var(shaped);
  }

  const Var out = Var::leaf(shaped);
  bool keep_x = weight.requires_grad();
  for (const LowRank& branch : branches) keep_x = keep_x || branch.A.requires_grad();
  const Tensor kept = keep_x ? rows : Tensor();
  Tape::record("linear", [out_slot = out.slot(), x_slot = x.slot(), w_slot = weight.slot(),
                          b_slot = bias.slot(), w, kept, saved, device] {
    const Tensor arrived = out_slot->take();
    if (!arrived.defined()) return;
    const Tensor dy = arrived.flatten_rows();
    // Where the input has a gradient already (another use of it), the product adds to that in
    // place.
    const bool add_in_place = x_slot && x_slot->selections().empty() && x_slot->grad().defined() &&
                              x_slot->grad().shares_memory_only_here();
    const GradOut fresh(add_in_place ? nullptr : x_slot);
    const Tensor dx = add_in_place ? x_slot->grad() : fresh.tensor();
    if (dx.defined()) {
      kernel::matmul(device,
                     {.a = dy, .b = w, .c = dx.flatten_rows(), .beta = add_in_place ? 1.0 : 0.0});
    }
    if (w_slot) weight_gradient(*w_slot, dy, kept);
    if (b_slot) {
      const Tensor db = Tensor::empty(b_slot->shape(), b_slot->dtype(), device);
      kernel::column_sum(device, {dy, db});
      b_slot->accumulate(db);
    }
    for (const Branch& branch : *saved) {
      const LowRank& spec = branch.spec;
      const Tensor dpart = dy.slice(1, spec.row_begin, spec.row_begin + spec.B.dim(0));
      if (spec.B.requires_grad()) {
        const Tensor db = Tensor::empty(spec.B.shape(), spec.B.dtype(), device);
        kernel::matmul(
            device,
            {.a = dpart, .b = branch.reduced, .c = db, .trans_a = true, .alpha = branch.scale});
        spec.B.slot()->accumulate(db);
      }
      if (!spec.A.requires_grad() && !dx.defined()) continue;
      const Tensor dreduced = Tensor::empty({dy.dim(0), spec.A.dim(0)}, dy.dtype(), device);
      kernel::matmul(device, {.a = dpart, .b = branch.B, .c = dreduced, .alpha = spec.scale});
      if (spec.A.requires_grad()) {
        const Tensor da = Tensor::empty(spec.A.shape(), spec.A.dtype(), device);
        kernel::low_rank_da(device,
                            {.ds = dreduced, .x = kept, .dA = da, .dropout = dropout_of(spec)});
        spec.A.slot()->accumulate(da);
      }
      if (!dx.defined()) continue;
      kernel::low_rank_dx(
          device,
          {.ds = dreduced, .A = branch.A, .dx = dx.flatten_rows(), .dropout = dropout_of(spec)});
    }
    fresh.commit();
  });
  return out;
}

std::vector<OpCase> linear_cases() {
  std::vector<OpCase> cases;
  const auto plain = [](const std::vector<Var>& in) -> std::vector<Var> {
    return {linear(in[0], in[1], in.size() > 2 ? in[2] : Var())};
  };
  for (const auto& [name, x, out] :
       {std::tuple{"one row", Shape{1, 5}, 3}, std::tuple{"one column", Shape{4, 1}, 1},
        std::tuple{"batch", Shape{2, 3, 7}, 5}}) {
    const std::int64_t width = x[x.rank() - 1];
    cases.push_back({.op = "linear",
                     .name = name,
                     .inputs = {{"x", x}, {"weight", {out, width}}},
                     .run = plain});
    cases.push_back({.op = "linear",
                     .name = str(name, ", bias"),
                     .inputs = {{"x", x}, {"weight", {out, width}}, {"bias", {out}}},
                     .run = plain});
  }
  for (const double p : {0.0, 0.3}) {
    cases.push_back({.op = "linear",
                     .name = p > 0 ? "two low-rank branches, dropout" : "two low-rank branches",
                     .inputs = {{"x", {2, 6, 7}},
                                {"weight", {9, 7}},
                                {"A0", {2, 7}},
                                {"B0", {4, 2}},
                                {"A1", {3, 7}},
                                {"B1", {5, 3}}},
                     .run = [p](const std::vector<Var>& in) -> std::vector<Var> {
                       const LowRank branches[] = {{in[2], in[3], 0, 0.5, p, 7, 0},
                                                   {in[4], in[5], 4, 2.0, p, 7, 1}};
                       return {linear(in[0], in[1], Var(), branches)};
                     }});
  }
  const std::int64_t rows = 1024;
  const std::int64_t in = 1536;
  const std::int64_t out = 768;
  cases.push_back({.op = "linear",
                   .name = "out_proj of mamba-130m, frozen, low-rank 8",
                   .inputs = {{"x", {rows, in}},
                              {"weight", {out, in}, -1, 1, false},
                              {"A", {8, in}},
                              {"B", {out, 8}}},
                   .run = [](const std::vector<Var>& v) -> std::vector<Var> {
                     const LowRank branch[] = {{v[2], v[3], 0, 1.0, 0, 0, 0}};
                     return {linear(v[0], v[1], Var(), branch)};
                   },
                   .flops = 4.0 * rows * in * out + 12.0 * rows * 8 * (in + out),
                   .bytes = 4.0 * (3.0 * rows * in + 2.0 * rows * out + 2.0 * in * out),
                   .benchmark = true});
  return cases;
}

}  // namespace adder
