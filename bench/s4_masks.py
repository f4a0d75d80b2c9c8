#!/usr/bin/env python3
"""Ranks the selection rules of S4's sparse dimension tuning against every possible choice of dimensions, on models small
enough to try all (Galim et al. 2025, the exhaustive search).

    bench/s4_masks.py ADDER OUT [--mode select|update] [--seed 1] [--steps 500] [--batch 64] [--jobs N]

select: width 4, 2 layers of 2 states, one state of two channels each stays, all else is zeroed: 576 choices. update: width
4, 1 layer of 4 states, nothing is zeroed, two states of two channels train: 216 choices. The model is first pretrained on
the target for 50 steps; then each choice trains for --steps on the same batches, and its score is the area under the lowest
loss so far (smaller is better). Every rule's choice is one of them; its rank is printed. Writes OUT/masks.jsonl and
OUT/rules.md. Only Python's own library is needed.
"""

import argparse
import concurrent.futures
import itertools
import json
import os
import pathlib
import subprocess

RULES = ("displacement", "compat", "loss", "gradient", "random")
# Of 576 (select) and 216 (update; 180 ran) choices, from the reference's documentation.
RECORDED = {"select": {"compat": "531 of 576", "loss": "175 of 576"},
            "update": {"compat": "137 of 180", "loss": "43 of 180", "gradient": "167 of 180"}}
SETTINGS = {"select": {"layers": 2, "states": 2, "target": 1, "kept": 1}, "update": {"layers": 1, "states": 4, "target": 4, "kept": 2}}


def choices(mode):
    """All choices of one layer: (channels, states of each)."""
    setting = SETTINGS[mode]
    of_states = list(itertools.combinations(range(setting["states"]), setting["kept"]))
    for channels in itertools.combinations(range(4), 2):
        for states in itertools.product(of_states, repeat=2):
            yield list(channels), [list(s) for s in states]


def canonical(channels, states):
    return tuple(sorted((c, tuple(sorted(s))) for c, s in zip(channels, states)))


class Search:
    def __init__(self, args):
        self.args = args
        self.setting = SETTINGS[args.mode]
        self.out = pathlib.Path(args.out) / args.mode
        self.out.mkdir(parents=True, exist_ok=True)
        config = {"model_type": "deep_s4", "mode": "theory", "d_model": 4, "n_layers": self.setting["layers"],
                  "d_state": self.setting["states"], "A_init": "random"}
        (self.out / "config.json").write_text(json.dumps(config))
        base = self.out / "start"
        if not base.exists():
            self.call("init", "--config", self.out / "config.json", "--seed", args.seed, "--out", base)
        if not (self.out / "pretrained" / "summary.json").exists():
            self.train("pretrained", base, None, 50, args.pretrain_lr)
        self.model = self.out / "pretrained" / "model"

    def call(self, *arguments):
        return subprocess.run([self.args.adder, *map(str, arguments)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout

    def train(self, name, model, peft, steps, lr):
        out = self.out / name
        if (out / "summary.json").exists():
            return out
        arguments = ["train", "--model", model, "--data", "synthetic-s4", "--data-option", f"target_seed={1000 + self.args.seed}",
                     "--data-option", f"states={self.setting['target']}", "--steps", steps, "--batch-size", self.args.batch,
                     "--lr", lr, "--schedule", "constant", "--weight-decay", 0.01, "--clip", 0, "--seed", self.args.seed,
                     "--log-every", 1, "--no-save", "--overwrite", "--out", out]
        if peft:
            path = self.out / f"{name}.json"
            path.write_text(json.dumps(peft))
            arguments += ["--peft", path]
        self.call(*arguments)
        return out

    def peft(self, **more):
        kept = {"select_channels": 2, "select_states": self.setting["kept"]}
        if self.args.mode == "update":
            kept = {"select_channels": 4, "select_states": self.setting["states"]}
        return [{"peft_type": "SDT_S4", **kept, "update_channels": 2, "update_states": self.setting["kept"],
                 "columns": ["output_linear"], "finetune_parameters": ["log_dt", "D", "output_linear.bias"], **more}]

    def score(self, run):
        losses = [json.loads(line) for line in open(run / "log.jsonl", encoding="utf-8")]
        best = [line["best_loss"] for line in losses if line.get("phase") == "train"]
        return sum((a + b) / 2 for a, b in zip(best, best[1:]))

    def mask(self, number, layers):
        everything = [list(range(4)), [list(range(self.setting["states"]))] * 4]
        dimensions = []
        for channels, states in layers:
            selected = [channels, states] if self.args.mode == "select" else everything
            dimensions.append({"channels": channels, "states": states, "select_channels": selected[0],
                               "select_states": selected[1]})
        run = self.train(f"mask-{number:03d}", self.model, self.peft(dimensions=dimensions), self.args.steps, self.args.lr)
        return {"mask": number, "layers": layers, "area": self.score(run)}

    def rule(self, rule):
        more = {} if rule in ("random", "loss") else {"warmup_steps": 1 if rule == "gradient" else 50}
        run = self.train(f"rule-{rule}", self.model, self.peft(rule=rule, **more), self.args.steps, self.args.lr)
        info = json.loads(self.call("info", run / "adapter", "--json"))
        return tuple(canonical(layer["channels"], layer["states"]) for layer in info["layers"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adder")
    parser.add_argument("out")
    parser.add_argument("--mode", choices=SETTINGS, default="select")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--pretrain-lr", type=float, default=0.005)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.adder = str(pathlib.Path(args.adder).resolve())
    search = Search(args)
    layer_choices = list(choices(args.mode))
    masks = list(itertools.product(layer_choices, repeat=search.setting["layers"]))
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda job: search.mask(*job), enumerate(masks)))
        ruled = dict(zip(RULES, pool.map(search.rule, RULES)))
    results.sort(key=lambda result: result["area"])
    place = {tuple(canonical(*layer) for layer in result["layers"]): rank for rank, result in enumerate(results)}
    lines = [f"| rule ({args.mode}) | rank of {len(results)} (0 is best) | area | recorded for the reference |", "|---|---|---|---|"]
    for rule, chosen in ruled.items():
        rank = place[chosen]
        lines.append(f"| {rule} | {rank} ({100 * rank / len(results):.1f} %) | {results[rank]['area']:.3f} | "
                     f"{RECORDED[args.mode].get(rule, '-')} |")
    lines.append(f"| best, median, worst choice | 0, {len(results) // 2}, {len(results) - 1} | {results[0]['area']:.3f}, "
                 f"{results[len(results) // 2]['area']:.3f}, {results[-1]['area']:.3f} | |")
    (search.out / "masks.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
    (search.out / "rules.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
