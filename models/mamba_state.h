// The recurrent state of a Mamba: per layer the last K convolution inputs and the scan's state.
#pragma once

#include <vector>

#include "models/language_model.h"

namespace adder {

class MambaState final : public DecodingState {
 public:
  std::int64_t batch() const override { return conv.empty() ? 0 : conv[0].dim(0); }
  void reorder(const std::vector<std::int64_t>& rows) override;

  std::vector<Tensor> conv;  // (B, K, E), oldest first, of the activations' type
  std::vector<Tensor> scan;  // (B, E, N)
};

}  // namespace adder
