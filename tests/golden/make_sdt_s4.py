"""Cases of SDT's selection rules on S4 layers for the tests: data/sdt_s4_cases.json, and of the official model's layers
data/sdt_s4_official_cases.json."""

import json

import numpy as np

import sdt_s4_rule as rule
from common import DATA


def rounded(x):
    return np.round(x, 4)


def layer(rng, H, N):
    return {
        "log_dt": rounded(rng.uniform(-6.5, -2.3, H)),
        "log_A_real": rounded(np.log(rng.uniform(0.05, 1, (H, N)))),
        "A_imag": rounded(np.pi * rng.integers(0, 12, (H, N)) + 0.01 * rng.standard_normal((H, N))),
        "C": rounded(rng.standard_normal((H, N))) + 1j * rounded(rng.standard_normal((H, N))),
    }


def stored(values):
    out = {k: v.tolist() for k, v in values.items() if k != "C"}
    out["C"] = np.stack([values["C"].real, values["C"].imag], -1).tolist()
    return out


def case(rng, name):
    H, N = int(rng.integers(2, 8)), int(rng.integers(1, 7))
    before = layer(rng, H, N)
    now = {k: rounded(v.real + 0.05 * rng.standard_normal(v.shape)) for k, v in before.items()}
    now["C"] = now["C"] + 1j * rounded(before["C"].imag + 0.05 * rng.standard_normal((H, N)))
    counts = [int(rng.integers(1, H + 1)), 0, int(rng.integers(1, N + 1)), 0]
    counts[1], counts[3] = (int(rng.integers(1, counts[i] + 1)) for i in (0, 2))
    data = {"rule": name, "channels": H, "states": N, "counts": counts}
    if name in ("displacement", "compat"):
        data["power"] = int(rng.choice([0, 1, 4, 100]))
    if name == "compat":
        kind = int(rng.integers(0, 3))
        if kind > 0:  # large steps: exp(100 dt alpha) overflows in many places
            data["power"] = 100
            now["log_dt"] = rounded(rng.uniform(-3, -1.5, H))
        if kind > 1:  # 0 / 0: alpha is exactly 0
            hit = rng.random((H, N)) < 0.3
            now["log_A_real"][hit] = 0
            now["A_imag"][hit] = 1
        if rng.random() < 0.3 and H > 3:  # ties
            for values in (now, before):
                for v in values.values():
                    v[H - 1] = v[0]
    threshold = 0.04
    with np.errstate(all="ignore"):
        if name == "displacement":
            scores = rule.displacement(now, before, data["power"])
        elif name == "compat":
            scores = rule.compat(now, before, data["power"])
        elif name == "gradient":
            output = rounded(rng.standard_normal((H, H)))
            data["output"] = output.tolist()
            scores = rule.gradient(now, output)
        else:
            data["threshold"] = threshold
            now["C"][rng.random((H, N)) < 0.4] = 0.01 - 0.02j
            scores = rule.soft(now, before, threshold)
    data["now"], data["before"] = stored(now), stored(before)
    data["expected"] = rule.select(scores, counts, name == "soft")
    return data, scores


def official_case(rng, name):
    """With B, several kernels of C and a choice of discretisations; Im A = -A_imag."""
    H, N, M = int(rng.integers(2, 6)), int(rng.integers(1, 5)), int(rng.integers(1, 4))
    complex_normal = lambda *shape: rounded(rng.standard_normal(shape)) + 1j * rounded(rng.standard_normal(shape))
    before = layer(rng, H, N) | {"C": complex_normal(M, H, N), "B": complex_normal(H, N)}
    moved = lambda v: rounded(v + 0.05 * rng.standard_normal(v.shape))
    now = {k: moved(v.real) + (1j * moved(v.imag) if np.iscomplexobj(v) else 0) for k, v in before.items()}
    counts = [int(rng.integers(1, H + 1)), 0, int(rng.integers(1, N + 1)), 0]
    counts[1], counts[3] = (int(rng.integers(1, counts[i] + 1)) for i in (0, 2))
    data = {"rule": name, "channels": H, "states": N, "kernels": M, "counts": counts}
    if name in ("displacement", "compat"):
        data["power"] = int(rng.choice([0, 1, 4]))
    if name == "displacement":
        data["disc"] = str(rng.choice(["zoh", "bilinear"]))
        scores = rule.displacement(now, before, data["power"], data["disc"])
    elif name == "compat":
        scores = rule.compat(now, before, data["power"], -1)
    elif name == "gradient":
        output = rounded(rng.standard_normal((3, 2 * H)))
        data["output"] = output.tolist()
        scores = rule.gradient(now, output)
    else:
        data["threshold"] = 0.04
        now["C"][:, rng.random((H, N)) < 0.4] = 0.01 - 0.02j
        scores = rule.soft(now, before, 0.04)
    pairs = lambda v: np.stack([v.real, v.imag], -1).tolist()
    for key, values in (("now", now), ("before", before)):
        data[key] = {k: pairs(v) if np.iscomplexobj(v) else v.tolist() for k, v in values.items()}
    data["expected"] = rule.select(scores, counts, name == "soft")
    return data, scores


def official(rng):
    cases = []
    for name, count in (("displacement", 10), ("compat", 5), ("gradient", 5), ("soft", 6)):
        made = 0
        while made < count:
            data, scores = official_case(rng, name)
            if rule.margin(scores) >= 1e-4 and all(np.all(np.isfinite(s)) for s in scores):
                cases.append(data)
                made += 1
    (DATA / "sdt_s4_official_cases.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


def main():
    rng = np.random.default_rng(4)
    cases = []
    special = 0
    for name, count in (("displacement", 12), ("compat", 24), ("gradient", 8), ("soft", 12)):
        made = 0
        while made < count:
            data, scores = case(rng, name)
            if rule.margin(scores) < 1e-4:
                continue
            special += any(not np.all(np.isfinite(s)) for s in scores)
            cases.append(data)
            made += 1
    (DATA / "sdt_s4_cases.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    print(f"{len(cases)} cases, {special} with infinite or NaN scores")
    official(rng)


if __name__ == "__main__":
    main()
