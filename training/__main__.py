"""Command line of the training: ``python -m training STAGE``, ``export``, ``evaluate`` and others."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from magicanimate.progress import exit_status, say
from training import ablations
from training.config import check_config
from training.evaluation import command as evaluation
from training.options import add_settings, origins, whole_number, with_settings
from training.presets import PRESETS, preset
from training.segmenter import command as segmenter

STAGES = {
    "vae": "image autoencoder, from nothing",
    "base": "UNet, appearance encoder and ControlNet together, from nothing",
    "controlnet": "pose ControlNet on single images, before stage1",
    "stage1": "appearance encoder and ControlNet on pairs of frames",
    "stage2": "temporal layers on clips, everything else frozen",
    "distill": "a student that needs few steps and no guidance, from a finished pipeline or the runs before",
    "sharpen": "the autoencoder's decoder, on latents that the finished pipeline samples",
}

STOPPED = 3


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(
        prog="python -m training",
        description="Train the networks. The same command again resumes. For several processes put"
        " `accelerate launch -m` before `training` in place of `python -m`. Ctrl-C, or SIGTERM, stops it"
        " after the step it is at, with a checkpoint (exit status 3).",
    )
    commands = top.add_subparsers(dest="command", required=True)
    for stage, text in STAGES.items():
        command = commands.add_parser(stage, help=text, description=text)
        command.add_argument("--data", type=Path, required=True, help="folder of the videos, or dancers")
        command.add_argument("--images", type=Path, help="folder of the images, for joint training")
        command.add_argument(
            "--stop-after", type=whole_number, metavar="N", help="leave after N steps of this call"
        )
        command.add_argument(
            "--dry-run",
            action="store_true",
            help="print every setting and where it comes from; train nothing",
        )
        command.add_argument("--threads", type=whole_number, metavar="N", help="CPU threads")
        _add_common(command)
        add_settings(command)
    export = commands.add_parser("export", help="write the pipeline folder that the program loads")
    export.add_argument("--out", type=Path, required=True)
    _add_common(export)
    segmenter.add_command(commands)
    evaluation.add_commands(commands)
    ablations.add_command(commands)
    return top


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--runs", type=Path, default=Path("runs/mini"), help="folder of all runs")
    command.add_argument("--preset", default="mini", choices=tuple(PRESETS), help="default: %(default)s")
    command.add_argument("--stable-diffusion", type=Path, help="folder of Stable Diffusion 1.5 (paper_*)")
    command.add_argument("--vae", type=Path, help="folder of its autoencoder (paper_*)")
    command.add_argument("--motion", type=Path, help="AnimateDiff's motion weights to begin stage2 with")
    command.add_argument("--pipeline", type=Path, help="pipeline folder to go on from, such as assets/mini")


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 2 for a mistake said in a sentence, 3 when a signal stopped a training and its
        checkpoint is written, so that `make` does not go on to the next stage.
    """
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    return exit_status(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if args.command in ("evaluate", "compare"):
        getattr(evaluation, args.command)(args)
        return 0
    if args.command == "ablations":
        return ablations.run(args)
    from training import runs
    from training.build import Start
    from training.export import export_pipeline, saved_config
    from training.sets import DataFolders

    if args.command == "segmenter":
        segmenter.run(args)
        return 0
    start = Start(
        stable_diffusion=args.stable_diffusion,
        vae=args.vae,
        motion=args.motion,
        pipeline=args.pipeline,
    )
    if args.command == "export":
        config, network = preset(args.preset, "stage2")
        export_pipeline(saved_config(args.runs, config), network, args.runs, args.out, start=start)
        return 0
    config, network = preset(args.preset, args.command)
    config = with_settings(config, args)
    if args.dry_run:
        check_config(config)
        for name, value, origin in origins(config, args.preset, args):
            print(f"{name:32} {value!s:16} {origin}")
        for name in ("data", "images", "runs", "stable_diffusion", "vae", "motion", "pipeline"):
            path = getattr(args, name)
            there = "not given" if path is None else "there" if path.exists() else "not there"
            print(f"{'--' + name.replace('_', '-'):32} {path or '-'!s:16} {there}")
        return 0
    done = runs.train(
        config,
        network,
        data=DataFolders(videos=args.data, images=args.images),
        runs=args.runs,
        start=start,
        stop_after=args.stop_after,
        threads=args.threads,
    )
    if not done:
        say("stopped, checkpoint written; the same command goes on from there")
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
