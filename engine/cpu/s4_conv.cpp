// Causal convolution through Fourier transforms of s4_fft_length(L) >= 2 L elements, beyond which
// nothing wraps around. Lanes are channels. Two sequences u and v of a channel share a transform as
// u + i v: the kernel is real, so their outputs are the real and the imaginary part of the result.
#include <algorithm>

#include "engine/cpu/lane_fft.h"
#include "engine/cpu/s4_common.h"
#include "engine/cpu/transpose.h"

namespace adder::cpu {
namespace {

// The kernel's gradient sums over the batch in this many parts at most, whatever the threads.
constexpr std::int64_t kMostParts = 8;

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
    const Sequences<T> y(args.y);
    transform_kernels();
    parallel_for(groups_ * pairs_, 1, [&](std::int64_t begin, std::int64_t end) {
      Scratch<T> signal(fft_.size());
      Scratch<T> product(outputs_ > 1 ? fft_.size() : 0);
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item / pairs_;
        const std::int64_t b = item % pairs_ * 2;
        load_pair(u_, b, 0, group, signal.data());
        fft_.forward(signal.data());
        for (std::int64_t m = 0; m < outputs_; ++m) {
          T* to = m + 1 < outputs_ ? product.data() : signal.data();
          multiply(signal.data(), kernel(group, m), to);
          fft_.inverse(to);
          store_pair(to, b, m, group, y);
          for (std::int64_t row = b; row < std::min(b + 2, batch_); ++row) {
            for_each_channel(group, [&](std::int64_t, std::int64_t h) {
              add_scaled(skip_weight<T>(D_, m, h), u_.at(row, h), y.at(row, m, h));
            });
          }
        }
      }
    });
  }

  void backward(const S4ConvBwdArgs& args) {
    const Sequences<T> dy(args.dy);
    const Sequences<T> du(args.du);
    const bool wants_K = args.dK.defined();
    if (du) transform_kernels();
    const std::int64_t parts = std::min(pairs_, kMostParts);
    const std::size_t size = fft_.size();
    const auto outputs = static_cast<std::size_t>(outputs_);
    Scratch<T> sums(wants_K ? static_cast<std::size_t>(groups_ * parts) * outputs * size : 0);
    parallel_for(groups_ * parts, 1, [&](std::int64_t begin, std::int64_t end) {
      Scratch<T> signal(size), slope(size), input(size);
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item / parts;
        const std::int64_t part = item % parts;
        T* own = wants_K ? sums.data() + static_cast<std::size_t>(item) * outputs * size : nullptr;
        if (wants_K) std::fill_n(own, outputs * size, T{0});
        for (std::int64_t pair = pairs_ * part / parts; pair < pairs_ * (part + 1) / parts;
             ++pair) {
          const std::int64_t b = 2 * pair;
          if (wants_K) {
            load_pair(u_, b, 0, group, signal.data());
            fft_.forward(signal.data());
          }
          if (du) std::fill(input.begin(), input.end(), T{0});
          for (std::int64_t m = 0; m < outputs_; ++m) {
            load_pair(dy, b, m, group, slope.data());
            fft_.forward(slope.data());
            if (du) add_times_conjugate(slope.data(), kernel(group, m), input.data());
            if (wants_K) {
              add_times_conjugate(slope.data(), signal.data(),
                                  own + static_cast<std::size_t>(m) * size);
            }
          }
          if (!du) continue;
          fft_.inverse(input.data());
          store_pair(input.data(), b, 0, group, du);
          for (std::int64_t row = b; row < std::min(b + 2, batch_); ++row) {
            for_each_channel(group, [&](std::int64_t, std::int64_t h) {
              for (std::int64_t m = 0; m < outputs_; ++m) {
                add_scaled(skip_weight<T>(D_, m, h), dy.at(row, m, h), du.at(row, h));
              }
            });
          }
        }
      }
    });
    if (wants_K) finish_kernels(args.dK, parts, sums);
    if (args.dD.defined()) skip_gradient(args.dD, dy);
  }

 private:
  static constexpr std::int64_t kWidth = kLanes<T>;
  static constexpr std::int64_t kElement = 2 * kWidth;

  template <typename F>
  void for_each_channel(std::int64_t group, const F& f) const {
    const std::int64_t count = std::min(kWidth, channels_ - group * kWidth);
    for (std::int64_t i = 0; i < count; ++i) f(i, group * kWidth + i);
  }
  const T* kernel(std::int64_t group, std::int64_t m) const {
    return spectra_.data() + static_cast<std::size_t>(group * outputs_ + m) * fft_.size();
  }

  // Rows (b, m) of a group's channels, transposed to the real (0) or imaginary (1) parts.
  void load_part(const Sequences<T>& from, std::int64_t b, std::int64_t m, std::int64_t group,
                 int part, T* to) const {
    for (std::int64_t t = 0; t < length_; t += kWidth) {
      Vec<T> tile[kWidth] = {};
      for_each_channel(group, [&](std::int64_t i, std::int64_t h) {
        tile[i] = load(from.at(b, m, h) + t, length_ - t);
      });
      transpose<T>(tile);
      for (std::int64_t i = 0; i < std::min(kWidth, length_ - t); ++i) {
        store(to + (t + i) * kElement + part * kWidth, tile[i]);
      }
    }
  }
  void clear_part(std::int64_t first, int part, T* to) const {
    for (std::int64_t t = first; t < fft_.length(); ++t) {
      store(to + t * kElement + part * kWidth, Vec<T>{});
    }
  }

  // Batch entries b and b + 1 as real and imaginary parts, padded with zeros.
  void load_pair(const Sequences<T>& from, std::int64_t b, std::int64_t m, std::int64_t group,
                 T* to) const {
    load_part(from, b, m, group, 0, to);
    clear_part(length_, 0, to);
    const bool second = b + 1 < batch_;
    if (second) load_part(from, b + 1, m, group, 1, to);
    clear_part(second ? length_ : 0, 1, to);
  }
  void store_part(const T* from, int part, std::int64_t b, std::int64_t m, std::int64_t group,
                  const Sequences<T>& to) const {
    for (std::int64_t t = 0; t < length_; t += kWidth) {
      Vec<T> tile[kWidth] = {};
      for (std::int64_t i = 0; i < std::min(kWidth, length_ - t); ++i) {
        tile[i] = broadcast(factor_) * load(from + (t + i) * kElement + part * kWidth);
      }
      transpose<T>(tile);
      for_each_channel(group, [&](std::int64_t i, std::int64_t h) {
        store(to.at(b, m, h) + t, tile[i], length_ - t);
      });
    }
  }
  void store_pair(const T* from, std::int64_t b, std::int64_t m, std::int64_t group,
                  const Sequences<T>& to) const {
    store_part(from, 0, b, m, group, to);
    if (b + 1 < batch_) store_part(from, 1, b + 1, m, group, to);
  }

  // Places of the kernel of the future, which lies reversed at the end, as negative times.
  std::int64_t future(std::int64_t l) const { return fft_.length() - 1 - l; }

  void transform_kernels() {
    spectra_.resize(static_cast<std::size_t>(groups_ * outputs_) * fft_.size());
    parallel_for(groups_ * outputs_, 1, [&](std::int64_t begin, std::int64_t end) {
      Scratch<T> ahead(bidirectional_ ? fft_.size() : 0);
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item / outputs_;
        const std::int64_t m = item % outputs_;
        T* to = spectra_.data() + static_cast<std::size_t>(item) * fft_.size();
        load_part(K_, m, 0, group, 0, to);
        clear_part(length_, 0, to);
        clear_part(0, 1, to);
        if (bidirectional_) {
          load_part(K_, outputs_ + m, 0, group, 0, ahead.data());
          for (std::int64_t l = 0; l < length_; ++l) {
            T* at = to + future(l) * kElement;
            store(at, Vec<T>(load(at) + load(ahead.data() + l * kElement)));
          }
        }
        fft_.forward(to);
      }
    });
  }

  void multiply(const T* a, const T* b, T* to) const {
    for (std::int64_t j = 0; j < fft_.length(); ++j) {
      const std::int64_t re = j * kElement;
      const std::int64_t im = re + kWidth;
      const Vec<T> a_re = load(a + re);
      const Vec<T> a_im = load(a + im);
      const Vec<T> b_re = load(b + re);
      const Vec<T> b_im = load(b + im);
      store(to + re, Vec<T>(a_re * b_re - a_im * b_im));
      store(to + im, Vec<T>(a_re * b_im + a_im * b_re));
    }
  }
  // sum += a conj(b).
  void add_times_conjugate(const T* a, const T* b, T* sum) const {
    for (std::int64_t j = 0; j < fft_.length(); ++j) {
      const std::int64_t re = j * kElement;
      const std::int64_t im = re + kWidth;
      const Vec<T> a_re = load(a + re);
      const Vec<T> a_im = load(a + im);
      const Vec<T> b_re = load(b + re);
      const Vec<T> b_im = load(b + im);
      store(sum + re, mul_add(a_re, b_re, mul_add(a_im, b_im, load(sum + re))));
      store(sum + im, mul_add(a_im, b_re, Vec<T>(load(sum + im) - a_re * b_im)));
    }
  }

  void add_scaled(T weight, const T* from, T* to) const {
    if (!D_.defined()) return;
    for (std::int64_t t = 0; t < length_; ++t) to[t] += weight * from[t];
  }

  void finish_kernels(const Tensor& dK_tensor, std::int64_t parts, Scratch<T>& sums) const {
    const Sequences<T> dK(dK_tensor);
    const std::size_t size = fft_.size();
    parallel_for(groups_ * outputs_, 1, [&](std::int64_t begin, std::int64_t end) {
      Scratch<T> ahead(bidirectional_ ? size : 0);
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item / outputs_;
        const std::int64_t m = item % outputs_;
        const auto part_of = [&](std::int64_t part) {
          return sums.data() +
                 static_cast<std::size_t>((group * parts + part) * outputs_ + m) * size;
        };
        T* total = part_of(0);
        for (std::int64_t part = 1; part < parts; ++part) {
          const T* other = part_of(part);
          for (std::size_t i = 0; i < size; ++i) total[i] += other[i];
        }
        fft_.inverse(total);
        store_part(total, 0, m, 0, group, dK);
        if (!bidirectional_) continue;
        for (std::int64_t l = 0; l < length_; ++l) {
          store(ahead.data() + l * kElement, load(total + future(l) * kElement));
        }
        store_part(ahead.data(), 0, outputs_ + m, 0, group, dK);
      }
    });
  }

  void skip_gradient(const Tensor& dD, const Sequences<T>& dy) const {
    parallel_for(channels_, 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t h = begin; h < end; ++h) {
        for (std::int64_t m = 0; m < outputs_; ++m) {
          double sum = 0;
          for (std::int64_t b = 0; b < batch_; ++b) {
            const T* u = u_.at(b, h);
            const T* slope = dy.at(b, m, h);
            Vec<T> lanes{};
            for_each_vector<T>(length_, [&](std::int64_t t, std::int64_t count) {
              lanes = mul_add(load(u + t, count), load(slope + t, count), lanes);
            });
            sum += static_cast<double>(sum_lanes<T>(lanes));
          }
          dD.data<T>()[m * dD.stride(0) + h] = static_cast<T>(sum);
        }
      }
    });
  }

  std::int64_t batch_, channels_, length_, outputs_, groups_, pairs_;
  bool bidirectional_;
  LaneFft<T> fft_;
  T factor_;
  Sequences<T> u_, K_;
  const Tensor& D_;
  Scratch<T> spectra_;  // (group, output) transforms of the kernels
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
