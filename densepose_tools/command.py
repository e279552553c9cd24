"""``python -m densepose_tools CLIP -o OUT``: motion videos, part maps of pictures, keypoints."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from densepose_tools.engine_choice import EngineChoice
from densepose_tools.engines import ENGINES, PUBLISHED_MIN_SCORE, Selection
from densepose_tools.tracking import PersonAt, people_named
from magicanimate import __version__
from magicanimate.errors import InputError
from magicanimate.progress import exit_status, say

if TYPE_CHECKING:
    from densepose_tools.engines import Extractor
    from densepose_tools.extraction import Extraction
    from densepose_tools.postprocess import Postprocessing

log = logging.getLogger(__name__)


_DESCRIPTION = """\
Turn an ordinary clip into a DensePose motion clip for MagicAnimate, of the same size, frame rate and length.
The released DensePose weights (256 MB) are fetched on first use.
"""

_EXAMPLES = f"""\
examples:
  python -m densepose_tools dance.mp4 -o dance_map.mp4
  python -m densepose_tools dance.mp4 -o dance_map.mp4 --max-people 1 --codec h264
  python -m densepose_tools dance.mp4 -o dance_map.mp4 --min-score {PUBLISHED_MIN_SCORE}   # as published
  python -m densepose_tools dance_map.npz -o again.mp4    # draw the people found earlier again
  python -m densepose_tools photos -o photos --pictures   # part maps of all pictures in a folder
  python -m densepose_tools dance.mp4 -o points.mp4 --keypoints   # for checkpoints driven by keypoints

To resume a run that was stopped, run the same command again.
"""


def parse_people(text: str) -> str | tuple[int, ...] | PersonAt:
    """`people_named` for argparse.

    Raises:
        argparse.ArgumentTypeError: the text names nobody.
    """
    try:
        return people_named(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    selection = Selection()
    parser = argparse.ArgumentParser(
        prog="python -m densepose_tools",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"MagicAnimate {__version__}")
    add("clip", type=Path, help="video, folder of frames or pictures, or .npz archive of an earlier run")
    add("-o", "--output", type=Path, required=True, help=".mp4, or no suffix for a folder of png frames")
    add(
        "--pictures",
        action="store_true",
        help="CLIP is a folder of single pictures of any sizes: writes NAME.densepose.png into the folder "
        "OUT, which may be CLIP; with --people largest or all",
    )
    add(
        "--keypoints",
        action="store_true",
        help="find DWPose keypoints (package rtmlib); OUT is .npz for points, .mp4 for a drawing of them",
    )
    add("--pose-models", type=Path, metavar="FOLDER", help="DWPose's two ONNX files (default: fetched)")
    add("--engine", choices=ENGINES, default="auto", help="what finds the body parts (default: auto)")
    add("--weights", type=Path, metavar="FILE", help="the released model_final_162be9.pkl, if you have it")
    add("--device", help="cuda, cuda:1, mps or cpu (default: the best)")
    add("--offline", action="store_true", help="do not download anything")
    add(
        "--min-score",
        type=float,
        default=selection.min_score,
        metavar="SCORE",
        help=f"leave out people with a lower score (default: %(default)s; published: {PUBLISHED_MIN_SCORE})",
    )
    add(
        "--max-people",
        type=int,
        default=selection.max_people,
        metavar="N",
        help="keep the N people with the highest scores in each frame (default: %(default)s)",
    )
    add(
        "--people",
        type=parse_people,
        default="largest",
        metavar="WHO",
        help="whom to draw: largest, all, ranks by size such as 1 or 1,3, or at=X,Y@SECOND: the person at "
        "that pixel and time, counted from --start (default: %(default)s)",
    )
    add(
        "--margin",
        type=float,
        default=selection.margin,
        metavar="SHARE",
        help="widen boxes that cut off the head or legs by this share, such as 0.1 (default: off, as "
        "published; engine torch only)",
    )
    add(
        "--fill",
        type=int,
        default=12,
        metavar="N",
        help="fill gaps of up to N frames in which nobody is found (default: %(default)s)",
    )
    add(
        "--deflicker",
        "--steady",  # its name in earlier versions
        action="store_true",
        help="remove flicker: boxes that tremble, and parts that change for a moment",
    )
    add("--flip", action="store_true", help="mirror the picture, with left and right parts exchanged")
    add(
        "--like",
        type=Path,
        metavar="PHOTO",
        help="give the dancer the build and position of the photo's person",
    )
    add(
        "--recolour",
        action="store_true",
        help="CLIP is a part map: convert it to the right colours; works with --deflicker, --flip and --like",
    )
    add("--codec", choices=("lossless", "h264"), default="lossless", help="h264 plays everywhere")
    add("--sound", action="store_true", help="keep the clip's sound")
    add("--start", type=float, default=0.0, metavar="SECONDS", help="where in the clip to begin")
    add("--end", type=float, metavar="SECONDS", help="where in the clip to end")
    add("--fps", type=float, help="frame rate to bring the clip to (default: its own)")
    add(
        "--no-archive",
        action="store_true",
        help="write only the video, not OUT.npz with labels, u, v and boxes",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace files that this program did not make (its own results are always replaced)",
    )
    add("-q", "--quiet", action="store_true", help="print only the names of the results, no progress")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 2 for an `InputError`, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    # Other libraries' messages are not for the user of this command.
    for name in ("magicanimate", "densepose_tools"):
        logging.getLogger(name).setLevel(logging.WARNING if args.quiet else logging.INFO)
    return exit_status(lambda: _run(args), cancelled="cancelled; run the same again to go on")


def _run(args: argparse.Namespace) -> None:
    # Imported here, so that --help answers at once.
    from densepose_tools.archive import Archive
    from densepose_tools.extraction import extract, recolour, redraw
    from densepose_tools.output import Output
    from magicanimate.media.motion import open_motion
    from magicanimate.progress import ProgressBar, stop_on_interrupt

    if args.pictures or args.keypoints:
        if args.pictures and args.keypoints:
            raise InputError("Choose one of --pictures and --keypoints.")
        # These two are programs of their own, with other inputs and outputs.
        _run_keypoints(args) if args.keypoints else _run_pictures(args)
        return
    again = args.clip.suffix == ".npz"
    # An archive is the basis of redrawing, so there is one unless nothing new was found.
    archive = None if again or args.recolour or args.no_archive else args.output.with_suffix(".npz")
    output = Output(args.output, archive, codec=args.codec, sound=args.sound, overwrite=args.overwrite)
    # Before any work: what is read must not be overwritten by what is written.
    output.check(args.clip, args.like, args.weights)
    with ProgressBar(quiet=args.quiet) as bar, stop_on_interrupt() as should_stop:
        common = {"on_progress": bar, "should_stop": should_stop}
        engine = EngineChoice(args.engine, args.weights, args.device, args.offline)
        selection = Selection(args.min_score, args.max_people, args.margin)
        # Loaded once, and only if needed: redrawing and recolouring may need no network.
        load = cache(lambda: engine.load(selection, **common))
        if again:
            with Archive(args.clip) as opened:
                made = redraw(opened, output, postprocessing=_postprocessing(args, load), **common)
        else:
            clip = open_motion(args.clip, start=args.start, end=args.end, fps=args.fps)
            postprocessing = _postprocessing(args, load)
            if args.recolour:
                made, colours = recolour(clip, output, postprocessing=postprocessing, **common)
                log.info("the colours were %s", colours.name or "those that are needed")
            else:
                stretch = {"start": args.start, "end": args.end, "fps": args.fps}
                # They are stored with the result and decide whether an earlier run can be resumed.
                settings = engine.settings(load(), selection, **stretch)
                made = extract(
                    clip, load(), output, settings=settings, postprocessing=postprocessing, **common
                )
    _report(made, quiet=args.quiet)


def _run_pictures(args: argparse.Namespace) -> None:
    from densepose_tools.pictures import extract_pictures
    from magicanimate.progress import ProgressBar, stop_on_interrupt

    # Ranks and points need the tracks of a clip.
    if args.people not in ("largest", "all"):
        raise InputError("With --pictures, --people is largest or all.")
    engine = EngineChoice(args.engine, args.weights, args.device, args.offline)
    selection = Selection(args.min_score, args.max_people, args.margin)
    with ProgressBar(quiet=args.quiet) as bar, stop_on_interrupt() as should_stop:
        extractor = engine.load(selection, on_progress=bar, should_stop=should_stop)
        made = extract_pictures(
            args.clip,
            args.output,
            extractor,
            settings=engine.settings(extractor, selection, start=0.0, end=None),
            people=args.people,
            on_progress=bar,
            should_stop=should_stop,
        )
    print(args.output)
    if args.quiet:
        return
    say(f"{made.made} maps by {extractor.name}; {len(made.nobody)} pictures show nobody")
    for sentence in made.unreadable:
        say(f"left out: {sentence}")


def _run_keypoints(args: argparse.Namespace) -> None:
    from densepose_tools.dwpose import DWPose, write_drawing
    from densepose_tools.keypoints import write_keypoints
    from magicanimate.media.motion import open_motion
    from magicanimate.media.outputs import check_file_output, check_output

    # The suffix decides which of the two is written.
    is_points = args.output.suffix == ".npz"
    if not is_points and args.output.suffix != ".mp4":
        raise InputError(f"{args.output} must end in .npz (points) or .mp4 (their drawing).")
    how = {"inputs": [args.clip], "overwrite": args.overwrite}
    if is_points:
        # Only a file of keypoints may be replaced without --overwrite.
        check_file_output(args.output, is_keypoints, **how)
    else:
        check_output(args.output, **how)
    clip = open_motion(args.clip, start=args.start, end=args.end, fps=args.fps)
    found = DWPose.load(args.pose_models, device=args.device, offline=args.offline).points(clip.frames())
    if is_points:
        write_keypoints(args.output, found)
    else:
        write_drawing(args.output, found, fps=clip.rate)
    print(args.output)


def is_keypoints(path: Path) -> bool:
    """Whether a file holds recorded keypoints, and so may be replaced."""
    from densepose_tools.keypoints import read_keypoints

    try:
        read_keypoints(path)
    except InputError:
        return False
    return True


def _postprocessing(args: argparse.Namespace, load: Callable[[], Extractor]) -> Postprocessing:
    from densepose_tools.extraction import photo_map
    from densepose_tools.postprocess import Postprocessing

    return Postprocessing(
        people=args.people,
        fill=args.fill,
        deflicker=args.deflicker,
        flip=args.flip,
        like=photo_map(args.like, load) if args.like else None,
    )


def _report(made: Extraction, *, quiet: bool) -> None:
    print(made.video)
    if quiet:
        return
    if made.archive is not None:
        say(f"what was found is in {made.archive}")
    if made.flicker is not None:
        before, after = made.flicker
        say(f"{before:.2%} of body pixels flickered, now {after:.2%}")
    for frames, what in ((made.empty, "show nobody"), (made.filled, "show a neighbour's people")):
        if frames:
            say(f"{len(frames)} of {made.num_frames} frames {what}: {_ranges(frames)}")


def _ranges(numbers: list[int]) -> str:
    """Write sorted numbers as ranges: [3, 4, 5, 9] -> "3-5, 9"."""
    parts: list[list[int]] = []
    for number in numbers:
        # A number that follows the last one extends its range.
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
