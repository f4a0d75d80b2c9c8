// The convolution kernel K_l = 2 Re sum_n C_n b_n e^(l log q_n) of the modes and its gradient.
//
// e^(l log q) is a product of two numbers: that of the block's start, and that of the place in the
// block, from a table. Starts are exponentials of their own every kAnchorEvery blocks and products
// in between. All of it is float64, so the products cost no accuracy; sums over l are too.
#include <algorithm>

#include "engine/cpu/s4_common.h"

namespace adder::cpu {
namespace {

using s4::Cx;

constexpr std::int64_t kBlock = 64;
constexpr std::int64_t kAnchorEvery = 16;
constexpr std::int64_t kVec = kLanes<double>;
typedef std::int64_t VecPlaces __attribute__((vector_size(kVectorBytes)));

// Complex numbers, real and imaginary parts in arrays of their own.
struct Split {
  explicit Split(std::int64_t count)
      : re(static_cast<std::size_t>(count)), im(static_cast<std::size_t>(count)) {}
  void set(std::int64_t i, Cx value) {
    re[static_cast<std::size_t>(i)] = value.re;
    im[static_cast<std::size_t>(i)] = value.im;
  }
  Scratch<double> re, im;
};

// out_i = x_i y_i; whole vectors, `out` may be x.
void multiply(const double* x_re, const double* x_im, const double* y_re, const double* y_im,
              std::int64_t count, double* out_re, double* out_im) {
  for (std::int64_t i = 0; i < count; i += kVec) {
    const VecD a = load(x_re + i);
    const VecD b = load(x_im + i);
    const VecD c = load(y_re + i);
    const VecD d = load(y_im + i);
    store(out_re + i, a * c - b * d);
    store(out_im + i, a * d + b * c);
  }
}

// Per mode of one channel: powers q^0 ... q^63, and q^l at each block's start.
class Powers {
 public:
  Powers(std::int64_t modes, std::int64_t length)
      : modes_(modes),
        padded_((modes + kVec - 1) / kVec * kVec),
        blocks_((length + kBlock - 1) / kBlock),
        table_(modes * kBlock),
        anchors_(padded_ * blocks_),
        across_(padded_) {}

  void fill(const Pairs<double>& log_q, std::int64_t first) {
    for (std::int64_t n = 0; n < modes_; ++n) {
      across_.set(n, fill_table(s4::exp(log_q[first + n]), table_.re.data() + n * kBlock,
                                table_.im.data() + n * kBlock));
      anchors_.set(n, {1, 0});
    }
    for (std::int64_t k = 1; k < blocks_; ++k) {
      const std::int64_t at = k * padded_;
      if (k % kAnchorEvery == 0) {
        for (std::int64_t n = 0; n < modes_; ++n) {
          anchors_.set(at + n, s4::exp(static_cast<double>(k * kBlock) * log_q[first + n]));
        }
      } else {
        multiply(starts_re(k - 1), starts_im(k - 1), across_.re.data(), across_.im.data(), padded_,
                 anchors_.re.data() + at, anchors_.im.data() + at);
      }
    }
  }

  std::int64_t padded() const { return padded_; }  // modes, filled up to whole vectors
  std::int64_t blocks() const { return blocks_; }
  const double* re(std::int64_t n) const { return table_.re.data() + n * kBlock; }
  const double* im(std::int64_t n) const { return table_.im.data() + n * kBlock; }
  // q^(k kBlock) of each mode.
  const double* starts_re(std::int64_t k) const { return anchors_.re.data() + k * padded_; }
  const double* starts_im(std::int64_t k) const { return anchors_.im.data() + k * padded_; }

 private:
  // One vector from the bits of its places, 1, q, q^2, q^3 = q q^2 and so on; then what is there
  // times q^count is the next `count`. The result is q^64.
  static Cx fill_table(Cx q, double* re, double* im) {
    VecPlaces places;
    for (int lane = 0; lane < kVec; ++lane) places[lane] = lane;
    VecD first_re = broadcast(1.0);
    VecD first_im{};
    Cx step = q;
    for (int bit = 1; bit < kVec; bit *= 2) {
      const auto chosen = (places & bit) != 0;
      const VecD factor_re = chosen ? broadcast(step.re) : broadcast(1.0);
      const VecD factor_im = chosen ? broadcast(step.im) : VecD{};
      const VecD old_re = first_re;
      first_re = old_re * factor_re - first_im * factor_im;
      first_im = old_re * factor_im + first_im * factor_re;
      step = step * step;
    }
    store(re, first_re);
    store(im, first_im);
    for (std::int64_t count = kVec; count < kBlock; count *= 2) {
      const VecD step_re = broadcast(step.re);
      const VecD step_im = broadcast(step.im);
      for (std::int64_t j = 0; j < count; j += kVec) {
        const VecD a = load(re + j);
        const VecD b = load(im + j);
        store(re + count + j, a * step_re - b * step_im);
        store(im + count + j, a * step_im + b * step_re);
      }
      step = step * step;
    }
    return step;
  }

  std::int64_t modes_, padded_, blocks_;
  Split table_, anchors_, across_;
};

// values[j] = Re sum_n start_n q_n^j for one block of `modes`. Real and imaginary parts have sums
// of their own: as many independent additions as their latency needs.
void block_values(const Powers& powers, std::int64_t modes, const Split& start, double* values) {
  constexpr std::int64_t kUnroll = 4;
  static_assert(kBlock % (kUnroll * kVec) == 0);
  for (std::int64_t j = 0; j < kBlock; j += kUnroll * kVec) {
    VecD from_re[kUnroll] = {};
    VecD from_im[kUnroll] = {};
    for (std::int64_t n = 0; n < modes; ++n) {
      const VecD re = broadcast(start.re[static_cast<std::size_t>(n)]);
      const VecD im = broadcast(start.im[static_cast<std::size_t>(n)]);
      const double* table_re = powers.re(n) + j;
      const double* table_im = powers.im(n) + j;
      for (std::int64_t i = 0; i < kUnroll; ++i) {
        from_re[i] = mul_add(re, load(table_re + i * kVec), from_re[i]);
        from_im[i] = mul_add(im, load(table_im + i * kVec), from_im[i]);
      }
    }
    for (std::int64_t i = 0; i < kUnroll; ++i) {
      store(values + j + i * kVec, from_re[i] - from_im[i]);
    }
  }
}

template <typename T>
void forward(const S4KernelFwdArgs& args) {
  const std::int64_t outputs = args.C.dim(0);
  const std::int64_t channels = args.C.dim(1);
  const std::int64_t modes = args.C.dim(2);
  const std::int64_t length = args.K.dim(2);
  const Pairs<double> log_q(args.log_q);
  const Pairs<double> b(args.b);
  const Pairs<T> C(args.C);
  const Sequences<T> K(args.K);
  parallel_for(channels, 1, [&](std::int64_t begin, std::int64_t end) {
    Powers powers(modes, length);
    Split weight(powers.padded());
    Split start(powers.padded());
    Scratch<double> values(kBlock);
    for (std::int64_t h = begin; h < end; ++h) {
      powers.fill(log_q, h * modes);
      for (std::int64_t m = 0; m < outputs; ++m) {
        for (std::int64_t n = 0; n < modes; ++n) {
          weight.set(n, 2.0 * (C[(m * channels + h) * modes + n] * b[h * modes + n]));
        }
        for (std::int64_t k = 0; k < powers.blocks(); ++k) {
          multiply(weight.re.data(), weight.im.data(), powers.starts_re(k), powers.starts_im(k),
                   powers.padded(), start.re.data(), start.im.data());
          block_values(powers, modes, start, values.data());
          T* out = K.at(m, h) + k * kBlock;
          const std::int64_t count = std::min(kBlock, length - k * kBlock);
          for (std::int64_t j = 0; j < count; ++j) {
            out[j] = static_cast<T>(values[static_cast<std::size_t>(j)]);
          }
        }
      }
    }
  });
}

// S0 = sum_l g_l q^l and S1 = sum_l l g_l q^l.
struct Sums {
  Cx s0, s1;
};

// Complex numbers in the lanes of two vectors.
struct ComplexSum {
  VecD re{};
  VecD im{};
  void add(VecD x, VecD factor_re, VecD factor_im) {
    re = mul_add(x, factor_re, re);
    im = mul_add(x, factor_im, im);
  }
  void add_product(const ComplexSum& x, VecD factor_re, VecD factor_im) {
    re += x.re * factor_re - x.im * factor_im;
    im += x.re * factor_im + x.im * factor_re;
  }
  Cx total() const { return {sum_lanes<double>(re), sum_lanes<double>(im)}; }
};

// `g` and `late`, l times g, have blocks * kBlock elements, zero beyond the length. For each place
// j of the table, what the blocks have there is summed with the blocks' starts; the table's powers
// multiply the sums.
Sums sums(const Powers& powers, std::int64_t n, const double* g, const double* late) {
  ComplexSum s0;
  ComplexSum s1;
  constexpr std::int64_t kUnroll = 2;
  for (std::int64_t j = 0; j < kBlock; j += kUnroll * kVec) {
    ComplexSum at_g[kUnroll];
    ComplexSum at_late[kUnroll];
    for (std::int64_t k = 0; k < powers.blocks(); ++k) {
      const VecD re = broadcast(powers.starts_re(k)[n]);
      const VecD im = broadcast(powers.starts_im(k)[n]);
      for (std::int64_t i = 0; i < kUnroll; ++i) {
        const std::int64_t l = k * kBlock + j + i * kVec;
        at_g[i].add(load(g + l), re, im);
        at_late[i].add(load(late + l), re, im);
      }
    }
    for (std::int64_t i = 0; i < kUnroll; ++i) {
      const VecD re = load(powers.re(n) + j + i * kVec);
      const VecD im = load(powers.im(n) + j + i * kVec);
      s0.add_product(at_g[i], re, im);
      s1.add_product(at_late[i], re, im);
    }
  }
  return {s0.total(), s1.total()};
}

template <typename T>
void backward(const S4KernelBwdArgs& args) {
  const std::int64_t outputs = args.C.dim(0);
  const std::int64_t channels = args.C.dim(1);
  const std::int64_t modes = args.C.dim(2);
  const std::int64_t length = args.dK.dim(2);
  const Pairs<double> log_q(args.log_q);
  const Pairs<double> b(args.b);
  const Pairs<T> C(args.C);
  const Sequences<T> dK(args.dK);
  const auto dlog_q = Pairs<double>::optional(args.dlog_q);
  const auto db = Pairs<double>::optional(args.db);
  const auto dC = Pairs<T>::optional(args.dC);
  parallel_for(channels, 1, [&](std::int64_t begin, std::int64_t end) {
    Powers powers(modes, length);
    Scratch<double> g(static_cast<std::size_t>(powers.blocks() * kBlock));
    Scratch<double> late(g.size());
    Scratch<double> place(g.size());
    for (std::size_t l = 0; l < place.size(); ++l) place[l] = static_cast<double>(l);
    Scratch<Cx> g_q(static_cast<std::size_t>(modes));
    Scratch<Cx> g_b(static_cast<std::size_t>(modes));
    for (std::int64_t h = begin; h < end; ++h) {
      powers.fill(log_q, h * modes);
      std::fill(g_q.begin(), g_q.end(), Cx{});
      std::fill(g_b.begin(), g_b.end(), Cx{});
      for (std::int64_t m = 0; m < outputs; ++m) {
        const T* row = dK.at(m, h);
        for (std::int64_t l = 0; l < length; ++l) {
          const auto i = static_cast<std::size_t>(l);
          g[i] = static_cast<double>(row[l]);
          late[i] = place[i] * g[i];
        }
        for (std::int64_t n = 0; n < modes; ++n) {
          const std::int64_t at = (m * channels + h) * modes + n;
          const auto i = static_cast<std::size_t>(n);
          const Cx mode_b = b[h * modes + n];
          const Sums s = sums(powers, n, g.data(), late.data());
          g_q[i] = g_q[i] + 2.0 * (C[at] * mode_b * s.s1);
          g_b[i] = g_b[i] + 2.0 * (C[at] * s.s0);
          if (dC) dC.set_gradient(at, 2.0 * (mode_b * s.s0));
        }
      }
      for (std::int64_t n = 0; n < modes; ++n) {
        const auto i = static_cast<std::size_t>(n);
        if (dlog_q) dlog_q.set_gradient(h * modes + n, g_q[i]);
        if (db) db.set_gradient(h * modes + n, g_b[i]);
      }
    }
  });
}

}  // namespace

void s4_kernel_fwd(const S4KernelFwdArgs& args) {
  check_s4("s4_kernel_fwd", args);
  dispatch_real("s4_kernel_fwd", args.C.dtype(), [&](auto t) { forward<decltype(t)>(args); });
}

void s4_kernel_bwd(const S4KernelBwdArgs& args) {
  check_s4("s4_kernel_bwd", args);
  dispatch_real("s4_kernel_bwd", args.C.dtype(), [&](auto t) { backward<decltype(t)>(args); });
}

}  // namespace adder::cpu
