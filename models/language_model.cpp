#include "models/language_model.h"

#include "engine/kernels/matmul.h"

namespace adder {

HeadLossResult LanguageModel::loss(const Tensor& ids, const Tensor& labels,
                                   const ForwardContext& context, std::int64_t denominator) const {
  check_shape("loss", "labels", labels, ids.shape());
  return head_loss(hidden(ids, context), head_table(), labels, denominator);
}

Tensor LanguageModel::head_logits(const Tensor& rows) const {
  const Dtype dtype = rows.dtype() == Dtype::bf16 ? Dtype::f32 : rows.dtype();
  const Tensor out = Tensor::empty({rows.dim(0), vocab_size()}, dtype, rows.device());
  kernel::matmul(rows.device(), {.a = rows, .b = head_table().value(), .c = out, .trans_b = true});
  return out;
}

HeadLossResult LanguageModel::loss(const Tensor& ids, const SupervisedRows& rows,
                                   const ForwardContext& context, std::int64_t denominator) const {
  return head_loss(hidden(ids, context), head_table(), rows, denominator);
}

Tensor LanguageModel::logits(const Tensor& ids) const {
  const Tape::Pause pause;
  const Tensor out = head_logits(hidden(ids, {}).value().flatten_rows());
  Shape shape = ids.shape();
  shape.push_back(vocab_size());
  return out.reshape(shape);
}

}  // namespace adder
