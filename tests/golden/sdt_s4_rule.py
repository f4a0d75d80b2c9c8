"""Selection rules of SDT on an S4 layer: which channels and states stay in use, and which train.

Arrays have shapes (H,), (H, N) and, for C, (H, N) complex. `now` is after the warm-up, `before` ahead
of it; both are dicts of log_dt, log_A_real, A_imag, C.
"""

import numpy as np


def norm(rows):
    return np.sqrt((rows * rows).sum(axis=1, dtype=rows.dtype))


def displacement(now, before, power):
    A = -np.exp(now["log_A_real"]) + 1j * now["A_imag"]
    A0 = -np.exp(before["log_A_real"]) + 1j * before["A_imag"]
    a = np.exp(now["log_dt"])[:, None] * A
    select = np.abs(now["C"] * np.expm1(a) / A * np.exp(power * a))
    update = np.abs(A - A0)
    return select, update, norm(select), norm(update)


def compat(now, before, power):
    """float32, A a real number, a sum for a difference: what the authors' script computes."""
    f = np.float32
    alpha = -np.exp(now["log_A_real"].astype(f)) + now["A_imag"].astype(f)
    factor = np.exp(alpha * np.exp(now["log_dt"].astype(f))[:, None])
    late = factor ** f(power)
    parts = [part.astype(f) * (factor - f(1)) / alpha * late for part in (now["C"].real, now["C"].imag)]
    select = np.hypot(*parts)
    real = -np.exp(now["log_A_real"].astype(f)) - np.exp(before["log_A_real"].astype(f))
    imag = now["A_imag"].astype(f) - before["A_imag"].astype(f)
    update = np.sqrt(real * real + imag * imag)
    return select, update, norm(select), norm(update)


def gradient(now, output):
    """`now` holds gradients, `output` that of the output map's weight (H, H)."""
    squares = now["log_A_real"] ** 2 + now["A_imag"] ** 2 + np.abs(now["C"]) ** 2
    channels = np.sqrt(squares.sum(axis=1) + (output * output).sum(axis=0))
    return np.sqrt(squares), np.sqrt(squares), channels, channels


def soft(now, before, threshold):
    def shrink(x):
        return np.sign(x) * np.maximum(np.abs(x) - threshold, 0)

    C = shrink(now["C"].real) + 1j * shrink(now["C"].imag)
    A = -np.exp(now["log_A_real"]) + 1j * now["A_imag"]
    select = np.abs(C) * np.abs(A)
    update = np.hypot(
        shrink(now["log_A_real"] - before["log_A_real"]), shrink(now["A_imag"] - before["A_imag"])
    )
    return select, update, norm(select), norm(update)


def best(items, scores, count, drop_zero):
    chosen = sorted(items, key=lambda i: scores[i], reverse=True)[:count]
    if drop_zero:
        chosen = [i for k, i in enumerate(chosen) if k == 0 or scores[i] != 0]
    return chosen


def select(scores, counts, drop_zero=False):
    """counts: select_channels, update_channels, select_states, update_states."""
    select_state, update_state, select_channel, update_channel = scores
    H, N = select_state.shape
    kept = best(range(H), select_channel, counts[0], drop_zero)
    kept_states = [best(range(N), select_state[h], counts[2], drop_zero) for h in kept]
    channels = best(kept, update_channel, counts[1], drop_zero)
    states = [
        best(kept_states[kept.index(h)], update_state[h], counts[3], drop_zero) for h in channels
    ]
    return {
        "select_channels": kept,
        "select_states": kept_states,
        "channels": channels,
        "states": states,
    }


def margin(scores):
    """The smallest relative gap between finite scores that differ: too close is no use as a golden."""
    gaps = [1.0]
    for row in [*scores[0], *scores[1], scores[2], scores[3]]:
        values = np.unique(row[np.isfinite(row)]).astype(np.float64)
        if len(values) > 1:
            gaps.append(np.min(np.diff(values) / np.maximum(np.abs(values[1:]), 1e-30)))
    return min(gaps)
