"""What the golden generators share: exact float64 runs of a float32 model, weights, storage."""

import contextlib
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import MambaConfig, MambaForCausalLM

DATA = pathlib.Path(__file__).parent / "data"


@contextlib.contextmanager
def exact():
    """Lets a .double() model stay in float64: transformers' Mamba casts to float32 in several places
    (norm, A_log, residual, B, logits), which would round the reference itself."""
    old_float, old_to = torch.Tensor.float, torch.Tensor.to

    def to(self, *args, **kwargs):
        if self.dtype is torch.float64 and not kwargs.get("copy"):
            if args and args[0] is torch.float32:
                args = (torch.float64, *args[1:])
            if kwargs.get("dtype") is torch.float32:
                kwargs = {**kwargs, "dtype": torch.float64}
        return old_to(self, *args, **kwargs)

    torch.Tensor.float = lambda self: self if self.dtype is torch.float64 else old_float(self)
    torch.Tensor.to = to
    try:
        yield
    finally:
        torch.Tensor.float, torch.Tensor.to = old_float, old_to


def build(config, seed, wide_dt=True):
    """A float32 model whose weights are nowhere degenerate (constant, zero or one)."""
    model = MambaForCausalLM(config)
    gen = torch.Generator().manual_seed(seed)

    def normal(shape, std=1.0, mean=0.0):
        return torch.randn(shape, generator=gen) * std + mean

    def uniform(shape, low, high):
        return torch.rand(shape, generator=gen) * (high - low) + low

    n_inner, n_state = config.intermediate_size, config.state_size
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("A_log"):
                p.copy_(
                    torch.log(torch.arange(1, n_state + 1.0)).expand(n_inner, -1)
                    + normal(p.shape, 0.4)
                )
                if wide_dt:  # A from about -1e-3 to -16
                    p.view(-1)[0] = -6.9
                    p.view(-1)[-1] = 2.77
            elif name.endswith("mixer.D"):
                p.copy_(normal(p.shape, 0.4, 1.0))
            elif "norm" in name:
                p.copy_(uniform(p.shape, 0.5, 1.5))
            elif name.endswith("dt_proj.bias"):
                p.copy_(uniform(p.shape, -6.0, 3.0) if wide_dt else uniform(p.shape, -5.0, -1.0))
                if wide_dt:  # beyond 20, where softplus(x) is computed as x
                    p[n_inner // 2] = 21.5
                    p[0] = -12.0
            elif name.endswith("bias"):
                p.copy_(normal(p.shape, 0.3))
            elif "embeddings" in name or "lm_head" in name:
                p.copy_(normal(p.shape, 0.5))
            elif "conv1d.weight" in name:
                p.copy_(normal(p.shape, 0.7))
            else:
                p.copy_(normal(p.shape, 1.2 * p.shape[-1] ** -0.5))
    return model.eval()


def cross_entropy(logits, labels):
    """Mean over positions whose label is not -100; the labels are already shifted."""
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-100
    )


def config_text(config):
    return config.to_json_string(use_diff=True)


def save(path, tensors, **metadata):
    """float64 tensors are kept only where the caller asks (names in keep64)."""
    keep64 = set(metadata.pop("keep64", ()))
    out = {}
    for name, t in tensors.items():
        t = t.detach()
        if t.dtype is torch.float64 and name not in keep64:
            t = t.float()
        out[name] = t.contiguous().clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        out, path, {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    )


def relative(a, b):
    a, b = a.double(), b.double()
    return float((a - b).norm() / max(float(b.norm()), 1e-300))


def mamba_config(**kwargs):
    # No default may depend on the transformers version.
    base = dict(
        expand=2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        hidden_act="silu",
        architectures=["MambaForCausalLM"],
    )
    return MambaConfig(**{**base, **kwargs})
