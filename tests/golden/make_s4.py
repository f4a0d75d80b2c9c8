"""Golden numbers of the S4 layers: the official equations of S4D (zoh, bilinear) and of S4 in DPLR
form (LegS with rank 1, LegT with rank 2) in PyTorch, with gradients by its autograd.

    make_s4.py [--example s4_example.json]   # the example: the standard-library reference's numbers

Everything is complex128 from float32 parameters.
"""

import argparse
import json
import math

import torch

from common import DATA, relative, save

torch.set_default_dtype(torch.float64)


def rounded(x):
    return x.float().double()


def convolve(K, u, D):
    """Causal: K (M, H, L), u (B, H, L), D (M, H) -> (B, M, H, L)."""
    n = 2 * u.shape[-1]
    product = torch.fft.rfft(u, n=n).unsqueeze(1) * torch.fft.rfft(K, n=n)
    return torch.fft.irfft(product, n=n)[..., : u.shape[-1]] + D.unsqueeze(-1) * u.unsqueeze(1)


def finish(p, K, prefix, tensors):
    """Stores inputs, K, y and the gradients of sum(w y)."""
    y = convolve(K, p["u"], p["D"])
    w = rounded(torch.randn(y.shape))
    gradients = torch.autograd.grad((w * y).sum(), list(p.values()))
    for name, value in p.items():
        tensors[f"{prefix}/{name}"] = value
    for name, value in zip(p, gradients):
        tensors[f"{prefix}/grad/{name}"] = value
    tensors[f"{prefix}/w"] = w
    tensors[f"{prefix}/K"] = K
    tensors[f"{prefix}/y"] = y


def s4d(prefix, method, sign, H, N, L, B, M, dt, A_imag, tensors):
    p = {
        "A_real": rounded(math.log(0.5) + 0.3 * torch.randn(H, N)),
        "A_imag": rounded(A_imag),
        "dt": rounded(dt),
        "B": rounded(torch.randn(H, N, 2)),
        "C": rounded(torch.randn(M, H, N, 2) * 0.5**0.5),
        "D": rounded(torch.randn(M, H)),
        "u": rounded(torch.randn(B, H, L)),
    }
    for value in p.values():
        value.requires_grad_()
    A = torch.complex(-torch.exp(p["A_real"]), sign * p["A_imag"])
    step = torch.exp(p["dt"]).unsqueeze(-1)
    a = step * A
    weight = torch.view_as_complex(p["B"]) * torch.view_as_complex(p["C"])
    if method == "zoh":
        rate, weight = a, weight * (torch.exp(a) - 1) / A
    else:
        rate = torch.log((1 + a / 2) / (1 - a / 2))
        weight = weight * step / (1 - a / 2)
    powers = torch.exp(rate.unsqueeze(-1) * torch.arange(L))
    K = 2 * torch.einsum("mhn,hnl->mhl", weight, powers).real
    finish(p, K, prefix, tensors)


def hippo(measure, M):
    n = torch.arange(M, dtype=torch.float64)
    root = torch.sqrt(2 * n + 1)
    outer = root.unsqueeze(1) * root
    if measure == "legs":
        A = -torch.tril(outer, -1) - torch.diag(n + 1)
        return A, root, torch.sqrt(n + 0.5).unsqueeze(0)
    signs = torch.where(n.unsqueeze(1) < n, (-1.0) ** (n - n.unsqueeze(1)), torch.ones(M, M))
    P = torch.stack([torch.where(n % 2 == k, root, torch.zeros(M)) for k in (1, 0)]) / 2**0.5
    return -0.5 * outer * signs, root / 2, P


def nplr(measure, M):
    A, B, P = hippo(measure, M)
    S = A + P.T @ P
    frequency, V = torch.linalg.eigh(-0.5j * (S - S.T).to(torch.complex128))
    V = V[:, : M // 2]
    B = V.mH @ B.to(torch.complex128)
    P = P.to(torch.complex128) @ V.conj()
    return torch.diag(S).mean() + 1j * frequency[: M // 2], B, P


def doubled(x):
    return torch.cat([x, x.conj()], dim=-1)


def dense(A, B, P, step):
    """Ad and Bd of each channel, on modes and conjugates."""
    full = torch.diag_embed(doubled(A)) - torch.einsum("rhi,rhj->hij", doubled(P), doubled(P).conj())
    eye = torch.eye(full.shape[-1])
    below = eye - step[:, None, None] / 2 * full
    Ad = torch.linalg.solve(below, eye + step[:, None, None] / 2 * full)
    return Ad, torch.linalg.solve(below, (step[:, None] * doubled(B)).unsqueeze(-1)).squeeze(-1)


def dplr_kernel(A, B, P, step, stored, L):
    """K (1, H, L) of one output from its stored C (1, H, N), by the generating function at the roots of unity."""
    w = torch.exp(-2j * math.pi * torch.arange(L // 2 + 1) / L)
    x = torch.cat([B.unsqueeze(0), P]).unsqueeze(1)  # (1 + R, 1, H, N)
    y = torch.cat([stored, P.conj()]).unsqueeze(0)  # (1, 1 + R, H, N)
    v = step[:, None] * x * y
    below = 2 * (1 - w) - (1 + w) * (step[:, None] * doubled(A)).unsqueeze(-1)
    g = torch.einsum("xyhn,hnj->xyhj", 2 * doubled(v), 1 / below)
    half = (1 + w) / 2
    ranks = P.shape[0]
    inner = torch.eye(ranks) + (half * g[1:, 1:]).permute(2, 3, 1, 0)
    t = torch.linalg.solve(inner, g[0, 1:].permute(1, 2, 0).unsqueeze(-1)).squeeze(-1)
    k = g[0, 0] - half * (g[1:, 0].permute(1, 2, 0) * t).sum(-1)
    return torch.fft.irfft(k, n=L).unsqueeze(0)


def dplr(prefix, measure, M, H, L, batch, tensors):
    lam, b, low = nplr(measure, M)
    N = M // 2
    pairs = lambda x: rounded(torch.view_as_real(x.resolve_conj()).contiguous())
    p = {
        "A_real": rounded(torch.log(-lam.real.clamp(max=-1e-4)).expand(H, N) + 0.1 * torch.randn(H, N)),
        "A_imag": rounded(-lam.imag.expand(H, N).contiguous()),
        "dt": rounded(torch.log(torch.rand(H) * 0.2 + 0.02)),
        "B": pairs(b.expand(H, N)),
        "P": pairs(low.unsqueeze(1).expand(-1, H, N)),
        "D": rounded(torch.randn(1, H)),
        "u": rounded(torch.randn(batch, H, L)),
    }
    C = rounded(torch.randn(1, H, N, 2) * 0.5**0.5)

    def parts():
        A = torch.complex(-torch.exp(p["A_real"]), -p["A_imag"])
        return A, torch.view_as_complex(p["B"]), torch.view_as_complex(p["P"]), torch.exp(p["dt"])

    Ad, Bd = dense(*parts())
    c = doubled(torch.view_as_complex(C))
    across = torch.matrix_power(Ad, L)
    stored = c - torch.einsum("hji,mhj->mhi", across, c)
    tensors[f"{prefix}/C"] = C
    tensors[f"{prefix}/Ad"] = torch.view_as_real(Ad)
    tensors[f"{prefix}/Bd"] = torch.view_as_real(Bd)
    p["C_stored"] = pairs(stored[..., :N])
    for value in p.values():
        value.requires_grad_()
    A, B, P, step = parts()
    stored = torch.view_as_complex(p["C_stored"])
    K = dplr_kernel(A, B, P, step, stored, L)
    # The same kernel from the definition, for C~'s own C.
    state, krylov = Bd, []
    for _ in range(L):
        krylov.append(2 * torch.einsum("mhn,hn->mh", c[..., :N], state[:, :N]).real)
        state = torch.einsum("hij,hj->hi", Ad, state)
    krylov = torch.stack(krylov, -1)
    print(prefix, "generating function against powers of Ad:", relative(K.detach(), krylov.detach()))
    finish(p, K, prefix, tensors)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--example")
    args = parser.parse_args()
    if args.example:
        with open(args.example) as file:
            example = json.load(file)["cases"]
        with open(DATA / "s4_example.json", "w") as file:
            json.dump(example, file, separators=(",", ":"))
            file.write("\n")
    torch.manual_seed(4)
    tensors = {}
    H, N = 3, 4
    dt = torch.log(torch.rand(H) * 0.2 + 0.01)
    A_imag = 6 * torch.rand(H, N)
    s4d("zoh", "zoh", 1, H, N, 37, 2, 1, dt, A_imag, tensors)
    s4d("bilinear", "bilinear", -1, H, N, 37, 2, 2, dt, A_imag, tensors)
    # Phases up to 940 rad.
    far = math.pi * torch.arange(16).expand(2, 16)
    s4d("long", "zoh", 1, 2, 16, 200, 1, 1, torch.log(torch.tensor([0.1, 0.05])), far, tensors)
    dplr("legs", "legs", 8, 2, 24, 2, tensors)
    dplr("legt", "legt", 8, 2, 15, 1, tensors)
    save(DATA / "s4.safetensors", tensors, keep64=list(tensors))


if __name__ == "__main__":
    main()
