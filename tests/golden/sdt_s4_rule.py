"""Selection rules of SDT on an S4 layer: which channels and states stay in use, and which train.

Arrays have shapes (H,), (H, N) and, for C, (H, N) or (M, H, N) complex. `now` is after the warm-up,
`before` ahead of it; both are dicts of log_dt, log_A_real, A_imag, C and, in the official model, B.
"""

import numpy as np


def norm(rows):
    return np.sqrt((rows * rows).sum(axis=1, dtype=rows.dtype))


def strength(C, layer):
    """|C B|, over the kernels of a channel the Euclidean norm."""
    squares = np.abs(C * layer.get("B", 1)) ** 2
    return np.sqrt(squares.reshape(-1, *squares.shape[-2:]).sum(axis=0))


def displacement(now, before, power, disc="zoh"):
    A = -np.exp(now["log_A_real"]) + 1j * now["A_imag"]
    A0 = -np.exp(before["log_A_real"]) + 1j * before["A_imag"]
    a = np.exp(now["log_dt"])[:, None] * A
    if disc == "zoh":
        select = strength(now["C"], now) * np.abs(np.expm1(a) / A * np.exp(power * a))
    else:  # bilinear
        dt = np.exp(now["log_dt"])[:, None]
        select = strength(now["C"], now) * np.abs(dt / (1 - a / 2) * ((1 + a / 2) / (1 - a / 2)) ** power)
    update = np.abs(A - A0)
    return select, update, norm(select), norm(update)


def compat(now, before, power, sign=1):
    """float32, A a real number, a sum for a difference: what the authors' script computes."""
    f = np.float32
    alpha = -np.exp(now["log_A_real"].astype(f)) + f(sign) * now["A_imag"].astype(f)
    factor = np.exp(alpha * np.exp(now["log_dt"].astype(f))[:, None])
    late = factor ** f(power)
    CB = now["C"] * now.get("B", 1)
    parts = [part.astype(f) * (factor - f(1)) / alpha * late for part in (CB.real, CB.imag)]
    kernels = np.hypot(*parts).reshape(-1, *alpha.shape)
    select = kernels[0] if len(kernels) == 1 else np.sqrt((kernels * kernels).sum(axis=0))
    real = -np.exp(now["log_A_real"].astype(f)) - np.exp(before["log_A_real"].astype(f))
    imag = now["A_imag"].astype(f) - before["A_imag"].astype(f)
    update = np.sqrt(real * real + imag * imag)
    return select, update, norm(select), norm(update)


def gradient(now, output):
    """`now` holds gradients, `output` that of the output map's weight; its column i is of channel i mod H."""
    squares = now["log_A_real"] ** 2 + now["A_imag"] ** 2
    squares = squares + (np.abs(now["C"]) ** 2).reshape(-1, *squares.shape).sum(axis=0)
    columns = (output * output).sum(axis=0).reshape(-1, len(squares)).sum(axis=0)
    channels = np.sqrt(squares.sum(axis=1) + columns)
    return np.sqrt(squares), np.sqrt(squares), channels, channels


def soft(now, before, threshold):
    def shrink(x):
        return np.sign(x) * np.maximum(np.abs(x) - threshold, 0)

    C = shrink(now["C"].real) + 1j * shrink(now["C"].imag)
    A = -np.exp(now["log_A_real"]) + 1j * now["A_imag"]
    select = strength(C, now) * np.abs(A)
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


def by_loss(C, counts, loss):
    """The rule `loss` of a layer: C (..., H, N, 2); `loss` takes a C. Returns the selection, C without the
    channels that are left out, and how far apart the losses are."""
    H, N = C.shape[-3:-1]
    gap = 1.0

    def trial(C, h, n=slice(None)):
        out = C.copy()
        out[..., h, n, :] = 0
        return out

    def order(losses):
        nonlocal gap
        values = np.unique(losses)
        gap = min(gap, np.min(np.diff(values) / values[1:]))
        return sorted(range(len(losses)), key=lambda i: -losses[i])

    channels = order([loss(trial(C, h)) for h in range(H)])
    for h in channels[counts[0] :]:
        C = trial(C, h)
    chosen = {"select_channels": channels[: counts[0]], "channels": channels[: counts[1]]}
    chosen["select_states"] = [list(range(N)) for _ in chosen["select_channels"]]
    chosen["states"] = []
    for i, h in enumerate(chosen["channels"]):
        states = order([loss(trial(C, h, n)) for n in range(N)])
        chosen["select_states"][i] = states[: counts[2]]
        chosen["states"].append(states[: counts[3]])
    return chosen, C, gap


def margin(scores):
    """The smallest relative gap between finite scores that differ: too close is no use as a golden."""
    gaps = [1.0]
    for row in [*scores[0], *scores[1], scores[2], scores[3]]:
        values = np.unique(row[np.isfinite(row)]).astype(np.float64)
        if len(values) > 1:
            gaps.append(np.min(np.diff(values) / np.maximum(np.abs(values[1:]), 1e-30)))
    return min(gaps)
