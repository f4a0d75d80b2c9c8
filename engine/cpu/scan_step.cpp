// One token of the selective scan. A state's row (d, ·) is dense, so here the lanes are states.
#include "engine/cpu/scan_common.h"

namespace adder::cpu {
namespace {

template <typename T>
class Step {
 public:
  explicit Step(const SelectiveScanStepArgs& args)
      : u_(args.u),
        dt_(args.dt),
        A_log_(args.A_log),
        B_(args.B),
        C_(args.C),
        z_(args.z),
        h_(args.h),
        out_(args.out),
        D_(args.D.template data<T>()),
        dt_bias_(args.dt_bias.defined() ? args.dt_bias.template data<T>() : nullptr),
        batch_(args.u.dim(0)),
        channels_(args.u.dim(1)),
        states_(args.A_log.dim(1)) {}

  void run() const {
    const std::int64_t blocks = (channels_ + kWidth - 1) / kWidth;
    parallel_for(blocks, 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t d = begin * kWidth; d < std::min(channels_, end * kWidth); d += kWidth) {
        for (std::int64_t b = 0; b < batch_; ++b) run_block(b, d);
      }
    });
  }

 private:
  static constexpr std::int64_t kWidth = kLanes<T>;
  static constexpr std::int64_t kAhead = 2048;  // bytes

  void run_block(std::int64_t b, std::int64_t d) const {
    const std::int64_t lanes = std::min(kWidth, channels_ - d);
    const Vec<T> u = load(u_.at(b) + d, lanes);
    Vec<T> x = load(dt_.at(b) + d, lanes);
    if (dt_bias_) x += load(dt_bias_ + d, lanes);
    const Vec<T> delta = softplus(x);
    const Vec<T> delta_u = delta * u;
    Vec<T> y = load(D_ + d, lanes) * u;
    for (std::int64_t i = 0; i < lanes; ++i) y[i] += channel(b, d + i, delta[i], delta_u[i]);
    if (z_) y *= silu(load(z_.at(b) + d, lanes));
    store(out_.at(b) + d, y, lanes);
  }

  // Advances the states of one channel and returns sum_n C h.
  T channel(std::int64_t b, std::int64_t d, T delta, T delta_u) const {
    T* h_row = h_.at(b, d);
    const Vec<T> scale = broadcast(-std::numbers::log2e_v<T> * delta);
    Vec<T> sum{};
    for (std::int64_t n = 0; n < states_; n += kWidth) {
      const std::int64_t count = states_ - n;
      // Since the last token the weights of all layers have passed through the caches.
      prefetch(A_log_.at(d) + n, kAhead);
      prefetch(h_row + n, kAhead);
      const Vec<T> decay = exp2(exp(load(A_log_.at(d) + n, count)) * scale);
      const Vec<T> input = load(B_.at(b) + n, count) * broadcast(delta_u);
      const Vec<T> h = mul_add(decay, load(h_row + n, count), input);
      store(h_row + n, h, count);
      sum = mul_add(h, load(C_.at(b) + n, count), sum);
    }
    return sum_lanes<T>(sum);
  }

  Rows<T> u_, dt_, A_log_, B_, C_, z_, h_, out_;
  const T* D_;
  const T* dt_bias_;
  std::int64_t batch_, channels_, states_;
};

}  // namespace

void selective_scan_step(const SelectiveScanStepArgs& args) {
  check_scan("selective_scan_step", args);
  dispatch_float(args.u.dtype(), [&](auto type) { Step<decltype(type)>(args).run(); });
}

}  // namespace adder::cpu
