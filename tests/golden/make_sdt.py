"""Writes data/sdt_cases.json: 200 random SDT selections, some refused ones, and a worked example.

`--oracle FILE.py` compares every case with another implementation that offers
select(delta, num_zero, num_freeze), as a check of this generator.
"""

import argparse
import importlib.util
import json
import pathlib

import numpy as np

import sdt_rule

DATA = pathlib.Path(__file__).parent / "data"


def draw_spec(rng, size, room):
    """A count or fraction that resolves to at most `room` of `size`."""
    kind = rng.integers(4)
    if kind == 0 or room <= 0:
        return 0 if rng.random() < 0.5 else 0.0
    count = int(rng.integers(0, room + 1))
    if kind == 1:
        return count
    if kind == 2:  # exact halves exercise round-half-to-even
        spec = (count + 0.5) / size
    else:
        spec = round(float(rng.uniform(0, room / size)), 2)
    return spec if sdt_rule.resolve(spec, size) <= room else count


def draw_case(rng):
    while True:
        n, e = int(rng.integers(1, 17)), int(rng.integers(1, 41))
        if rng.random() < 0.15:
            n = 1
        if rng.random() < 0.1:
            e = int(rng.integers(1, 4))
        num_zero, num_freeze = {}, {}
        for axis, size in (("state", n), ("channel", e)):
            num_freeze[axis] = draw_spec(rng, size, size - 1)
            left = size - 1 - sdt_rule.resolve(num_freeze[axis], size)
            num_zero[axis] = draw_spec(rng, size, left) if rng.random() < 0.5 else 0
        # Integers: the selection does not change with scale, and float32 holds the values exactly.
        delta = rng.integers(1, 1000, size=(n, e)) * rng.choice([-1, 1], size=(n, e))
        if rng.random() < 0.2:
            delta[:, rng.random(e) < 0.3] //= 10
        if not (np.abs(delta) > 0).all() or sdt_rule.margin(delta) < 1e-6:
            continue
        return {
            "N": n,
            "E": e,
            "num_zero": num_zero,
            "num_freeze": num_freeze,
            "delta": delta.ravel().tolist(),
            **sdt_rule.select(delta, num_zero, num_freeze),
        }


def worked_example():
    delta = np.array([[10, -50, 2, 30], [-40, 10, 3, 0], [20, 60, -1, 20]])
    num_zero, num_freeze = {"state": 0, "channel": 1}, {"state": 0.34, "channel": 0.25}
    case = {
        "N": 3,
        "E": 4,
        "num_zero": num_zero,
        "num_freeze": num_freeze,
        "delta": delta.ravel().tolist(),
        **sdt_rule.select(delta, num_zero, num_freeze),
    }
    a_log = np.repeat(np.log([[1.0], [2.0], [3.0]]), 4, axis=1)
    a_log[:, case["zero_channels"]] = 10.0
    adapter = [0.1, 0.2, 0.3, 0.4]
    a_log.ravel()[case["mask_flat"]] += adapter
    case["adapter"] = adapter
    case["A_log_effective"] = a_log.ravel().tolist()  # (state, channel)
    return case


def refused():
    zero = {"state": 0, "channel": 0}
    return [
        {"N": 4, "E": 6, "num_zero": zero, "num_freeze": {"state": 0.0, "channel": 0.99}},
        {"N": 4, "E": 6, "num_zero": zero, "num_freeze": {"state": 4, "channel": 0}},
        {
            "N": 4,
            "E": 6,
            "num_zero": {"state": 0, "channel": 4},
            "num_freeze": {"state": 0, "channel": 2},
        },
        {
            "N": 4,
            "E": 6,
            "num_zero": {"state": 2, "channel": 0},
            "num_freeze": {"state": 0.5, "channel": 0},
        },
        {"N": 4, "E": 6, "num_zero": zero, "num_freeze": {"state": 0, "channel": 7}},
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--oracle")
    args = parser.parse_args()
    rng = np.random.default_rng(20)
    cases = [draw_case(rng) for _ in range(200)]
    example = worked_example()
    for case in refused():
        size = sdt_rule.sizes(case["N"], case["E"], case["num_zero"], case["num_freeze"])
        assert min(size["train_states"], size["train_channels"]) < 1, case
    if args.oracle:
        spec = importlib.util.spec_from_file_location("oracle", args.oracle)
        oracle = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(oracle)
        for case in cases + [example]:
            delta = np.array(case["delta"], float).reshape(case["N"], case["E"])
            _, _, ch, sub, mask, zero = oracle.select(delta, case["num_zero"], case["num_freeze"])
            assert ch["train"].tolist() == case["train_channels"], case
            assert ch["freeze"].tolist() == case["freeze_channels"], case
            assert ch["zero"].tolist() == case["zero_channels"], case
            assert sub.T.tolist() == case["states"], case
            assert np.flatnonzero(mask).tolist() == case["mask_flat"], case
            assert sorted(set(np.nonzero(zero)[1].tolist())) == sorted(case["zero_channels"]), case
        print("all cases agree with the other implementation")
    DATA.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    text = (
        '{"cases":[\n'
        + lines
        + '\n],\n"worked_example":'
        + json.dumps(example, separators=(",", ":"))
        + ',\n"refused":'
        + json.dumps(refused(), separators=(",", ":"))
        + "}\n"
    )
    json.loads(text)
    (DATA / "sdt_cases.json").write_text(text)
    print("sdt_cases.json", len(text), "bytes")


if __name__ == "__main__":
    main()
