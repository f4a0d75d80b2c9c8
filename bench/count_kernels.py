#!/usr/bin/env python3
"""Counts the instructions of the CUDA kernels' inner loops, without a GPU.

    bench/count_kernels.py [--cuobjdump PATH] [--arch sm_90] [--json] > bench/results/kernel_counts.txt
    bench/count_kernels.py --check [--only scan_fwd]

Compiles cuda/*.cu with nvcc and reads what the assembler made of them (SASS) where there is a
cuobjdump, else the compiler's PTX without `mov`, which comes within some 15 % of it. What is counted
is named in bench/kernel_counts.json, with ceilings: with --check, a loop beyond its ceiling, a
loop that is missing, or a kernel that spills is an error. An exponential counts as the one
instruction it is, but a multiprocessor issues only 16 a cycle where it issues 128 others.

nvcc is the one on PATH, or what ADDER_NVCC names. cuobjdump is a part of the CUDA Toolkit (cuda-cuobjdump-13-0, or pip's nvidia-cuda-cuobjdump and
nvidia-cuda-nvdisasm, side by side).
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = ROOT / "bench" / "kernel_counts.json"

# One multiprocessor of sm_90.
REGISTERS, SHARED_BYTES, WARPS, BLOCKS = 65536, 233472, 64, 32


class Instruction:
    def __init__(self, name, text, target=None, address=0):
        self.name, self.text, self.target, self.address = name, text, target, address


def run(command):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}:\n{result.stdout}")
    return result.stdout


def read_sass(text):
    """{mangled name: [Instruction]} of cuobjdump -sass; padding after the last jump is left out."""
    kernels, current = {}, None
    for line in text.splitlines():
        if match := re.search(r"Function : (\S+)", line):
            current = kernels.setdefault(match[1], [])
        elif match := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line):
            words = match[2]
            name = re.sub(r"^@!?U?P\w+\s+", "", words).split()[0]
            if name == "NOP":
                continue
            target = re.search(r"0x([0-9a-f]+)\s*$", words) if name.startswith("BRA") else None
            current.append(Instruction(name, words, int(target[1], 16) if target else None, int(match[1], 16)))
    return kernels


def read_ptx(text):
    """The same of PTX: lines take the place of addresses, declarations and mov are no instructions."""
    kernels, current, labels = {}, None, {}
    for at, line in enumerate(map(str.strip, text.splitlines())):
        if match := re.match(r"(?:\.visible )?\.entry (\w+)", line):
            labels = {}
            current = kernels[match[1]] = []
        elif current is None:
            continue
        elif match := re.match(r"(\$L\w+):", line):
            labels[match[1]] = at
        elif line == "}" and current:
            for each in current:
                if isinstance(each.target, str):
                    each.target = labels.get(each.target)
        elif line.endswith(";") and not line.startswith((".", "//")):
            words = re.sub(r"^@!?%p\d+\s+", "", line.rstrip(";"))
            name = words.split()[0]
            if name.startswith("mov."):
                continue
            current.append(Instruction(name, words, words.split()[-1] if name.startswith("bra") else None, at))
    return kernels


def loops_of(code):
    """[(first, last, innermost)] by backward jumps; those to one head are one loop."""
    spans = {}
    for each in code:
        if isinstance(each.target, int) and each.target <= each.address:
            if each.target == each.address:  # the padding's jump to itself
                continue
            spans[each.target] = max(spans.get(each.target, 0), each.address)
    spans = sorted(spans.items())
    return [(a, z, not any(a <= b and y <= z and (a, z) != (b, y) for b, y in spans)) for a, z in spans]


def width(name):
    """Bytes that a load or store of this name moves per thread."""
    if match := re.search(r"\.v(\d)\.\w*?(\d+)$", name):
        return int(match[1]) * int(match[2]) // 8
    if match := re.search(r"\.(?:b|f|u|s)(\d+)$", name):
        return int(match[1]) // 8
    for bits in (128, 64):
        if f".{bits}" in name:
            return bits // 8
    return 2 if "16" in name else 1 if ".U8" in name or ".S8" in name else 4


KINDS = [
    ("exp2", r"MUFU\.EX2|ex2\."),
    ("other special", r"MUFU|rcp\.|rsqrt\.|lg2\.|sqrt\."),
    ("float32", r"FADD|FMUL|FFMA|FMNMX|(add|mul|sub|max|min|fma|neg|abs)\.\w*\.?(ftz\.)?f32|fma\.rn"),
    ("select", r"FSEL|SEL|selp|PRMT"),
    ("shuffle", r"SHFL|shfl"),
    ("shared load", r"LDS|ld\.shared"),
    ("shared store", r"STS|st\.shared"),
    ("global load", r"LDG|ld\.global|LD\.E"),
    ("global store", r"STG|st\.global|ST\.E"),
    ("constant load", r"LDC|ULDC|ld\.param|ld\.const"),
]


def kinds(code):
    counts = {}
    for each in code:
        kind = next((k for k, pattern in KINDS if re.match(pattern, each.name)), "other")
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def elements(rule, code):
    """How many elements one turn of a loop does, by what the loop must do per element."""
    kind, amount = rule
    if kind == "exp2":
        return sum(bool(re.match(r"MUFU\.EX2|ex2\.", i.name)) for i in code) / amount
    pattern = {"stored": r"STG|st\.global|ST\.E", "loaded": r"LDG|ld\.global|LD\.E"}[kind]
    return sum(width(i.name) for i in code if re.match(pattern, i.name)) / amount


def resident_warps(registers, threads, shared):
    warps = (threads + 31) // 32
    per_warp = (registers + 7) // 8 * 8 * 32
    blocks = min(REGISTERS // per_warp // warps, WARPS // warps, BLOCKS, SHARED_BYTES // (shared + 1024))
    return blocks * warps


def compile_file(name, arch, cuobjdump, folder):
    source = ROOT / "cuda" / f"{name}.cu"
    nvcc = os.environ.get("ADDER_NVCC") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    flags = [nvcc, f"-arch={arch}", "-std=c++20", "-O3", "-I", ROOT, source]
    cubin = folder / f"{name}.cubin"
    report = run([*flags, "-Xptxas", "-v", "-cubin", "-o", cubin])
    resources = {}
    pattern = (r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
               r"(\d+) bytes spill loads.*?Used (\d+) registers")
    for kernel, stack, stores, loads, registers in re.findall(pattern, report, re.S):
        resources[kernel] = {"registers": int(registers), "spilled": int(stack) + int(stores) + int(loads)}
    if cuobjdump:
        return read_sass(run([cuobjdump, "-sass", cubin])), resources
    ptx = folder / f"{name}.ptx"
    run([*flags, "-ptx", "-o", ptx])
    return read_ptx(ptx.read_text()), resources


def measure(entry, code, resources):
    hot, spans = [], []
    loops = loops_of(code)
    for first, last, innermost in loops:
        body = [i for i in code if first <= i.address <= last]
        count = elements(entry["elements"], body)
        if innermost and count >= entry.get("at_least", 1):
            hot.append({"instructions": len(body), "elements": round(count, 3), "kinds": kinds(body)})
            spans.append((first, last))
    # Loops that do the same work, one of them as the other's remainder: the larger one is the hot one.
    wanted = entry.get("loops", 1)
    hot = sorted(sorted(hot, key=lambda h: -h["elements"])[:wanted], key=lambda h: h["instructions"])
    for each in hot:
        each["per_element"] = round(each["instructions"] / each["elements"], 2)
    # What is done once per turn of the loops around them, every branch taken.
    outer = [(a, z) for a, z, _ in loops if any(a <= b and y <= z for b, y in spans) and (a, z) not in spans]
    outer.sort(key=lambda o: o[1] - o[0])
    around, inside = 0, list(spans)
    turns = entry.get("turns")
    if turns and len(turns) != len(outer):
        sys.exit(f"{entry['name']}: {len(outer)} loops around the inner ones, expected {len(turns)}")
    for (first, last), turn in zip(outer, turns or []):
        own = [i for i in code if first <= i.address <= last and not any(b <= i.address <= y for b, y in inside)]
        around += len(own) / turn
        inside.append((first, last))
    return {
        "name": entry["name"],
        "per": entry["per"],
        "loops": hot,
        "total": round(sum(h["per_element"] for h in hot), 2),
        "around": round(around, 2),
        "minimum": entry.get("minimum"),
        "memory_allows": entry.get("allows"),
        "registers": resources["registers"],
        "spilled_bytes": resources["spilled"],
        "shared_bytes": entry["shared"],
        "threads": entry["threads"],
        "resident_warps": resident_warps(resources["registers"], entry["threads"], entry["shared"]),
    }


def text(results, source, commit, arch):
    yield f"Instructions of the inner loops, {source}, {arch}, cuda/ as of {commit}."
    yield "loops: the inner loops; around: the rest of a chunk, shared by its elements, as if every branch were taken."
    yield "minimum: what good code needs in these loops. memory allows: what can be issued while memory moves an element."
    yield ""
    yield f"{'kernel':<44} {'per':<12} {'loops':>6} {'around':>6} {'minimum':>7} {'memory allows':>13} {'regs':>5} {'spill':>5} {'shared':>7} {'warps/SM':>8}"
    for r in results:
        minimum, allows = ("-" if r[k] is None else r[k] for k in ("minimum", "memory_allows"))
        yield (f"{r['name']:<44} {r['per']:<12} {r['total']:>6} {r['around']:>6} {minimum:>7} {allows:>13} {r['registers']:>5} "
               f"{r['spilled_bytes']:>5} {r['shared_bytes']:>7} {r['resident_warps']:>8}")
    yield ""
    for r in results:
        for i, loop in enumerate(r["loops"]):
            parts = ", ".join(f"{k} {v / loop['elements']:.2f}" for k, v in sorted(loop["kinds"].items(), key=lambda k: -k[1]))
            yield f"{r['name']}, loop {i + 1}: {loop['instructions']} for {loop['elements']:g}: {parts}"


def check(entry, result, source):
    wrong = []
    ceiling = entry["ceiling"]["sass" if source == "SASS" else "ptx"]
    if len(result["loops"]) != entry.get("loops", 1):
        wrong.append(f"{entry['name']}: {len(result['loops'])} inner loops found, expected {entry.get('loops', 1)}")
    count = round(result["total"] + result["around"], 2)
    if not count <= ceiling:
        wrong.append(f"{entry['name']}: {count} instructions per {entry['per']}, at most {ceiling}")
    if result["spilled_bytes"]:
        wrong.append(f"{entry['name']}: {result['spilled_bytes']} bytes of stack and spills")
    if result["resident_warps"] < entry.get("least_warps", 1):
        wrong.append(f"{entry['name']}: {result['resident_warps']} warps per multiprocessor, at least {entry['least_warps']}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuobjdump", default=shutil.which("cuobjdump"))
    parser.add_argument("--ptx", action="store_true", help="count PTX even where there is a cuobjdump")
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--only", help="one file of cuda/, without .cu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="fail beyond a ceiling of bench/kernel_counts.json")
    args = parser.parse_args()
    cuobjdump = None if args.ptx else args.cuobjdump
    source = "SASS" if cuobjdump else "PTX without mov"
    entries = [e for e in json.loads(CONFIG.read_text()) if args.only in (None, e["file"])]
    if not entries:
        sys.exit(f"nothing of {args.only} in {CONFIG}")
    results, wrong = [], []
    with tempfile.TemporaryDirectory() as folder:
        compiled = {f: compile_file(f, args.arch, cuobjdump, pathlib.Path(folder)) for f in {e["file"] for e in entries}}
    for entry in entries:
        kernels, resources = compiled[entry["file"]]
        names = [n for n in kernels if re.search(entry["kernel"], n)]
        if len(names) != 1:
            sys.exit(f"{entry['name']}: {entry['kernel']} matches {names or 'no kernel'} of {entry['file']}.cu")
        results.append(measure(entry, kernels[names[0]], resources[names[0]]))
        wrong += check(entry, results[-1], source)
    commit = run(["git", "-C", ROOT, "log", "-1", "--format=%h", "--", "cuda"]).strip() if not args.check else ""
    if args.json:
        print(json.dumps({"source": source, "arch": args.arch, "commit": commit, "kernels": results}, indent=1))
    else:
        print("\n".join(text(results, source, commit, args.arch)))
    if args.check and wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
