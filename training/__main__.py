"""Command line of the training: ``python -m training STAGE``, ``export``, ``evaluate`` and others.

A stage goes from here to `training.runs.train`, which builds its networks and data and hands them to the one
training loop, `training.loop.Trainer`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from magicanimate.progress import exit_status, say
from training import ablations
from training.config import check_config
from training.evaluation import command as evaluation
from training.options import add_run, add_settings, add_training, origins, with_settings
from training.presets import PRESETS, preset
from training.segmenter import command as segmenter

STAGES = {
    "vae": "image autoencoder, from random weights",
    "base": "UNet, appearance encoder and ControlNet together, from random weights",
    "controlnet": "pose ControlNet on single images, before stage1",
    "stage1": "appearance encoder and ControlNet on pairs of frames",
    "stage2": "temporal layers on clips (and images), everything else frozen",
    "distill": "few-step student without guidance, distilled from a finished pipeline or the earlier stages",
    "sharpen": "decoder of the autoencoder, on latents sampled by the finished pipeline",
}

STOPPED = 3
"""Exit status of a training that a signal stopped: its checkpoint is written, but it is not finished."""


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(
        prog="python -m training",
        description="Train the networks. Running the same command again resumes the training. To use several"
        " processes, replace `python -m` by `accelerate launch -m`. Ctrl-C or SIGTERM ends the current step,"
        " writes a checkpoint and stops (exit status 3).",
    )
    commands = top.add_subparsers(dest="command", required=True)
    for stage, text in STAGES.items():
        command = commands.add_parser(stage, help=text, description=text)
        add_training(command)
        command.add_argument(
            "--images",
            type=Path,
            help="folder of images for image-video joint training (default: frames of the videos)",
        )
        command.add_argument(
            "--dry-run",
            action="store_true",
            help="print every setting and where it comes from, then exit",
        )
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
    add_run(command, tuple(PRESETS))
    command.add_argument(
        "--stable-diffusion", type=Path, help="Stable Diffusion 1.5 in diffusers' layout (paper_* presets)"
    )
    command.add_argument("--vae", type=Path, help="folder of its autoencoder, if it is not the one in there")
    command.add_argument("--motion", type=Path, help="AnimateDiff's motion weights, from which stage2 starts")
    command.add_argument(
        "--pipeline", type=Path, help="finished pipeline to continue from, such as assets/mini"
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0; 2 for wrong input, explained in one sentence; `STOPPED` when a signal stopped a
        training.
    """
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    # Everything below may raise InputError; exit_status turns it into a sentence and status 2.
    return exit_status(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if args.command in ("evaluate", "compare"):
        getattr(evaluation, args.command)(args)
        return 0
    # Its exit status is its own: it may be stopped by a signal, as a training may.
    if args.command == "ablations":
        return ablations.run(args)
    # torch and diffusers take seconds to import, so only commands that need them pay for it.
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
        # Overridden by the config.json of the runs, where there is one.
        config, network = preset(args.preset, "stage2")
        export_pipeline(saved_config(args.runs, config), network, args.runs, args.out, start=start)
        return 0
    config, network = preset(args.preset, args.command)
    config = with_settings(config, args)
    if args.dry_run:
        # A dry run has to refuse what a training would refuse.
        check_config(config)
        for name, value, origin in origins(config, args.preset, args):
            print(f"{name:32} {value!s:16} {origin}")
        for name in ("data", "images", "runs", "stable_diffusion", "vae", "motion", "pipeline"):
            # Paths, too, with whether they exist: a misspelt one is found before the training is started.
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
        # A status other than 0 keeps `make` from going on to the next stage.
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
