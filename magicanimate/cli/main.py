"""Entry point of the command line: its options, and the exit status.

An error that the user can mend is one sentence, Ctrl-C ends with 130. Nothing heavy is imported, so that
``--help`` is instant.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from magicanimate import __version__
from magicanimate.acceleration.options import ATTENTION, COMPILE, ProcessGroup
from magicanimate.animator import Animator
from magicanimate.cli.batch import load_batch
from magicanimate.config import OLD_NAMES, AnimationRequest, AnimationResult, MediaLimits, with_current_names
from magicanimate.device import DEVICES, DTYPES, import_diffusers
from magicanimate.errors import InputError
from magicanimate.files import listed, timestamp
from magicanimate.memory import AUTO
from magicanimate.memory import NAMES as PROFILE_NAMES
from magicanimate.progress import ProgressBar, exit_status, say, stop_on_interrupt
from magicanimate.request_checks import check_inputs, check_outputs, check_request

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
    # Libraries warn only; this program reports what it decided, unless --quiet.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("magicanimate").setLevel(level)
    return exit_status(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    if args.command == "animate":
        animate(args)
        return
    from magicanimate.cli.tools import convert, show_info, show_inspection

    {"convert": convert, "inspect": show_inspection, "info": show_info}[args.command](args)


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
    kinds: dict[str, Any] = {limit.name: type(limit.default) for limit in fields(MediaLimits)}
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


def _add_animate(commands: Any) -> None:
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
        help="file to write (.mp4, .webm, .mov, .gif) or, without a suffix, a folder of png frames; "
        "with --config the folder of all results",
    )
    command.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings, or a batch of jobs")
    _add_model(command)
    _add_settings(command.add_argument_group("sampling"), "sampling")
    _add_media(command)
    background = command.add_argument_group("background")
    _add_settings(background, "background")
    background.add_argument(
        "--mask-preview",
        type=Path,
        metavar="PICTURE",
        help="only draw how the people would be cut out, and what is behind them, as a .png",
    )
    background.add_argument(
        "--save-mask",
        type=Path,
        metavar="FILE",
        help="only write the mask that cuts them out, as a lossless .mp4 or, without a suffix, a folder of "
        "png frames, to be painted on and given with --mask",
    )
    command.add_argument(
        "-q", "--quiet", action="store_true", default=False, help="no progress, only errors and the result"
    )


def _add_model(command: argparse.ArgumentParser) -> None:
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


def _add_settings(group: Any, name: str) -> None:
    """An option for each setting of a group of `AnimationRequest.table`."""
    kinds = AnimationRequest.types()
    for setting_name, setting in AnimationRequest.table().items():
        if setting.group != name:
            continue
        flag = setting.flag or "--" + setting_name.replace("_", "-")
        default = getattr(AnimationRequest, setting_name)
        if kinds[setting_name] is bool:
            how: dict[str, Any] = {"action": "store_false" if default else "store_true"}
        else:
            metavar = None if setting.choices else setting.metavar or flag.split("-")[-1].upper()
            how = {"type": kinds[setting_name], "choices": setting.choices or None, "metavar": metavar}
            how |= {"action": "append"} if isinstance(default, tuple) else {}
        shown = setting.help
        if how.get("type") is not None and default not in (None, "", ()):
            shown += f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
        group.add_argument(flag, dest=setting_name, help=shown, **how)
        for old in (old for old, now in OLD_NAMES.items() if now == setting_name):
            if old == "windows":
                # The old option had words where the present one is a switch.
                how = {"choices": ("open", "ring")}
            group.add_argument("--" + old.replace("_", "-"), dest=old, help=argparse.SUPPRESS, **how)


def _add_media(command: argparse.ArgumentParser) -> None:
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


def _add_convert(commands: Any) -> None:
    command = commands.add_parser(
        "convert",
        help="turn the published weights into a checkpoint of this program",
        description="SOURCE is a folder with MagicAnimate, stable-diffusion-v1-5 and sd-vae-ft-mse; with "
        "--base also a checkpoint that was converted before.",
    )
    command.add_argument("source", type=Path, help="folder of the published files")
    command.add_argument("dest", type=Path, help="folder to make")
    command.add_argument(
        "--magicanimate", type=Path, metavar="FOLDER", help="MagicAnimate's files, if they are elsewhere"
    )
    command.add_argument(
        "--base",
        "--stable-diffusion",
        dest="stable_diffusion",
        type=Path,
        metavar="PATH",
        help="base model: Stable Diffusion 1.5 or a fine-tune of it, a folder or a single file",
    )
    command.add_argument("--vae", type=Path, metavar="PATH", help="the VAE: its folder or single file")
    command.add_argument(
        "--dtype", choices=DTYPES, help="number format to store (default: as each file has it)"
    )
    command.add_argument("--overwrite", action="store_true", help="replace an earlier checkpoint at DEST")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")


def _add_inspect(commands: Any) -> None:
    command = commands.add_parser(
        "inspect", help="what a file says of itself: settings, AI-generated or not, content credentials"
    )
    command.add_argument("file", type=Path, help="photo, video, or folder of png frames")
    command.add_argument("--json", action="store_true", help="for programs")


def _add_info(commands: Any) -> None:
    command = commands.add_parser("info", help="device, memory, disk, checkpoints and versions")
    command.add_argument("--device", help="instead of the one that would be chosen")
    command.add_argument("--json", action="store_true", help="for programs")


def animate(args: argparse.Namespace) -> None:
    """Animate and print the path of each result on standard output.

    Raises:
        InputError: an input, a setting or the output cannot be used; a batch goes on to its end first.
        Cancelled: Ctrl-C; finished jobs of a batch stay, nothing half-written does.
    """
    requests = requests_of(args)
    for request in requests:
        check_request(request)
        check_outputs(request, config=getattr(args, "config", None))
    if len(requests) == 1:  # of several the others are still made
        check_inputs(requests[0])
    device: str | None = args.device
    joined: AbstractContextManager[ProcessGroup] = nullcontext(ProcessGroup())
    if "WORLD_SIZE" in os.environ:  # started by torchrun
        from magicanimate.acceleration.window_parallel import join_process_group, own_device

        device = own_device(device)  # each process takes the GPU of its number
        joined = join_process_group(device)
    with joined as group, ProgressBar(quiet=args.quiet or group.rank > 0) as bar:
        animator = Animator(
            args.model,
            device=device,
            dtype=args.dtype,
            offline=args.offline,
            memory=args.memory,
            compile=args.compile,
            attention=args.attention,
            group=group,
            on_progress=bar,
        )
        _ = animator.folder  # what is wrong with it is said before the imports
        import_diffusers()
        for request in requests:
            animator.check_size(request)
        # A batch usually has one size; it is warned of once, not for each job.
        for size in dict.fromkeys((request.width, request.height) for request in requests):
            warning = animator.defaults.size_warning(*size)
            if warning:
                say(f"warning: {warning}")
        wanted = {"picture": getattr(args, "mask_preview", None), "mask": getattr(args, "save_mask", None)}
        # The mask is drawn without loading the networks that animate.
        if any(wanted.values()):
            _draw_mask(animator, requests, bar, **wanted)
            return
        animator.load()  # outside `stop_on_interrupt`: here Ctrl-C may end it at once
        failed = _animate_all(animator, requests, bar, quiet=args.quiet)
    if failed:
        raise InputError(f"{failed} of {len(requests)} animations failed; see the messages above.")


def _draw_mask(
    animator: Animator, requests: list[AnimationRequest], bar: ProgressBar, **wanted: Path | None
) -> None:
    if len(requests) > 1:
        raise InputError("The mask is drawn of one animation at a time, not of a batch.")
    with stop_on_interrupt() as should_stop:
        animator.draw_mask(requests[0], **wanted, on_progress=bar, should_stop=should_stop)
    bar.close()
    for path in filter(None, wanted.values()):
        print(path)


def _animate_all(
    animator: Animator, requests: list[AnimationRequest], bar: ProgressBar, *, quiet: bool
) -> int:
    """Animate one request after the other; returns how many failed."""
    failed = 0
    with stop_on_interrupt() as should_stop:
        for request in requests:
            try:
                result = animator.animate(request, on_progress=bar, should_stop=should_stop)
            except InputError as error:
                if len(requests) == 1:
                    raise
                failed += 1
                bar.close()
                say(f"error: {error}")
                continue
            # The bar must be gone before a line is printed, or they share one.
            bar.close()
            if result is not None:
                _report(result, quiet=quiet)
    return failed


def requests_of(args: argparse.Namespace) -> list[AnimationRequest]:
    """Build the requests from the parsed command line; warns of keys that mean nothing.

    Raises:
        InputError: photo, motion or output is missing, or the YAML file cannot be used.
    """
    given = _given(args)
    config = getattr(args, "config", None)
    if config is None:
        # All of them in one sentence, rather than one at each try.
        missing = [name for name in ("photo", "motion", "output") if name not in given]
        if missing:
            raise InputError(
                f"{' and '.join(missing)} missing; write `animate PHOTO MOTION -o OUT` or use --config."
            )
        return [AnimationRequest(**given)]
    output = given.pop("output", None)
    batch = load_batch(config, given)
    if batch.ignored:
        say(f"warning: {config} sets what has no meaning here: {listed(batch.ignored, 10)}")
    if batch.model_keys:
        say(
            f"note: the model is {args.model}, not made of the files that {config} names "
            f"({', '.join(batch.model_keys)}); choose it with --model"
        )
    for file in batch.missing:
        say(f"warning: {config} names files that are not there: {file}")
    if batch.checkpoint and not _is_model(args, batch.checkpoint[1]):
        say(
            f"warning: {config} is of a result of the checkpoint {batch.checkpoint[0]}, and this one is made "
            f"with {args.model}; choose the same with --model"
        )
    jobs = list(batch.jobs)
    if len(jobs) == 1 and (output is None or output.suffix) and (output or jobs[0].get("output")):
        return [AnimationRequest(**{**jobs[0], "output": output or jobs[0]["output"]})]
    if output is not None and output.suffix:
        raise InputError(f"{config} holds {len(jobs)} animations, so -o must be a folder, not {output}.")
    # Without -o and a name in the file each run gets a folder of its own.
    folder = output or Path("outputs") / (batch.name or f"{config.stem}_{timestamp()}")
    return [
        AnimationRequest(**{**job, "output": path})
        for job, path in zip(jobs, _names(jobs, folder), strict=True)
    ]


def _is_model(args: argparse.Namespace, digest: str) -> bool:
    """Whether the checkpoint of the command line is on this machine and has this digest."""
    from magicanimate.checkpoints.disk import folder_digest
    from magicanimate.checkpoints.locate import resolve_model

    try:
        return folder_digest(resolve_model(args.model, offline=True)) == digest
    except InputError:
        return False


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings given on the command line, by their names in `AnimationRequest`."""
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in with_current_names(vars(args)).items()
        if name in AnimationRequest.names() and value is not None
    }
    if hasattr(args, "size"):
        given["width"], given["height"] = args.size
    if hasattr(args, "limit"):
        given["limits"] = replace(MediaLimits(), **dict(args.limit))
    return given


def _names(jobs: list[dict[str, Any]], folder: Path) -> list[Path]:
    """A file for each job, named by photo and clip, and numbered where that is not enough."""
    names: dict[str, None] = {}
    last: Counter[str] = Counter()  # by name, so that thousands of one name are no quadratic work
    for job in jobs:
        base = name = f"{Path(job['photo']).stem}_{Path(job['motion']).stem}"
        while name in names:
            last[base] += 1
            name = f"{base}_{last[base] + 1}"
        names[name] = None
    return [folder / f"{name}.mp4" for name in names]


def _report(result: AnimationResult, *, quiet: bool) -> None:
    print(result.output)
    if not quiet:
        seconds = sum(result.seconds.values())
        say(
            f"{result.num_frames} frames of {result.width}x{result.height} at {result.fps:g} fps"
            f" in {seconds:.1f} s; settings in {result.settings_file}"
        )
