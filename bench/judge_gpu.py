"""What scripts/gpu_check adds to its figures: PyTorch's times over Adder's, and the targets."""

# What has to agree for two figures to be of the same thing, where both have it.
SAME = "bench shape dtype dA weights branch variant of precision batch length".split()

SCAN, SCAN_WIDE, CONV = [8, 2048, 1536, 16], [8, 2048, 5120, 16], [8, 2048, 1536]
BF16 = {"dtype": "bfloat16"}
STEP = {"bench": "step", "precision": "bf16", "batch": 8, "length": 2048}
# Set for an H200; on other devices they are reported all the same. Fields of the figure, the value
# that is looked at, and its bound.
TARGETS = [
    ({"bench": "selective_scan_fwd", "shape": SCAN, **BF16}, "ms", "at most", 0.17),
    ({"bench": "selective_scan_bwd", "shape": SCAN, "dA": "frozen", **BF16}, "ms", "at most", 0.45),
    ({"bench": "selective_scan_fwd", "shape": SCAN_WIDE, **BF16}, "ms", "at most", 0.55),
    (
        {"bench": "selective_scan_bwd", "shape": SCAN_WIDE, "dA": "frozen", **BF16},
        "ms",
        "at most",
        1.5,
    ),
    ({"bench": "causal_conv_silu_fwd", "shape": CONV, **BF16}, "share", "at least", 0.85),
    (
        {"bench": "causal_conv_silu_bwd", "shape": CONV, "weights": "frozen", **BF16},
        "share",
        "at least",
        0.85,
    ),
    ({**STEP, "model": "130m"}, "tokens_per_s", "at least", 300e3),
    ({**STEP, "model": "1.4b"}, "tokens_per_s", "at least", 42e3),
    ({"bench": "small_batch", "precision": "bf16"}, "wall_over_device", "at most", 1.1),
    ({"bench": "sdt_over_lora"}, "median_ratio", "at most", 1.02),
]


def ratios(benchmarks, pytorch):
    """For each of PyTorch's figures that Adder has too: how many times as long it took."""
    found = []
    for other in pytorch:
        for own in benchmarks:
            both = [key for key in SAME if key in own and key in other]
            if "ms" in own and "ms" in other and all(own[key] == other[key] for key in both):
                entry = {key: other[key] for key in ("by", *SAME) if key in other}
                found.append({**entry, "times": round(other["ms"] / own["ms"], 3)})
                break
    return found


def targets(benchmarks):
    """Every target with what was measured; null, and not met, where nothing was."""
    judged = []
    for fields, value, bound, limit in TARGETS:
        match = [b for b in benchmarks if value in b and all(b.get(k) == v for k, v in fields.items())]
        measured = match[0][value] if match else None
        met = measured is not None and (
            measured <= limit if bound == "at most" else measured >= limit
        )
        judged.append({**fields, "target": f"{value} {bound} {limit:g}", "measured": measured, "met": met})
    return judged

