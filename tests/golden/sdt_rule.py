"""Selection rule of SDT: which channels and which of their states a displacement of A_log selects.

Everything is in (state, channel) layout: `displacement` has shape (N, E).
A float in num_zero / num_freeze is a fraction of its axis, an int a count.
"""

import numpy as np


def resolve(spec, size):
    """Python's round() takes exact halves to the even neighbour; counts pass through."""
    return int(round(spec * size)) if isinstance(spec, float) else int(spec)


def sizes(n_state, n_channel, num_zero, num_freeze, is_a_log=True):
    zero_c, freeze_c = resolve(num_zero["channel"], n_channel), resolve(
        num_freeze["channel"], n_channel
    )
    zero_s = resolve(num_zero["state"], n_state) if is_a_log else 0
    freeze_s = resolve(num_freeze["state"], n_state) if is_a_log else 0
    return {
        "train_states": n_state - zero_s - freeze_s,
        "train_channels": n_channel - zero_c - freeze_c,
        "freeze_channels": freeze_c,
        "zero_channels": zero_c,
    }


def select(displacement, num_zero, num_freeze):
    displacement = np.asarray(displacement, np.float64)
    n_state, n_channel = displacement.shape
    size = sizes(n_state, n_channel, num_zero, num_freeze)
    n_train, n_freeze, n_zero = (
        size[k] for k in ("train_channels", "freeze_channels", "zero_channels")
    )
    n_keep = size["train_states"]
    if min(n_train, n_keep) < 1 or min(n_freeze, n_zero) < 0:
        raise ValueError(f"nothing left to train: {size}")
    energy = displacement * displacement
    ranking = np.argsort(-energy.sum(axis=0), kind="stable")
    train = ranking[:n_train].tolist()
    freeze = ranking[n_train : n_train + n_freeze].tolist()
    zero = ranking[n_train + n_freeze : n_train + n_freeze + n_zero].tolist()
    states = [np.argsort(-energy[:, c], kind="stable")[:n_keep].tolist() for c in train]
    mask = np.zeros((n_state, n_channel), bool)
    for c, kept in zip(train, states):
        mask[kept, c] = True
    return {
        "train_channels": train,
        "freeze_channels": freeze,
        "zero_channels": zero,
        "states": states,
        "columns": sorted(train),
        "mask_flat": np.flatnonzero(
            mask
        ).tolist(),  # n * E + e, ascending: the adapter's fill order
    }


def margin(displacement):
    """Smallest relative gap between two competing scores; cases near a tie are no use as goldens."""
    energy = np.asarray(displacement, np.float64) ** 2
    gaps = []
    for scores in [energy.sum(axis=0), *energy.T]:
        ordered = np.sort(scores)
        if len(ordered) > 1:
            gaps.append(np.min(np.diff(ordered)) / ordered[-1])
    return min(gaps, default=1.0)
