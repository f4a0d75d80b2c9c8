// What training, evaluation and generation need of a language model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/model.h"

namespace adder {

// The recurrent state of a batch of sequences between two tokens.
class DecodingState {
 public:
  virtual ~DecodingState() = default;
  virtual std::int64_t batch() const = 0;
  // Row i becomes what row rows[i] was (beam search); the batch may change size.
  virtual void reorder(const std::vector<std::int64_t>& rows) = 0;
};

class LanguageModel : public Model {
 public:
  virtual std::int64_t vocab_size() const = 0;  // rows of the head, padding included
  // Final hidden states (B, L, D) of int32 ids (B, L). Throws ShapeError for ids outside the
  // vocabulary.
  virtual Var hidden(const Tensor& ids, const ForwardContext& context) const = 0;
  virtual Var head_table() const = 0;  // (V, D)

  // Recurrent form, without gradients.
  virtual std::unique_ptr<DecodingState> new_state(std::int64_t batch) const = 0;
  // Feeds whole prompts in the parallel form; returns the logits after the last token (B, V).
  virtual Tensor prefill(const Tensor& ids, DecodingState& state) const = 0;
  // Feeds one token per sequence: ids (B) int32; returns logits (B, V).
  virtual Tensor step(const Tensor& ids, DecodingState& state) const = 0;

  // Mean cross entropy of labels (B, L); see head_loss.
  HeadLossResult loss(const Tensor& ids, const Tensor& labels, const ForwardContext& context,
                      std::int64_t denominator = 0) const;
  // The same where ids and rows may lie on the device already; ids there are not checked.
  HeadLossResult loss(const Tensor& ids, const SupervisedRows& rows, const ForwardContext& context,
                      std::int64_t denominator = 0) const;
  // Logits (rows, V) of final hidden states (rows, D), float32 also where those are bfloat16;
  // without gradients.
  Tensor head_logits(const Tensor& rows) const;
  // Logits (B, L, V), without gradients.
  Tensor logits(const Tensor& ids) const;
};

}  // namespace adder
