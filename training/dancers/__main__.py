"""`python -m training.dancers`: render a data set of synthetic dancers; run it again to go on."""

import argparse
import sys
import time
from pathlib import Path

_SHEET_STILLS, _SHEET_FRAMES, _SHEET_ROWS = 4, 3, 16


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.dancers", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    parser.add_argument(
        "--identities", type=int, default=2000, help="how many people to render (%(default)s)"
    )
    parser.add_argument("--stills", type=int, default=8, help="single pictures of each (%(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="frames of the clip of each (%(default)s)")
    parser.add_argument("--size", type=int, default=128, help="width and height in pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each (%(default)s)")
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


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(argv)
    from magicanimate.errors import InputError
    from training.dancers.clip import Spec
    from training.dancers.dataset import DatasetInfo, is_written, write_info
    from training.dancers.workers import render_all

    info = DatasetInfo.of(
        Spec(options.size, options.stills, options.frames), seed=options.seed, count=options.identities
    )
    try:
        write_info(options.out, info)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    todo = [i for i in range(options.identities) if not is_written(options.out, i)]
    start = time.monotonic()
    if todo:
        for done, _ in enumerate(render_all(options.out, info, todo, options.workers), 1):
            rate = done / (time.monotonic() - start)
            left = (len(todo) - done) / rate
            print(
                f"\r{done}/{len(todo)} identities, {rate:.2f} a second, {left / 60:.1f} min left ",
                end="",
                flush=True,
            )
        print()
    if options.sheet:
        write_sheet(options.out, options.sheet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
