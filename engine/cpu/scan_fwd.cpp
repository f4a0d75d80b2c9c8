// The forward selective scan. Lanes are channels, so B and C are broadcasts and nothing is summed
// across lanes. A thread walks its blocks of channels chunk by chunk: what depends on the step
// alone (delta, delta u, y) sits in L1 while the states pass over it one group at a time.
#include "engine/cpu/scan_common.h"

namespace adder {

namespace cpu {
namespace {

constexpr int kGroup = kVectorBytes == 64 ? 4 : 2;  // states at once, as registers allow

template <typename T>
struct ChunkInput {
  ChunkArray<T> delta, delta_u, y;
  const T* B;
  const T* C;
  std::int64_t B_stride, C_stride, steps;
};

// Advances G states over the steps of a chunk and adds what they contribute to y.
template <typename T, int G>
void advance(const T* rates, T* states, ChunkInput<T>& in) {
  Vec<T> rate[G];
  Vec<T> h[G];
  for (int g = 0; g < G; ++g) {
    rate[g] = load(rates + g * kLanes<T>);
    h[g] = load(states + g * kLanes<T>);
  }
  const T* b = in.B;
  const T* c = in.C;
  for (std::int64_t t = 0; t < in.steps; ++t, b += in.B_stride, c += in.C_stride) {
    const Vec<T> delta = load(in.delta.at(t));
    const Vec<T> delta_u = load(in.delta_u.at(t));
    Vec<T> y = load(in.y.at(t));
    for (int g = 0; g < G; ++g) {
      h[g] = mul_add(exp2(delta * rate[g]), h[g], delta_u * broadcast(b[g]));
      y = mul_add(h[g], broadcast(c[g]), y);
    }
    store(in.y.at(t), y);
  }
  for (int g = 0; g < G; ++g) store(states + g * kLanes<T>, h[g]);
}

template <typename T>
class Forward {
 public:
  explicit Forward(const SelectiveScanFwdArgs& args)
      : e_(args.u, args.A_log),
        rates_(decay_rates<T>(args.A_log, e_)),
        states_(static_cast<std::size_t>(e_.batch * e_.blocks * e_.states * kWidth)),
        u_(args.u),
        dt_(args.dt),
        B_(args.B),
        C_(args.C),
        z_(args.z),
        h0_(args.h0),
        out_(args.out),
        h_last_(args.h_last),
        D_(args.D.template data<T>()),
        dt_bias_(args.dt_bias.defined() ? args.dt_bias.template data<T>() : nullptr),
        checkpoints_(args.checkpoints.defined() ? args.checkpoints.template data<T>() : nullptr) {}

  void run() {
    // Work items are (b, block); a thread's contiguous range may span several b.
    parallel_for(e_.batch * e_.blocks, 1, [&](std::int64_t begin, std::int64_t end) {
      while (begin < end) {
        const std::int64_t b = begin / e_.blocks;
        const std::int64_t stop = std::min(end, (b + 1) * e_.blocks);
        run_range(b, begin - b * e_.blocks, stop - b * e_.blocks);
        begin = stop;
      }
    });
  }

 private:
  static constexpr std::int64_t kWidth = kLanes<T>;

  void run_range(std::int64_t b, std::int64_t first, std::int64_t last) {
    const std::int64_t size = e_.states * kWidth;  // of one block's states
    T* states = states_.data() + b * e_.blocks * size;
    if (h0_) {
      for (std::int64_t block = first; block < last; ++block) {
        for (std::int64_t n = 0; n < e_.states; ++n) {
          store(states + block * size + n * kWidth,
                gather(h0_.at(b, block * kWidth) + n, h0_.stride, e_.lanes(block)));
        }
      }
    }
    ChunkInput<T> in;
    in.B_stride = B_.stride;
    in.C_stride = C_.stride;
    for (std::int64_t chunk = 0; chunk < e_.chunks; ++chunk) {
      const std::int64_t t0 = chunk * kScanChunk;
      in.steps = std::min(kScanChunk, e_.length - t0);
      in.B = B_.at(b, t0);
      in.C = C_.at(b, t0);
      for (std::int64_t block = first; block < last; ++block) {
        T* h = states + block * size;
        if (checkpoints_) std::copy_n(h, size, checkpoints_ + e_.checkpoint(b, chunk, block));
        prepare(b, t0, block, in);
        advance_all(rates_.data() + block * size, h, in);
        finish(b, t0, block, in);
      }
    }
    if (!h_last_) return;
    for (std::int64_t block = first; block < last; ++block) {
      const T* h = states + block * size;
      for (std::int64_t i = 0; i < e_.lanes(block); ++i) {
        T* row = h_last_.at(b, block * kWidth + i);
        for (std::int64_t n = 0; n < e_.states; ++n) row[n] = h[n * kWidth + i];
      }
    }
  }

  void prepare(std::int64_t b, std::int64_t t0, std::int64_t block, ChunkInput<T>& in) const {
    const std::int64_t d = block * kWidth;
    const std::int64_t lanes = e_.lanes(block);
    const Vec<T> bias = dt_bias_ ? load(dt_bias_ + d, lanes) : Vec<T>{};
    const Vec<T> skip = load(D_ + d, lanes);
    for (std::int64_t t = 0; t < in.steps; ++t) {
      const T* u_row = u_.at(b, t0 + t) + d;
      const T* dt_row = dt_.at(b, t0 + t) + d;
      // The rows are far apart, which hides the next block's lines from the hardware prefetcher.
      __builtin_prefetch(u_row + kWidth);
      __builtin_prefetch(dt_row + kWidth);
      const Vec<T> u = load(u_row, lanes);
      const Vec<T> delta = softplus(load(dt_row, lanes) + bias);
      store(in.delta.at(t), delta);
      store(in.delta_u.at(t), Vec<T>(delta * u));
      store(in.y.at(t), Vec<T>(skip * u));
    }
  }

  void advance_all(const T* rates, T* h, ChunkInput<T>& in) const {
    const T* B = in.B;
    const T* C = in.C;
    std::int64_t n = 0;
    for (; n + kGroup <= e_.states; n += kGroup) {
      advance<T, kGroup>(rates + n * kWidth, h + n * kWidth, in);
      in.B += kGroup;
      in.C += kGroup;
    }
    for (; n < e_.states; ++n, ++in.B, ++in.C) {
      advance<T, 1>(rates + n * kWidth, h + n * kWidth, in);
    }
    in.B = B;
    in.C = C;
  }

  void finish(std::int64_t b, std::int64_t t0, std::int64_t block, ChunkInput<T>& in) const {
    const std::int64_t d = block * kWidth;
    const std::int64_t lanes = e_.lanes(block);
    for (std::int64_t t = 0; t < in.steps; ++t) {
      Vec<T> y = load(in.y.at(t));
      if (z_) {
        const T* z_row = z_.at(b, t0 + t) + d;
        __builtin_prefetch(z_row + kWidth);
        y *= silu(load(z_row, lanes));
      }
      store(out_.at(b, t0 + t) + d, y, lanes);
    }
  }

  ScanExtents<T> e_;
  Scratch<T> rates_;
  Scratch<T> states_;  // (b, block, n, lane)
  Rows<T> u_, dt_, B_, C_, z_, h0_, out_, h_last_;
  const T* D_;
  const T* dt_bias_;
  T* checkpoints_;
};

}  // namespace

void selective_scan_fwd(const SelectiveScanFwdArgs& args) {
  check_scan("selective_scan_fwd", args);
  dispatch_float(args.u.dtype(), [&](auto type) { Forward<decltype(type)>(args).run(); });
}

}  // namespace cpu
}  // namespace adder
