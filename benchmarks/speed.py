"""The default arrangement of the work against the plain and the published one: time, agreement, memory.

    python -m benchmarks.speed [--frames 24] [--side 32] [--channels 64 128 256 256] [--steps 5] [--threads 2]

Random networks of Stable Diffusion 1.5's topology; the arrangements take turns in one process, so that other
work on the machine slows all. "Published" is the order of work in `benchmarks.published`, of the clip as it
is and padded as by the published scripts. CPU seconds (of all threads) depend less on other work than the
clock. The extra memory is how far the peak of a process of its own lies above what it has before it denoises;
Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.flops import TEXT_TOKENS, build_networks
from benchmarks.published import PLAN, SPEED, padded, published_order
from magicanimate.acceleration.options import OptimizationConfig
from magicanimate.checkpoints.layout import SCHEDULER
from magicanimate.device import DTYPES
from magicanimate.models.prompt import EmptyPrompt
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.windows import WindowPlan


@dataclass(frozen=True)
class Arrangement:
    """A way to do the work.

    Attributes:
        optimization, plan: of this program.
        published: in the published order.
        padded: the clip is filled up to a multiple of 16 frames.
    """

    optimization: OptimizationConfig = OptimizationConfig()
    plan: WindowPlan = WindowPlan()
    published: bool = False
    padded: bool = False


ARRANGEMENTS = {
    "plain": Arrangement(OptimizationConfig.plain()),
    "published": Arrangement(SPEED, PLAN, published=True),
    "published, padded": Arrangement(SPEED, PLAN, published=True, padded=True),
    "default": Arrangement(),
}
SAME = {  # what must give the same latents
    "plain": Arrangement(),
    "published": Arrangement(plan=PLAN),
    "published, padded": Arrangement(plan=PLAN, padded=True),
}
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
    for network in pipe.components.values():
        if isinstance(network, torch.nn.Module):
            torch.nn.Module.to(network, getattr(torch, args.dtype))  # diffusers' own warns of nothing
    return pipe


def animate(
    pipe: MagicAnimatePipeline, args: argparse.Namespace, way: Arrangement, **settings
) -> torch.Tensor:
    """Latents of the workload."""
    rng = np.random.default_rng(0)
    side = 8 * args.side
    photo = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    control = rng.integers(0, 256, (args.frames, side, side, 3), dtype=np.uint8)
    with published_order() if way.published else contextlib.nullcontext():
        return pipe(
            photo,
            padded(control) if way.padded else control,
            guidance_scale=args.guidance,
            windows=way.plan,
            output_type="latent",
            optimization=way.optimization,
            **{"num_inference_steps": args.steps, **settings},
        ).latents


class Stopwatch:
    """Seconds a step by the clock and of the CPU, the latter in all and by network."""

    def __init__(self, pipe: MagicAnimatePipeline):
        self.parts: dict[str, float] = defaultdict(float)
        for name in PARTS:
            network = getattr(pipe, name)
            network.register_forward_pre_hook(lambda *_, name=name: self._add(name, -time.process_time()))
            network.register_forward_hook(lambda *_, name=name: self._add(name, time.process_time()))

    def _add(self, name: str, seconds: float) -> None:
        self.parts[name] += seconds

    def run(self, work, steps: int) -> tuple[torch.Tensor, dict[str, float]]:
        """The work's result, and its times."""
        self.parts.clear()
        began, began_cpu = time.perf_counter(), time.process_time()
        result = work()
        spent, spent_cpu = time.perf_counter() - began, time.process_time() - began_cpu
        times = {
            "seconds": spent,
            "CPU seconds": spent_cpu,
            **{f"{part}, CPU s": seconds for part, seconds in self.parts.items()},
        }
        return result, {name: seconds / steps for name, seconds in times.items()}


def extra_memory(args: argparse.Namespace, way: Arrangement) -> float:
    """MB by which one step raises this process's peak above what it holds before."""
    pipe = build(args)
    short = argparse.Namespace(**{**vars(args), "frames": 1})
    animate(pipe, short, replace(way, padded=False), num_inference_steps=1)  # loads the libraries' code
    before = start_peak()
    animate(pipe, args, way, num_inference_steps=1)
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
    """Run all in turn; returns the table."""
    pipes = {name: build(args) for name in ARRANGEMENTS}  # one each: weights keep the layout that suits one
    watches = {name: Stopwatch(pipe) for name, pipe in pipes.items()}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ARRANGEMENTS}
    latents = {}
    for turn in range(args.rounds):
        for name, way in ARRANGEMENTS.items():
            work = lambda name=name, way=way: animate(pipes[name], args, way)  # noqa: E731
            latents[name], times = watches[name].run(work, args.steps)
            rows[name].append(times)
            print(f"round {turn + 1}, {name}: {times['seconds']:.2f} s a step", file=sys.stderr, flush=True)
    best = {name: {key: min(row[key] for row in of) for key in of[0]} for name, of in rows.items()}
    for name in ARRANGEMENTS:
        command = [sys.executable, "-m", "benchmarks.speed", "--memory-of", name, *sys.argv[1:]]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        best[name]["extra memory, MB"] = float(printed)
    lines = [table(best), ""]
    for name, way in SAME.items():
        ours = latents["default"] if way == ARRANGEMENTS["default"] else animate(pipes["default"], args, way)
        difference = (ours - latents[name]).abs().max() / latents[name].abs().max()
        lines.append(
            f"largest difference of this program's result to {name}: {difference:.1e} of the largest value"
        )
    return "\n".join(lines)


def table(best: dict[str, dict[str, float]]) -> str:
    """Markdown: a column for each arrangement, and one for the share of each that the default one takes."""
    others = [name for name in best if name != "default"]
    lines = [f"| a step | {' | '.join([*best, *(f'default / {name}' for name in others)])} |"]
    lines.append("|---" * (1 + len(best) + len(others)) + "|")
    for key, ours in best["default"].items():
        figures = [f"{row[key]:.2f}" for row in best.values()] + [
            f"{ours / best[name][key]:.2f}" for name in others
        ]
        lines.append(f"| {key} | {' | '.join(figures)} |")
    return "\n".join(lines)


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
