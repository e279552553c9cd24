"""The default arrangement of the work against the plain one: time, agreement, memory.

    python -m benchmarks.speed [--frames 24] [--side 32] [--channels 64 128 256 256] [--steps 5] [--threads 2]

Random networks of Stable Diffusion 1.5's topology; the two take turns in one process, so that other work on
the machine slows both. CPU seconds (of all threads) depend less on it than the clock. The extra memory is how
far the peak of a process of its own lies above what it has before it denoises; Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import defaultdict

import numpy as np
import torch

from benchmarks.flops import TEXT_TOKENS, build_networks
from magicanimate.checkpoints.architectures import SCHEDULER
from magicanimate.device import DTYPES
from magicanimate.models.prompt import EmptyPrompt
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.speed import Speed

ARRANGEMENTS = {"plain": Speed.plain(), "default": Speed()}
PARTS = ("appearance_encoder", "controlnet", "unet")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.splitlines()[0])
    top.add_argument("--frames", type=int, default=24)
    top.add_argument("--side", type=int, default=32, help="of the latents (%(default)s)")
    top.add_argument("--channels", type=int, nargs=4, default=[64, 128, 256, 256])
    top.add_argument("--text-width", type=int, default=64)
    top.add_argument("--steps", type=int, default=5)
    top.add_argument("--guidance", type=float, default=7.5)
    top.add_argument("--dtype", choices=DTYPES, default="float32")
    top.add_argument("--threads", type=int, default=2)
    top.add_argument("--rounds", type=int, default=3, help="runs of each (%(default)s)")
    top.add_argument(
        "--memory-of", choices=ARRANGEMENTS, help="print one arrangement's extra memory in MB only"
    )
    return top


def build(args: argparse.Namespace) -> MagicAnimatePipeline:
    """The pipeline with random weights; its picture autoencoder is the smallest that fits."""
    from diffusers import AutoencoderKL, DDIMScheduler

    torch.manual_seed(0)
    networks = build_networks(args.channels, text_width=args.text_width)
    pipe = MagicAnimatePipeline(
        vae=AutoencoderKL(
            block_out_channels=(32,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        unet=networks.unet,
        appearance_encoder=networks.encoder,
        controlnet=networks.controlnet,
        scheduler=DDIMScheduler(**SCHEDULER),
        empty_prompt=EmptyPrompt(num_tokens=TEXT_TOKENS, width=args.text_width),
    )
    # Fresh weights of these are zero, which would hide whole branches from the comparison.
    with torch.no_grad():
        for parameter in (*pipe.controlnet.parameters(), *pipe.unet.parameters()):
            if not parameter.any():
                parameter.normal_(std=0.02)
    return pipe.to(getattr(torch, args.dtype))


def animate(pipe: MagicAnimatePipeline, args: argparse.Namespace, speed: Speed, **settings) -> torch.Tensor:
    """Latents of the workload."""
    rng = np.random.default_rng(0)
    side = 8 * args.side
    return pipe(
        rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
        rng.integers(0, 256, (args.frames, side, side, 3), dtype=np.uint8),
        guidance_scale=args.guidance,
        output_type="latent",
        speed=speed,
        **{"num_inference_steps": args.steps, **settings},
    ).latents


class Stopwatch:
    """Seconds a step by the clock and of the CPU, in all and by network."""

    def __init__(self, pipe: MagicAnimatePipeline):
        self.parts: dict[str, float] = defaultdict(float)
        for name in PARTS:
            network = getattr(pipe, name)
            network.register_forward_pre_hook(lambda *_, name=name: self._add(name, -time.perf_counter()))
            network.register_forward_hook(lambda *_, name=name: self._add(name, time.perf_counter()))

    def _add(self, name: str, seconds: float) -> None:
        self.parts[name] += seconds

    def run(self, work, steps: int) -> tuple[torch.Tensor, dict[str, float]]:
        """The work's result, and its times."""
        self.parts.clear()
        began, began_cpu = time.perf_counter(), time.process_time()
        result = work()
        spent, spent_cpu = time.perf_counter() - began, time.process_time() - began_cpu
        times = {"seconds": spent, "CPU seconds": spent_cpu, **self.parts}
        return result, {name: seconds / steps for name, seconds in times.items()}


def extra_memory(args: argparse.Namespace, speed: Speed) -> float:
    """MB by which one step raises this process's peak above what it holds before."""
    pipe = build(args)
    short = argparse.Namespace(**{**vars(args), "frames": 1})
    animate(pipe, short, speed, num_inference_steps=1)  # loads the libraries' code
    before = start_peak()
    animate(pipe, args, speed, num_inference_steps=1)
    return memory("VmHWM") - before


def start_peak() -> float:
    """Let the peak of this process begin anew; what the process has now, in MB."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return memory("VmRSS")


def memory(name: str) -> float:
    """A memory figure of this process by its name in Linux' ``/proc``, in MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{name}:")) / 1000


def measure(args: argparse.Namespace) -> str:
    """Run both in turn; returns the table."""
    pipes = {name: build(args) for name in ARRANGEMENTS}  # one each: weights keep the layout that suits one
    watches = {name: Stopwatch(pipe) for name, pipe in pipes.items()}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ARRANGEMENTS}
    latents = {}
    for turn in range(args.rounds):
        for name, speed in ARRANGEMENTS.items():
            work = lambda name=name, speed=speed: animate(pipes[name], args, speed)  # noqa: E731
            latents[name], times = watches[name].run(work, args.steps)
            rows[name].append(times)
            print(f"round {turn + 1}, {name}: {times['seconds']:.2f} s a step", file=sys.stderr, flush=True)
    best = {name: {key: min(row[key] for row in of) for key in of[0]} for name, of in rows.items()}
    for name in ARRANGEMENTS:
        command = [sys.executable, "-m", "benchmarks.speed", "--memory-of", name, *sys.argv[1:]]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        best[name]["extra memory, MB"] = float(printed)
    difference = (latents["default"] - latents["plain"]).abs().max() / latents["plain"].abs().max()
    lines = ["| a step | plain | default | ratio |", "|---|---|---|---|"]
    for key, plain in best["plain"].items():
        ours = best["default"][key]
        lines.append(f"| {key} | {plain:.2f} | {ours:.2f} | {ours / plain:.2f} |")
    return "\n".join(
        [*lines, "", f"largest difference of the results: {difference:.1e} of the largest value"]
    )


def main() -> None:
    """Run the benchmark."""
    args = parser().parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(extra_memory(args, ARRANGEMENTS[args.memory_of]))
    else:
        print(measure(args))


if __name__ == "__main__":
    main()
