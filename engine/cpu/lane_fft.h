// Fourier transforms of one sequence per vector lane, all at once and in place. Private to
// engine/cpu.
//
// For convolutions: the forward transform decimates in frequency and leaves its result in an order
// of its own, the inverse decimates in time and takes it from there, so nothing is ever reordered;
// spectra of one length may be multiplied element by element. A library's transform of one sequence
// after the other (fft.h) leaves most of a vector unit idle.
//
// Sequences of a convolution fill half of a transform. padded_forward and halved_inverse know that:
// their outermost stage reads its input from the caller, never touches the zeros behind it, and
// hands the half that is wanted to the caller.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "engine/cpu/lane_butterfly.h"
#include "engine/cpu/vec.h"

namespace adder::cpu {

template <typename T>
class LaneFft {
 public:
  // Elements that callers load and store at once: square tiles for transposes.
  static constexpr std::int64_t kTile = kLanes<T>;

  // `length` has no prime factors but 2, 3 and 5. Throws ShapeError otherwise.
  explicit LaneFft(std::int64_t length);

  std::int64_t length() const { return length_; }
  // Elements of a buffer: (length, re and im, lane).
  std::size_t size() const { return static_cast<std::size_t>(length_) * 2 * kLanes<T>; }

  // x_t to sum_t x_t e^(-2 pi i j t / length), and back without the factor 1 / length. Thread-safe.
  void forward(T* x) const { forward_from(0, x); }
  void inverse(T* x) const { inverse_from(0, x); }

  // forward() of `used` elements and zeros behind them; 1 <= used <= length / 2.
  // load(t, count, to) puts elements t … t + count - 1 to `to`, count <= kTile.
  template <typename Load>
  void padded_forward(std::int64_t used, const Load& load, T* x) const {
    outermost([&](auto radix) { first_stage<radix()>(used, load, x); });
    each_block([&](std::int64_t begin, std::int64_t) { forward_from(1, x + begin * kElement); });
  }
  // The first `wanted` elements of inverse(); 1 <= wanted <= length / 2. x is overwritten.
  // store(t, count, from) takes them as load gives them.
  template <typename Store>
  void halved_inverse(T* x, std::int64_t wanted, const Store& store) const {
    each_block([&](std::int64_t begin, std::int64_t) { inverse_from(1, x + begin * kElement); });
    outermost([&](auto radix) { last_stage<radix()>(x, wanted, store); });
  }
  // padded_forward, change(begin, count) of spectrum elements in x, and halved_inverse. Blocks of
  // the spectrum stay in the nearest cache between their way there and back.
  template <typename Load, typename Change, typename Store>
  void through(std::int64_t used, const Load& load, const Change& change, std::int64_t wanted,
               const Store& store, T* x) const {
    outermost([&](auto radix) { first_stage<radix()>(used, load, x); });
    each_block([&](std::int64_t begin, std::int64_t count) {
      there_and_back(1, begin, count, x, change);
    });
    outermost([&](auto radix) { last_stage<radix()>(x, wanted, store); });
  }

 private:
  static constexpr std::int64_t kElement = 2 * kLanes<T>;
  static constexpr std::int64_t kCachedBytes = 1 << 14;
  // The parts of a padded sequence's outermost butterfly that hold more than zeros.
  static constexpr int filled(int radix) { return (radix + 1) / 2; }

  struct Stage {
    int radix;
    std::int64_t distance;    // between the elements of a butterfly
    std::vector<T> twiddles;  // (distance, radix - 1) pairs
  };
  template <typename F>
  void outermost(const F& f) const {
    switch (stages_.front().radix) {
      case 2:
        return f(std::integral_constant<int, 2>{});
      case 3:
        return f(std::integral_constant<int, 3>{});
      case 4:
        return f(std::integral_constant<int, 4>{});
      case 8:
        return f(std::integral_constant<int, 8>{});
      default:
        return f(std::integral_constant<int, 5>{});
    }
  }
  // f(begin, count) for the outermost stage's blocks of elements.
  template <typename F>
  void each_block(const F& f) const {
    const Stage& stage = stages_.front();
    for (int r = 0; r < stage.radix; ++r) f(r * stage.distance, stage.distance);
  }

  template <int kRadix, typename Load>
  void first_stage(std::int64_t used, const Load& load, T* x) const {
    const Stage& stage = stages_.front();
    alignas(64) T tiles[filled(kRadix)][kTile * kElement];
    for (std::int64_t j = 0; j < stage.distance; j += kTile) {
      const std::int64_t count = std::min(kTile, stage.distance - j);
      for (int r = 0; r < filled(kRadix); ++r) {
        const std::int64_t t = j + r * stage.distance;
        const std::int64_t there = std::clamp<std::int64_t>(used - t, 0, count);
        if (there > 0) load(t, there, tiles[r]);
        std::fill(tiles[r] + there * kElement, tiles[r] + count * kElement, T{0});
      }
      for (std::int64_t i = 0; i < count; ++i) {
        lanes::Complex<T> v[kRadix] = {};
        for (int r = 0; r < filled(kRadix); ++r) {
          const T* at = tiles[r] + i * kElement;
          v[r] = {cpu::load(at), cpu::load(at + kLanes<T>)};
        }
        lanes::butterfly<T, kRadix, false>(v);
        const T* twiddles = stage.twiddles.data() + (j + i) * 2 * (kRadix - 1);
        for (int r = 0; r < kRadix; ++r) {
          if (r > 0) {
            v[r] = lanes::twiddled<T, false>(v[r], twiddles[2 * r - 2], twiddles[2 * r - 1]);
          }
          T* at = x + (j + i + r * stage.distance) * kElement;
          cpu::store(at, v[r].re);
          cpu::store(at + kLanes<T>, v[r].im);
        }
      }
    }
  }

  template <int kRadix, typename Store>
  void last_stage(const T* x, std::int64_t wanted, const Store& store) const {
    const Stage& stage = stages_.front();
    alignas(64) T tiles[filled(kRadix)][kTile * kElement];
    for (std::int64_t j = 0; j < stage.distance; j += kTile) {
      const std::int64_t count = std::min(kTile, stage.distance - j);
      for (std::int64_t i = 0; i < count; ++i) {
        const T* twiddles = stage.twiddles.data() + (j + i) * 2 * (kRadix - 1);
        lanes::Complex<T> v[kRadix];
        for (int r = 0; r < kRadix; ++r) {
          const T* at = x + (j + i + r * stage.distance) * kElement;
          v[r] = {cpu::load(at), cpu::load(at + kLanes<T>)};
          if (r > 0) {
            v[r] = lanes::twiddled<T, true>(v[r], twiddles[2 * r - 2], twiddles[2 * r - 1]);
          }
        }
        lanes::butterfly<T, kRadix, true>(v);
        for (int r = 0; r < filled(kRadix); ++r) {
          T* at = tiles[r] + i * kElement;
          cpu::store(at, v[r].re);
          cpu::store(at + kLanes<T>, v[r].im);
        }
      }
      for (int r = 0; r < filled(kRadix); ++r) {
        const std::int64_t t = j + r * stage.distance;
        if (t < wanted) store(t, std::min(count, wanted - t), tiles[r]);
      }
    }
  }

  template <typename Change>
  void there_and_back(std::size_t number, std::int64_t begin, std::int64_t count, T* x,
                      const Change& change) const {
    T* block = x + begin * kElement;
    const bool cached = count * kElement * static_cast<std::int64_t>(sizeof(T)) <= kCachedBytes;
    if (cached || number == stages_.size()) {
      forward_from(number, block);
      change(begin, count);
      inverse_from(number, block);
      return;
    }
    run_stage(number, false, block);
    const Stage& stage = stages_[number];
    for (int r = 0; r < stage.radix; ++r) {
      there_and_back(number + 1, begin + r * stage.distance, stage.distance, x, change);
    }
    run_stage(number, true, block);
  }

  // All butterflies of a stage in one of its blocks.
  void run_stage(std::size_t number, bool inverse, T* block) const;
  void forward_from(std::size_t stage, T* x) const;
  void inverse_from(std::size_t stage, T* x) const;

  std::int64_t length_;
  std::vector<Stage> stages_;
};

extern template class LaneFft<float>;
extern template class LaneFft<double>;

}  // namespace adder::cpu
