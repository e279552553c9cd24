"""``python -m training segmenter``: train the part segmenter and write its folder."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command, without importing anything heavy."""
    command = commands.add_parser("segmenter", help="network that finds body parts, for the benchmarks")
    command.add_argument("--data", type=Path, required=True, help="folder of rendered dancers")
    command.add_argument("--out", type=Path, help="folder to write (RUNS/segmenter/model)")
    command.add_argument("--steps", type=int, help="steps in all instead of the preset's")
    command.add_argument("--stop-after", type=int, help="leave after so many steps of this call")
    command.add_argument("--threads", type=int, help="CPU threads")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    train(
        data=args.data,
        runs=args.runs,
        out=args.out,
        preset=args.preset,
        steps=args.steps,
        stop_after=args.stop_after,
        threads=args.threads,
    )


def train(
    *,
    data: Path,
    runs: Path,
    preset: str,
    out: Path | None = None,
    steps: int | None = None,
    stop_after: int | None = None,
    threads: int | None = None,
) -> Path | None:
    """Train in ``runs/segmenter``, resuming if that run was begun; at its end write the network.

    Returns:
        The folder written (safetensors in float16, ``config.json``), or ``None`` if the run is not done.

    Raises:
        InputError: the data cannot be used.
    """

    import torch

    from training.data import DancerData
    from training.loop import Trainer
    from training.segmenter.network import STAGE, segmenter_config
    from training.segmenter.stage import SegmenterStage

    if threads:
        torch.set_num_threads(threads)
    config = segmenter_config(preset)
    config = replace(config, steps=steps or config.steps)
    stage = SegmenterStage(config, preset, DancerData(data, holdout=config.holdout))
    trainer = Trainer(stage, config, runs / STAGE)
    trainer.run(stop_after=stop_after)
    if trainer.step < config.steps:
        return None
    return export(stage, runs / STAGE, out or runs / STAGE / "model")


def export(stage, run_folder: Path, out: Path) -> Path:
    """Write a run's averaged weights to ``out``; a model card (README.md) that lies there stays."""

    from training.loop import load_averages

    load_averages(stage.networks, run_folder)
    staging = out.with_name(f".{out.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    stage.segmenter.half().save_pretrained(staging)
    if (out / "README.md").exists():
        shutil.copy2(out / "README.md", staging / "README.md")
    if out.exists():
        shutil.rmtree(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging.rename(out)
    return out
