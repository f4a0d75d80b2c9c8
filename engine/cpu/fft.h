// Complex discrete Fourier transforms of any length. Private to engine/cpu.
#pragma once

#include <complex>
#include <cstdint>
#include <memory>

namespace adder::cpu {

// X_j = sum_t x_t e^(-2 pi i j t / n), and the inverse without its factor 1 / n, in float64. An
// object holds the tables of one length and scratch memory, so each thread has its own.
class Fft {
 public:
  explicit Fft(std::int64_t length);
  ~Fft();
  Fft(const Fft&) = delete;
  Fft& operator=(const Fft&) = delete;

  // `from` and `to` have `length` elements and do not overlap.
  void forward(const std::complex<double>* from, std::complex<double>* to);
  void inverse(const std::complex<double>* from, std::complex<double>* to);

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

}  // namespace adder::cpu
