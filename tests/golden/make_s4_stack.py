"""Golden numbers of the official S4 model: outputs, losses and gradients of two small ones, in PyTorch from the
equations of its layers. See README.md. Everything is float64 from float32 parameters."""

import json
import math

import torch
import torch.nn.functional as F

from common import DATA, save
from make_s4 import dplr_kernel, rounded

torch.set_default_dtype(torch.float64)


def inner(c):
    return c["d_model"] // c.get("bottleneck", 1)


def block_weights(c, p, prefix, linear):
    E, H, N, S, gate = c["d_model"], inner(c), c["d_state"] // 2, c["n_ssm"], c.get("gate", 0)
    M = c["channels"] * (2 if c["bidirectional"] else 1)
    if "bottleneck" in c:
        linear(f"{prefix}.input_linear", H, E)
    if gate:
        linear(f"{prefix}.input_gate.0", gate * E, E)
        linear(f"{prefix}.output_gate", gate * E, c["channels"] * H)
    kernel = f"{prefix}.layer.kernel"
    p[f"{prefix}.layer.D"] = torch.randn(c["channels"], H)
    p[f"{kernel}.inv_dt"] = torch.log(torch.rand(H, 1) * 0.2 + 0.02)
    p[f"{kernel}.C"] = torch.randn(M, H, N, 2) * 0.5**0.5
    p[f"{kernel}.B"] = torch.randn(1, S, N, 2)
    p[f"{kernel}.A_real"] = math.log(0.5) + 0.3 * torch.randn(S, N)
    p[f"{kernel}.A_imag"] = 6 * torch.rand(S, N)
    if c["mode"] == "dplr":
        p[f"{kernel}.P"] = torch.randn(c["rank"], S, N, 2) * 0.5
    if c["final_act"] is not None:
        linear(f"{prefix}.output_linear.0", 2 * E if c["final_act"] == "glu" else E, gate * E or c["channels"] * H)


def minimal_weights(c, p, prefix):
    """Names and shapes of the official repository's minimal S4D."""
    H, N = c["d_model"], c["d_state"] // 2
    p[f"{prefix}.D"] = torch.randn(H)
    p[f"{prefix}.kernel.C"] = torch.randn(H, N, 2) * 0.5**0.5
    p[f"{prefix}.kernel.log_dt"] = torch.log(torch.rand(H) * 0.2 + 0.02)
    p[f"{prefix}.kernel.log_A_real"] = math.log(0.5) + 0.3 * torch.randn(H, N)
    p[f"{prefix}.kernel.A_imag"] = math.pi * torch.arange(N).expand(H, N).clone()
    p[f"{prefix}.output_linear.0.weight"] = torch.randn(2 * H, H, 1) * H**-0.5
    p[f"{prefix}.output_linear.0.bias"] = torch.randn(2 * H) * 0.3


def norm_weights(c, p, name):
    names, H = {"instance": (), "layer_scalar": ("s", "m")}.get(c["norm"], ("weight", "bias")), c["d_model"]
    if names:
        size = 1 if c["norm"] == "layer_scalar" else H
        p[f"{name}.{names[0]}"], p[f"{name}.{names[1]}"] = 1 + 0.3 * torch.randn(size), 0.3 * torch.randn(size)


def weights(c):
    H = c["d_model"]
    p = {}

    def linear(name, out, inputs):
        p[f"{name}.weight"] = torch.randn(out, inputs) * inputs**-0.5
        p[f"{name}.bias"] = torch.randn(out) * 0.3

    linear("encoder", H, c["d_input"])
    for i in range(c["n_layers"]):
        if c.get("layer") == "s4d":
            minimal_weights(c, p, f"s4_layers.{i}")
        else:
            block_weights(c, p, f"s4_layers.{i}", linear)
        norm_weights(c, p, f"norms.{i}")
    if c["prenorm"]:
        norm_weights(c, p, "norm")
    linear("decoder", c["d_output"], H)
    return {name: rounded(value).requires_grad_() for name, value in p.items()}


def kernel(c, p, prefix, length):
    copies = torch.arange(inner(c)) % c["n_ssm"]
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


ACTIVATIONS = {"gelu": F.gelu, "relu": torch.relu, "silu": F.silu, "elu": F.elu, "tanh": torch.tanh,
               "glu": lambda x: F.glu(x, dim=-1), "none": lambda x: x}


def block(c, p, i, x):
    if c.get("layer") == "s4d":
        return minimal(c, p, f"s4_layers.{i}", x)
    linear = lambda x, name: F.linear(x, p[f"s4_layers.{i}.{name}.weight"], p[f"s4_layers.{i}.{name}.bias"])
    u = linear(x, "input_linear") if "bottleneck" in c else x
    y = convolve(c, kernel(c, p, f"s4_layers.{i}.layer.kernel", x.shape[1]), u.transpose(1, 2),
                 p[f"s4_layers.{i}.layer.D"])
    y = ACTIVATIONS[c["activation"]](y.flatten(1, 2).transpose(1, 2))
    if "gate" in c:
        y = linear(y, "output_gate") * ACTIVATIONS[c["gate_act"]](linear(x, "input_gate.0"))
    y = ACTIVATIONS[c.get("mult_act", "none")](y)
    return y if c["final_act"] is None else ACTIVATIONS[c["final_act"]](linear(y, "output_linear.0"))


def minimal(c, p, prefix, x):
    A = torch.complex(-torch.exp(p[f"{prefix}.kernel.log_A_real"]), p[f"{prefix}.kernel.A_imag"])
    a = A * torch.exp(p[f"{prefix}.kernel.log_dt"]).unsqueeze(-1)
    weight = torch.view_as_complex(p[f"{prefix}.kernel.C"]) * (torch.exp(a) - 1) / A
    K = 2 * torch.einsum("hn,hnl->hl", weight, torch.exp(a.unsqueeze(-1) * torch.arange(x.shape[1]))).real
    u = x.transpose(1, 2)
    y = convolve({"channels": 1, "bidirectional": False}, K.unsqueeze(0), u, p[f"{prefix}.D"].unsqueeze(0)).squeeze(1)
    y = F.conv1d(F.gelu(y), p[f"{prefix}.output_linear.0.weight"], p[f"{prefix}.output_linear.0.bias"])
    return F.glu(y, dim=1).transpose(1, 2)


def buffers(c):
    b = {}
    for name in [f"norms.{i}" for i in range(c["n_layers"])] + ["norm"] * c["prenorm"] if c["norm"] == "batch" else []:
        b[f"{name}.running_mean"] = rounded(0.3 * torch.randn(c["d_model"]))
        b[f"{name}.running_var"] = rounded(0.5 + torch.rand(c["d_model"]))
        b[f"{name}.num_batches_tracked"] = torch.tensor(4)
    return b


def normalised(c, p, b, name, x, training):
    """PyTorch's function of each norm, on (B, H, L) where it wants the channel second."""
    weight, bias, y = p.get(f"{name}.weight"), p.get(f"{name}.bias"), x.transpose(1, 2)
    if c["norm"] == "layer_scalar":
        std, mean = torch.std_mean(x, dim=-1, unbiased=False, keepdim=True)
        return p[f"{name}.s"] / std * (x - mean + p[f"{name}.m"])
    if c["norm"] == "layer":
        return F.layer_norm(x, x.shape[-1:], weight, bias)
    if c["norm"] == "batch":
        mean, var = b[f"{name}.running_mean"], b[f"{name}.running_var"]
        if training:
            b[f"{name}.num_batches_tracked"] += 1
        y = F.batch_norm(y, mean, var, weight, bias, training, momentum=0.1)
    elif c["norm"] == "instance":
        y = F.instance_norm(y)
    else:
        y = F.group_norm(y, 1, weight, bias)
    return y.transpose(1, 2)


def forward(c, p, x, b=None, training=True):
    norm = lambda x, name: normalised(c, p, b, name, x, training)
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


def copied(b):
    return {name: value.clone() for name, value in b.items()}


def make_batch(name, c, batch, length):
    """Batch norm: outputs and gradients in training and in evaluation, running statistics after three passes."""
    p, b = weights(c), buffers(c)
    x = rounded(torch.rand(batch, length, c["d_input"]))
    right = torch.randint(0, c["d_output"], (batch,))
    tensors = {f"param/{k}": v for k, v in p.items()} | {f"buffer/{k}": v for k, v in copied(b).items()}
    tensors |= {"x": x, "right": right.int()}
    for mode in ("train", "eval"):
        y = forward(c, p, x, copied(b), mode == "train")
        loss = F.cross_entropy(y, right)
        gradients = torch.autograd.grad(loss, list(p.values()))
        tensors |= {f"{mode}/grad/{k}": g for k, g in zip(p, gradients)}
        tensors |= {f"{mode}/y": y, f"{mode}/loss": loss.reshape(1)}
        print(name, mode, loss.item())
    tensors["more"] = rounded(torch.rand(3, batch, length, c["d_input"]))
    for more in tensors["more"]:
        forward(c, p, more, b)
    tensors |= {f"after/{k}": v for k, v in b.items()}
    save(DATA / f"s4_stack_{name}.safetensors", tensors, config=json.dumps(c), keep64=["train/loss", "eval/loss"])


def make_trajectory(name, c, batch, length, steps):
    """Losses of AdamW with batch norm, a fresh batch at each step, and the running statistics at the end."""
    p, b = weights(c), buffers(c)
    start = {f"param/{k}": v.detach().clone() for k, v in p.items()} | {f"buffer/{k}": v for k, v in copied(b).items()}
    xs = rounded(torch.rand(steps, batch, length, c["d_input"]))
    right = torch.randint(0, c["d_output"], (steps, batch))
    optimizer = torch.optim.AdamW(list(p.values()), lr=5e-3, weight_decay=0.01)
    losses = []
    for x, r in zip(xs, right):
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(c, p, x, b), r)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    print(name, losses[0].item(), losses[-1].item())
    tensors = start | {"xs": xs, "right": right.int(), "losses": torch.stack(losses)}
    tensors |= {f"after/{k}": v for k, v in b.items()}
    save(DATA / f"s4_stack_{name}.safetensors", tensors, config=json.dumps(c), keep64=["losses"])


if __name__ == "__main__":
    torch.manual_seed(8)
    shared = {"model_type": "s4", "d_input": 2, "d_output": 5, "d_model": 6, "n_layers": 2, "d_state": 8, "dropout": 0}
    make("diagonal", {**shared, "mode": "diag", "disc": "zoh", "n_ssm": 3, "channels": 2, "bidirectional": True,
                      "activation": "gelu", "final_act": "glu", "prenorm": True, "norm": "layer", "pooling": "mean"}, 3, 19)
    make("low_rank", {**shared, "mode": "dplr", "rank": 2, "n_ssm": 2, "channels": 1, "bidirectional": False, "l_max": 24,
                      "activation": "relu", "final_act": "none", "prenorm": False, "norm": "layer", "pooling": "none"}, 2, 17)
    # Each of these starts from a seed of its own, so that another may be added without changing it.
    plain = {**shared, "mode": "diag", "disc": "zoh", "n_ssm": 3, "channels": 1, "bidirectional": False,
             "activation": "gelu", "final_act": "glu", "prenorm": True, "pooling": "mean"}
    torch.manual_seed(9)
    make_batch("batch", {**plain, "norm": "batch"}, 3, 11)
    torch.manual_seed(10)
    make_trajectory("batch_steps", {**plain, "norm": "batch", "prenorm": False, "n_layers": 2}, 4, 9, 30)
    torch.manual_seed(11)
    # The mean over what instance norm has put about zero would be zero.
    make("instance", {**plain, "norm": "instance", "prenorm": False, "pooling": "none"}, 3, 11)
    torch.manual_seed(12)
    make("group", {**plain, "norm": "group", "prenorm": False}, 3, 11)
    torch.manual_seed(13)
    make("gated", {**plain, "norm": "layer", "bottleneck": 2, "gate": 2, "gate_act": "silu", "mult_act": "gelu",
                   "activation": "elu", "channels": 2, "final_act": "tanh"}, 3, 11)
    torch.manual_seed(14)
    make("no_linear", {**plain, "norm": "layer", "gate": 1, "gate_act": "gelu", "final_act": None}, 3, 11)
    torch.manual_seed(15)
    make("minimal", {**shared, "layer": "s4d", "norm": "layer", "prenorm": False, "pooling": "mean"}, 3, 19)
    torch.manual_seed(16)
    make("scalar", {**plain, "norm": "layer_scalar"}, 3, 11)
