// The convolution kernel K_l = 2 Re sum_n C_n b_n e^(l log q_n) of the modes and its gradient.
//
// e^(l log q) is a product of two numbers: that of the block's start, and that of the place in the
// block, from a table. Starts are exponentials of their own every kAnchorEvery blocks and products
// in between. All of it is float64, so the product costs no accuracy; sums over l are too.
#include <algorithm>

#include "engine/cpu/s4_common.h"

namespace adder::cpu {
namespace {

using s4::Cx;

constexpr std::int64_t kBlock = 64;
constexpr std::int64_t kAnchorEvery = 16;
constexpr std::int64_t kVec = kLanes<double>;

// Per mode of one channel: powers q^0 ... q^63 as re and im, and q^l at each block's start.
class Powers {
 public:
  Powers(std::int64_t modes, std::int64_t length)
      : modes_(modes),
        blocks_((length + kBlock - 1) / kBlock),
        table_(static_cast<std::size_t>(modes * 2 * kBlock)),
        anchors_(static_cast<std::size_t>(modes * blocks_)) {}

  void fill(const Pairs<double>& log_q, std::int64_t first) {
    for (std::int64_t n = 0; n < modes_; ++n) {
      const Cx rate = log_q[first + n];
      const Cx q = s4::exp(rate);
      double* re = table_.data() + n * 2 * kBlock;
      Cx power{1, 0};
      for (std::int64_t j = 0; j < kBlock; ++j) {
        re[j] = power.re;
        re[kBlock + j] = power.im;
        power = power * q;
      }
      const Cx across = s4::exp(static_cast<double>(kBlock) * rate);
      Cx* anchor = anchors_.data() + n * blocks_;
      for (std::int64_t k = 0; k < blocks_; ++k) {
        anchor[k] = k % kAnchorEvery == 0 ? s4::exp(static_cast<double>(k * kBlock) * rate)
                                          : anchor[k - 1] * across;
      }
    }
  }

  std::int64_t blocks() const { return blocks_; }
  const double* re(std::int64_t n) const { return table_.data() + n * 2 * kBlock; }
  const double* im(std::int64_t n) const { return re(n) + kBlock; }
  Cx anchor(std::int64_t n, std::int64_t k) const {
    return anchors_[static_cast<std::size_t>(n * blocks_ + k)];
  }

 private:
  std::int64_t modes_, blocks_;
  Scratch<double> table_;
  Scratch<Cx> anchors_;
};

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
    Scratch<Cx> start(static_cast<std::size_t>(modes));
    for (std::int64_t h = begin; h < end; ++h) {
      powers.fill(log_q, h * modes);
      for (std::int64_t m = 0; m < outputs; ++m) {
        T* row = K.at(m, h);
        for (std::int64_t k = 0; k < powers.blocks(); ++k) {
          for (std::int64_t n = 0; n < modes; ++n) {
            const Cx weight = 2.0 * (C[(m * channels + h) * modes + n] * b[h * modes + n]);
            start[static_cast<std::size_t>(n)] = weight * powers.anchor(n, k);
          }
          const std::int64_t count = std::min(kBlock, length - k * kBlock);
          for (std::int64_t j = 0; j < count; j += kVec) {
            VecD sum{};
            for (std::int64_t n = 0; n < modes; ++n) {
              const Cx s = start[static_cast<std::size_t>(n)];
              sum = mul_add(broadcast(s.re), load(powers.re(n) + j), sum);
              sum -= broadcast(s.im) * load(powers.im(n) + j);
            }
            const std::int64_t lanes = std::min(kVec, count - j);
            T* out = row + k * kBlock + j;
            for (std::int64_t i = 0; i < lanes; ++i) out[i] = static_cast<T>(sum[i]);
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

// `g` has blocks * kBlock elements, zero beyond the length. For each place j of the table, what the
// blocks have there is summed with the blocks' starts; the table's powers multiply the sums.
Sums sums(const Powers& powers, std::int64_t n, const double* g) {
  Sums total;
  for (std::int64_t j = 0; j < kBlock; j += kVec) {
    VecD re{};
    VecD im{};
    VecD late_re{};
    VecD late_im{};
    for (std::int64_t k = 0; k < powers.blocks(); ++k) {
      const Cx a = powers.anchor(n, k);
      const VecD x = load(g + k * kBlock + j);
      const VecD x_re = x * broadcast(a.re);
      const VecD x_im = x * broadcast(a.im);
      re += x_re;
      im += x_im;
      const VecD begin = broadcast(static_cast<double>(k * kBlock));
      late_re = mul_add(begin, x_re, late_re);
      late_im = mul_add(begin, x_im, late_im);
    }
    for (std::int64_t i = 0; i < kVec; ++i) {
      const Cx power{powers.re(n)[j + i], powers.im(n)[j + i]};
      const Cx sum{re[i], im[i]};
      total.s0 = total.s0 + power * sum;
      total.s1 = total.s1 + power * (static_cast<double>(j + i) * sum + Cx{late_re[i], late_im[i]});
    }
  }
  return total;
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
    Scratch<Cx> g_q(static_cast<std::size_t>(modes));
    Scratch<Cx> g_b(static_cast<std::size_t>(modes));
    for (std::int64_t h = begin; h < end; ++h) {
      powers.fill(log_q, h * modes);
      std::fill(g_q.begin(), g_q.end(), Cx{});
      std::fill(g_b.begin(), g_b.end(), Cx{});
      for (std::int64_t m = 0; m < outputs; ++m) {
        std::copy_n(dK.at(m, h), length, g.begin());
        for (std::int64_t n = 0; n < modes; ++n) {
          const std::int64_t at = (m * channels + h) * modes + n;
          const auto i = static_cast<std::size_t>(n);
          const Cx mode_b = b[h * modes + n];
          const Sums s = sums(powers, n, g.data());
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
