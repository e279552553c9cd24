"""Command line of the training: ``python -m training vae | base | stage2 | export | segmenter``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from magicanimate.errors import InputError
from training.segmenter import command as segmenter


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(
        prog="python -m training",
        description="Train the networks. The same command again resumes. "
        "Render the data with `python -m training.dancers`.",
    )
    commands = top.add_subparsers(dest="command", required=True)
    for stage, text in (
        ("vae", "image autoencoder"),
        ("base", "UNet, appearance encoder and ControlNet together, from nothing"),
        ("stage2", "temporal layers on clips, everything else frozen"),
    ):
        command = commands.add_parser(stage, help=text)
        command.add_argument("--data", type=Path, required=True, help="folder of rendered dancers")
        command.add_argument("--steps", type=int, help="steps in all instead of the preset's")
        command.add_argument("--decay-steps", type=int, help="steps of decay at the end")
        command.add_argument("--stop-after", type=int, help="leave after so many steps of this call")
        command.add_argument("--threads", type=int, help="CPU threads")
    export = commands.add_parser("export", help="write the pipeline folder that the program loads")
    export.add_argument("--out", type=Path, required=True)
    segmenter.add_command(commands)
    for command in commands.choices.values():
        command.add_argument("--runs", type=Path, default=Path("runs/mini"), help="folder of the runs")
        command.add_argument("--preset", default="mini", choices=("mini", "tiny"))
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    from training import runs

    try:
        if args.command == "export":
            runs.export(args.runs, args.out, preset_name=args.preset)
        elif args.command == "segmenter":
            segmenter.run(args)
        else:
            runs.train(
                args.command,
                data=args.data,
                runs=args.runs,
                preset_name=args.preset,
                steps=args.steps,
                decay_steps=args.decay_steps,
                stop_after=args.stop_after,
                threads=args.threads,
            )
    except (InputError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
