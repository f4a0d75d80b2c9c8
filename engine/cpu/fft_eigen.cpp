// Fourier transforms by Eigen's own implementation (kissfft).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <unsupported/Eigen/FFT>

#include "engine/cpu/fft.h"

namespace adder::cpu {

struct Fft::Plan {
  explicit Plan(std::int64_t n) : length(static_cast<int>(n)) {}
  Eigen::internal::kissfft_impl<double> kiss;
  int length;
};

Fft::Fft(std::int64_t length) : plan_(std::make_unique<Plan>(length)) {}
Fft::~Fft() = default;

void Fft::forward(const std::complex<double>* from, std::complex<double>* to) {
  // Eigen's would use scratch memory that it does not have for the factor 1.
  if (plan_->length == 1) {
    *to = *from;
    return;
  }
  plan_->kiss.fwd(to, from, plan_->length);
}

void Fft::inverse(const std::complex<double>* from, std::complex<double>* to) {
  if (plan_->length == 1) {
    *to = *from;
    return;
  }
  plan_->kiss.inv(to, from, plan_->length);
}

}  // namespace adder::cpu
