"""Golden numbers of the official S4 model: outputs, losses and gradients of two small ones, in PyTorch from the
equations of its layers. See README.md. Everything is float64 from float32 parameters."""

import json
import math

import torch
import torch.nn.functional as F

from common import DATA, save
from make_s4 import dplr_kernel, rounded

torch.set_default_dtype(torch.float64)


def weights(c):
    H, N, S = c["d_model"], c["d_state"] // 2, c["n_ssm"]
    M = c["channels"] * (2 if c["bidirectional"] else 1)
    p = {}

    def linear(name, out, inputs):
        p[f"{name}.weight"] = torch.randn(out, inputs) * inputs**-0.5
        p[f"{name}.bias"] = torch.randn(out) * 0.3

    linear("encoder", H, c["d_input"])
    for i in range(c["n_layers"]):
        kernel = f"s4_layers.{i}.layer.kernel"
        p[f"s4_layers.{i}.layer.D"] = torch.randn(c["channels"], H)
        p[f"{kernel}.inv_dt"] = torch.log(torch.rand(H, 1) * 0.2 + 0.02)
        p[f"{kernel}.C"] = torch.randn(M, H, N, 2) * 0.5**0.5
        p[f"{kernel}.B"] = torch.randn(1, S, N, 2)
        p[f"{kernel}.A_real"] = math.log(0.5) + 0.3 * torch.randn(S, N)
        p[f"{kernel}.A_imag"] = 6 * torch.rand(S, N)
        if c["mode"] == "dplr":
            p[f"{kernel}.P"] = torch.randn(c["rank"], S, N, 2) * 0.5
        linear(f"s4_layers.{i}.output_linear.0", 2 * H if c["final_act"] == "glu" else H, c["channels"] * H)
        p[f"norms.{i}.weight"], p[f"norms.{i}.bias"] = 1 + 0.3 * torch.randn(H), 0.3 * torch.randn(H)
    if c["prenorm"]:
        p["norm.weight"], p["norm.bias"] = 1 + 0.3 * torch.randn(H), 0.3 * torch.randn(H)
    linear("decoder", c["d_output"], H)
    return {name: rounded(value).requires_grad_() for name, value in p.items()}


def kernel(c, p, prefix, length):
    copies = torch.arange(c["d_model"]) % c["n_ssm"]
    A = torch.complex(-torch.exp(p[f"{prefix}.A_real"]), -p[f"{prefix}.A_imag"])[copies]
    B = torch.view_as_complex(p[f"{prefix}.B"])[0, copies]
    C = torch.view_as_complex(p[f"{prefix}.C"])
    step = torch.exp(p[f"{prefix}.inv_dt"])
    if c["mode"] == "dplr":
        P = torch.view_as_complex(p[f"{prefix}.P"])[:, copies]
        return dplr_kernel(A, B, P, step.squeeze(-1), C, c["l_max"])[..., :length]
    a = step * A
    if c["disc"] == "bilinear":
        q = (1 + a / 2) / (1 - a / 2)
        weight = B * C * step / (1 - a / 2)
        return 2 * torch.einsum("mhn,hnl->mhl", weight, torch.stack([q**l for l in range(length)], -1)).real
    weight = B * C * (torch.exp(a) - 1) / A
    return 2 * torch.einsum("mhn,hnl->mhl", weight, torch.exp(a.unsqueeze(-1) * torch.arange(length))).real


def convolve(c, K, u, D):
    """u (B, H, L) to (B, channels, H, L); the second half of K looks strictly ahead."""
    L, M = u.shape[-1], c["channels"]
    y = D.unsqueeze(-1) * u.unsqueeze(1)
    steps = torch.arange(L).unsqueeze(1) - torch.arange(L)  # t - s
    past = torch.where(steps >= 0, K[:M][..., steps.clamp(min=0)], 0.0)
    y = y + torch.einsum("mhts,bhs->bmht", past, u)
    if c["bidirectional"]:
        ahead = torch.where(steps < 0, K[M:][..., (-steps - 1).clamp(min=0)], 0.0)
        y = y + torch.einsum("mhts,bhs->bmht", ahead, u)
    return y


def block(c, p, i, x):
    y = convolve(c, kernel(c, p, f"s4_layers.{i}.layer.kernel", x.shape[1]), x.transpose(1, 2),
                 p[f"s4_layers.{i}.layer.D"])
    y = {"gelu": F.gelu, "relu": torch.relu, "silu": F.silu}[c["activation"]](y.flatten(1, 2).transpose(1, 2))
    y = F.linear(y, p[f"s4_layers.{i}.output_linear.0.weight"], p[f"s4_layers.{i}.output_linear.0.bias"])
    return F.glu(y, dim=-1) if c["final_act"] == "glu" else y


def forward(c, p, x):
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])
    x = F.linear(x, p["encoder.weight"], p["encoder.bias"])
    for i in range(c["n_layers"]):
        if c["prenorm"]:
            x = x + block(c, p, i, norm(x, f"norms.{i}"))
        else:
            x = norm(x + block(c, p, i, x), f"norms.{i}")
    if c["prenorm"]:
        x = norm(x, "norm")
    x = {"mean": lambda: x.mean(1), "last": lambda: x[:, -1], "none": lambda: x}[c["pooling"]]()
    return F.linear(x, p["decoder.weight"], p["decoder.bias"])


def make(name, c, batch, length):
    p = weights(c)
    x = rounded(torch.rand(batch, length, c["d_input"]))
    y = forward(c, p, x)
    right = torch.randint(0, c["d_output"], y.shape[:-1])
    loss = F.cross_entropy(y.flatten(0, -2), right.flatten())
    gradients = torch.autograd.grad(loss, list(p.values()))
    print(name, loss.item())
    tensors = {f"param/{k}": v for k, v in p.items()} | {f"grad/{k}": g for k, g in zip(p, gradients)}
    tensors |= {"x": x, "right": right.int(), "y": y, "loss": loss.reshape(1)}
    save(DATA / f"s4_stack_{name}.safetensors", tensors, config=json.dumps(c), keep64=["loss"])


if __name__ == "__main__":
    torch.manual_seed(8)
    shared = {"model_type": "s4", "d_input": 2, "d_output": 5, "d_model": 6, "n_layers": 2, "d_state": 8, "dropout": 0}
    make("diagonal", {**shared, "mode": "diag", "disc": "zoh", "n_ssm": 3, "channels": 2, "bidirectional": True,
                      "activation": "gelu", "final_act": "glu", "prenorm": True, "norm": "layer", "pooling": "mean"}, 3, 19)
    make("low_rank", {**shared, "mode": "dplr", "rank": 2, "n_ssm": 2, "channels": 1, "bidirectional": False, "l_max": 24,
                      "activation": "relu", "final_act": "none", "prenorm": False, "norm": "layer", "pooling": "none"}, 2, 17)
