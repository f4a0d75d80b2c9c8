// Fourier transforms of one sequence per vector lane, all at once and in place. Private to
// engine/cpu.
//
// For convolutions: the forward transform decimates in frequency and leaves its result in an order
// of its own, the inverse decimates in time and takes it from there, so nothing is ever reordered;
// spectra of one length may be multiplied element by element. A library's transform of one sequence
// after the other (fft.h) leaves most of a vector unit idle.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/cpu/vec.h"

namespace adder::cpu {

template <typename T>
class LaneFft {
 public:
  // `length` has no prime factors but 2, 3 and 5. Throws ShapeError otherwise.
  explicit LaneFft(std::int64_t length);

  std::int64_t length() const { return length_; }
  // Elements of a buffer: (length, re and im, lane).
  std::size_t size() const { return static_cast<std::size_t>(length_) * 2 * kLanes<T>; }

  // x_t to sum_t x_t e^(-2 pi i j t / length), and back without the factor 1 / length. Thread-safe.
  void forward(T* x) const { forward_from(0, x); }
  void inverse(T* x) const { inverse_from(0, x); }

 private:
  struct Stage {
    int radix;
    std::int64_t distance;    // between the elements of a butterfly
    std::vector<T> twiddles;  // (distance, radix - 1) pairs
  };
  void forward_from(std::size_t stage, T* x) const;
  void inverse_from(std::size_t stage, T* x) const;

  std::int64_t length_;
  std::vector<Stage> stages_;
};

extern template class LaneFft<float>;
extern template class LaneFft<double>;

}  // namespace adder::cpu
