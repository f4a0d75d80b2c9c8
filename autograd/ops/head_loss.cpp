#include <algorithm>
#include <optional>

#include "autograd/op_cases.h"
#include "autograd/ops.h"
#include "engine/kernels/embedding.h"
#include "engine/kernels/gather.h"
#include "engine/kernels/matmul.h"

namespace adder {
namespace {

constexpr std::int64_t kChunkRows = 256;

void check(const Var& hidden, const Var& table) {
  if (table.shape().rank() != 2 || hidden.shape().rank() < 2 || hidden.dim(-1) != table.dim(1)) {
    throw ShapeError(str("head_loss: hidden is ", hidden.shape(), ", table is ", table.shape(),
                         "; expected (..., D) and (V, D)"));
  }
}

}  // namespace

SupervisedRows supervised_rows(const Tensor& labels, std::int64_t vocabulary) {
  std::vector<std::int64_t> rows;
  std::vector<std::int32_t> targets;
  const Tensor flat = labels.to(Device{}).reshape({-1});
  const std::int32_t* label = flat.data<std::int32_t>();
  for (std::int64_t i = 0; i < flat.numel(); ++i) {
    if (label[i] == kIgnoreLabel) continue;
    if (label[i] < 0 || label[i] >= vocabulary) {
      throw ShapeError(str("head_loss: label ", label[i], " at position ", i,
                           " lies outside the vocabulary of ", vocabulary));
    }
    rows.push_back(i);
    targets.push_back(label[i]);
  }
  const auto count = static_cast<std::int64_t>(rows.size());
  return {Tensor::from({count}, rows), Tensor::from({count}, targets)};
}

HeadLossResult head_loss(const Var& hidden, const Var& table, const Tensor& labels,
                         std::int64_t denominator) {
  check(hidden, table);
  if (labels.numel() * hidden.dim(-1) != hidden.value().numel()) {
    throw ShapeError(str("head_loss: labels are ", labels.shape(), " for hidden ", hidden.shape()));
  }
  return head_loss(hidden, table, supervised_rows(labels, table.dim(0)), denominator);
}

HeadLossResult head_loss(const Var& hidden, const Var& table, const SupervisedRows& supervised,
                         std::int64_t denominator) {
  check(hidden, table);
  const Tensor rows = hidden.value().flatten_rows();
  const Device device = rows.device();
  const Dtype dtype = rows.dtype();
  // Beside bfloat16 activations the logits are float32, as three digits of them would be three of
  // the loss; their gradient, which goes into products with what has three digits, is bfloat16.
  const bool narrow = dtype == Dtype::bf16;
  const Dtype wide = narrow ? Dtype::f32 : dtype;
  const Tensor weights = narrow ? table.value().to(dtype) : table.value();
  const std::int64_t width = rows.dim(1);
  const std::int64_t vocabulary = table.dim(0);
  const std::int64_t count = supervised.rows.numel();
  const double factor =
      1.0 / static_cast<double>(denominator > 0 ? denominator : std::max<std::int64_t>(count, 1));
  const bool needs = Tape::needs_grad({&hidden, &table});

  HeadLossResult result;
  result.supervised = count;
  // The loss is the last operation, so its gradient is formed here, while a chunk's logits exist,
  // for an incoming gradient of one; backward only scales.
  const Tensor dhidden =
      needs && hidden.requires_grad() ? Tensor::zeros(rows.shape(), dtype, device) : Tensor();
  const Tensor dtable =
      needs && table.requires_grad() ? Tensor::zeros({vocabulary, width}, wide, device) : Tensor();
  const std::int64_t chunk = std::min(kChunkRows, std::max<std::int64_t>(count, 1));
  const Tensor logits_space = Tensor::empty({chunk, vocabulary}, wide, device);
  const Tensor gradient_space =
      narrow && needs ? Tensor::empty({chunk, vocabulary}, dtype, device) : logits_space;
  const Tensor row_list = supervised.rows.to(device);
  const Tensor targets = supervised.targets.to(device);
  const Tensor losses = Tensor::empty({count}, Dtype::f64, device);
  const Tensor argmax = Tensor::empty({count}, Dtype::i32, device);
  for (std::int64_t begin = 0; begin < count; begin += chunk) {
    const std::int64_t end = std::min(begin + chunk, count);
    const std::int64_t n = end - begin;
    const Tensor packed = Tensor::empty({n, width}, dtype, device);
    const Tensor chunk_rows = row_list.slice(0, begin, end);
    kernel::gather_rows(device, {rows, chunk_rows, packed});
    const Tensor logits = logits_space.slice(0, 0, n);
    const Tensor gradient = gradient_space.slice(0, 0, n);
    kernel::matmul(device, {.a = packed, .b = weights, .c = logits, .trans_b = true});
    kernel::cross_entropy(device, {.logits = logits,
                                   .targets = targets.slice(0, begin, end),
                                   .losses = losses.slice(0, begin, end),
                                   .argmax = argmax.slice(0, begin, end),
                                   .write_gradient = needs,
                                   .scale = factor,
                                   .gradient = gradient});
    if (dhidden.defined()) {
      const Tensor dpacked = Tensor::empty({n, width}, dtype, device);
      kernel::matmul(device, {.a = gradient, .b = weights, .c = dpacked});
      kernel::scatter_rows(device, {dpacked, chunk_rows, dhidden});
    }
    if (dtable.defined()) {
      kernel::matmul(device, {.a = gradient, .b = packed, .c = dtable, .trans_a = true, .beta = 1});
    }
  }
  result.sums = Tensor::empty({2}, Dtype::f64, device);
  const Tensor loss = Tensor::empty({1}, wide, device);
  kernel::loss_sums(device, {.losses = losses,
                             .argmax = argmax,
                             .targets = targets,
                             .sums = result.sums,
                             .loss = loss,
                             .factor = factor});
  if (!needs) {
    result.loss = Var(loss);
    return result;
  }
  result.loss = Var::leaf(loss);
  Tape::record("head_loss", [dhidden, dtable, shape = hidden.shape(), out_slot = result.loss.slot(),
                             h_slot = hidden.slot(), t_slot = table.slot()] {
    const std::optional<double> known = out_slot->known_seed();
    const Tensor seed = out_slot->take();
    if (!seed.defined()) return;
    const double incoming = known ? *known : seed.item();
    if (dhidden.defined()) {
      if (incoming != 1) dhidden.scale_(incoming);
      h_slot->accumulate(dhidden.reshape(shape));
    }
    if (dtable.defined()) {
      if (incoming != 1) dtable.scale_(incoming);
      t_slot->accumulate(dtable);
    }
  });
  return result;
}

std::vector<OpCase> head_loss_cases() {
  const auto with_labels = [](Shape shape, const std::vector<std::int32_t>& labels) {
    const Tensor tensor = Tensor::from(shape, labels);
    return [tensor](const std::vector<Var>& in) -> std::vector<Var> {
      return {head_loss(in[0], in[1], tensor).loss};
    };
  };
  std::vector<std::int32_t> many(1024, 0);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = static_cast<std::int32_t>(i * 48);
  return {{.op = "head_loss",
           .name = "some supervised",
           .inputs = {{"hidden", {2, 3, 4}}, {"table", {5, 4}}},
           .run = with_labels({2, 3}, {1, -100, 4, -100, 0, 4})},
          {.op = "head_loss",
           .name = "one position, one class",
           .inputs = {{"hidden", {1, 3}}, {"table", {1, 3}}},
           .run = with_labels({1}, {0})},
          {.op = "head_loss",
           .name = "large logits",
           .inputs = {{"hidden", {3, 4}, -9, 9}, {"table", {6, 4}, -2, 2}},
           .run = with_labels({3}, {5, 0, 2})},
          {.op = "head_loss",
           .name = "mamba-130m, frozen table, 1024 positions",
           .inputs = {{"hidden", {1024, 768}, -0.1, 0.1}, {"table", {50280, 768}, -1, 1, false}},
           .run = with_labels({1024}, many),
           .flops = 4.0 * 1024 * 768 * 50280,
           .bytes = 4.0 * 2 * 4 * 50280 * 768,
           .benchmark = true}};
}

}  // namespace adder
