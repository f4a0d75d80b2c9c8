"""Golden numbers of the deep S4 of the PEFT experiments: outputs, losses, gradients and 30 steps of AdamW of three
small models, in PyTorch from its equations. See README.md.

The reference runs in float64 from float32 weights; the same trajectory in float32 is repeated to see by how much an
honest float32 implementation may differ.
"""

import json
import math

import torch
import torch.nn.functional as F

from common import DATA, save

STEPS, LR, DECAY = 30, 5e-3, 0.01


def kernel(C, log_dt, log_A_real, A_imag, length):
    """K_l = 2 Re sum_n C_n (e^(dt A) - 1) / A e^(dt A l), A = -e^log_A_real + i A_imag."""
    A = torch.complex(-torch.exp(log_A_real), A_imag)
    dt_A = A * torch.exp(log_dt).unsqueeze(-1)
    C = torch.view_as_complex(C.contiguous()) * torch.expm1(dt_A) / A
    powers = torch.exp(dt_A.unsqueeze(-1) * torch.arange(length))
    return 2 * torch.einsum("hn,hnl->hl", C, powers).real


def layer(p, prefix, x):
    """relu(W s4(x) + b); x (B, L, H)."""
    get = lambda name: p[f"{prefix}.{name}"]
    u = x.transpose(1, 2)
    length = u.shape[-1]
    K = kernel(get("kernel.C"), get("kernel.log_dt"), get("kernel.log_A_real"), get("kernel.A_imag"), length)
    y = torch.fft.irfft(torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(K, n=2 * length), n=2 * length)
    y = y[..., :length] + get("D").unsqueeze(-1) * u
    return torch.relu(F.linear(y.transpose(1, 2), get("output_linear.weight"), get("output_linear.bias")))


def forward(config, p, x):
    standard = config["mode"] == "default"
    if standard:
        x = F.linear(x, p["encoder.weight"], p["encoder.bias"])
    for i in range(config["n_layers"]):
        y = layer(p, f"layers.{i}", x)
        x = x + y if standard else y
    return F.linear(x.mean(1), p["decoder.weight"], p["decoder.bias"]) if standard else x


def weights(config, gen):
    H, N = config["d_model"], config["d_state"]
    rand = lambda *shape: torch.rand(shape, generator=gen)
    normal = lambda *shape: torch.randn(shape, generator=gen)
    p = {}

    def linear(name, out, inputs):
        bound = inputs**-0.5
        p[f"{name}.weight"] = (2 * rand(out, inputs) - 1) * bound
        p[f"{name}.bias"] = (2 * rand(out) - 1) * bound

    if config["mode"] == "default":
        linear("encoder", H, config["d_input"])
    for i in range(config["n_layers"]):
        prefix = f"layers.{i}"
        p[f"{prefix}.D"] = normal(H)
        p[f"{prefix}.kernel.C"] = normal(H, N, 2) * 0.5**0.5
        p[f"{prefix}.kernel.log_dt"] = rand(H) * math.log(100) + math.log(1e-3)
        random = config["A_init"] == "random"
        p[f"{prefix}.kernel.log_A_real"] = torch.log(rand(H, N)) if random else torch.full((H, N), math.log(0.5))
        modes = torch.randint(0, N, (H, N), generator=gen) if random else torch.arange(N).expand(H, N)
        p[f"{prefix}.kernel.A_imag"] = math.pi * modes.float()
        linear(f"{prefix}.output_linear", H, H)
    if config["mode"] == "default":
        linear("decoder", config["d_output"], H)
    return p


def loss_of(config, p, x, right):
    y = forward(config, p, x)
    if right.dtype == torch.long:
        return y, F.cross_entropy(y.reshape(-1, y.shape[-1]), right.reshape(-1))
    return y, F.mse_loss(y, right)


def trajectory(config, start, xs, rights):
    p = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.AdamW(p.values(), lr=LR, weight_decay=DECAY, foreach=False)
    losses = []
    for x, right in zip(xs, rights):
        optimizer.zero_grad()
        loss = loss_of(config, p, x, right)[1]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64), {name: value.detach() for name, value in p.items()}


def make(name, config, batch, length, classes, seed):
    gen = torch.Generator().manual_seed(seed)
    single = weights(config, gen)
    width = config["d_input"] if config["mode"] == "default" else config["d_model"]
    xs = torch.randint(0, 10, (STEPS, batch, length, width), generator=gen).float()
    if config["mode"] == "default":
        xs = xs / 9
    if classes:
        positions = (batch,) if config["mode"] == "default" else (batch, length)
        rights = torch.randint(0, classes, (STEPS, *positions), generator=gen)
    else:
        target = {**config, "n_layers": 1}
        other = {k: v.double() for k, v in weights(target, gen).items()}
        rights = torch.stack([forward(target, other, x) for x in xs.double()]).float()
    double = {k: v.double().requires_grad_() for k, v in single.items()}
    exact_rights = rights if classes else rights.double()
    y, loss = loss_of(config, double, xs[0].double(), exact_rights[0])
    gradients = torch.autograd.grad(loss, list(double.values()))
    losses, final = trajectory(config, {k: v.double() for k, v in single.items()}, xs.double(), exact_rights)
    rough, _ = trajectory(config, single, xs, rights)
    print(f"{name}: losses {losses[0]:.4f} -> {losses[-1]:.4f}, float32 of PyTorch off by "
          f"{((rough - losses).abs() / losses).max():.1e}")
    tensors = {f"param/{k}": v for k, v in single.items()}
    tensors |= {f"grad/{k}": g.float() for k, g in zip(double, gradients)}
    tensors |= {f"final/{k}": v.float() for k, v in final.items()}
    tensors |= {"x": xs, "right": rights.int() if classes else rights, "y": y.detach().float(),
                "loss": loss.detach().reshape(1), "losses": losses}
    save(DATA / f"deep_s4_{name}.safetensors", tensors, config=json.dumps(config),
         lr=str(LR), decay=str(DECAY), keep64=["loss", "losses"])


if __name__ == "__main__":
    theory = {"model_type": "deep_s4", "mode": "theory", "d_model": 6, "n_layers": 2, "d_state": 4, "A_init": "random"}
    make("regression", theory, batch=3, length=20, classes=0, seed=3)
    make("positions", theory, batch=2, length=15, classes=6, seed=4)
    make("classifier", {"model_type": "deep_s4", "mode": "default", "d_model": 8, "n_layers": 2, "d_state": 3,
                        "d_input": 2, "d_output": 5, "A_init": "default"}, batch=4, length=33, classes=5, seed=5)
