"""The training step of bench/bench_deep_s4.cpp in PyTorch: FFT convolution and autograd, AdamW on all weights.

    pytorch_deep_s4.py [--batch 4000] [--length 200] [--rounds 3] [--threads 2]

Prints one JSON line with the least seconds and the largest resident memory of the process.
"""

import argparse
import json
import math
import resource
import time

import torch

CHANNELS, MODES, LAYERS = 64, 16, 4


def layer(p, x, length):
    A = torch.complex(-p["log_A_real"].exp(), p["A_imag"])
    a = p["log_dt"].exp().unsqueeze(-1) * A
    C = torch.view_as_complex(p["C"]) * (a.exp() - 1) / A
    K = 2 * torch.einsum("hn,hnl->hl", C, (a.unsqueeze(-1) * torch.arange(length)).exp()).real
    y = torch.fft.irfft(torch.fft.rfft(x, n=2 * length) * torch.fft.rfft(K, n=2 * length), n=2 * length)[..., :length]
    y = y + x * p["D"].unsqueeze(-1)
    return torch.relu(torch.einsum("oh,bhl->bol", p["W"], y) + p["b"].unsqueeze(-1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=4000)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    layers = [
        {
            "log_A_real": torch.log(torch.rand(CHANNELS, MODES) + 1e-6),
            "A_imag": math.pi * torch.randint(1, MODES, (CHANNELS, MODES)).float(),
            "log_dt": torch.rand(CHANNELS) * math.log(100) + math.log(1e-3),
            "C": torch.randn(CHANNELS, MODES, 2) * 0.5**0.5,
            "D": torch.randn(CHANNELS),
            "W": (2 * torch.rand(CHANNELS, CHANNELS) - 1) / CHANNELS**0.5,
            "b": (2 * torch.rand(CHANNELS) - 1) / CHANNELS**0.5,
        }
        for _ in range(LAYERS)
    ]
    parameters = [value.requires_grad_() for p in layers for value in p.values()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    x = 9 * torch.rand(args.batch, CHANNELS, args.length)
    target = 5 * torch.rand(args.batch, CHANNELS, args.length)
    least_forward = least_step = math.inf
    for number in range(args.rounds + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        y = x
        for p in layers:
            y = layer(p, y, args.length)
        loss = torch.nn.functional.mse_loss(y, target)
        forward = time.perf_counter() - start
        loss.backward()
        optimizer.step()
        if number or not args.rounds:
            least_forward = min(least_forward, forward)
            least_step = min(least_step, time.perf_counter() - start)
    print(
        json.dumps(
            {
                "model": "deep_s4 in PyTorch",
                "batch": args.batch,
                "length": args.length,
                "threads": args.threads,
                "forward_s": round(least_forward, 3),
                "step_s": round(least_step, 3),
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
