"""Helpers of the training tests: tiny data, tiny runs, and what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from tests.conftest import PATIENCE, ROOT
from training import runs
from training.build import Start
from training.checkpoints import newest_checkpoint, read_checkpoint
from training.presets import preset
from training.sets import DataFolders


def train(
    stage: str,
    data: Path,
    folder: Path,
    *,
    stop_after: int | None = None,
    start: Start | None = None,
    **changes,
) -> Path:
    """Train a stage of the tiny preset with some settings changed; returns its run folder."""
    config, network = preset("tiny", stage)
    runs.train(
        replace(config, **changes),
        network,
        data=DataFolders(data),
        runs=folder,
        start=start,
        stop_after=stop_after,
    )
    return folder / stage


def train_paper(
    stage: str, data: Path, folder: Path, published: Path, *, motion: Path | None = None, **changes
):
    """Train a stage of the paper's preset from the tiny Stable Diffusion of `published`."""
    config, network = preset("paper_ted", stage)
    few = {
        "steps": 2,
        "batch_size": 2,
        "size": 32,
        "num_frames": 4,
        "interval": 1,
        "workers": 0,
        "holdout": 1,
    }
    config = replace(config, **(few | {"mixed_precision": "no"} | changes))
    start = Start(published / "stable-diffusion-v1-5", published / "sd-vae-ft-mse", motion)
    runs.train(config, network, data=DataFolders(data), runs=folder, start=start)
    return folder / stage


def rows(folder: Path) -> list[dict]:
    """The rows of a run's metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in rows(folder) if "loss" in row]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The trained parameters of a run's newest checkpoint."""
    return read_checkpoint(newest_checkpoint(folder))["parameters"]


def command(*args: str | Path, launcher: tuple[str, ...] = (), module: str = "training") -> subprocess.Popen:
    """Start ``python -m training`` in a process of its own, on the CPU."""
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", module, *map(str, args)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    """Wait for a process that must succeed; returns its output."""
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    return output
