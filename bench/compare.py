#!/usr/bin/env python3
"""Runs Adder's step beside PyTorch's on the same cores and prints the ratios of one run.

    bench/compare.py BUILD/bench/bench_step VENV/bin/python [--paths mambapy unbind lean] > result.json

The Python needs tests/golden/requirements.txt. Adder runs before and after the baselines, so that a
drift of the machine shows.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def lines(command):
    print("running:", " ".join(command), file=sys.stderr)
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench_step")
    parser.add_argument("python")
    parser.add_argument("--paths", nargs="+", default=["mambapy", "unbind", "lean"])
    parser.add_argument("--steps", default="3")
    args = parser.parse_args()
    baseline = str(HERE / "baselines" / "pytorch_step.py")
    before = lines([args.bench_step, "step", "5"])[0]
    others = lines([args.python, baseline, "--path", *args.paths, "--steps", args.steps])
    after = lines([args.bench_step, "step", "5"])[0]
    seconds = (before["seconds"] + after["seconds"]) / 2
    resident = max(before["peak_resident_bytes"], after["peak_resident_bytes"])
    result = {
        "cores": os.cpu_count(),
        "adder": [before, after],
        "pytorch": others,
        "ratios": {
            o["path"]: {
                "time": round(o["seconds"] / seconds, 2),
                "memory": round(resident / o["peak_rss"], 3),
            }
            for o in others
            if "seconds" in o
        },
    }
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
