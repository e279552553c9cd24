"""Entry point of the command line: its options, and the exit status.

An error that the user can mend is one sentence, Ctrl-C ends with 130. Nothing heavy is imported, so that
``--help`` is instant.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from magicanimate import __version__
from magicanimate.acceleration.options import ATTENTION, COMPILE
from magicanimate.config import AnimationRequest, MediaLimits
from magicanimate.device import DEVICES, DTYPES
from magicanimate.memory.profiles import AUTO
from magicanimate.memory.profiles import NAMES as PROFILE_NAMES
from magicanimate.terminal import exit_status

_ANIMATE_EXAMPLES = """\
examples:
  python -m magicanimate animate me.jpg dance.mp4 -o out/me.mp4
  python -m magicanimate animate me.jpg dance.mp4 -o out/me.mp4 --model full --steps 20 --side-by-side
  python -m magicanimate animate --config batch.yaml -o out

A YAML file may hold any of these settings by their long names (photo, motion, seed, num_inference_steps,
...) or those of the published program (source_image, video_path, seed, steps, guidance_scale, size, ...).
Photos, clips and seeds may be lists. What is written on the command line wins over the file.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for an `InputError`, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    level = logging.WARNING if getattr(args, "quiet", True) else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("magicanimate").setLevel(level)
    return exit_status(lambda: _run(args))


def _run(args) -> None:
    if args.command == "animate":
        from magicanimate.cli.animate import run as run_command
    elif args.command == "convert":
        from magicanimate.cli.tools import convert as run_command
    elif args.command == "inspect":
        from magicanimate.cli.tools import show_inspection as run_command
    else:
        from magicanimate.cli.tools import show_info as run_command
    run_command(args)


def parse_size(text: str) -> tuple[int, int]:
    """``512`` -> (512, 512); ``384x512`` -> (384, 512).

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 512 or 384x512") from error


def parse_limit(text: str) -> tuple[str, float]:
    """``max_frames=500`` -> ("max_frames", 500).

    Raises:
        argparse.ArgumentTypeError: unknown name or not a number.
    """
    kinds = {limit.name: type(limit.default) for limit in fields(MediaLimits)}
    name, _, value = text.partition("=")
    try:
        return name, kinds[name](value)
    except (KeyError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a limit; write NAME=NUMBER with one of: {', '.join(kinds)}"
        ) from error


def build_parser() -> argparse.ArgumentParser:
    """The whole command line. Settings that were not given are absent from the parsed result."""
    parser = argparse.ArgumentParser(
        prog="python -m magicanimate",
        description="Animate a photo with a motion clip. The app with a page in the browser: python app.py",
    )
    parser.add_argument("--version", action="version", version=f"MagicAnimate {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_animate(commands)
    _add_convert(commands)
    _add_inspect(commands)
    _add_info(commands)
    return parser


def _add_animate(commands) -> None:
    command = commands.add_parser(
        "animate",
        help="make a video from a photo and a DensePose clip",
        epilog=_ANIMATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    command.add_argument("photo", nargs="?", default=None, type=Path, help="image of the person")
    command.add_argument(
        "motion", nargs="?", default=None, type=Path, help="DensePose clip, or a folder of its frames"
    )
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="file to write (.mp4, .webm, .gif) or, without a suffix, a folder of png frames; "
        "with --config the folder of all results",
    )
    command.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings, or a batch of jobs")
    _add_model(command)
    _add_settings(command.add_argument_group("sampling"), "sampling")
    _add_media(command)
    command.add_argument(
        "-q", "--quiet", action="store_true", default=False, help="no progress, only errors and the result"
    )


def _add_model(command) -> None:
    group = command.add_argument_group("model")
    group.add_argument(
        "--model", default="mini", metavar="mini|full|FOLDER", help="checkpoint (default: %(default)s)"
    )
    group.add_argument("--device", default=None, help=f"{', '.join(DEVICES)} (default: the fastest found)")
    group.add_argument(
        "--dtype", default=None, choices=DTYPES, help="number format (default: what suits the device)"
    )
    group.add_argument(
        "--memory",
        default=AUTO,
        choices=(AUTO, *PROFILE_NAMES),
        help="how to spend memory, from roomy to tight (default: by what is free; `info` tells)",
    )
    group.add_argument("--compile", action="store_true", default=False, help=COMPILE)
    group.add_argument(
        "--attention",
        default=None,
        choices=ATTENTION,
        help="library that computes attention on a GPU, if it is installed; native is torch, and sage rounds"
        " to 8 bits (default: torch, by itself)",
    )
    group.add_argument("--offline", action="store_true", default=False, help="never ask the network")


def _add_settings(group, name: str) -> None:
    """An option for each setting of a group of `AnimationRequest.table`."""
    kinds = AnimationRequest.types()
    for setting_name, setting in AnimationRequest.table().items():
        if setting.group != name:
            continue
        flag = setting.flag or "--" + setting_name.replace("_", "-")
        default = getattr(AnimationRequest, setting_name)
        if kinds[setting_name] is bool:
            how = {"action": "store_false" if default else "store_true"}
        else:
            metavar = None if setting.choices else setting.metavar or flag.split("-")[-1].upper()
            how = {"type": kinds[setting_name], "choices": setting.choices or None, "metavar": metavar}
        shown = setting.help
        if how.get("type") is not None and default not in (None, ""):
            shown += f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
        group.add_argument(flag, dest=setting_name, help=shown, **how)


def _add_media(command) -> None:
    group = command.add_argument_group("photo, clip and result")
    group.add_argument("--size", type=parse_size, metavar="WxH|N", help="of the result, multiples of 8")
    _add_settings(group, "media")
    group.add_argument(
        "--limit",
        type=parse_limit,
        action="append",
        metavar="NAME=NUMBER",
        help=f"change a bound on the inputs: {', '.join(limit.name for limit in fields(MediaLimits))}",
    )


def _add_convert(commands) -> None:
    command = commands.add_parser(
        "convert",
        help="turn the published weights into a checkpoint of this program",
        description="SOURCE is a folder with MagicAnimate, stable-diffusion-v1-5 and sd-vae-ft-mse.",
    )
    command.add_argument("source", type=Path, help="folder of the published files")
    command.add_argument("dest", type=Path, help="folder to make")
    command.add_argument(
        "--magicanimate", type=Path, metavar="FOLDER", help="MagicAnimate's files, if they lie elsewhere"
    )
    command.add_argument(
        "--stable-diffusion",
        type=Path,
        metavar="PATH",
        help="Stable Diffusion 1.5: its folder or single file",
    )
    command.add_argument("--vae", type=Path, metavar="PATH", help="the VAE: its folder or single file")
    command.add_argument(
        "--dtype", choices=DTYPES, help="number format to store (default: as each file has it)"
    )
    command.add_argument("--overwrite", action="store_true", help="replace an earlier checkpoint at DEST")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")


def _add_inspect(commands) -> None:
    command = commands.add_parser(
        "inspect", help="what a file says of itself: settings, AI-generated or not, content credentials"
    )
    command.add_argument("file", type=Path, help="photo, video, or folder of png frames")
    command.add_argument("--json", action="store_true", help="for programs")


def _add_info(commands) -> None:
    command = commands.add_parser("info", help="device, memory, disk, checkpoints and versions")
    command.add_argument("--device", help="instead of the one that would be chosen")
    command.add_argument("--json", action="store_true", help="for programs")
