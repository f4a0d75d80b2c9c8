#!/usr/bin/env python3
"""Loss against the share of trained parameters for a deep S4 that learns what a random one-layer S4 does: frozen, LoRA,
SDT + LoRA, SDT and full, as in the PEFT experiments on synthetic data (Galim et al. 2025).

    bench/s4_sweep.py ADDER OUT [--seeds 1 2 3] [--steps 500] [--batch 64] [--lrs 0.005 0.02] [--jobs N]

A seed draws the frozen model, the target and the batches. On the first seed every point runs with each learning rate, on
the others with the one that was best there. A run that is complete already is not repeated. Writes OUT/runs.jsonl,
OUT/table.md and OUT/figure.svg. Only Python's own library is needed.
"""

import argparse
import concurrent.futures
import html
import json
import math
import os
import pathlib
import statistics
import subprocess
import threading

from plot import COLOURS, ticks

MODEL = {"model_type": "deep_s4", "mode": "theory", "d_model": 64, "n_layers": 4, "d_state": 16, "A_init": "random"}
D = [".D"]
BIAS = ["output_linear.bias"]


def lora(rank, targets=("output_linear",)):
    return {"peft_type": "LORA", "target_modules": list(targets), "r": rank, "lora_alpha": rank}


def train(*names):
    return {"peft_type": "LAYER_FREEZE", "trainable_layers": [name for group in names for name in group]}


def sdt(channels, states, rule="displacement", **more):
    return {"peft_type": "SDT_S4", "select_channels": 16, "update_channels": channels, "select_states": 8,
            "update_states": states, "rule": rule, "warmup_steps": 100, "finetune_parameters": ["log_dt", "D", *BIAS], **more}


def points():
    """(name in the table, group in the figure, PEFT configuration, loss recorded for the reference)."""
    yield "frozen (D alone)", "frozen", [train(D)], 3.04
    for r, recorded in ((4, 2.10), (8, 2.01), (16, 1.63)):
        yield f"LoRA on W, r {r}", "LoRA (W)", [lora(r), train(D, BIAS)], recorded
    for r, recorded in ((4, 1.96), (8, 1.82), (16, 1.43)):
        yield f"LoRA on W, r {r}, and log_dt", "LoRA (W), log_dt", [lora(r), train(D, BIAS, ["log_dt"])], recorded
    for r in (4, 8, 16):
        states = lora(1, ("kernel.C", "kernel.log_A_real", "kernel.A_imag"))
        yield (f"LoRA on W, r {r}, and on C and A, r 1", "LoRA (W, C, A)",
               [lora(r), states, train(D, BIAS, ["log_dt"])], None)
    for r, row in ((4, (1.52, 1.48, 1.485)), (8, (1.37, 1.285, 1.215)), (16, (1.19, 1.01, 0.99))):
        for (channels, states), recorded in zip(((8, 4), (8, 8), (16, 8)), row):
            yield (f"SDT {channels} x {states} + LoRA on W, r {r}", "SDT + LoRA", [sdt(channels, states), lora(r)],
                   recorded)
    for channels, states, recorded in ((8, 4, 1.18), (8, 8, 1.18), (16, 4, 1.02), (16, 8, 0.93)):
        yield (f"SDT {channels} x {states} and columns", "SDT",
               [sdt(channels, states, columns=["output_linear"])], recorded)
    yield "full", "full", None, 1.06


class Sweep:
    def __init__(self, args):
        self.args = args
        self.out = pathlib.Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.lock = threading.Lock()
        (self.out / "config.json").write_text(json.dumps(MODEL))
        for seed in args.seeds:
            model = self.out / f"model-{seed}"
            if not model.exists():
                self.call("init", "--config", self.out / "config.json", "--seed", seed, "--out", model)

    def call(self, *arguments):
        environment = {**os.environ}
        if self.args.jobs > 1:
            environment["OMP_NUM_THREADS"] = "1"
        subprocess.run([self.args.adder, *map(str, arguments)], check=True, env=environment, stdout=subprocess.DEVNULL,
                       stderr=None if self.args.verbose else subprocess.DEVNULL)

    def run(self, point, seed, lr):
        name, group, peft, recorded = point
        key = "".join(c if c.isalnum() else "-" for c in name)
        out = self.out / f"{key}-seed{seed}-lr{lr}"
        if not (out / "summary.json").exists():
            arguments = ["train", "--model", self.out / f"model-{seed}", "--data", "synthetic-s4",
                         "--data-option", f"target_seed={1000 + seed}", "--steps", self.args.steps, "--batch-size",
                         self.args.batch, "--lr", lr, "--schedule", "constant", "--weight-decay", 0.01, "--clip", 0,
                         "--seed", seed, "--log-every", 1, "--no-save", "--overwrite", "--out", out]
            if peft:
                path = self.out / f"{key}.json"
                with self.lock:
                    path.write_text(json.dumps(peft, indent=1))
                arguments += ["--peft", path]
            self.call(*arguments)
        summary = json.loads((out / "summary.json").read_text())
        return {"method": name, "group": group, "seed": seed, "lr": lr, "trainable": summary["trainable_parameters"],
                "percent": summary["trainable_percent"], "loss": summary["best_loss"], "recorded": recorded,
                "seconds": summary["wall_seconds"]}

    def all_runs(self):
        chosen = list(points())
        seeds, lrs = self.args.seeds, self.args.lrs
        with concurrent.futures.ThreadPoolExecutor(self.args.jobs) as pool:
            first = list(pool.map(lambda job: self.run(*job), [(p, seeds[0], lr) for p in chosen for lr in lrs]))
            best = {}
            for run in first:
                kept = best.get(run["method"])
                if kept is None or run["loss"] < kept["loss"]:
                    best[run["method"]] = run
            rest = [(p, seed, best[p[0]]["lr"]) for seed in seeds[1:] for p in chosen]
            return first, [*best.values(), *pool.map(lambda job: self.run(*job), rest)]


def table(runs, args):
    lines = ["| method | trains | percent | lr | loss, mean of the seeds | lowest, highest | recorded |",
             "|---|---|---|---|---|---|---|"]
    rows = []
    for point in points():
        mine = [run for run in runs if run["method"] == point[0]]
        losses = [run["loss"] for run in mine]
        row = {**mine[0], "mean": statistics.mean(losses), "low": min(losses), "high": max(losses)}
        rows.append(row)
        recorded = "-" if point[3] is None else f"{point[3]:.2f}"
        lines.append(f"| {row['method']} | {row['trainable']:,} | {row['percent']:.2f} | {row['lr']:g} | {row['mean']:.3f} | "
                     f"{row['low']:.3f}, {row['high']:.3f} | {recorded} |")
    return rows, "\n".join(lines) + "\n"


def figure(rows, args):
    width, height, left, right, top, bottom = 760, 420, 64, 170, 44, 52
    high, low = max(row["high"] for row in rows) * 1.1, min(row["low"] for row in rows) / 1.1
    log_low, log_high = math.log(0.6), math.log(130)

    def px(percent):
        return left + (math.log(percent) - log_low) / (log_high - log_low) * (width - left - right)

    def py(loss):
        return height - bottom - math.log(loss / low) / math.log(high / low) * (height - top - bottom)

    def text(x, y, content, anchor="start", extra=""):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{html.escape(content)}</text>'

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" '
           'fill="#334155">', f'<rect width="{width}" height="{height}" fill="#fff"/>',
           text(left, 24, f"Square error after {args.steps} steps, {len(args.seeds)} seeds",
                extra='font-size="15" font-weight="600" fill="#0f172a"'),
           text((left + width - right) / 2, height - 12, "trained parameters, percent of the model", "middle"),
           text(0, 0, "lowest training loss", "middle", f'transform="translate(16 {(top + height - bottom) / 2:.0f}) rotate(-90)"')]
    for value in ticks(low, high, True):
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{py(value):.1f}" y2="{py(value):.1f}" stroke="#e2e8f0"/>')
        out.append(text(left - 8, py(value) + 4, f"{value:g}", "end"))
    for percent in (1, 2, 5, 10, 20, 50, 100):
        out.append(text(px(percent), height - bottom + 18, f"{percent}", "middle"))
    groups = list(dict.fromkeys(row["group"] for row in rows))
    for number, (group, colour) in enumerate(zip(groups, [*COLOURS, "#b45309"])):
        mine = sorted((row for row in rows if row["group"] == group), key=lambda row: row["percent"])
        if len(mine) > 1:
            line = " ".join(f'{px(row["percent"]):.1f},{py(row["mean"]):.1f}' for row in mine)
            out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1" stroke-opacity="0.4"/>')
        for row in mine:
            x = px(row["percent"])
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{py(row["low"]):.1f}" y2="{py(row["high"]):.1f}" stroke="{colour}" stroke-opacity="0.35"/>')
            out.append(f'<circle cx="{x:.1f}" cy="{py(row["mean"]):.1f}" r="4" fill="{colour}"/>')
        y = top + 12 + 20 * number
        out.append(f'<circle cx="{width - right + 22}" cy="{y - 4}" r="4" fill="{colour}"/>')
        out.append(text(width - right + 34, y, group))
    return "\n".join(out) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adder")
    parser.add_argument("out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lrs", type=float, nargs="+", default=[0.005, 0.02])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--verbose", action="store_true", help="show what each run says")
    args = parser.parse_args()
    args.adder = str(pathlib.Path(args.adder).resolve())
    sweep = Sweep(args)
    first, chosen = sweep.all_runs()
    kept = [run for run in first if run not in chosen] + chosen
    (sweep.out / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in kept))
    rows, text = table(chosen, args)
    (sweep.out / "table.md").write_text(text)
    (sweep.out / "figure.svg").write_text(figure(rows, args))
    print(text, end="")


if __name__ == "__main__":
    main()
