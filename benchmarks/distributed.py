"""What a second process saves: the CPU time of each process of a group against that of one alone.

    python -m benchmarks.distributed [--processes 2] [--frames 64] [--steps 2] [--model mini]

Runs itself in processes of one thread each that meet over gloo. The ratio of CPU seconds is what the clock
shows where each process has a core (or a GPU) of its own; where they share one, the clock shows nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

WARM_UP_FRAMES = 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.distributed", description=__doc__.splitlines()[0]
    )
    top.add_argument("--processes", type=int, default=2)
    top.add_argument("--frames", type=int, default=64)
    top.add_argument("--steps", type=int, default=2)
    top.add_argument("--model", default="mini")
    top.add_argument("--member", action="store_true", help=argparse.SUPPRESS)  # one of the processes
    return top


def member(args: argparse.Namespace) -> None:
    """Denoise as one of the processes; prints its figures as a line of JSON."""
    import numpy as np
    import torch

    from magicanimate.acceleration.window_parallel import join_process_group
    from magicanimate.checkpoints.locate import resolve_model
    from magicanimate.palette import PALETTE
    from magicanimate.pipeline import MagicAnimatePipeline

    torch.set_num_threads(1)
    pipe = MagicAnimatePipeline.from_pretrained(resolve_model(args.model))
    size = pipe.config.default_width
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    control = PALETTE[rng.integers(0, 25, (args.frames, size // 16, size // 16))]
    control = control.repeat(16, axis=1).repeat(16, axis=2)
    with join_process_group(None) as group:

        def denoise(frames: int) -> torch.Tensor:
            settings = {"num_inference_steps": args.steps, "group": group, "output_type": "latent"}
            return pipe(photo, control[:frames], **settings).latents

        denoise(WARM_UP_FRAMES)
        began, began_cpu = time.perf_counter(), time.thread_time()
        latents = denoise(args.frames)
        figures = {
            "rank": group.rank,
            "seconds": time.perf_counter() - began,
            "CPU seconds": time.thread_time() - began_cpu,  # without gloo's threads, which wait
            "sum": latents.abs().sum().item(),
        }
    print(json.dumps(figures), flush=True)


def run(processes: int) -> list[dict[str, float]]:
    """Figures of each process of a group, the first one first."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["-m", "benchmarks.distributed", "--member", *sys.argv[1:]]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    return sorted(lines, key=lambda line: line["rank"])


def main() -> None:
    """Run the benchmark."""
    args = parser().parse_args()
    if args.member:
        member(args)
        return
    alone, together = run(1)[0], run(args.processes)
    print("| process | seconds | CPU seconds | of one alone |\n|---|---|---|---|")
    for name, row in [
        ("alone", alone),
        *((f"{row['rank'] + 1} of {len(together)}", row) for row in together),
    ]:
        share = row["CPU seconds"] / alone["CPU seconds"]
        print(f"| {name} | {row['seconds']:.1f} | {row['CPU seconds']:.2f} | {share:.2f} |")
    difference = max(abs(row["sum"] - alone["sum"]) for row in together) / alone["sum"]
    print(f"\nsums of the latents differ by {difference:.1e} of their value")


if __name__ == "__main__":
    main()
