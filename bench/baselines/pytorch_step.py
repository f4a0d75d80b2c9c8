#!/usr/bin/env python3
"""One training step of mamba-130m's shape in PyTorch: what transformers + peft offer, and a plain loop.

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements.txt
    venv/bin/python bench/baselines/pytorch_step.py --path mambapy unbind --threads 2
    venv/bin/python bench/baselines/pytorch_step.py --path eager --length 32

Random weights, float32, random tokens, every position supervised. Trained: LoRA (rank 8, alpha 8, dropout 0.1, by the
peft package) on out_proj, and as SDT does 15 of 1536 channels: 4 states each of A_log and the columns of x_proj's B
and C rows, as compact vectors scattered into the frozen weights. A step is forward, cross entropy, backward, gradient
clipping and AdamW. Paths:

eager    transformers' default on a CPU. Its loop indexes (B, E, L, N) tensors by time, whose backward fills a tensor
         of that size at every step: quadratic in the length. Use a short --length.
mambapy  transformers with use_mambapy=True (the parallel scan of the mambapy package).
unbind   the same mixer with a loop of its own that unbinds the discretised tensors along time once.
lean     likewise, but unbinds their small factors and discretises inside the loop (fewer bytes, more calls).

Every path runs in a process of its own and prints one JSON line: seconds per step (median and minimum after --warmup
steps), tokens per second, seconds of each part (medians), peak resident memory in bytes, and that of the process before
the model existed. A path that dies (memory) yields a line with "error". --checkpointing turns on transformers'
gradient checkpointing: less memory for a second forward.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

PATHS = ("eager", "mambapy", "unbind", "lean")
CHANNEL_FRACTION, STATES = 0.01, 4


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", nargs="+", choices=PATHS, default=["mambapy", "unbind"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=50280)
    parser.add_argument("--no-sdt", action="store_true", help="LoRA alone")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def looped_forward(lean):
    """A replacement of MambaMixer.slow_forward for training (no cache, no padding mask)."""
    import torch
    from torch.nn.functional import softplus

    def forward(self, hidden, cache_params=None, cache_position=None, attention_mask=None):
        length = hidden.shape[1]
        x, gate = self.in_proj(hidden).chunk(2, dim=-1)
        x = self.act(self.conv1d(x.transpose(1, 2))[..., :length]).transpose(1, 2)
        n = self.ssm_state_size
        step, b, c = torch.split(self.x_proj(x), [self.time_step_rank, n, n], dim=-1)
        dt = softplus(self.dt_proj(step))
        a = -torch.exp(self.A_log.float())
        state = x.new_zeros(x.shape[0], x.shape[2], n)
        outputs = []
        if lean:
            factors = zip(dt.unbind(1), (dt * x).unbind(1), b.unbind(1), c.unbind(1))
            for dt_t, u_t, b_t, c_t in factors:
                state = torch.addcmul(
                    u_t.unsqueeze(-1) * b_t.unsqueeze(1), torch.exp(dt_t.unsqueeze(-1) * a), state
                )
                outputs.append(torch.bmm(state, c_t.unsqueeze(-1)).squeeze(-1))
        else:
            decay = torch.exp(dt.unsqueeze(-1) * a)
            drive = (dt * x).unsqueeze(-1) * b.unsqueeze(2)
            for decay_t, drive_t, c_t in zip(decay.unbind(1), drive.unbind(1), c.unbind(1)):
                state = torch.addcmul(drive_t, decay_t, state)
                outputs.append(torch.bmm(state, c_t.unsqueeze(-1)).squeeze(-1))
        y = torch.stack(outputs, dim=1) + x * self.D
        return self.out_proj(y * self.act(gate))

    return forward


def add_sdt(model):
    """Compact trainable vectors on selected entries of A_log and columns of x_proj's B and C rows."""
    import torch
    from torch.nn.utils import parametrize

    class Entries(torch.nn.Module):
        def __init__(self, weight, rows, columns):
            super().__init__()
            index = torch.cartesian_prod(rows, columns)
            self.register_buffer("flat", index[:, 0] * weight.shape[1] + index[:, 1])
            self.values = torch.nn.Parameter(torch.zeros(len(self.flat)))

        def forward(self, weight):
            return weight.flatten().index_add(0, self.flat, self.values).view_as(weight)

    for layer in model.base_model.model.backbone.layers:
        mixer = layer.mixer
        channels = torch.randperm(mixer.intermediate_size)[
            : max(1, int(mixer.intermediate_size * CHANNEL_FRACTION))
        ]
        states = torch.randperm(mixer.ssm_state_size)[:STATES]
        rows = torch.arange(mixer.time_step_rank, mixer.time_step_rank + 2 * mixer.ssm_state_size)
        parametrize.register_parametrization(mixer, "A_log", Entries(mixer.A_log, channels, states))
        parametrize.register_parametrization(
            mixer.x_proj, "weight", Entries(mixer.x_proj.weight, rows, channels)
        )
        mixer.parametrizations.A_log.original.requires_grad_(False)
        mixer.x_proj.parametrizations.weight.original.requires_grad_(False)


def worker(args):
    import peft
    import torch
    import transformers
    from transformers.models.mamba import modeling_mamba

    transformers.logging.set_verbosity_error()
    path = args.path[0]
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    before = peak_bytes()
    config = transformers.MambaConfig(
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        vocab_size=args.vocab,
        use_mambapy=path == "mambapy",
    )
    if path in ("unbind", "lean"):
        modeling_mamba.MambaMixer.slow_forward = looped_forward(path == "lean")
    base = transformers.MambaForCausalLM(config)
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=8, lora_alpha=8, lora_dropout=0.1, target_modules=["out_proj"])
    )
    if not args.no_sdt:
        add_sdt(model)
    if args.checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=0.0)
    tokens = torch.randint(0, args.vocab, (args.batch, args.length + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    parts = {"forward": [], "backward": [], "update": []}
    totals = []
    for k in range(args.warmup + args.steps):
        clock = [time.perf_counter()]
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        clock.append(time.perf_counter())
        loss.backward()
        clock.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.append(time.perf_counter())
        del logits
        if k >= args.warmup:
            totals.append(clock[-1] - clock[0])
            for name, start, end in zip(parts, clock, clock[1:]):
                parts[name].append(end - start)
    seconds = statistics.median(totals)
    count = args.batch * args.length
    print(
        json.dumps(
            {
                "path": path,
                "batch": args.batch,
                "length": args.length,
                "layers": args.layers,
                "hidden": args.hidden,
                "vocab": args.vocab,
                "threads": args.threads,
                "sdt": not args.no_sdt,
                "checkpointing": args.checkpointing,
                "steps": args.steps,
                "seconds": round(seconds, 4),
                "seconds_min": round(min(totals), 4),
                "tokens_per_s": round(count / seconds, 2),
                "ms_per_token": round(1e3 * seconds / count, 3),
                "parts": {k: round(statistics.median(v), 4) for k, v in parts.items()},
                "peak_rss": peak_bytes(),
                "rss_before_model": before,
                "loss": round(loss.item(), 5),
                "trainable": sum(p.numel() for p in trainable),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "peft": peft.__version__,
            }
        ),
        flush=True,
    )


def main():
    args = arguments()
    if args.worker:
        worker(args)
        return 0
    failed = 0
    options = sys.argv[1:]
    for path in args.path:
        # A later --path wins over the list given by the caller.
        done = subprocess.run(
            [sys.executable, __file__, *options, "--worker", "--path", path],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
        )
        if done.returncode == 0:
            print(done.stdout.strip().splitlines()[-1], flush=True)
        else:
            failed = 1
            last = (done.stderr.strip().splitlines() or [""])[-1]
            print(
                json.dumps(
                    {
                        "path": path,
                        "batch": args.batch,
                        "length": args.length,
                        "layers": args.layers,
                        "error": last or f"exit status {done.returncode}",
                        "exit": done.returncode,
                    }
                ),
                flush=True,
            )
    return failed


if __name__ == "__main__":
    sys.exit(main())
