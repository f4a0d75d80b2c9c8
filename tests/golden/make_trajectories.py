"""Writes data/traj_shared.safetensors and data/traj_<run>.safetensors: training runs step by step. See README.md.

The reference runs in float64, so its losses carry no rounding; the same run in float32 is repeated to see by how
much an honest float32 implementation may differ, and that the selected dimensions do not hang on rounding.
"""

import copy
import math

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils import clip_grad_norm_, parametrize

import sdt_rule
from common import DATA, build, config_text, cross_entropy, exact, mamba_config, save

STEPS, BATCH, LENGTH, VOCAB = 30, 4, 21, 61
SEED = 31
CLIP = 1.0


def make_batches():
    """Text with something to learn: each token mostly decides the next; the first few targets are ignored."""
    gen = torch.Generator().manual_seed(SEED)
    follow = torch.randperm(VOCAB, generator=gen)
    ids = torch.empty(STEPS, BATCH, LENGTH + 1, dtype=torch.long)
    ids[..., 0] = torch.randint(0, VOCAB, (STEPS, BATCH), generator=gen)
    for t in range(LENGTH):
        noise = torch.randint(0, VOCAB, (STEPS, BATCH), generator=gen)
        keep = torch.rand((STEPS, BATCH), generator=gen) < 0.8
        ids[..., t + 1] = torch.where(keep, follow[ids[..., t]], noise)
    labels = ids[..., 1:].clone()
    start = torch.randint(2, 12, (STEPS, BATCH), generator=gen)
    labels[torch.arange(LENGTH) < start[..., None]] = -100
    return ids[..., :-1].clone(), labels


def train(model, parameters, batches, optimizer, lr, steps, schedule_steps):
    """Linear decay to zero without warm-up: step k uses lr * (1 - k / schedule_steps)."""
    losses, norms = [], []
    for k in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - k / schedule_steps)
        optimizer.zero_grad()
        loss = cross_entropy(model(input_ids=batches[0][k], use_cache=False).logits, batches[1][k])
        loss.backward()
        norms.append(float(clip_grad_norm_(parameters, CLIP)))
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64), torch.tensor(norms, dtype=torch.float64)


def adamw(parameters, weight_decay=0.0):
    return torch.optim.AdamW(
        parameters, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay, foreach=False
    )


def run_full(base, batches, lr, steps=STEPS, make_optimizer=adamw):
    model = copy.deepcopy(base)
    parameters = list(model.parameters())
    losses, norms = train(model, parameters, batches, make_optimizer(parameters), lr, steps, steps)
    return {"losses": losses, "grad_norms": norms} | {
        f"final/{n}": p for n, p in model.named_parameters()
    }


def lora_parameters(model):
    out = {}
    for name, p in model.named_parameters():
        if "lora_" in name:
            module, side = (
                name.removeprefix("base_model.model.")
                .removesuffix(".default.weight")
                .rsplit(".", 1)
            )
            out[f"{module}.{side}"] = p
    return out


def attach_lora(base, targets, rank, alpha, init):
    """The peft package's LoRA, B at zero, A from `init` (shared by all runs)."""
    model = get_peft_model(
        copy.deepcopy(base),
        LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0),
    )
    with torch.no_grad():
        for name, p in lora_parameters(model).items():
            if name.endswith("lora_A"):
                p.copy_(init[name])
            assert name.endswith("lora_A") or not p.any()
    return model


def run_lora(base, batches, init, lr, rank, alpha):
    model = attach_lora(base, ["in_proj", "out_proj"], rank, alpha, init)
    lora = lora_parameters(model)
    parameters = list(lora.values())
    assert len(parameters) == sum(p.requires_grad for p in model.parameters())
    losses, norms = train(model, parameters, batches, adamw(parameters), lr, STEPS, STEPS)
    return {"losses": losses, "grad_norms": norms} | {f"final/{n}": p for n, p in lora.items()}


class Dense(torch.nn.Module):
    """A_log (E, N) + G^T with G in (state, channel) layout."""

    def __init__(self, weight):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.zeros_like(weight.T).contiguous())

    def forward(self, weight):
        return weight + self.offset.T


class SparseALog(torch.nn.Module):
    """A_log with the zero channels at 10 and the vector added at the mask, filled state by state."""

    def __init__(self, weight, picked):
        super().__init__()
        n_inner, n_state = weight.shape
        self.flat = torch.tensor(picked["mask_flat"])
        self.zero = torch.tensor(picked["zero_channels"], dtype=torch.long)
        self.shape = (n_state, n_inner)
        self.values = torch.nn.Parameter(weight.new_zeros(len(self.flat)))

    def forward(self, weight):
        weight = weight.index_fill(0, self.zero, 10.0)
        offset = weight.new_zeros(self.shape[0] * self.shape[1]).index_put(
            (self.flat,), self.values
        )
        return weight + offset.view(self.shape).T


class SparseColumns(torch.nn.Module):
    """x_proj with vectors added to whole columns of its B and C rows, each filled row by row."""

    def __init__(self, weight, picked, rank, n_state):
        super().__init__()
        self.columns = torch.tensor(picked["columns"])
        self.rank, self.n_state = rank, n_state
        size = n_state * len(self.columns)
        self.b = torch.nn.Parameter(weight.new_zeros(size))
        self.c = torch.nn.Parameter(weight.new_zeros(size))

    def forward(self, weight):
        rows = torch.cat([self.b, self.c]).view(2 * self.n_state, -1)
        offset = weight.new_zeros(2 * self.n_state, weight.shape[1]).index_copy(
            1, self.columns, rows
        )
        return weight + torch.cat([weight.new_zeros(self.rank, weight.shape[1]), offset])


def mixers(model):
    return [layer.mixer for layer in model.base_model.model.backbone.layers]


def selection_gap(displacement, picked):
    """Smallest relative distance between what was taken and what was left."""
    energy = displacement.double().square()
    score = energy.sum(0)
    rest = [c for c in range(len(score)) if c not in picked["train_channels"]]
    lowest, zero = score[picked["train_channels"]].min(), picked["zero_channels"]
    gaps = [(lowest - score[rest].max()) / lowest]
    if zero:
        freeze = score[picked["freeze_channels"]].min()
        gaps.append((freeze - score[zero].max()) / freeze)
    for c, kept in zip(picked["train_channels"], picked["states"]):
        left = [n for n in range(energy.shape[0]) if n not in kept]
        gaps.append((energy[kept, c].min() - energy[left, c].max()) / energy[kept, c].min())
    return min(map(float, gaps))


def run_sdt(base, batches, init, lr, rank, alpha, warmup, num_zero, num_freeze):
    config = base.config
    # Phase 1: dense displacement of A_log and LoRA on out_proj, the first `warmup` steps of the full schedule.
    model = attach_lora(base, ["out_proj"], rank, alpha, init)
    for mixer in mixers(model):
        parametrize.register_parametrization(mixer, "A_log", Dense(mixer.A_log))
    dense = [mixer.parametrizations.A_log[0].offset for mixer in mixers(model)]
    for mixer in mixers(model):
        mixer.parametrizations.A_log.original.requires_grad_(False)
    parameters = dense + list(lora_parameters(model).values())
    assert len(parameters) == sum(p.requires_grad for p in model.parameters())
    warm_losses, warm_norms = train(
        model, parameters, batches, adamw(parameters), lr, warmup, STEPS
    )
    picked = [sdt_rule.select(g.detach().numpy(), num_zero, num_freeze) for g in dense]
    gap = min(selection_gap(g.detach(), p) for g, p in zip(dense, picked))

    # Phase 2: everything anew from the pretrained weights, only the selected dimensions.
    model = attach_lora(base, ["out_proj"], rank, alpha, init)
    adapters = {}
    for i, (mixer, p) in enumerate(zip(mixers(model), picked)):
        a_log = SparseALog(mixer.A_log, p)
        x_proj = SparseColumns(
            mixer.x_proj.weight, p, int(config.time_step_rank), config.state_size
        )
        parametrize.register_parametrization(mixer, "A_log", a_log)
        parametrize.register_parametrization(mixer.x_proj, "weight", x_proj)
        mixer.parametrizations.A_log.original.requires_grad_(False)
        mixer.x_proj.parametrizations.weight.original.requires_grad_(False)
        adapters |= {f"{i}/A_log": a_log.values, f"{i}/B": x_proj.b, f"{i}/C": x_proj.c}
    lora = lora_parameters(model)
    parameters = list(adapters.values()) + list(lora.values())
    assert len(parameters) == sum(p.requires_grad for p in model.parameters())
    losses, norms = train(model, parameters, batches, adamw(parameters), lr, STEPS, STEPS)

    out = {
        "warmup_losses": warm_losses,
        "warmup_grad_norms": warm_norms,
        "losses": losses,
        "grad_norms": norms,
    }
    for i, (g, p) in enumerate(zip(dense, picked)):
        mask = torch.zeros(g.numel(), dtype=torch.uint8)
        mask[p["mask_flat"]] = 1
        out |= {
            f"displacement/{i}": g,
            f"mask/{i}": mask.view(g.shape),
            f"train_channels/{i}": torch.tensor(p["train_channels"]),
            f"train_states/{i}": torch.tensor(p["states"]),
            f"zero_channels/{i}": torch.tensor(p["zero_channels"], dtype=torch.long),
        }
    out |= {f"final/sdt/{n}": v for n, v in adapters.items()}
    out |= {f"final/{n}": v for n, v in lora.items()}
    return out, gap


def main():
    torch.set_num_threads(1)
    config = mamba_config(
        hidden_size=24,
        state_size=4,
        conv_kernel=4,
        time_step_rank=2,
        vocab_size=VOCAB,
        num_hidden_layers=2,
        residual_in_fp32=True,
        use_bias=False,
        use_conv_bias=True,
        tie_word_embeddings=True,
    )
    base = build(config, SEED, wide_dt=False)
    batches = make_batches()
    gen = torch.Generator().manual_seed(SEED + 1)
    rank = 4
    init = {}
    for i in range(config.num_hidden_layers):
        for module, width in (
            ("in_proj", config.hidden_size),
            ("out_proj", config.intermediate_size),
        ):
            bound = 1 / math.sqrt(width)
            init[f"backbone.layers.{i}.mixer.{module}.lora_A"] = (
                torch.rand(rank, width, generator=gen) * 2 - 1
            ) * bound
    save(
        DATA / "traj_shared.safetensors",
        {f"param/{n}": p for n, p in base.named_parameters()}
        | {"batches/input_ids": batches[0], "batches/labels": batches[1]}
        | {f"lora_init/{n}": v for n, v in init.items()},
        config=config_text(config),
    )

    freeze = {"state": 0.5, "channel": 0.75}
    sdt = dict(init=init, lr=5e-3, rank=rank, alpha=4, warmup=10, num_freeze=freeze)
    runs = {
        "full": (run_full, dict(lr=3e-3)),
        "lora": (run_lora, dict(init=init, lr=1e-2, rank=rank, alpha=8)),
        "sdt": (run_sdt, dict(**sdt, num_zero={"state": 0, "channel": 0})),
        "sdt_zero": (run_sdt, dict(**sdt, num_zero={"state": 0, "channel": 2})),
        "full_decay": (run_full, dict(lr=3e-3, steps=10, make_optimizer=lambda p: adamw(p, 0.1))),
        "full_sgd": (
            run_full,
            dict(
                lr=0.2,
                steps=10,
                make_optimizer=lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, foreach=False),
            ),
        ),
    }
    for name, (function, arguments) in runs.items():
        results = []
        for double in (False, True):
            model = copy.deepcopy(base).double() if double else copy.deepcopy(base)
            with exact():
                result = function(model, batches, **arguments)
            results.append(result if isinstance(result, tuple) else (result, None))
        (single, _), (golden, gap) = results
        keep64 = [k for k in golden if "losses" in k or "grad_norms" in k]
        for key in keep64:
            assert golden[key].isfinite().all()
        off = {k: float(((single[k] - golden[k]) / golden[k]).abs().max()) for k in keep64}
        picks = {
            k: torch.equal(single[k], golden[k])
            for k in golden
            if k.startswith(("mask", "train_", "zero_"))
        }
        assert all(picks.values()), picks
        print(
            f"{name}: loss {golden['losses'][0]:.4f} -> {golden['losses'][-1]:.4f}, float32 PyTorch deviates",
            {k: f"{v:.1e}" for k, v in off.items()},
            "" if gap is None else f"selection gap {gap:.1e}",
        )
        spec = {
            k: v for k, v in arguments.items() if isinstance(v, (int, float, dict)) and k != "init"
        }
        save(DATA / f"traj_{name}.safetensors", golden, spec=spec, keep64=keep64)


if __name__ == "__main__":
    main()
