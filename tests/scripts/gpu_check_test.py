#!/usr/bin/env python3
"""scripts/gpu_check without a GPU: its stages in an emulated build, and what it makes of failures.

    gpu_check_test.py BUILD_DIRECTORY
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(sys.argv[1]).resolve()
FAILURES = []


def check(what, condition, seen=""):
    print(f"{'ok' if condition else 'FAIL'} - {what}")
    if not condition:
        print(f"       {seen}")
        FAILURES.append(what)


def run(folder, *options):
    """Exit status, output and the JSON that was written, or None."""
    out = folder / "result.json"
    out.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "gpu_check", "--out", out, *map(str, options)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    text = done.stdout + done.stderr
    return done.returncode, text, json.loads(out.read_text()) if out.exists() else None


def stages_of(result):
    return {stage["name"]: stage for stage in result["stages"]}


def emulated(folder):
    status, text, result = run(
        folder, "--emulate", "--build", BUILD, "--stages", "tests,selftest,bench,memcheck",
        "--tests", "memory on the device*", "--op", "causal_conv_silu", "--commit", "abc",
    )  # fmt: skip
    check("an emulated run succeeds", status == 0, text)
    if result is None:
        return check("it writes its results", False, text)
    check("it is marked as emulated and complete", result["emulated"] and result["complete"])
    for key in ("schema", "date", "device", "commit", "modified", "nvcc", "cores"):
        check(f"the results have {key}", key in result)
    check("the commit that was given is recorded", result["commit"] == "abc")
    stages = stages_of(result)
    check("the stages stand in order", list(stages) == ["tests", "selftest", "bench", "memcheck"])
    for name in ("tests", "selftest", "bench"):
        stage = stages[name]
        fine = stage["status"] == "passed" and stage["passed"] > 0 and stage["failed"] == 0
        check(f"{name} passes", fine, stage)
    check("the test cases have names and times", "seconds" in stages["tests"]["tests"][0])
    check("compute-sanitizer is skipped, with a reason", stages["memcheck"]["status"] == "skipped")
    check("… which is told", "GPU" in stages["memcheck"]["why"])
    check_figures(result["benchmarks"])

    os.environ["ADDER_SIMT_DEVICES"] = "0"
    status, text, result = run(
        folder, "--emulate", "--build", BUILD, "--stages", "tests,bench",
        "--tests", "memory on the device*",
    )  # fmt: skip
    del os.environ["ADDER_SIMT_DEVICES"]
    found = [stage["status"] for stage in result["stages"]]
    check("without a device the tests fail", status == 1 and found == ["failed"] * 2, text)


def check_figures(lines):
    check("the device comes first", lines[0]["bench"] == "device" and lines[0]["emulated"])
    names = {line["bench"] for line in lines}
    for name in (
        "ceiling selective_scan_fwd selective_scan_bwd selective_scan_step causal_conv_silu_fwd "
        "causal_conv_silu_bwd rms_norm_fwd rms_norm_bwd unary_fwd unary_bwd binary dropout add_bias "
        "column_sum embedding_fwd embedding_bwd cross_entropy copy fill add_in_place "
        "scale_in_place gather_columns gather_rows scatter_rows gather_entries scatter_entries "
        "matmul linear adamw step small_batch sdt_over_lora decode"
    ).split():
        check(f"{name} is measured", name in names)
    for line in lines:
        if line["bench"] == "selective_scan_bwd":
            check(
                "a figure has times, rates and its floor",
                all(key in line for key in ("ms", "GB_per_s", "floor_ms", "bound", "share")),
                line,
            )
            break


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def failing(folder):
    """Programs that fail, hang, print nonsense, or are not there."""
    build = folder / "build"
    program(
        build / "tests" / "cuda_tests",
        'for a in "$@"; do case "$a" in --out=*) out=${a#--out=};; esac; done\n'
        "cat >\"$out\" <<'END'\n"
        '<testsuites><testsuite><testcase name="good" time="0.1"/><testcase name="bad" time="0.2">'
        '<failure message="CHECK"/></testcase></testsuite></testsuites>\nEND\nexit 1',
    )
    program(build / "adder", "sleep 60 & echo $! >&2; sleep 60")
    program(build / "bench" / "cuda" / "bench_cuda", 'echo \'{"bench": "x", "ms": 1}\'; echo \'{"be\'')
    status, text, result = run(
        folder, "--emulate", "--build", build, "--stages", "tests,selftest,bench",
        "--limit", "selftest=1",
    )  # fmt: skip
    check("failures end with status 1", status == 1, text)
    stages = stages_of(result)
    check("every stage ran", len(stages) == 3 and result["complete"], text)
    counts = (stages["tests"]["status"], stages["tests"]["passed"], stages["tests"]["failed"])
    check("a failing test case is recorded", counts == ("failed", 1, 1), stages["tests"])
    check("… with its name", not stages["tests"]["tests"][1]["passed"])
    check("a program that hangs is stopped", stages["selftest"]["status"] == "timed out")
    child = int((folder / "result_logs" / "selftest.log").read_text().split()[0])
    check("… with all it started", not is_running(child))
    check("half a line is a failure", stages["bench"]["status"] == "failed", stages["bench"])
    check("… and the whole line is kept", result["benchmarks"][0] == {"bench": "x", "ms": 1})

    program(folder / "python", """echo '{"bench": "x", "by": "torch", "ms": 3}'""")
    program(
        build / "bench" / "cuda" / "bench_cuda",
        """echo '{"bench": "x", "ms": 2}'; echo '{"bench": "sdt_over_lora", "median_ratio": 1.01}'""",
    )
    status, text, result = run(
        folder, "--emulate", "--build", build, "--stages", "bench,pytorch", "--python",
        folder / "python",
    )  # fmt: skip
    check("PyTorch's figures are recorded", status == 0 and len(result["pytorch"]) == 1, text)
    check("… over Adder's", [r["times"] for r in result["ratios"]] == [1.5], result["ratios"])
    met = [target["bench"] for target in result["targets"] if target["met"]]
    check("only a target that was measured is met", met == ["sdt_over_lora"], result["targets"])

    status, text, result = run(
        folder, "--emulate", "--build", folder / "nowhere", "--stages", "tests,bench"
    )
    missing = [stage["status"] for stage in result["stages"]]
    check("programs that are not there fail", status == 1 and missing == ["failed"] * 2, text)
    status, text, result = run(
        folder, "--emulate", "--build", build, "--stages", "bench", "--total", "0"
    )
    check("no time left is no success", status == 1 and result["complete"], text)


def is_running(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def refused(folder):
    check("an unknown stage is refused", run(folder, "--stages", "nothing")[0] == 2)
    check("a wrong limit is refused", run(folder, "--limit", "bench")[0] == 2)
    environment = os.environ.get("PATH", "")
    os.environ["PATH"] = str(folder / "empty")
    status, text, result = run(folder, "--stages", "bench")
    os.environ["PATH"] = environment
    check("without a GPU it says so and ends with 4", status == 4 and "no NVIDIA GPU" in text, text)
    check("… and writes nothing", result is None)


def main():
    with tempfile.TemporaryDirectory() as folder:
        emulated(pathlib.Path(folder))
        failing(pathlib.Path(folder))
        refused(pathlib.Path(folder))
    print(f"{len(FAILURES)} failed")
    return 1 if FAILURES else 0


if __name__ == "__main__":
    sys.exit(main())
