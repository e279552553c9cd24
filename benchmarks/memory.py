"""The factors by which `magicanimate.memory` estimates memory, measured here (Linux only).

    python -m benchmarks.memory [--frames 16] [--side 32] [--channels 64 128 256 256]

Each figure is how far the peak of a process of its own rises above what it has before, divided by the bytes
of feature maps: a window's first ones in the UNet, those of four frames when the decoder first has the
picture's full size.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch

from benchmarks import speed
from magicanimate.acceleration.options import OptimizationConfig
from magicanimate.memory import DECODED_AT_ONCE
from magicanimate.models.autoencoder import decode_scaled

WORK = ("denoising, CPU kernels", "denoising, diffusers' modules", "decoding")


def factor(what: str, args: argparse.Namespace) -> float:
    """Run one kind of work in this process and measure it."""
    pipe = speed.build(args)
    if what == "decoding":
        latents = torch.zeros(DECODED_AT_ONCE, 4, args.side, args.side)
        width = pipe.vae.config.block_out_channels[1]  # as `Footprint.of` counts it
        maps = DECODED_AT_ONCE * width * (8 * args.side) ** 2 * 4

        def work(side: int) -> None:
            decode_scaled(pipe.vae, latents[..., :side, :side])
    else:
        arrangement = speed.Arrangement(OptimizationConfig(cpu_kernels=what == WORK[0]))
        maps = args.frames * args.channels[0] * args.side**2 * 4

        def work(side: int) -> None:
            smaller = argparse.Namespace(**{**vars(args), "side": side})
            speed.animate(pipe, smaller, arrangement, num_inference_steps=1)

    with torch.inference_mode():
        work(8)  # loads the libraries' code
        before = speed.start_peak()
        work(args.side)
    return 1000 * (speed.memory("VmHWM") - before) / maps


def main() -> None:
    """Run the benchmark."""
    parser = speed.parser()
    parser.description = __doc__.splitlines()[0]
    parser.set_defaults(frames=16)
    parser.add_argument("--only", choices=WORK, help="measure one kind in this process")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.only:
        print(factor(args.only, args))
        return
    print("| work | times its first feature maps |\n|---|---|")
    for what in WORK:
        command = [sys.executable, "-m", "benchmarks.memory", "--only", what, *sys.argv[1:]]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"| {what} | {float(printed):.1f} |", flush=True)


if __name__ == "__main__":
    main()
