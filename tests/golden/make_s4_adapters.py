"""Golden numbers of adapters on S4 models: low rank on states and SDT on the official model, and SDT's rule `loss` and
soft mode on the deep S4; outputs, gradients and whole runs of AdamW, in PyTorch from the equations. See README.md.

Runs are float64 from float32 weights; each is repeated in float32 to see by how much an honest float32 implementation
may differ.
"""

import json
import math

import numpy as np
import torch
import torch.nn.functional as F

import make_deep_s4
import make_s4_stack
import sdt_s4_rule as rule
from common import DATA, save

LR, WARMUP_LR, DECAY, STEPS = 5e-3, 0.01, 0.01, 30


def low_rank(value, U, V, scale):
    """value + scale U V as a matrix of rows and states; complex where U is."""
    if U.dim() == 2:
        return value + scale * U @ V
    U, V = torch.view_as_complex(U), torch.view_as_complex(V)
    return value + scale * torch.view_as_real(U @ V).reshape(value.shape)


class Run:
    def __init__(self, config, seed, batch, length, steps=STEPS):
        gen = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.config = config
        self.deep = config["model_type"] == "deep_s4"
        torch.set_default_dtype(torch.float32 if self.deep else torch.float64)
        start = make_deep_s4.weights(config, gen) if self.deep else make_s4_stack.weights(config)
        self.start = {k: v.detach().float() for k, v in start.items()}
        torch.set_default_dtype(torch.float32)
        self.x = torch.randn(steps, batch, length, config["d_input"], generator=gen)
        self.right = torch.randint(0, config["d_output"], (steps, batch), generator=gen)
        self.layers = [f"layers.{i}" if self.deep else f"s4_layers.{i}.layer" for i in range(config["n_layers"])]
        self.real = "log_A_real" if self.deep else "A_real"
        self.dt = "log_dt" if self.deep else "inv_dt"

    def in_type(self, dtype):
        torch.set_default_dtype(dtype)
        return {k: v.to(dtype) for k, v in self.start.items()}, self.x.to(dtype)

    def loss(self, p, x, right):
        y = (make_deep_s4 if self.deep else make_s4_stack).forward(self.config, p, x)
        return y, F.cross_entropy(y, right)

    def output(self, layer):
        return layer + ".output_linear" if self.deep else layer.replace(".layer", ".output_linear.0")

    def train(self, p, x, tuned, applied, steps, lr, decay, penalty=None):
        """AdamW on `tuned`; the model's weights are applied(p, tuned). Losses without the penalty."""
        optimizer = torch.optim.AdamW(tuned.values(), lr=lr, weight_decay=decay, foreach=False)
        losses = []
        for k in range(steps):
            optimizer.zero_grad()
            q = applied(p, tuned)
            loss = self.loss(q, x[k], self.right[k])[1]
            (loss if penalty is None else loss + penalty(q)).backward()
            optimizer.step()
            losses.append(loss.item())
        return torch.tensor(losses, dtype=torch.float64)

    def first(self, p, x, tuned, applied):
        """Output, loss and gradients of the first batch."""
        y, loss = self.loss(applied(p, tuned), x[0], self.right[0])
        gradients = torch.autograd.grad(loss, list(tuned.values()))
        out = {"y": y.detach(), "loss": loss.detach().reshape(1)}
        return out | {f"grad/{k}": g for k, g in zip(tuned, gradients)}

    def write(self, name, adapter, results, rough):
        off = max(float(((rough[k] - v).abs() / v).max()) for k, v in results.items() if "losses" in k)
        size = {k: f"{v[0]:.4f} -> {v[-1]:.4f}" for k, v in results.items() if "losses" in k}
        print(f"{name}: {size}, float32 of PyTorch off by {off:.1e}")
        tensors = {f"param/{k}": v for k, v in self.start.items()} | {"x": self.x, "right": self.right.int()}
        keep = [k for k in results if "loss" in k]
        save(DATA / f"s4_adapter_{name}.safetensors", tensors | results, config=json.dumps(self.config),
             adapter=json.dumps(adapter), lr=str(LR), decay=str(DECAY), keep64=keep)


def leaves(tensors):
    return {k: v.detach().clone().requires_grad_() for k, v in tensors.items()}


def finals(tuned):
    return {f"final/{k}": v.detach() for k, v in tuned.items()}


def make_low_rank(name, config, seed):
    r, alpha = 2, 3
    run = Run(config, seed, batch=3, length=14)
    gen = torch.Generator().manual_seed(seed + 100)
    first = {}
    normal = lambda *shape: 0.3 * torch.randn(shape, generator=gen)
    for layer in run.layers:
        for state in ("C", "A_real", "A_imag"):
            full = f"{layer}.kernel.{state}"
            value = run.start[full]
            last = (2,) if state == "C" else ()
            N = value.shape[-2 if last else -1]
            rows = value.numel() // N // (2 if last else 1)
            first[f"{full}.lora_U"], first[f"{full}.lora_V"] = normal(rows, r, *last), normal(r, N, *last)
        weight = run.start[run.output(layer) + ".weight"]
        first[run.output(layer) + ".lora_A.weight"] = normal(r, weight.shape[1])
        first[run.output(layer) + ".lora_B.weight"] = normal(weight.shape[0], r)

    def applied(p, t):
        q = dict(p)
        for layer in run.layers:
            for state in ("C", "A_real", "A_imag"):
                full = f"{layer}.kernel.{state}"
                q[full] = low_rank(p[full], t[full + ".lora_U"], t[full + ".lora_V"], alpha / r)
            out = run.output(layer)
            q[out + ".weight"] = p[out + ".weight"] + alpha / r * t[out + ".lora_B.weight"] @ t[out + ".lora_A.weight"]
        return q

    def whole(dtype):
        p, x = run.in_type(dtype)
        tuned = leaves({k: v.to(dtype) for k, v in first.items()})
        results = run.first(p, x, tuned, applied)
        losses = run.train(p, x, tuned, applied, STEPS, LR, DECAY)
        return results | {"losses": losses} | finals(tuned)

    adapter = {"peft_type": "LORA", "target_modules": ["C", "log_A_real", "A_imag", "output_linear"], "r": r,
               "lora_alpha": alpha}
    exact, rough = whole(torch.float64), whole(torch.float32)
    run.write(name, adapter, {f"start/{k}": v for k, v in first.items()} | exact, rough)


class Sdt:
    """Training of selected entries: C, A and columns of the output map, with inv_dt, D and the bias as a whole."""

    def __init__(self, run, selections, whole=()):
        self.run, self.selections = run, selections
        self.whole = [f"{layer}.{name}" if "output" not in name else run.output(layer) + ".bias"
                      for layer in run.layers for name in whole]

    def zeroed(self, p):
        """C without what is not selected."""
        q = dict(p)
        for layer, s in zip(self.run.layers, self.selections):
            C = q[f"{layer}.kernel.C"].clone()
            H, N = C.shape[-3:-1]
            for h in range(H):
                if h not in s["select_channels"]:
                    C[..., h, :, :] = 0
                elif h in s["channels"]:
                    kept = s["select_states"][s["select_channels"].index(h)]
                    for n in range(N):
                        if n not in kept:
                            C[..., h, n, :] = 0
            q[f"{layer}.kernel.C"] = C
        return q

    def places(self, layer, s, p):
        """Per tensor, the flat positions that train, ascending."""
        A = p[f"{layer}.kernel.A_imag"]
        H, N = A.shape
        entries = sorted(h * N + n for h, states in zip(s["channels"], s["states"]) for n in states)
        kernels = p[f"{layer}.kernel.C"].numel() // (2 * H * N)
        C = [2 * (m * H * N + e) + part for m in range(kernels) for e in entries for part in (0, 1)]
        rows, width = p[self.run.output(layer) + ".weight"].shape
        columns = [c * H + h for c in range(width // H) for h in sorted(s["channels"])]
        W = [i * width + j for i in range(rows) for j in columns]
        return {f"{layer}.kernel.C": C, f"{layer}.kernel.{self.run.real}": entries, f"{layer}.kernel.A_imag": entries,
                self.run.output(layer) + ".weight": W}

    def tuned(self, p):
        t = {}
        for layer, s in zip(self.run.layers, self.selections):
            for name, positions in self.places(layer, s, p).items():
                delta = torch.zeros(len(positions))
                if name.endswith(".weight"):
                    delta = delta.reshape(p[name].shape[0], -1)
                t[name.removesuffix(".weight") + ".sdt_adapter"] = delta
        return leaves(t | {name: p[name] for name in self.whole})

    def applied(self, p, t):
        q = p | {name: t[name] for name in self.whole}
        for layer, s in zip(self.run.layers, self.selections):
            for name, positions in self.places(layer, s, p).items():
                delta = t[name.removesuffix(".weight") + ".sdt_adapter"].flatten()
                q[name] = p[name].flatten().index_add(0, torch.tensor(positions), delta).reshape(p[name].shape)
        return q

    def run_all(self, p, x, steps=STEPS):
        p = self.zeroed(p)
        tuned = self.tuned(p)
        results = self.run.first(p, x, tuned, self.applied)
        return results | {"losses": self.run.train(p, x, tuned, self.applied, steps, LR, DECAY)} | finals(tuned)


FINETUNE = {True: ["log_dt", "D", "output_linear.bias"], False: ["inv_dt", "D", "output_linear.bias"]}


def whole_names(run):
    return ["kernel." + run.dt, "D", "output.bias"]


def make_sdt(name, config, seed):
    """Dimensions by hand."""
    run = Run(config, seed, batch=3, length=14)
    dimensions = [
        {"channels": [4, 1], "states": [[2], [0, 1]], "select_channels": [1, 3, 4],
         "select_states": [[1, 0], [2], [0, 2]]},
        {"channels": [0, 2], "states": [[1, 2], [1]], "select_channels": [2, 0, 4, 1],
         "select_states": [[0, 1], [1, 2], [0, 1, 2], [2]]}]

    def whole(dtype):
        p, x = run.in_type(dtype)
        return Sdt(run, dimensions, whole_names(run)).run_all(p, x)

    adapter = {"peft_type": "SDT_S4", "dimensions": dimensions, "columns": ["output_linear"],
               "finetune_parameters": FINETUNE[run.deep]}
    run.write(name, adapter, whole(torch.float64), whole(torch.float32))


def arrays(run, layer, p):
    get = lambda key: p[f"{layer}.kernel.{key}"].detach().double().numpy()
    C = get("C")
    out = {"log_dt": get(run.dt).reshape(-1), "log_A_real": get(run.real), "A_imag": get("A_imag"),
           "C": C[..., 0] + 1j * C[..., 1]}
    if not run.deep:
        out["B"] = get("B")[0, ..., 0] + 1j * get("B")[0, ..., 1]
    return out


def make_phases(name, config, seed, counts, warmup, penalties=None):
    """A warm-up of all weights, the rule `displacement` or, with penalties, the soft mode, then training."""
    run = Run(config, seed, batch=3, length=14)
    soft = penalties is not None

    def penalty_from(p):
        def penalty(q):
            total = 0
            for layer in run.layers:
                get = lambda values, key: values[f"{layer}.kernel.{key}"]
                C, real, imag = get(q, "C"), get(q, run.real), get(q, "A_imag")
                total = total + penalties[0] * ((C[..., 0] * real.exp()).abs().sum() + (C[..., 1] * imag).abs().sum())
                total = total + penalties[1] * ((real - get(p, run.real)).abs().sum()
                                                + (imag - get(p, "A_imag")).abs().sum())
            return total
        return penalty

    def whole(dtype):
        p, x = run.in_type(dtype)
        tuned = leaves(p)
        warm = run.train(p, x, tuned, lambda _, t: t, warmup, WARMUP_LR, 0 if soft else DECAY,
                         penalty_from(p) if soft else None)
        selections, gap = [], 1.0
        for layer in run.layers:
            now, before = arrays(run, layer, tuned), arrays(run, layer, p)
            if soft:
                scores = rule.soft(now, before, WARMUP_LR)
            else:
                scores = rule.displacement(now, before, 1, config.get("disc", "zoh"))
            gap = min(gap, rule.margin(scores))
            selections.append(rule.select(scores, counts, soft))
        print(f"  {dtype}: scores at least {gap:.1e} apart, training {[s['states'] for s in selections]}")
        return selections, Sdt(run, selections, whole_names(run)).run_all(p, x) | {"warmup_losses": warm}

    selections, exact = whole(torch.float64)
    others, rough = whole(torch.float32)
    assert selections == others
    adapter = dict(zip(("select_channels", "update_channels", "select_states", "update_states"), counts))
    adapter |= {"peft_type": "SDT_S4", "warmup_steps": warmup, "columns": ["output_linear"],
                "finetune_parameters": FINETUNE[run.deep]}
    if soft:
        adapter |= {"mode": "soft", "select_penalty": penalties[0], "update_penalty": penalties[1],
                    "warmup_weight_decay": 0}
    run.write(name, adapter, exact | stored(selections), rough)


def make_loss(name, config, seed, counts):
    """The rule `loss`: each trial is measured on the next batch, layer after layer."""
    run = Run(config, seed, batch=3, length=14)

    def whole(dtype):
        p, x = run.in_type(dtype)
        q, trials, selections, gap = dict(p), 0, [], 1.0
        for layer in run.layers:
            def loss(C):
                nonlocal trials
                q[f"{layer}.kernel.C"] = torch.from_numpy(C).to(dtype)
                value = run.loss(q, x[trials % STEPS], run.right[trials % STEPS])[1].item()
                trials += 1
                return value
            selection, C, apart = rule.by_loss(p[f"{layer}.kernel.C"].double().numpy(), counts, loss)
            q[f"{layer}.kernel.C"] = torch.from_numpy(C).to(dtype)
            selections.append(selection)
            gap = min(gap, apart)
        print(f"  {dtype}: losses at least {gap:.1e} apart, training {[s['states'] for s in selections]}")
        return selections, Sdt(run, selections, whole_names(run)).run_all(p, x)

    selections, exact = whole(torch.float64)
    others, rough = whole(torch.float32)
    assert selections == others
    adapter = dict(zip(("select_channels", "update_channels", "select_states", "update_states"), counts))
    adapter |= {"peft_type": "SDT_S4", "rule": "loss", "columns": ["output_linear"],
                "finetune_parameters": FINETUNE[run.deep]}
    run.write(name, adapter, exact | stored(selections), rough)


def stored(selections):
    """Lists of lists, flat, with their lengths."""
    out = {}
    for i, s in enumerate(selections):
        for key in ("select_channels", "channels"):
            out[f"{key}/{i}"] = torch.tensor(s[key], dtype=torch.int32)
        for key in ("select_states", "states"):
            out[f"{key}/{i}"] = torch.tensor([n for row in s[key] for n in row], dtype=torch.int32)
            out[f"{key}_lengths/{i}"] = torch.tensor([len(row) for row in s[key]], dtype=torch.int32)
    return out


if __name__ == "__main__":
    official = {"model_type": "s4", "d_input": 2, "d_output": 4, "n_layers": 2, "d_state": 6, "dropout": 0,
                "activation": "gelu", "final_act": "glu", "prenorm": True, "norm": "layer", "pooling": "mean",
                "channels": 1, "bidirectional": False, "mode": "diag", "disc": "zoh"}
    deep = {"model_type": "deep_s4", "mode": "default", "d_model": 6, "n_layers": 2, "d_state": 4, "d_input": 2,
            "d_output": 4, "A_init": "default"}
    both_ways = {"channels": 2, "bidirectional": True}
    make_low_rank("low_rank", {**official, **both_ways, "d_model": 4, "n_ssm": 2}, 21)
    make_low_rank("dplr", {**official, "d_model": 4, "n_ssm": 4, "mode": "dplr", "disc": "bilinear", "rank": 1,
                           "l_max": 16}, 22)
    make_sdt("sdt", {**official, **both_ways, "d_model": 5, "n_ssm": 5}, 23)
    make_phases("sdt_bilinear", {**official, "d_model": 5, "n_ssm": 5, "disc": "bilinear", "final_act": "none",
                                 "activation": "silu"}, 24, [4, 2, 2, 1], 8)
    make_phases("deep_soft", deep, 25, [5, 4, 3, 3], 12, (1e-3, 5e-4))
    make_loss("deep_loss", deep, 26, [4, 2, 3, 2])
