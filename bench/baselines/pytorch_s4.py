"""The S4D layer of bench/bench_s4.cpp in PyTorch: kernel from its modes, FFT convolution, autograd.

    pytorch_s4.py [--threads 2] [--rounds 5]

Prints one JSON line with the least seconds of each part.
"""

import argparse
import json
import math
import time

import torch

BATCH, CHANNELS, MODES, LENGTH = 64, 64, 16, 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    parameters = {
        "log_A_real": torch.full((CHANNELS, MODES), math.log(0.5)),
        "A_imag": math.pi * torch.arange(MODES).float().repeat(CHANNELS, 1),
        "log_dt": torch.rand(CHANNELS) * math.log(100) + math.log(1e-3),
        "C": torch.randn(CHANNELS, MODES, 2) * 0.5**0.5,
        "D": torch.randn(CHANNELS),
        "u": torch.randn(BATCH, CHANNELS, LENGTH),
    }
    steps = torch.arange(LENGTH)

    def kernel(p):
        A = torch.complex(-p["log_A_real"].exp(), p["A_imag"])
        a = p["log_dt"].exp().unsqueeze(-1) * A
        C = torch.view_as_complex(p["C"]) * (a.exp() - 1) / A
        powers = (a.unsqueeze(-1) * steps).exp()
        return 2 * torch.einsum("hn,hnl->hl", C, powers).real

    def layer(p):
        n = 2 * LENGTH
        product = torch.fft.rfft(p["u"], n=n) * torch.fft.rfft(kernel(p), n=n)
        y = torch.fft.irfft(product, n=n)[..., :LENGTH]
        return y + p["u"] * p["D"].unsqueeze(-1)

    def seconds(run, gradient):
        p = {k: v.clone().requires_grad_(gradient) for k, v in parameters.items()}
        slope = torch.randn(run(p).shape)
        least = math.inf
        for _ in range(args.rounds + 1):
            start = time.perf_counter()
            y = run(p)
            if gradient:
                y.backward(slope)
            least = min(least, time.perf_counter() - start)
            for value in p.values():
                value.grad = None
        return round(least, 5)

    # The layer's transforms alone, by the FFT library: of u and y forward, of u, dy and du backward.
    def transforms(rounds):
        n = 2 * LENGTH
        u = parameters["u"]
        spectrum = torch.fft.rfft(u, n=n)
        least = math.inf
        for _ in range(rounds + 1):
            start = time.perf_counter()
            for _ in range(3):
                torch.fft.rfft(u, n=n)
            for _ in range(2):
                torch.fft.irfft(spectrum, n=n)
            least = min(least, time.perf_counter() - start)
        return round(least, 5)

    print(
        json.dumps(
            {
                "shape": [BATCH, CHANNELS, MODES, LENGTH],
                "threads": args.threads,
                "kernel_forward": seconds(kernel, False),
                "kernel_both": seconds(kernel, True),
                "layer_forward": seconds(layer, False),
                "layer_both": seconds(layer, True),
                "transforms_both": transforms(args.rounds),
                "fft": "MKL" if torch.backends.mkl.is_available() else "pocketfft",
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
