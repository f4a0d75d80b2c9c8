// Real Fourier transforms of many sequences by cuFFT. Private to cuda/.
#pragma once

#include <cstdint>

#include "engine/device.h"

namespace adder::cuda {

// `batch` sequences of `length` elements one behind the other, into length / 2 + 1 pairs (re, im)
// each, and back without the factor 1 / length; the inverse overwrites its input. On the device's
// stream. Plans are kept for each device, length and batch.
void fft_forward(Device device, std::int64_t length, std::int64_t batch, float* from, float* to);
void fft_inverse(Device device, std::int64_t length, std::int64_t batch, float* from, float* to);
void fft_forward(Device device, std::int64_t length, std::int64_t batch, double* from, double* to);
void fft_inverse(Device device, std::int64_t length, std::int64_t batch, double* from, double* to);

}  // namespace adder::cuda
