"""Holds what Adder writes against the libraries that are meant to load it.

    venv/bin/python check_merged.py BUILD/adder

Trains a tiny Mamba with SDT + LoRA and with LoRA alone, merges both, and loads the merged models in
transformers and the LoRA adapter in peft: logits must agree with `adder eval --dump-logits` within
1e-5 (norm-relative, so that NaN fails). Exits 1 when one does not.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import MambaForCausalLM

CONFIG = {
    "model_type": "mamba",
    "hidden_size": 20,
    "num_hidden_layers": 2,
    "vocab_size": 61,
    "state_size": 5,
    "conv_kernel": 4,
    "expand": 2,
    "intermediate_size": 40,
    "time_step_rank": 3,
}
SDT = {
    "peft_type": "SD_LORA",
    "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"],
    "num_zero": {"state": 0, "channel": 2},
    "num_freeze": {"state": 0.5, "channel": 0.5},
    "proj_lora_r": 2,
    "num_warmup_it": 9,
}
LORA = {"peft_type": "LORA", "target_modules": ["in_proj", "out_proj"], "r": 3, "lora_alpha": 6}
TOLERANCE = 1e-5


def examples(count, length):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, CONFIG["vocab_size"], (count, length + 1), generator=generator)
    return ids[:, :-1], ids[:, 1:]


def main():
    adder = str(pathlib.Path(sys.argv[1]).resolve())
    work = tempfile.TemporaryDirectory()
    root = pathlib.Path(work.name)

    def run(*arguments):
        command = [adder, *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    ids, labels = examples(24, 17)
    data = root / "data.jsonl"
    with data.open("w") as file:
        for row, targets in zip(ids.tolist(), labels.tolist()):
            file.write(json.dumps({"input_ids": row, "labels": targets}) + "\n")
    (root / "config.json").write_text(json.dumps(CONFIG))
    run("init", "--config", root / "config.json", "--out", root / "base")

    def dumped(*arguments):
        path = root / "logits.safetensors"
        path.unlink(missing_ok=True)
        run("eval", *arguments, "--data", data, "--dump-logits", path)
        return load_file(path)["logits"].double()

    failures = 0

    def compare(what, ours, model):
        nonlocal failures
        with torch.no_grad():
            theirs = model.eval()(ids).logits.double()
        error = ((ours - theirs).norm() / theirs.norm()).item()
        good = error <= TOLERANCE
        failures += not good
        print(f"{what}: {error:.2e} {'ok' if good else 'FAILED'}")

    for name, method in (("SDT + LoRA", SDT), ("LoRA", LORA)):
        place = root / method["peft_type"]
        place.mkdir()
        (place / "peft.json").write_text(json.dumps(method))
        run("train", "--model", root / "base", "--data", data, "--peft", place / "peft.json",
            "--steps", 20, "--lr", "2e-2", "--out", place / "run")
        adapter = place / "run" / "adapter"
        run("merge", "--model", root / "base", "--adapter", adapter, "--out", place / "merged")
        attached = dumped("--model", root / "base", "--adapter", adapter)
        merged = MambaForCausalLM.from_pretrained(place / "merged")
        compare(f"{name}, merged in transformers against base + adapter here", attached, merged)
        if method is LORA:
            base = MambaForCausalLM.from_pretrained(root / "base")
            moved = (dumped("--model", root / "base") - attached).norm() / attached.norm()
            print(f"(the adapter moves the logits by {moved:.2f})")
            compare("LoRA, loaded in peft", attached, PeftModel.from_pretrained(base, adapter))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
