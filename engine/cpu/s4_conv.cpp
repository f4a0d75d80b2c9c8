// Causal convolution through Fourier transforms of s4_fft_length(L) >= 2 L elements, beyond which
// nothing wraps around. Lanes are channels. Two sequences u and v of a channel share a transform as
// u + i v: the kernel is real, so their outputs are the real and the imaginary part of the result.
// Where a sequence's steps lie side by side, tiles are transposed on their way between the tensors
// and the outermost stage of a transform.
#include <algorithm>

#include "engine/cpu/lane_fft.h"
#include "engine/cpu/s4_common.h"
#include "engine/cpu/transpose.h"

namespace adder::cpu {
namespace {

// The kernel's gradient sums over the batch in this many parts at most, whatever the threads.
constexpr std::int64_t kMostParts = 8;
// Elements between what is read and what is asked for from memory.
constexpr std::int64_t kAhead = 32;

template <typename T>
class Convolution {
 public:
  Convolution(const Tensor& u, const Tensor& K, const Tensor& D, bool bidirectional)
      : batch_(u.dim(0)),
        channels_(u.dim(1)),
        length_(u.dim(2)),
        outputs_(bidirectional ? K.dim(0) / 2 : K.dim(0)),
        groups_((channels_ + kWidth - 1) / kWidth),
        pairs_((batch_ + 1) / 2),
        bidirectional_(bidirectional),
        fft_(s4_fft_length(length_)),
        factor_(T{1} / static_cast<T>(fft_.length())),
        u_(u),
        K_(K),
        D_(D) {}

  void forward(const S4ConvFwdArgs& args) {
    const Output y(args.y);
    transform_kernels();
    parallel_shares(groups_ * pairs_, [&](std::int64_t begin, std::int64_t end) {
      const Tensor buffers = workspace(outputs_ > 1 ? 2 : 1);
      T* signal = buffers.data<T>();
      T* product = signal + fft_.size();  // several outputs only
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item / pairs_;
        const std::int64_t b = item % pairs_ * 2;
        const auto to_output = [&](std::int64_t m) { return storing(y, b, m, group); };
        if (outputs_ == 1) {
          const auto filter = [&](std::int64_t first, std::int64_t count) {
            multiply(first, count, signal, kernel(group, 0), signal);
          };
          fft_.through(length_, loading(u_, b, 0, group), filter, length_, to_output(0), signal);
          continue;
        }
        fft_.padded_forward(length_, loading(u_, b, 0, group), signal);
        for (std::int64_t m = 0; m < outputs_; ++m) {
          multiply(0, fft_.length(), signal, kernel(group, m), product);
          fft_.halved_inverse(product, length_, to_output(m));
        }
      }
      streamed();
    });
  }

  void backward(const S4ConvBwdArgs& args) {
    const Sequences<T> dy(args.dy);
    const Output du(args.du);
    const bool wants_sums = args.dK.defined() || args.dD.defined();
    if (du) transform_kernels();
    const std::int64_t parts = std::min(pairs_, kMostParts);
    const Tensor sums = wants_sums ? workspace(groups_ * parts * outputs_) : Tensor();
    parallel_shares(groups_ * parts, [&](std::int64_t begin, std::int64_t end) {
      const Tensor buffers = workspace(outputs_ > 1 ? 3 : 2);
      T* signal = buffers.data<T>();
      T* slope = signal + fft_.size();
      T* input = slope + fft_.size();  // several outputs only
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item / parts;
        const std::int64_t part = item % parts;
        T* own = wants_sums ? spectrum(sums, item * outputs_) : nullptr;
        const std::int64_t first_pair = pairs_ * part / parts;
        for (std::int64_t pair = first_pair; pair < pairs_ * (part + 1) / parts; ++pair) {
          const std::int64_t b = 2 * pair;
          if (wants_sums) {
            fft_.padded_forward(length_, loading(u_, b, 0, group), signal);
          }
          const auto correlate = [&](std::int64_t m, std::int64_t first, std::int64_t count) {
            if (!wants_sums) return;
            T* sum = own + static_cast<std::size_t>(m) * fft_.size();
            if (pair == first_pair) {
              times_conjugate(first, count, slope, signal, sum);
            } else {
              add_times_conjugate(first, count, slope, signal, sum);
            }
          };
          if (outputs_ == 1 && du) {
            const auto filter = [&](std::int64_t first, std::int64_t count) {
              correlate(0, first, count);
              times_conjugate(first, count, slope, kernel(group, 0), slope);
            };
            fft_.through(length_, loading(dy, b, 0, group), filter, length_,
                         storing(du, b, 0, group), slope);
            continue;
          }
          for (std::int64_t m = 0; m < outputs_; ++m) {
            fft_.padded_forward(length_, loading(dy, b, m, group), slope);
            correlate(m, 0, fft_.length());
            if (!du) continue;
            if (m == 0) {
              times_conjugate(0, fft_.length(), slope, kernel(group, m), input);
            } else {
              add_times_conjugate(0, fft_.length(), slope, kernel(group, m), input);
            }
          }
          if (du) fft_.halved_inverse(input, length_, storing(du, b, 0, group));
        }
      }
      streamed();
    });
    if (wants_sums) finish_kernels(args, parts, sums);
  }

 private:
  static constexpr std::int64_t kWidth = kLanes<T>;
  static constexpr std::int64_t kElement = 2 * kWidth;

  using Output = Outputs<T>;

  template <typename F>
  void for_each_channel(std::int64_t group, const F& f) const {
    const std::int64_t count = std::min(kWidth, channels_ - group * kWidth);
    for (std::int64_t i = 0; i < count; ++i) f(i, group * kWidth + i);
  }
  const T* kernel(std::int64_t group, std::int64_t m) const {
    return spectrum(spectra_, group * outputs_ + m);
  }
  // From the pool: the first touch of fresh memory costs as much as a transform.
  Tensor workspace(std::int64_t spectra) const {
    return Tensor::empty({spectra * static_cast<std::int64_t>(fft_.size())}, DtypeOf<T>::value);
  }
  T* spectrum(const Tensor& of, std::int64_t number) const {
    return of.data<T>() + number * static_cast<std::int64_t>(fft_.size());
  }

  // A tile of rows (b, m) of a group's channels, transposed to the real (0) or imaginary (1) parts.
  void load_tile(const Sequences<T>& from, std::int64_t b, std::int64_t m, std::int64_t group,
                 int part, std::int64_t t, std::int64_t count, T* to) const {
    const T* rows = from.at(b, m, group * kWidth) + t * from.step_stride;
    Vec<T> tile[kWidth];
    if (from.step_stride != 1) {
      const std::int64_t lanes = std::min(kWidth, channels_ - group * kWidth);
      for (std::int64_t i = 0; i < count; ++i) {
        store(to + i * kElement + part * kWidth, load(rows + i * from.step_stride, lanes));
      }
      return;
    }
    if (whole(group, count)) {
      for (std::int64_t i = 0; i < kWidth; ++i) {
        const T* at = rows + i * from.channel_stride;
        tile[i] = load(at);
        ask_for(at + kAhead);
      }
      transpose<T>(tile);
      for (std::int64_t i = 0; i < kWidth; ++i) store(to + i * kElement + part * kWidth, tile[i]);
      return;
    }
    for (std::int64_t i = 0; i < kWidth; ++i) {
      const bool there = group * kWidth + i < channels_;
      tile[i] = there ? load(rows + i * from.channel_stride, count) : Vec<T>{};
    }
    transpose<T>(tile);
    for (std::int64_t i = 0; i < count; ++i) store(to + i * kElement + part * kWidth, tile[i]);
  }
  void store_tile(const T* from, int part, std::int64_t b, std::int64_t m, std::int64_t group,
                  std::int64_t t, std::int64_t count, const Output& to) const {
    T* rows = to.rows.at(b, m, group * kWidth) + t * to.rows.step_stride;
    Vec<T> tile[kWidth];
    if (to.rows.step_stride != 1) {
      const std::int64_t lanes = std::min(kWidth, channels_ - group * kWidth);
      for (std::int64_t i = 0; i < count; ++i) {
        const Vec<T> step = broadcast(factor_) * load(from + i * kElement + part * kWidth);
        if (to.streams && lanes == kWidth) {
          stream(rows + i * to.rows.step_stride, step);
        } else {
          store(rows + i * to.rows.step_stride, step, lanes);
        }
      }
      return;
    }
    if (whole(group, count)) {
      for (std::int64_t i = 0; i < kWidth; ++i) {
        tile[i] = broadcast(factor_) * load(from + i * kElement + part * kWidth);
      }
      transpose<T>(tile);
      if (to.streams && t % kWidth == 0) {
        for (std::int64_t i = 0; i < kWidth; ++i)
          stream(rows + i * to.rows.channel_stride, tile[i]);
      } else {
        for (std::int64_t i = 0; i < kWidth; ++i) store(rows + i * to.rows.channel_stride, tile[i]);
      }
      return;
    }
    for (std::int64_t i = 0; i < kWidth; ++i) {
      tile[i] =
          i < count ? broadcast(factor_) * load(from + i * kElement + part * kWidth) : Vec<T>{};
    }
    transpose<T>(tile);
    for_each_channel(group, [&](std::int64_t i, std::int64_t) {
      store(rows + i * to.rows.channel_stride, tile[i], count);
    });
  }
  // Whether a tile has all its elements: the common case, without a branch for each row.
  bool whole(std::int64_t group, std::int64_t count) const {
    return count == kWidth && (group + 1) * kWidth <= channels_;
  }
  // Rows of a tile lie a length apart, which the processor's own prefetching does not follow: each
  // read asks for a later one, into the cache that holds whole sequences.
  static void ask_for(const T* at) { __builtin_prefetch(at, 0, 2); }

  // For LaneFft: batch entries b and b + 1 are real and imaginary parts.
  auto loading(const Sequences<T>& from, std::int64_t b, std::int64_t m, std::int64_t group) const {
    return [=, this, &from](std::int64_t t, std::int64_t count, T* to) {
      load_tile(from, b, m, group, 0, t, count, to);
      if (b + 1 < batch_) return load_tile(from, b + 1, m, group, 1, t, count, to);
      clear_part(1, count, to);
    };
  }
  auto storing(const Output& to, std::int64_t b, std::int64_t m, std::int64_t group) const {
    return [=, this, &to](std::int64_t t, std::int64_t count, const T* from) {
      store_tile(from, 0, b, m, group, t, count, to);
      if (b + 1 < batch_) store_tile(from, 1, b + 1, m, group, t, count, to);
    };
  }
  static void clear_part(int part, std::int64_t count, T* to) {
    for (std::int64_t i = 0; i < count; ++i) store(to + i * kElement + part * kWidth, Vec<T>{});
  }

  // Places of the kernel of the future, which lies reversed at the end, as negative times.
  std::int64_t future(std::int64_t l) const { return fft_.length() - 1 - l; }

  void transform_kernels() {
    spectra_ = workspace(groups_ * outputs_);
    parallel_for(groups_ * outputs_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item / outputs_;
        const std::int64_t m = item % outputs_;
        T* to = spectrum(spectra_, item);
        std::fill_n(to, fft_.size(), T{0});
        in_tiles([&](std::int64_t t, std::int64_t count) {
          load_tile(K_, m, 0, group, 0, t, count, to + t * kElement);
        });
        // D u is the convolution with D at lag 0.
        if (D_.defined()) {
          for_each_channel(
              group, [&](std::int64_t i, std::int64_t h) { to[i] += skip_weight<T>(D_, m, h); });
        }
        if (bidirectional_) {
          in_tiles([&](std::int64_t t, std::int64_t count) {
            alignas(64) T tile[kWidth * kElement];
            load_tile(K_, outputs_ + m, 0, group, 0, t, count, tile);
            for (std::int64_t i = 0; i < count; ++i) {
              store(to + future(t + i) * kElement, load(tile + i * kElement));
            }
          });
        }
        fft_.forward(to);
      }
    });
  }
  template <typename F>
  void in_tiles(const F& f) const {
    for (std::int64_t t = 0; t < length_; t += kWidth) f(t, std::min(kWidth, length_ - t));
  }

  struct Element {
    Vec<T> re, im;
  };
  static Element element(const T* x, std::int64_t j) {
    return {load(x + j * kElement), load(x + j * kElement + kWidth)};
  }
  static void set(T* x, std::int64_t j, Vec<T> re, Vec<T> im) {
    store(x + j * kElement, re);
    store(x + j * kElement + kWidth, im);
  }
  // Of the spectra's elements first … first + count - 1: to = a b, a conj(b), to += a conj(b).
  static void multiply(std::int64_t first, std::int64_t count, const T* a, const T* b, T* to) {
    for (std::int64_t j = first; j < first + count; ++j) {
      const Element x = element(a, j);
      const Element y = element(b, j);
      set(to, j, x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re);
    }
  }
  static void times_conjugate(std::int64_t first, std::int64_t count, const T* a, const T* b,
                              T* to) {
    for (std::int64_t j = first; j < first + count; ++j) {
      const Element x = element(a, j);
      const Element y = element(b, j);
      set(to, j, x.re * y.re + x.im * y.im, x.im * y.re - x.re * y.im);
    }
  }
  static void add_times_conjugate(std::int64_t first, std::int64_t count, const T* a, const T* b,
                                  T* to) {
    for (std::int64_t j = first; j < first + count; ++j) {
      const Element x = element(a, j);
      const Element y = element(b, j);
      const Element sum = element(to, j);
      set(to, j, mul_add(x.re, y.re, mul_add(x.im, y.im, sum.re)),
          mul_add(x.im, y.re, Vec<T>(sum.im - x.re * y.im)));
    }
  }

  // The parts' sums are the kernels' gradients; at lag 0 also those of D.
  void finish_kernels(const S4ConvBwdArgs& args, std::int64_t parts, const Tensor& sums) const {
    const Output dK(args.dK);
    const std::size_t size = fft_.size();
    parallel_for(groups_ * outputs_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item / outputs_;
        const std::int64_t m = item % outputs_;
        const auto part_of = [&](std::int64_t part) {
          return spectrum(sums, (group * parts + part) * outputs_ + m);
        };
        T* total = part_of(0);
        for (std::int64_t part = 1; part < parts; ++part) {
          const T* other = part_of(part);
          for (std::size_t i = 0; i < size; ++i) total[i] += other[i];
        }
        fft_.inverse(total);
        if (args.dD.defined()) {
          for_each_channel(group, [&](std::int64_t i, std::int64_t h) {
            args.dD.data<T>()[m * args.dD.stride(0) + h] = factor_ * total[i];
          });
        }
        if (!dK) continue;
        in_tiles([&](std::int64_t t, std::int64_t count) {
          store_tile(total + t * kElement, 0, m, 0, group, t, count, dK);
          if (!bidirectional_) return;
          alignas(64) T tile[kWidth * kElement];
          for (std::int64_t i = 0; i < count; ++i) {
            store(tile + i * kElement, load(total + future(t + i) * kElement));
          }
          store_tile(tile, 0, outputs_ + m, 0, group, t, count, dK);
        });
      }
    });
  }

  std::int64_t batch_, channels_, length_, outputs_, groups_, pairs_;
  bool bidirectional_;
  LaneFft<T> fft_;
  T factor_;
  Sequences<T> u_, K_;
  const Tensor& D_;
  Tensor spectra_;  // (group, output) transforms of the kernels
};

}  // namespace

void s4_conv_fwd(const S4ConvFwdArgs& args) {
  check_s4("s4_conv_fwd", args);
  dispatch_real("s4_conv_fwd", args.u.dtype(), [&](auto t) {
    Convolution<decltype(t)>(args.u, args.K, args.D, args.bidirectional).forward(args);
  });
}

void s4_conv_bwd(const S4ConvBwdArgs& args) {
  check_s4("s4_conv_bwd", args);
  dispatch_real("s4_conv_bwd", args.u.dtype(), [&](auto t) {
    Convolution<decltype(t)>(args.u, args.K, args.D, args.bidirectional).backward(args);
  });
}

}  // namespace adder::cpu
