// The figures, by family.
#pragma once

#include "bench/cuda/harness.h"
#include "models/mamba_config.h"

namespace adder::bench {

void scan_rows(Harness& harness);     // selective scan and the convolution in front of it
void layer_rows(Harness& harness);    // norm, element-wise maps, embedding, loss, gathers, copies
void product_rows(Harness& harness);  // matrix products and low-rank branches at a model's shapes
void step_rows(Harness& harness);     // whole training steps, optimiser updates, decoding

// The least of one call, as floors count it.
Work scan_forward_work(double rows, double channels, double states, double size);
Work scan_backward_work(double rows, double channels, double states, double size);
Work conv_work(double elements, double size, bool backward);

}  // namespace adder::bench
