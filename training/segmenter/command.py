"""``python -m training segmenter``: train the part segmenter and write its folder."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from training.config import StageConfig, as_json, check_config, fixed_settings
from training.options import add_run, add_settings, add_training, with_settings

if TYPE_CHECKING:
    from training.segmenter.stage import SegmenterStage

PRESETS = ("mini", "tiny")
MODEL = "model"


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command, without importing anything heavy."""
    text = "part segmenter: a small network that labels body parts, for the page, training and benchmarks"
    command = commands.add_parser("segmenter", help=text, description=text)
    add_training(command)
    add_run(command, PRESETS)
    command.add_argument("--out", type=Path, help=f"output folder (default: RUNS/segmenter/{MODEL})")
    add_settings(command)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from training.segmenter.stage import segmenter_config

    train(
        with_settings(segmenter_config(args.preset), args),
        preset=args.preset,
        data=args.data,
        runs=args.runs,
        out=args.out,
        stop_after=args.stop_after,
        threads=args.threads,
    )


def train(
    config: StageConfig,
    *,
    preset: str,
    data: Path,
    runs: Path,
    out: Path | None = None,
    stop_after: int | None = None,
    threads: int | None = None,
) -> Path | None:
    """Train in ``runs/segmenter``, resuming if that run was begun, and finally export the network.

    Args:
        config: settings of the run.
        preset: preset of the network's size.
        data: videos with DensePose maps, see `training.data.opening.open_videos`.
        runs: folder with one subfolder per stage.
        out: output folder; ``runs/segmenter/model`` when ``None``.
        stop_after: return after this many steps of this call.
        threads: CPU threads; torch's choice when ``None``.

    Returns:
        The output folder (float16 safetensors and ``config.json``), or ``None`` if the run is not finished.

    Raises:
        InputError: the data cannot be used, a run with other settings is there, or the disk is full.
    """
    import torch

    from magicanimate.checkpoints.disk import check_replaceable
    from magicanimate.files import write_json
    from training.data.opening import open_videos
    from training.data.sources import hold_out
    from training.loop import Trainer, make_accelerator
    from training.run_folder import CONFIG, check_settings
    from training.segmenter.stage import SegmenterSamples, SegmenterStage, build_segmenter

    check_config(config)
    out = out or runs / config.stage / MODEL
    # Before the training, not after it.
    check_replaceable(out, overwrite=None, is_earlier=_is_segmenter)
    if threads is not None:
        torch.set_num_threads(threads)
    folder = runs / config.stage
    check_settings(folder, fixed_settings(config))
    accelerator = make_accelerator(config)
    # The main process writes the index of the videos, the others read it.
    with accelerator.main_process_first():
        videos, held_out = hold_out(open_videos(data, size=config.size, index_folder=folder), config.holdout)
    samples = SegmenterSamples(videos, batch_size=config.batch_size, steps=config.steps, seed=config.seed)
    torch.manual_seed(config.seed)
    stage = SegmenterStage(build_segmenter(preset), samples=samples, held_out=held_out)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG, as_json(config, None) | {"data": str(data)})
    trainer = Trainer(stage, config, folder, accelerator=accelerator)
    trainer.run(stop_after=stop_after)
    if trainer.step < config.steps or not accelerator.is_main_process:
        return None
    return export(stage, folder, out)


def _is_segmenter(folder: Path) -> bool:
    """Whether a folder holds an earlier export, which may be replaced."""
    from densepose_tools.segmenter import NUM_LABELS, PATCH
    from magicanimate.errors import InputError
    from magicanimate.files import read_json_object

    try:
        config = read_json_object(folder / "config.json")
    except InputError:
        return False
    is_network = config.get("_class_name") == "UNet2DModel"
    return is_network and config.get("out_channels") == NUM_LABELS * PATCH**2


def export(stage: SegmenterStage, run_folder: Path, out: Path) -> Path:
    """Export a run's averaged weights to ``out``, where a model card (README.md) is kept."""
    from magicanimate.checkpoints.disk import staged_folder
    from training.checkpoints import load_averages

    load_averages({"segmenter": stage.segmenter}, run_folder)
    with staged_folder(out) as staging:
        stage.segmenter.half().save_pretrained(staging)
        if (out / "README.md").exists():
            shutil.copy2(out / "README.md", staging / "README.md")
    return out
