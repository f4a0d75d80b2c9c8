#!/usr/bin/env python3
"""The shapes of bench/cuda in PyTorch on a GPU: one JSON line per figure, named as there, `by` says what ran.

    python3 bench/baselines/pytorch_cuda.py [--device cuda] [--only PREFIX] [--seconds 100]

torch        what PyTorch itself offers for the operation
loop         the selective scan step by step
associative  the selective scan in log2(L) doubling steps over whole tensors
mamba_ssm    the official kernels of mamba-ssm and causal-conv1d, where they import
transformers MambaForCausalLM with LoRA of the peft package where it imports, else full fine-tuning

Times are medians of CUDA events, the caches flushed before each. A figure that fails (memory, a missing package) is a
line with "error". Figures are not started after --seconds. --tiny with --device cpu tests the script itself.

Exit status: 0, or 3 when PyTorch is not installed or has no such device.
"""

import argparse
import json
import statistics
import sys
import time

try:
    import torch
    from torch.nn import functional
except ImportError:
    print("PyTorch is not installed", file=sys.stderr)
    sys.exit(3)

PARSER = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
PARSER.add_argument("--device", default="cuda")
PARSER.add_argument("--only", default="", metavar="PREFIX")
PARSER.add_argument("--seconds", type=float, default=100)
PARSER.add_argument("--tiny", action="store_true")
ARGS = PARSER.parse_args()
START = time.monotonic()
FLUSH = None


def milliseconds(run, most=15, budget=1.0):
    """The median time of run(), and how often it ran."""
    if ARGS.tiny:
        most = 1
    if ARGS.device == "cpu":
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start), 1
    global FLUSH
    if FLUSH is None:
        FLUSH = torch.empty(256 << 20, dtype=torch.uint8, device=ARGS.device)

    def once():
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        FLUSH.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    once()
    guess = once()
    repeats = max(1, min(most, int(1e3 * budget / max(guess, 1e-3))))
    return statistics.median(once() for _ in range(repeats)), repeats


def figure(name, by, make, **fields):
    """Prints one line; `make` returns what is timed, or (that, tokens) for a line with a rate."""
    if not name.startswith(ARGS.only) or time.monotonic() - START > ARGS.seconds:
        return
    line = {"bench": name, "by": by, **fields}
    try:
        if ARGS.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        made = make()
        run, tokens = made if isinstance(made, tuple) else (made, 0)
        line["ms"], line["repeats"] = milliseconds(run)
        if tokens:
            line["tokens_per_s"] = 1e3 * tokens / line["ms"]
        if ARGS.device != "cpu":
            line["peak_bytes"] = torch.cuda.max_memory_allocated()
    except Exception as error:  # noqa: BLE001 - any failure is the figure's result
        line["error"] = f"{type(error).__name__}: {error}"[:300]
    made = run = None
    if ARGS.device != "cpu":
        torch.cuda.empty_cache()
    print(json.dumps(line), flush=True)


def uniform(*shape, dtype=torch.float32, low=-1.0, high=1.0, grad=False):
    values = torch.empty(*shape, device=ARGS.device).uniform_(low, high).to(dtype)
    return values.requires_grad_(grad)


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def scan_inputs(b, l, d, n, dtype, grad):
    tensors = {
        "u": uniform(b, l, d, dtype=dtype, grad=grad),
        "dt": uniform(b, l, d, dtype=dtype, grad=grad),
        "B": uniform(b, l, n, dtype=dtype, grad=grad),
        "C": uniform(b, l, n, dtype=dtype, grad=grad),
        "z": uniform(b, l, d, dtype=dtype, grad=grad),
    }
    rest = {"A": -torch.exp(uniform(d, n, low=0, high=2.8)), "D": uniform(d)}
    return tensors, {**rest, "bias": uniform(d, low=-5, high=-2)}


def gated(y, t, w):
    return (y + w["D"] * t["u"].float()).to(t["u"].dtype) * functional.silu(t["z"])


def scan_loop(t, w):
    delta = functional.softplus(t["dt"].float() + w["bias"])
    drive = (delta * t["u"].float()).unbind(1)
    h = torch.zeros(t["u"].shape[0], *w["A"].shape, device=ARGS.device)
    ys = []
    for step, x, b, c in zip(
        delta.unbind(1), drive, t["B"].float().unbind(1), t["C"].float().unbind(1)
    ):
        h = torch.addcmul(x.unsqueeze(-1) * b.unsqueeze(1), torch.exp(step.unsqueeze(-1) * w["A"]), h)
        ys.append(torch.einsum("bdn,bn->bd", h, c))
    return gated(torch.stack(ys, 1), t, w)


def scan_associative(t, w):
    delta = functional.softplus(t["dt"].float() + w["bias"])
    a = torch.exp(delta.unsqueeze(-1) * w["A"])
    h = (delta * t["u"].float()).unsqueeze(-1) * t["B"].float().unsqueeze(2)
    span = 1
    while span < a.shape[1]:
        h = torch.cat([h[:, :span], h[:, span:] + a[:, span:] * h[:, :-span]], 1)
        a = torch.cat([a[:, :span], a[:, span:] * a[:, :-span]], 1)
        span *= 2
    return gated(torch.einsum("bldn,bln->bld", h, t["C"].float()), t, w)


def scan_official(t, w):
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    def turned(x):
        return x.transpose(1, 2).contiguous()

    y = selective_scan_fn(
        turned(t["u"]), turned(t["dt"]), w["A"], turned(t["B"]), turned(t["C"]), w["D"],
        z=turned(t["z"]), delta_bias=w["bias"], delta_softplus=True,
    )  # fmt: skip
    return y.transpose(1, 2)


def check_scans(shape):
    t, w = scan_inputs(*shape, torch.float32, grad=False)
    expected = scan_loop(t, w)
    error = torch.linalg.norm(scan_associative(t, w) - expected) / torch.linalg.norm(expected)
    if not error < 1e-5:
        raise AssertionError(f"the two scans differ by {error}")


def scans(shape, dtype):
    fields = {"shape": shape, "dtype": name_of(dtype)}
    ways = {"associative": scan_associative, "mamba_ssm": scan_official, "loop": scan_loop}
    for by, scan in ways.items():

        def forward(scan=scan):
            t, w = scan_inputs(*shape, dtype, grad=False)
            return lambda: scan(t, w)

        def backward(scan=scan):
            t, w = scan_inputs(*shape, dtype, grad=True)
            y = scan(t, w)
            dy = torch.randn_like(y)
            return lambda: torch.autograd.grad(y, list(t.values()), dy, retain_graph=True)

        figure("selective_scan_fwd", by, forward, **fields)
        figure("selective_scan_bwd", by, backward, dA="frozen", **fields)


def convolutions(shape, dtype):
    b, l, d, _ = shape
    fields = {"shape": [b, l, d], "dtype": name_of(dtype)}

    def plain(x, weight, bias):
        return functional.silu(
            functional.conv1d(x, weight.unsqueeze(1), bias, padding=3, groups=d)[..., :l]
        )

    def official(x, weight, bias):
        from causal_conv1d import causal_conv1d_fn

        return causal_conv1d_fn(x, weight, bias, activation="silu")

    for by, conv in {"torch": plain, "mamba_ssm": official}.items():

        def inputs(grad):
            return (
                uniform(b, d, l, dtype=dtype, grad=grad),
                uniform(d, 4, dtype=dtype),
                uniform(d, dtype=dtype),
            )

        def forward(conv=conv):
            x = inputs(False)
            return lambda: conv(*x)

        def backward(conv=conv):
            x = inputs(True)
            y = conv(*x)
            dy = torch.randn_like(y)
            return lambda: torch.autograd.grad(y, x[0], dy, retain_graph=True)

        figure("causal_conv_silu_fwd", by, forward, **fields)
        figure("causal_conv_silu_bwd", by, backward, weights="frozen", **fields)


def layers(rows, hidden, inner, vocabulary, chunk):
    def norm(dtype):
        x, r = uniform(rows, hidden, dtype=dtype), uniform(rows, hidden)
        weight = uniform(hidden)

        def run():
            total = x.float() + r
            return functional.rms_norm(total, (hidden,), weight, 1e-5).to(dtype), total

        return run

    def loss():
        logits = uniform(chunk, vocabulary, grad=True)
        targets = torch.randint(vocabulary, (chunk,), device=ARGS.device)

        def run():
            torch.autograd.grad(functional.cross_entropy(logits, targets), logits)

        return run

    def low_rank(dtype, branch):
        x = uniform(rows, inner, dtype=dtype, grad=True)
        w, a, b = (
            uniform(hidden, inner, dtype=dtype),
            uniform(8, inner, dtype=dtype, grad=True),
            uniform(hidden, 8, dtype=dtype, grad=True),
        )
        dy = uniform(rows, hidden, dtype=dtype)

        def run():
            y = functional.linear(x, w)
            if branch:
                y = y + functional.linear(functional.linear(x, a), b)
            torch.autograd.grad(y, [x, a, b] if branch else [x], dy)

        return run

    def adamw(entries):
        value = uniform(entries, grad=True)
        value.grad = uniform(entries)
        optimizer = torch.optim.AdamW([value], lr=1e-4, fused=ARGS.device != "cpu")
        return optimizer.step

    for dtype in (torch.bfloat16, torch.float32):
        fields = {"dtype": name_of(dtype)}
        figure("rms_norm_fwd", "torch", lambda: norm(dtype), shape=[rows, hidden], **fields)
        for branch in (False, True):
            figure(
                "linear", "torch", lambda: low_rank(dtype, branch), shape=[rows, hidden, inner],
                branch="LoRA 8" if branch else "none", **fields,
            )  # fmt: skip
    figure(
        "cross_entropy", "torch", loss, shape=[chunk, vocabulary], dtype="float32",
        variant="with gradient",
    )  # fmt: skip
    entries = 100 if ARGS.tiny else 1 << 25
    figure("adamw", "torch", lambda: adamw(entries), of="one dense tensor", entries=entries)


def steps(config, batch, length, precision):
    """A training step of transformers' Mamba, with autocast where precision is bf16."""

    def make():
        import transformers

        transformers.logging.set_verbosity_error()
        model = transformers.MambaForCausalLM(transformers.MambaConfig(**config)).to(ARGS.device)
        try:
            import peft

            lora = peft.LoraConfig(r=8, lora_alpha=8, lora_dropout=0.1, target_modules=["out_proj"])
            model = peft.get_peft_model(model, lora)
        except ImportError:
            pass
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        tokens = torch.randint(config["vocab_size"], (batch, length + 1), device=ARGS.device)
        kind = torch.device(ARGS.device).type

        def run():
            with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
                logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
            targets = tokens[:, 1:].flatten()
            functional.cross_entropy(logits.float().flatten(0, 1), targets).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return run, batch * length

    figure(
        "step", "transformers", make, precision=precision, batch=batch, length=length,
        hidden=config["hidden_size"], layers=config["num_hidden_layers"],
    )  # fmt: skip


def main():
    if ARGS.device != "cpu" and not torch.cuda.is_available():
        print("PyTorch sees no GPU", file=sys.stderr)
        return 3
    device = "cpu" if ARGS.device == "cpu" else torch.cuda.get_device_name()
    print(json.dumps({"bench": "device", "by": f"torch {torch.__version__}", "name": device}))
    torch.manual_seed(0)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 29, "state_size": 4}
    config = small if ARGS.tiny else {"hidden_size": 768, "num_hidden_layers": 24, "vocab_size": 50280}
    shapes = [[1, 9, 6, 4]] if ARGS.tiny else [[8, 2048, 1536, 16], [8, 2048, 5120, 16]]
    check_scans([2, 13, 6, 4])
    layers(*((12, 6, 10, 29, 5) if ARGS.tiny else (16384, 768, 1536, 50280, 2048)))
    for shape in shapes:
        for dtype in (torch.bfloat16, torch.float32):
            convolutions(shape, dtype)
            scans(shape, dtype)
    # transformers' own loop holds (B, E, L, N) tensors in every layer, so long sequences do not fit.
    for batch, length in [(2, 5)] if ARGS.tiny else [(4, 128), (8, 2048)]:
        for precision in ("bf16", "fp32"):
            steps(config, batch, length, precision)
    return 0


if __name__ == "__main__":
    sys.exit(main())
