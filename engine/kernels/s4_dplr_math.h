// Woodbury's identity at one node and the gradient of one mode, for the host's kernels and the
// device's. Private to the s4 kernels.
#pragma once

#include "engine/kernels/s4_math.h"

namespace adder::s4 {

// Sizes and the order of the sums g_xy of a node: x is B, P_0 ... P_{R-1}; y is C~ of each output,
// then Q_0 ... Q_{R-1}.
struct DplrShape {
  std::int64_t channels, copies, modes, ranks, outputs, nodes, length;

  ADDER_HOST_DEVICE std::int64_t columns() const { return outputs + ranks; }
  ADDER_HOST_DEVICE std::int64_t sums() const { return (1 + ranks) * columns(); }
  ADDER_HOST_DEVICE std::int64_t bins() const { return nodes / 2 + 1; }
  ADDER_HOST_DEVICE std::int64_t at(std::int64_t x, std::int64_t y) const {
    return x * columns() + y;
  }
  ADDER_HOST_DEVICE std::int64_t work() const { return 2 * ranks * ranks + 3 * ranks; }
};

// m x = rhs for an n by n matrix in row-major order; both are overwritten, rhs by x. Rows are
// exchanged so that the largest number of a column divides.
ADDER_HOST_DEVICE inline void solve(std::int64_t n, Cx* m, Cx* rhs) {
  for (std::int64_t c = 0; c < n; ++c) {
    std::int64_t best = c;
    for (std::int64_t r = c + 1; r < n; ++r) {
      if (norm(m[r * n + c]) > norm(m[best * n + c])) best = r;
    }
    for (std::int64_t k = 0; best != c && k < n; ++k) {
      const Cx other = m[c * n + k];
      m[c * n + k] = m[best * n + k];
      m[best * n + k] = other;
    }
    const Cx swapped = rhs[c];
    rhs[c] = rhs[best];
    rhs[best] = swapped;
    for (std::int64_t r = c + 1; r < n; ++r) {
      const Cx factor = m[r * n + c] / m[c * n + c];
      for (std::int64_t k = c; k < n; ++k) m[r * n + k] = m[r * n + k] - factor * m[c * n + k];
      rhs[r] = rhs[r] - factor * rhs[c];
    }
  }
  for (std::int64_t r = n - 1; r >= 0; --r) {
    for (std::int64_t k = r + 1; k < n; ++k) rhs[r] = rhs[r] - m[r * n + k] * rhs[k];
    rhs[r] = rhs[r] / m[r * n + r];
  }
}

// (I + h g_PQ)_{s r}, or its transpose.
ADDER_HOST_DEVICE inline void woodbury_matrix(const DplrShape& s, Cx h, const Cx* g,
                                              bool transposed, Cx* m) {
  for (std::int64_t q = 0; q < s.ranks; ++q) {
    for (std::int64_t r = 0; r < s.ranks; ++r) {
      const Cx value = h * g[s.at(1 + r, s.outputs + q)] + Cx{q == r ? 1.0 : 0.0, 0};
      m[transposed ? r * s.ranks + q : q * s.ranks + r] = value;
    }
  }
}

// t = (I + h g_PQ)^-1 g_BQ into work[R * R ...]; work holds DplrShape::work() numbers.
ADDER_HOST_DEVICE inline Cx* woodbury_solution(const DplrShape& s, Cx h, const Cx* g, Cx* work) {
  Cx* t = work + s.ranks * s.ranks;
  woodbury_matrix(s, h, g, false, work);
  for (std::int64_t q = 0; q < s.ranks; ++q) t[q] = g[s.at(0, s.outputs + q)];
  solve(s.ranks, work, t);
  return t;
}

// k of output m from the node's sums, given t.
ADDER_HOST_DEVICE inline Cx woodbury_value(const DplrShape& s, Cx h, const Cx* g, const Cx* t,
                                           std::int64_t m) {
  Cx sum;
  for (std::int64_t r = 0; r < s.ranks; ++r) sum = sum + g[s.at(1 + r, m)] * t[r];
  return g[s.at(0, m)] - h * sum;
}

// Overwrites the node's sums g by their gradients, from those of k, which kappa(m) gives; in the
// form dL = Re(kappa dk).
template <typename Kappa>
ADDER_HOST_DEVICE void woodbury_gradient(const DplrShape& s, Cx h, Cx* g, Cx* work,
                                         const Kappa& kappa) {
  const Cx* t = woodbury_solution(s, h, g, work);
  Cx* left = work + s.ranks * s.ranks + s.ranks;  // (I + h g_PQ)^-T g_PC of one output
  Cx* total = left + s.ranks;                     // the sum over outputs of kappa left
  Cx* matrix = total + s.ranks;
  for (std::int64_t q = 0; q < s.ranks; ++q) total[q] = Cx{};
  for (std::int64_t m = 0; m < s.outputs; ++m) {
    const Cx slope = kappa(m);
    woodbury_matrix(s, h, g, true, matrix);
    for (std::int64_t r = 0; r < s.ranks; ++r) left[r] = g[s.at(1 + r, m)];
    solve(s.ranks, matrix, left);
    for (std::int64_t q = 0; q < s.ranks; ++q) total[q] = total[q] + slope * left[q];
  }
  for (std::int64_t m = 0; m < s.outputs; ++m) {
    const Cx slope = kappa(m);
    g[s.at(0, m)] = slope;
    for (std::int64_t r = 0; r < s.ranks; ++r) g[s.at(1 + r, m)] = -1.0 * (h * slope * t[r]);
  }
  for (std::int64_t q = 0; q < s.ranks; ++q) {
    g[s.at(0, s.outputs + q)] = -1.0 * (h * total[q]);
    for (std::int64_t r = 0; r < s.ranks; ++r) {
      g[s.at(1 + r, s.outputs + q)] = h * h * total[q] * t[r];
    }
  }
}

// Where the parameters of one mode of one channel are.
template <typename Pairs>
struct DplrMode {
  Pairs B, P, C;
  const DplrShape& s;
  std::int64_t h, n;
  bool cut;  // beyond the band: C counts as 0

  ADDER_HOST_DEVICE std::int64_t copy() const { return h % s.copies * s.modes + n; }
  ADDER_HOST_DEVICE Cx x(std::int64_t i) const {
    return i == 0 ? B[copy()] : P[(i - 1) * s.copies * s.modes + copy()];
  }
  ADDER_HOST_DEVICE Cx y(std::int64_t i) const {
    if (i >= s.outputs) return conj(x(1 + i - s.outputs));
    return cut ? Cx{} : C[(i * s.channels + h) * s.modes + n];
  }
};

// Gradients of a mode, from V_xy, those of dt x y, and that of dt A; in the form dL = Re(g dz).
// Writes B and P_r to x_gradients[0 ... R], C to dC, and returns that of A and of dt.
template <typename Mode, typename V, typename SetC>
ADDER_HOST_DEVICE ModeGradient dplr_gradient(const Mode& mode, Cx A, double dt, Cx g_a, const V& v,
                                             Cx* x_gradients, const SetC& set_C) {
  const DplrShape& s = mode.s;
  ModeGradient g{dt * g_a, (g_a * A).re};
  for (std::int64_t i = 0; i <= s.ranks; ++i) x_gradients[i] = Cx{};
  for (std::int64_t j = 0; j < s.columns(); ++j) {
    Cx g_y;
    for (std::int64_t i = 0; i <= s.ranks; ++i) {
      const Cx slope = v(s.at(i, j));
      const Cx x = mode.x(i);
      const Cx y = mode.y(j);
      x_gradients[i] = x_gradients[i] + dt * (slope * y);
      g_y = g_y + dt * (slope * x);
      g.dt += (slope * x * y).re;
    }
    if (j < s.outputs) {
      set_C(j, mode.cut ? Cx{} : g_y);
    } else {
      Cx& g_P = x_gradients[1 + j - s.outputs];  // y is its conjugate
      g_P = g_P + conj(g_y);
    }
  }
  return g;
}

}  // namespace adder::s4
