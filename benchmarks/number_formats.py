"""Number formats on a CPU: time, and how near the frames stay to float32 and to the truth.

    python -m benchmarks.number_formats [--model mini] [--data data/synthdance] [--people 4] [--frames 16]

"float8 stored" is the memory profile `tight`: weights of 8 bits, computed with in the format of the row. CPU
seconds are those of all threads, so that other work on the machine counts less.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

FORMATS = {
    "float32": ("float32", False),
    "bfloat16": ("bfloat16", False),
    "float8 stored, float32": ("float32", True),
    "float8 stored, bfloat16": ("bfloat16", True),
}


def run(model: Path, dtype: str, tasks, *, eight_bit: bool) -> tuple[float, float, list[np.ndarray]]:
    """CPU seconds a frame, MB of weights, and the frames of each task."""
    import torch

    from magicanimate.memory import bytes_on, place, profile_named
    from magicanimate.pipeline import MagicAnimatePipeline

    pipe = MagicAnimatePipeline.from_pretrained(model, dtype=getattr(torch, dtype))
    place(pipe, profile_named("tight" if eight_bit else "standard", "cpu"), device="cpu")
    pipe(tasks[0].photo, tasks[0].control[:2], num_inference_steps=1)  # warm-up
    began, frames = time.process_time(), []
    for task in tasks:
        frames.append(pipe(task.photo, task.control).frames)
    spent = time.process_time() - began
    return spent / sum(map(len, frames)), bytes_on(pipe, "cpu") / 1e6, frames


def main() -> None:
    """Run the benchmark."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.number_formats", description=__doc__.splitlines()[0]
    )
    top.add_argument("--model", default="mini")
    top.add_argument("--data", type=Path, default=Path("data/synthdance"), help="kept test set (%(default)s)")
    top.add_argument("--people", type=int, default=4)
    top.add_argument("--frames", type=int, default=16)
    top.add_argument("--threads", type=int, default=1)
    args = top.parse_args()

    import torch

    from benchmarks.synthdance_data import render, self_tasks
    from magicanimate.checkpoints.locate import resolve_model
    from training.metrics.pixels import psnr

    torch.set_num_threads(args.threads)
    render(args.data)
    tasks = [task.first(args.frames) for task in self_tasks(args.data, people=args.people)]
    model, exact = resolve_model(args.model), None
    print("| format | CPU s a frame | weights, MB | PSNR to float32, dB | PSNR to the truth, dB |")
    print("|---|---|---|---|---|")
    for name, (dtype, eight_bit) in FORMATS.items():
        seconds, size, frames = run(model, dtype, tasks, eight_bit=eight_bit)
        exact = exact or frames
        to_exact = np.mean([psnr(b, a) for a, b in zip(frames, exact, strict=True)])
        to_truth = np.mean([psnr(task.truth, a) for a, task in zip(frames, tasks, strict=True)])
        print(f"| {name} | {seconds:.3f} | {size:.1f} | {to_exact:.1f} | {to_truth:.2f} |", flush=True)


if __name__ == "__main__":
    main()
