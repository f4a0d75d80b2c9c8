// Threads for CPU kernels. OpenMP, because the matrix product libraries bring it anyway and two
// thread pools would fight over the cores.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace adder::cpu {

void set_num_threads(int threads);  // 0: as many as the machine has cores
int num_threads();

namespace detail {
// Calls piece(context, 0 … pieces - 1), each on a thread of its own. Out of line, so that this
// header asks nothing of the compiler flags of those who include it.
void run_pieces(std::int64_t pieces, void (*piece)(const void* context, std::int64_t index),
                const void* context);
}  // namespace detail

// Calls body(begin, end) on contiguous pieces of [0, count), one per thread at most; the split
// depends on count, grain and num_threads() alone, so a run is repeatable. body must not throw.
template <typename Body>
void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
  const std::int64_t wanted = grain <= 0 ? 1 : (count + grain - 1) / grain;
  const std::int64_t pieces = wanted < num_threads() ? wanted : num_threads();
  if (pieces <= 1) {
    if (count > 0) body(std::int64_t{0}, count);
    return;
  }
  struct Context {
    const Body& body;
    std::int64_t count, pieces;
  };
  const Context context{body, count, pieces};
  detail::run_pieces(
      pieces,
      [](const void* opaque, std::int64_t index) {
        const auto& c = *static_cast<const Context*>(opaque);
        c.body(c.count * index / c.pieces, c.count * (index + 1) / c.pieces);
      },
      &context);
}

// The same in smaller pieces, of which each thread takes the next one when it is done with its
// last: threads that other work slows down take fewer. For bodies whose results do not depend on
// the split, and that are long beside what they set up.
template <typename Body>
void parallel_shares(std::int64_t count, const Body& body) {
  constexpr std::int64_t kPiecesOfThread = 8;
  const std::int64_t pieces = std::min(count, kPiecesOfThread * num_threads());
  std::atomic<std::int64_t> next = 0;
  parallel_for(std::min<std::int64_t>(pieces, num_threads()), 1, [&](std::int64_t, std::int64_t) {
    for (std::int64_t i = next++; i < pieces; i = next++) {
      body(count * i / pieces, count * (i + 1) / pieces);
    }
  });
}

}  // namespace adder::cpu
