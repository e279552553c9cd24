"""`python -m training.dancers`: render a data set of synthetic dancers; run it again to go on."""

import argparse
import sys
import time
from pathlib import Path

from magicanimate.errors import InputError
from magicanimate.progress import exit_status
from training.options import whole_number

_SHEET_STILLS, _SHEET_FRAMES, _SHEET_ROWS = 4, 3, 16


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.dancers", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    parser.add_argument(
        "--identities", type=whole_number, default=2000, help="how many people to render (%(default)s)"
    )
    parser.add_argument(
        "--stills", type=whole_number, default=8, help="single pictures of each (%(default)s)"
    )
    parser.add_argument(
        "--frames", type=whole_number, default=16, help="frames of the clip of each (%(default)s)"
    )
    parser.add_argument(
        "--size", type=whole_number, default=128, help="width and height in pixels (%(default)s)"
    )
    parser.add_argument(
        "--fps", type=float, default=25.0, help="frames a second of the clip; less shows longer motion"
    )
    parser.add_argument(
        "--framing",
        choices=("varied", "close"),
        default="varied",
        help="close: half of the pictures show the upper body or less, and few show two people",
    )
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument(
        "--workers", type=whole_number, default=1, help="processes, of one thread each (%(default)s)"
    )
    parser.add_argument(
        "--keypoints",
        action="store_true",
        help="also write the keypoints, another driving signal; pictures that are there stay as they are",
    )
    parser.add_argument("--sheet", type=Path, help="also write an overview PNG of the first identities")
    return parser


def write_sheet(folder: Path, path: Path) -> None:
    """Write an overview PNG: a row per identity, each picture beside its part map."""
    import cv2
    import numpy as np

    from magicanimate.palette import PALETTE
    from training.dancers.dataset import DancerFolder

    dancers = DancerFolder(folder)
    rows = []
    for i in range(min(len(dancers), _SHEET_ROWS)):
        rgb, parts = dancers[i]
        stills = range(min(_SHEET_STILLS, dancers.info.stills))
        frames = dancers.info.stills + np.linspace(0, dancers.info.frames - 1, _SHEET_FRAMES).astype(int)
        cells = [cell for k in (*stills, *frames) for cell in (rgb[k], PALETTE[parts[k]])]
        rows.append(np.concatenate(cells, 1))
    _, png = cv2.imencode(".png", np.concatenate(rows)[..., ::-1])
    path.write_bytes(png.tobytes())


def _render(options: argparse.Namespace) -> None:
    """Render what is missing in the folder; prints progress."""
    # Imported here, so that --help needs none of the renderer's packages.
    from training.dancers.dataset import DatasetInfo, Spec, is_written, keypoints_path, write_info

    spec = Spec(options.size, options.stills, options.frames, options.fps, options.framing)
    info = DatasetInfo.of(spec, seed=options.seed, count=options.identities)
    write_info(options.out, info)
    todo = [
        i
        for i in range(options.identities)
        if not is_written(options.out, i)
        or (options.keypoints and not keypoints_path(options.out, i).exists())
    ]
    # Before the renderer is imported, whose body model takes a while to load.
    if not todo:
        return
    from training.dancers.clip import render_all

    start = time.monotonic()
    finished = render_all(options.out, info, todo, options.workers, keypoints=options.keypoints)
    for done, _ in enumerate(finished, 1):
        # Over the whole run: single identities differ in time by the number of people.
        rate = done / (time.monotonic() - start)
        minutes = (len(todo) - done) / rate / 60
        line = f"{done}/{len(todo)} identities, {rate:.2f} a second, {minutes:.1f} min left"
        print(f"\r{line} ", end="", flush=True)
    print()


def _run(options: argparse.Namespace) -> None:
    try:
        _render(options)
        if options.sheet:
            write_sheet(options.out, options.sheet)
    except ModuleNotFoundError as error:
        # The renderer's packages are in requirements-train.txt only.
        raise InputError(
            f"{error.name} is not installed; run `pip install -r requirements-train.txt`."
        ) from error


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 with one sentence about what is wrong."""
    options = _parser().parse_args(argv)
    return exit_status(lambda: _run(options), cancelled="stopped; run the same again to go on")


if __name__ == "__main__":
    sys.exit(main())
