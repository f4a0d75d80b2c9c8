// What the forward and the backward scan of the diagonal recurrence share. Lanes are sequences
// (b, h), so that nothing is summed across lanes; where sequences lie along time in memory, a tile
// of them is transposed on its way in and out. The recurrence is x += p x + b u with p = q - 1: the
// rounding of q itself would stretch a slow mode's time constant. Private to engine/cpu.
#pragma once

#include "engine/cpu/s4_common.h"
#include "engine/cpu/transpose.h"

namespace adder::cpu {

// kS4Chunk steps of one vector of sequences, (step, lane).
template <typename T>
struct alignas(64) S4Tile {
  T values[kS4Chunk * kLanes<T>];
  T* at(std::int64_t step) { return values + step * kLanes<T>; }
  const T* at(std::int64_t step) const { return values + step * kLanes<T>; }
};

template <typename T>
class S4ScanShape {
 public:
  static constexpr std::int64_t kWidth = kLanes<T>;

  S4ScanShape(const Tensor& u, const Tensor& C)
      : batch(u.dim(0)),
        channels(u.dim(1)),
        length(u.dim(2)),
        outputs(C.dim(0)),
        modes(C.dim(2)),
        rows(batch * channels),
        blocks((rows + kWidth - 1) / kWidth),
        chunks((length + kS4Chunk - 1) / kS4Chunk) {}

  std::int64_t lanes(std::int64_t block) const { return std::min(kWidth, rows - block * kWidth); }
  std::int64_t steps(std::int64_t chunk) const {
    return std::min(kS4Chunk, length - chunk * kS4Chunk);
  }
  // Where the checkpoint of a block starts: (mode, re or im, lane).
  std::int64_t checkpoint(std::int64_t block, std::int64_t chunk) const {
    return (block * chunks + chunk) * modes * 2 * kWidth;
  }

  // steps [chunk] of output m (0 for an input) of the block's sequences, transposed. The same lines
  // of the chunk `next` further on are asked for: as many streams as there are lanes are too many
  // for the processor to foresee.
  void load_tile(const Sequences<T>& from, std::int64_t block, std::int64_t m, std::int64_t chunk,
                 std::int64_t next, S4Tile<T>& tile) const {
    const std::int64_t count = lanes(block);
    const std::int64_t size = steps(chunk);
    T* rows_at[kWidth];
    find_rows(from, block, m, chunk, rows_at);
    if (from.step_stride != 1) {
      for (std::int64_t t = 0; t < size; ++t) {
        store(tile.at(t), load_step(rows_at, t * from.step_stride, count));
      }
      return;
    }
    for (std::int64_t t = 0; t < size; t += kWidth) {
      Vec<T> part[kWidth] = {};
      for (std::int64_t i = 0; i < count; ++i) {
        part[i] = load(rows_at[i] + t, size - t);
        prefetch_line(rows_at[i] + t + next * kS4Chunk);
      }
      transpose<T>(part);
      for (std::int64_t i = 0; i < kWidth; ++i) store(tile.at(t + i), part[i]);
    }
  }
  void store_tile(const S4Tile<T>& tile, std::int64_t block, std::int64_t m, std::int64_t chunk,
                  std::int64_t next, const Outputs<T>& to) const {
    const std::int64_t count = lanes(block);
    const std::int64_t size = steps(chunk);
    T* rows_at[kWidth];
    find_rows(to.rows, block, m, chunk, rows_at);
    if (to.rows.step_stride != 1) {
      for (std::int64_t t = 0; t < size; ++t) {
        store_step(load(tile.at(t)), t * to.rows.step_stride, count, to.streams, rows_at);
      }
      return;
    }
    for (std::int64_t t = 0; t < size; t += kWidth) {
      Vec<T> part[kWidth];
      for (std::int64_t i = 0; i < kWidth; ++i) part[i] = load(tile.at(t + i));
      transpose<T>(part);
      if (to.streams && whole(count, size - t)) {
        for (std::int64_t i = 0; i < kWidth; ++i) stream(rows_at[i] + t, part[i]);
      } else {
        for (std::int64_t i = 0; i < count; ++i) {
          store(rows_at[i] + t, part[i], size - t);
          prefetch_line(rows_at[i] + t + next * kS4Chunk);
        }
      }
    }
  }

  // Asks for a block's checkpoint of a chunk.
  void prefetch_checkpoint(const T* checkpoints, std::int64_t block, std::int64_t chunk) const {
    const T* from = checkpoints + checkpoint(block, chunk);
    for (std::int64_t i = 0; i < 2 * modes; ++i) prefetch_line(from + i * kWidth);
  }

  // Calls f(lane, (h, n) as an index, (b, h, n) as an index) for each sequence of the block.
  template <typename F>
  void for_each_lane(std::int64_t block, std::int64_t n, const F& f) const {
    for (std::int64_t i = 0; i < lanes(block); ++i) {
      const std::int64_t row = block * kWidth + i;
      f(i, row % channels * modes + n, row * modes + n);
    }
  }

  std::int64_t batch, channels, length, outputs, modes, rows, blocks, chunks;

 private:
  // Whether a tile has all its elements.
  static bool whole(std::int64_t count, std::int64_t size) {
    return count == kWidth && size >= kWidth;
  }
  // Into the second level: sequences of a power of two lie in the same few sets of the first, and
  // would drive each other out before they are read.
  static void prefetch_line(const T* at) { __builtin_prefetch(at, 0, 2); }

  // One step of sequences whose channels lie side by side.
  static Vec<T> load_step(T* const* rows_at, std::int64_t at, std::int64_t count) {
    if (side_by_side(rows_at, count)) return load(rows_at[0] + at);
    Vec<T> step{};
    for (std::int64_t i = 0; i < count; ++i) step[i] = rows_at[i][at];
    return step;
  }
  static void store_step(Vec<T> step, std::int64_t at, std::int64_t count, bool streams,
                         T* const* rows_at) {
    if (side_by_side(rows_at, count)) {
      return streams ? stream(rows_at[0] + at, step) : store(rows_at[0] + at, step);
    }
    for (std::int64_t i = 0; i < count; ++i) rows_at[i][at] = step[i];
  }
  // A block may begin in one batch entry and end in the next.
  static bool side_by_side(T* const* rows_at, std::int64_t count) {
    return count == kWidth && rows_at[kWidth - 1] == rows_at[0] + kWidth - 1;
  }

  // Where the chunk starts in each of the block's sequences.
  void find_rows(const Sequences<T>& of, std::int64_t block, std::int64_t m, std::int64_t chunk,
                 T** rows_at) const {
    std::int64_t b = block * kWidth / channels;
    std::int64_t h = block * kWidth % channels;
    for (std::int64_t i = 0; i < lanes(block); ++i) {
      rows_at[i] = of.at(b, m, h) + chunk * kS4Chunk * of.step_stride;
      if (++h < channels) continue;
      h = 0;
      ++b;
    }
  }
};

// One complex number for each lane.
template <typename T>
struct alignas(64) S4Lanes {
  T re[kLanes<T>] = {};
  T im[kLanes<T>] = {};
  void set(std::int64_t lane, s4::Cx value) {
    re[lane] = static_cast<T>(value.re);
    im[lane] = static_cast<T>(value.im);
  }
  s4::Cx get(std::int64_t lane) const {
    return {static_cast<double>(re[lane]), static_cast<double>(im[lane])};
  }
};

template <typename T>
S4Lanes<T> product(const S4Lanes<T>& a, const S4Lanes<T>& b) {
  S4Lanes<T> out;
  store(out.re, Vec<T>(load(a.re) * load(b.re) - load(a.im) * load(b.im)));
  store(out.im, Vec<T>(load(a.re) * load(b.im) + load(a.im) * load(b.re)));
  return out;
}

// The coefficients of a block's modes, and 2 C for each output.
template <typename T>
class S4Coefficients {
 public:
  S4Coefficients(const S4ScanShape<T>& shape, const Tensor& p, const Tensor& b, const Tensor& C)
      : shape_(shape),
        p_from_(p),
        b_from_(b),
        C_from_(C),
        p_(static_cast<std::size_t>(shape.modes)),
        b_(static_cast<std::size_t>(shape.modes)),
        C_(static_cast<std::size_t>(shape.modes * shape.outputs)) {}

  void fill(std::int64_t block) {
    for (std::int64_t n = 0; n < shape_.modes; ++n) {
      shape_.for_each_lane(block, n, [&](std::int64_t i, std::int64_t hn, std::int64_t) {
        p_[static_cast<std::size_t>(n)].set(i, p_from_[hn]);
        b_[static_cast<std::size_t>(n)].set(i, b_from_[hn]);
        for (std::int64_t m = 0; m < shape_.outputs; ++m) {
          C_[static_cast<std::size_t>(m * shape_.modes + n)].set(
              i, 2.0 * C_from_[m * shape_.channels * shape_.modes + hn]);
        }
      });
    }
  }
  const S4Lanes<T>& p(std::int64_t n) const { return p_[static_cast<std::size_t>(n)]; }
  const S4Lanes<T>& b(std::int64_t n) const { return b_[static_cast<std::size_t>(n)]; }
  const S4Lanes<T>& C2(std::int64_t m, std::int64_t n) const {
    return C_[static_cast<std::size_t>(m * shape_.modes + n)];
  }

 private:
  const S4ScanShape<T>& shape_;
  Pairs<double> p_from_, b_from_;
  Pairs<T> C_from_;
  Scratch<S4Lanes<T>> p_, b_, C_;
};

// D of each lane's channel.
template <typename T>
Vec<T> skip_weights(const S4ScanShape<T>& shape, const Tensor& D, std::int64_t m,
                    std::int64_t block) {
  Vec<T> weights{};
  if (!D.defined()) return weights;
  for (std::int64_t i = 0; i < shape.lanes(block); ++i) {
    weights[i] = skip_weight<T>(D, m, (block * kLanes<T> + i) % shape.channels);
  }
  return weights;
}

}  // namespace adder::cpu
