"""Prepare and check training data: ``python -m training.data check | flip | shards``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from magicanimate.terminal import exit_status
from training.data.sources import SIGNALS
from training.options import whole_number


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(prog="python -m training.data", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say what a training would use of a folder, and what not")
    check.add_argument("folder", type=Path)
    check.add_argument(
        "--signals",
        nargs="+",
        default=["densepose"],
        choices=SIGNALS,
        help="driving signals that are wanted (densepose)",
    )
    check.add_argument("--length", type=whole_number, default=16, help="frames of a clip (%(default)s)")
    check.add_argument(
        "--interval", type=whole_number, default=4, help="how far apart they are (%(default)s)"
    )
    flip = commands.add_parser("flip", help="mirror videos and pictures, exchanging left and right parts")
    flip.add_argument("source", type=Path)
    flip.add_argument("target", type=Path, help="may be the source: names get the ending _mirrored")
    shards = commands.add_parser("shards", help="pack a folder of pictures into tar files")
    shards.add_argument("folder", type=Path)
    shards.add_argument("out", type=Path)
    shards.add_argument("--pictures", type=whole_number, default=1000, help="in each tar file (%(default)s)")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 2 with one sentence about what is wrong."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_status(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    if args.command == "check":
        from training.data.report import check_folder

        for line in check_folder(
            args.folder, signals=args.signals, length=args.length, interval=args.interval
        ):
            print(line, flush=True)
    elif args.command == "flip":
        from training.data.flip import mirror_folder

        print(f"{mirror_folder(args.source, args.target)} mirrored")
    else:
        from training.data.shards import write_shards

        print(f"{len(write_shards(args.folder, args.out, pictures_per_shard=args.pictures))} shards")


if __name__ == "__main__":
    sys.exit(main())
