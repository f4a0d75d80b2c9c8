// The backward selective scan. Chunks are taken from the last to the first; within one, the states
// are recomputed from its checkpoint into L1 and then walked backwards. With dy the gradient of the
// ungated output and a_t = exp(delta_t A),
//   dh_t = C_t dy_t + a_{t+1} dh_{t+1},       w_t = a_t dh_t h_{t-1},
//   dC_t = sum_d dy_t h_t,                    dB_t = sum_d dh_t delta_t u_t,
//   ddelta_t = sum_n w_t A + u_t sum_n dh_t B_t,   dA = sum_{b,t} w_t delta_t.
// Sums run in an order that the extents and the thread count alone determine.
#include <numeric>

#include "engine/cpu/scan_common.h"

namespace adder::cpu {
namespace {

constexpr int kGroup = 2;  // states at once: decays and states of more would not stay in L1

template <typename T>
struct Chunk {
  ChunkArray<T> u, delta, delta_u, slope, dy, gate;  // inputs of each step
  ChunkArray<T> y, d_delta, d_delta_u;               // sums over the states
  ChunkArray<T> decay[kGroup], before[kGroup];       // a_t and h_{t-1}
  std::int64_t steps;
};

// Where one group of states of one block of channels lives; arrays of vectors, one per state.
template <typename T>
struct Group {
  const T* rate;
  const T* checkpoint;
  const T* B;  // first state's column; rows are B_stride apart
  const T* C;
  std::int64_t B_stride, C_stride;
  T* carry;  // a_{t+1} dh_{t+1}
  T* dA;
  T* dB;  // (state, step, lane), summed over blocks
  T* dC;
};

template <typename T, int G, bool kY, bool kBC>
void recompute(const Group<T>& p, Chunk<T>& s) {
  constexpr int width = kLanes<T>;
  Vec<T> rate[G];
  Vec<T> h[G];
  for (int g = 0; g < G; ++g) {
    rate[g] = load(p.rate + g * width);
    h[g] = load(p.checkpoint + g * width);
  }
  for (std::int64_t t = 0; t < s.steps; ++t) {
    const Vec<T> delta = load(s.delta.at(t));
    const Vec<T> delta_u = load(s.delta_u.at(t));
    Vec<T> y{};
    if constexpr (kY) y = load(s.y.at(t));
    for (int g = 0; g < G; ++g) {
      const Vec<T> decay = exp2(delta * rate[g]);
      store(s.decay[g].at(t), decay);
      store(s.before[g].at(t), h[g]);
      h[g] = mul_add(decay, h[g], delta_u * broadcast(p.B[t * p.B_stride + g]));
      if constexpr (kY) y = mul_add(h[g], broadcast(p.C[t * p.C_stride + g]), y);
      if constexpr (kBC) {
        T* dC = p.dC + (g * kScanChunk + t) * width;
        store(dC, mul_add(load(s.dy.at(t)), h[g], load(dC)));
      }
    }
    if constexpr (kY) store(s.y.at(t), y);
  }
}

template <typename T, int G, bool kA, bool kBC>
void walk_back(const Group<T>& p, Chunk<T>& s) {
  constexpr int width = kLanes<T>;
  Vec<T> rate[G];
  Vec<T> carry[G];
  Vec<T> dA[G];
  for (int g = 0; g < G; ++g) {
    rate[g] = load(p.rate + g * width);
    carry[g] = load(p.carry + g * width);
    dA[g] = Vec<T>{};
  }
  for (std::int64_t t = s.steps - 1; t >= 0; --t) {
    const Vec<T> dy = load(s.dy.at(t));
    Vec<T> d_delta = load(s.d_delta.at(t));
    Vec<T> d_delta_u = load(s.d_delta_u.at(t));
    for (int g = 0; g < G; ++g) {
      const Vec<T> dh = mul_add(dy, broadcast(p.C[t * p.C_stride + g]), carry[g]);
      d_delta_u = mul_add(dh, broadcast(p.B[t * p.B_stride + g]), d_delta_u);
      if constexpr (kBC) {
        T* dB = p.dB + (g * kScanChunk + t) * width;
        store(dB, mul_add(dh, load(s.delta_u.at(t)), load(dB)));
      }
      carry[g] = dh * load(s.decay[g].at(t));
      const Vec<T> w = carry[g] * load(s.before[g].at(t));
      d_delta = mul_add(w, rate[g], d_delta);
      if constexpr (kA) dA[g] = mul_add(w, load(s.delta.at(t)), dA[g]);
    }
    store(s.d_delta.at(t), d_delta);
    store(s.d_delta_u.at(t), d_delta_u);
  }
  for (int g = 0; g < G; ++g) {
    store(p.carry + g * width, carry[g]);
    if constexpr (kA) store(p.dA + g * width, Vec<T>(load(p.dA + g * width) + dA[g]));
  }
}

template <typename T, int G>
void run_group(const Group<T>& p, Chunk<T>& s, bool need_y) {
  if (need_y) {
    p.dC ? recompute<T, G, true, true>(p, s) : recompute<T, G, true, false>(p, s);
  } else {
    p.dC ? recompute<T, G, false, true>(p, s) : recompute<T, G, false, false>(p, s);
  }
  if (p.dA) {
    p.dB ? walk_back<T, G, true, true>(p, s) : walk_back<T, G, true, false>(p, s);
  } else {
    p.dB ? walk_back<T, G, false, true>(p, s) : walk_back<T, G, false, false>(p, s);
  }
}

template <typename T>
class Backward {
 public:
  explicit Backward(const SelectiveScanBwdArgs& args)
      : args_(args),
        e_(args.u, args.A_log),
        rates_(decay_rates<T>(args.A_log, e_)),
        u_(args.u),
        dt_(args.dt),
        B_(args.B),
        C_(args.C),
        z_(args.z),
        dout_(args.dout),
        du_(args.du),
        ddt_(args.ddt),
        dz_(args.dz),
        dh0_(args.dh0),
        D_(args.D.template data<T>()),
        dt_bias_(args.dt_bias.defined() ? args.dt_bias.template data<T>() : nullptr),
        checkpoints_(args.checkpoints.template data<T>()),
        need_bc_(args.dB.defined() || args.dC.defined()) {
    // As many ranges of channels per sequence as give every thread the same number of items.
    const std::int64_t threads = num_threads();
    ranges_ = threads / std::gcd(threads, std::max<std::int64_t>(e_.batch, 1));
    ranges_ = std::max<std::int64_t>(1, std::min(ranges_, e_.blocks));
    workers_ = std::max<std::int64_t>(1, std::min(threads, e_.batch * ranges_));
  }

  void run() {
    const auto zeros = [](bool wanted, std::int64_t count) {
      return Scratch<T>(wanted ? static_cast<std::size_t>(count) : 0);
    };
    wants_dA_.assign(static_cast<std::size_t>(e_.blocks), args_.dA_log.defined());
    if (args_.dA_log.defined() && args_.dA_channels.defined()) {
      wants_dA_.assign(wants_dA_.size(), false);
      const auto* channels = args_.dA_channels.template data<std::int32_t>();
      for (std::int64_t i = 0; i < args_.dA_channels.numel(); ++i) {
        wants_dA_[static_cast<std::size_t>(channels[i] / kWidth)] = true;
      }
    }
    dA_ = zeros(args_.dA_log.defined(), e_.batch * e_.blocks * size_);
    dD_ = zeros(true, e_.batch * e_.blocks * kWidth);
    dbias_ = zeros(true, e_.batch * e_.blocks * kWidth);
    carry_ = zeros(true, e_.batch * e_.blocks * size_);
    lane_sums_ = zeros(need_bc_, workers_ * 2 * kScanChunk * size_);
    const std::int64_t partial = ranges_ * e_.batch * e_.length * e_.states;
    dB_ = zeros(need_bc_, partial);
    dC_ = zeros(need_bc_, partial);

    const std::int64_t items = e_.batch * ranges_;
    parallel_for(workers_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t worker = begin; worker < end; ++worker) {
        T* sums = need_bc_ ? lane_sums_.data() + worker * 2 * kScanChunk * size_ : nullptr;
        for (std::int64_t item = items * worker / workers_; item < items * (worker + 1) / workers_;
             ++item) {
          run_range(item / ranges_, item % ranges_, sums);
        }
      }
    });
    reduce();
  }

 private:
  static constexpr std::int64_t kWidth = kLanes<T>;

  void run_range(std::int64_t b, std::int64_t range, T* sums) {
    const std::int64_t first = e_.blocks * range / ranges_;
    const std::int64_t last = e_.blocks * (range + 1) / ranges_;
    T* dB = sums;
    T* dC = sums ? sums + kScanChunk * size_ : nullptr;
    Chunk<T> s;
    for (std::int64_t chunk = e_.chunks - 1; chunk >= 0; --chunk) {
      const std::int64_t t0 = chunk * kScanChunk;
      s.steps = std::min(kScanChunk, e_.length - t0);
      if (sums) std::fill_n(sums, 2 * kScanChunk * size_, T{0});
      for (std::int64_t block = first; block < last; ++block) {
        prepare(b, t0, block, s);
        for (std::int64_t n = 0; n < e_.states;) {
          const bool pair = n + kGroup <= e_.states;
          const std::int64_t at = (b * e_.blocks + block) * size_ + n * kWidth;
          const Group<T> p{rates_.data() + block * size_ + n * kWidth,
                           checkpoints_ + e_.checkpoint(b, chunk, block) + n * kWidth,
                           B_.at(b, t0) + n,
                           C_.at(b, t0) + n,
                           B_.stride,
                           C_.stride,
                           carry_.data() + at,
                           wants_dA_[static_cast<std::size_t>(block)] ? dA_.data() + at : nullptr,
                           dB ? dB + n * kScanChunk * kWidth : nullptr,
                           dC ? dC + n * kScanChunk * kWidth : nullptr};
          pair ? run_group<T, kGroup>(p, s, bool{dz_}) : run_group<T, 1>(p, s, bool{dz_});
          n += pair ? kGroup : 1;
        }
        finish(b, t0, block, s);
      }
      if (!sums) continue;
      const std::int64_t row = (range * e_.batch + b) * e_.length + t0;
      for (std::int64_t t = 0; t < s.steps; ++t) {
        for (std::int64_t n = 0; n < e_.states; ++n) {
          const std::int64_t from = (n * kScanChunk + t) * kWidth;
          const auto to = static_cast<std::size_t>((row + t) * e_.states + n);
          dB_[to] = sum_lanes<T>(load(dB + from));
          dC_[to] = sum_lanes<T>(load(dC + from));
        }
      }
    }
  }

  void prepare(std::int64_t b, std::int64_t t0, std::int64_t block, Chunk<T>& s) const {
    const std::int64_t d = block * kWidth;
    const std::int64_t lanes = e_.lanes(block);
    const Vec<T> zero{};
    const Vec<T> bias = dt_bias_ ? load(dt_bias_ + d, lanes) : zero;
    const Vec<T> skip = load(D_ + d, lanes);
    for (std::int64_t t = 0; t < s.steps; ++t) {
      const T* u_row = u_.at(b, t0 + t) + d;
      const T* dt_row = dt_.at(b, t0 + t) + d;
      const T* dout_row = dout_.at(b, t0 + t) + d;
      __builtin_prefetch(u_row + kWidth);
      __builtin_prefetch(dt_row + kWidth);
      __builtin_prefetch(dout_row + kWidth);
      const Vec<T> u = load(u_row, lanes);
      const Vec<T> x = load(dt_row, lanes) + bias;
      const Vec<T> delta = softplus(x);
      Vec<T> dy = load(dout_row, lanes);
      if (z_) {
        const T* z_row = z_.at(b, t0 + t) + d;
        __builtin_prefetch(z_row + kWidth);
        const Vec<T> z = load(z_row, lanes);
        const Vec<T> sigmoid_z = sigmoid(z);
        store(s.gate.at(t), Vec<T>(dy * silu_slope(z, sigmoid_z)));
        dy *= z * sigmoid_z;
      }
      store(s.u.at(t), u);
      store(s.delta.at(t), delta);
      store(s.delta_u.at(t), Vec<T>(delta * u));
      store(s.slope.at(t), Vec<T>(x > broadcast(T{20}) ? broadcast(T{1}) : sigmoid(x)));
      store(s.dy.at(t), dy);
      store(s.y.at(t), Vec<T>(skip * u));
      store(s.d_delta.at(t), zero);
      store(s.d_delta_u.at(t), zero);
    }
  }

  void finish(std::int64_t b, std::int64_t t0, std::int64_t block, Chunk<T>& s) {
    const std::int64_t d = block * kWidth;
    const std::int64_t lanes = e_.lanes(block);
    const Vec<T> ln2 = broadcast(std::numbers::ln2_v<T>);
    const Vec<T> skip = load(D_ + d, lanes);
    Vec<T> dD{};
    Vec<T> dbias{};
    for (std::int64_t t = 0; t < s.steps; ++t) {
      const Vec<T> u = load(s.u.at(t));
      const Vec<T> dy = load(s.dy.at(t));
      const Vec<T> d_delta_u = load(s.d_delta_u.at(t));
      const Vec<T> d_delta = mul_add(d_delta_u, u, load(s.d_delta.at(t)) * ln2);
      const Vec<T> ddt = d_delta * load(s.slope.at(t));
      dD = mul_add(dy, u, dD);
      dbias += ddt;
      if (ddt_) store(ddt_.at(b, t0 + t) + d, ddt, lanes);
      if (du_) {
        store(du_.at(b, t0 + t) + d, mul_add(d_delta_u, load(s.delta.at(t)), dy * skip), lanes);
      }
      if (dz_) {
        store(dz_.at(b, t0 + t) + d, Vec<T>(load(s.gate.at(t)) * load(s.y.at(t))), lanes);
      }
    }
    const std::int64_t at = (b * e_.blocks + block) * kWidth;
    store(dD_.data() + at, Vec<T>(load(dD_.data() + at) + dD));
    store(dbias_.data() + at, Vec<T>(load(dbias_.data() + at) + dbias));
  }

  // Element `at` of a (b, block, ...) buffer of `count` elements per b, summed over b.
  T sum_batches(const Scratch<T>& partial, std::int64_t count, std::int64_t at) const {
    T sum = 0;
    for (std::int64_t b = 0; b < e_.batch; ++b) {
      sum += partial[static_cast<std::size_t>(b * count + at)];
    }
    return sum;
  }

  void write_dA_row(std::int64_t row, std::int64_t d) const {
    T* out = args_.dA_log.template data<T>() + row * args_.dA_log.stride(0);
    for (std::int64_t n = 0; n < e_.states; ++n) {
      const std::int64_t at = (d / kWidth * e_.states + n) * kWidth + d % kWidth;
      const T A = rates_[static_cast<std::size_t>(at)] * std::numbers::ln2_v<T>;
      out[n] = A * sum_batches(dA_, e_.blocks * size_, at);  // A = -exp(A_log) is its own slope
    }
  }

  void write_bc(const Tensor& out, const Scratch<T>& partial) const {
    if (!out.defined()) return;
    const Rows<T> rows(out);
    const std::int64_t per_range = e_.batch * e_.length * e_.states;
    for (std::int64_t row = 0; row < e_.batch * e_.length; ++row) {
      T* to = rows.at(row / e_.length, row % e_.length);
      for (std::int64_t n = 0; n < e_.states; ++n) {
        T sum = 0;
        for (std::int64_t range = 0; range < ranges_; ++range) {
          sum += partial[static_cast<std::size_t>(range * per_range + row * e_.states + n)];
        }
        to[n] = sum;
      }
    }
  }

  void reduce() const {
    write_bc(args_.dB, dB_);
    write_bc(args_.dC, dC_);
    for (const auto& [out, partial] : {std::pair{&args_.dD, &dD_}, {&args_.ddt_bias, &dbias_}}) {
      if (!out->defined()) continue;
      T* to = out->template data<T>();
      for (std::int64_t d = 0; d < e_.channels; ++d) {
        to[d] = sum_batches(*partial, e_.blocks * kWidth, d);
      }
    }
    if (args_.dA_log.defined()) {
      const std::int32_t* channels =
          args_.dA_channels.defined() ? args_.dA_channels.template data<std::int32_t>() : nullptr;
      parallel_for(args_.dA_log.dim(0), 256, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) write_dA_row(i, channels ? channels[i] : i);
      });
    }
    if (!dh0_) return;
    for (std::int64_t row = 0; row < e_.batch * e_.channels; ++row) {
      const std::int64_t b = row / e_.channels;
      const std::int64_t d = row % e_.channels;
      const T* carry = carry_.data() + (b * e_.blocks + d / kWidth) * size_ + d % kWidth;
      for (std::int64_t n = 0; n < e_.states; ++n) dh0_.at(b, d)[n] = carry[n * kWidth];
    }
  }

  const SelectiveScanBwdArgs& args_;
  ScanExtents<T> e_;
  Scratch<T> rates_;
  Rows<T> u_, dt_, B_, C_, z_, dout_, du_, ddt_, dz_, dh0_;
  const T* D_;
  const T* dt_bias_;
  const T* checkpoints_;
  bool need_bc_;
  std::int64_t size_ = e_.states * kWidth;  // of one block's states
  std::int64_t ranges_ = 1;
  std::int64_t workers_ = 1;
  std::vector<bool> wants_dA_;  // per block
  Scratch<T> dA_, carry_;       // (b, block, n, lane)
  Scratch<T> dD_, dbias_;       // (b, block, lane)
  Scratch<T> lane_sums_;        // per worker: dB, dC as (n, step, lane)
  Scratch<T> dB_, dC_;          // (range, b, l, n)
};

}  // namespace

void selective_scan_bwd(const SelectiveScanBwdArgs& args) {
  check_scan("selective_scan_bwd", args);
  dispatch_float(args.u.dtype(), [&](auto type) { Backward<decltype(type)>(args).run(); });
}

}  // namespace adder::cpu
