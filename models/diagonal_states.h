// DiagonalStates: the diagonal state matrix of one S4 layer as adapters see it, whichever model it
// belongs to.
#pragma once

#include <cstdint>
#include <string>

#include "engine/kernels/s4.h"
#include "models/linear_map.h"
#include "models/state_map.h"

namespace adder {

// H channels with N complex modes each; S copies of A and B (channel h has copy h mod S); M kernels
// of C for each channel. The map behind the layer reads a multiple of H values, value i that of
// channel i mod H. Everything is owned by the model.
struct DiagonalStates {
  std::string name;             // of the layer: "layers.0"
  StateMap* C = nullptr;        // (H, N, 2) or (M, H, N, 2)
  StateMap* A_real = nullptr;   // (S, N): log(-Re A)
  StateMap* A_imag = nullptr;   // (S, N): options.imag_sign Im A
  ParameterPtr log_dt;          // (H) or (H, 1)
  ParameterPtr B;               // (1, S, N, 2), or null: 1
  ParameterPtr D;               // (H) or (channels, H)
  LinearMap* output = nullptr;  // null where none follows
  S4Options options;
  std::string channels_key = "d_model";  // what of the model's configuration sets H
  bool low_rank = false;  // A has a low-rank part besides, and C is stored for a length

  std::int64_t copies() const { return A_real->base->value().dim(0); }  // S
  std::int64_t states() const { return A_real->base->value().dim(1); }  // N
  std::int64_t channels() const { return log_dt->value().dim(0); }      // H
  std::int64_t kernels() const { return C->rows() / channels(); }       // M
};

}  // namespace adder
