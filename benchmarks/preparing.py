"""What the preparation of training data costs a frame: CPU seconds, operations and bytes, step by step.

    python -m benchmarks.preparing [--frames 32] [--densepose]

A synthetic clip of 1920 x 1080, and a picture, go to 512 x 512 through the steps of `training.data.prepare`.
DensePose has random weights, since what a network computes hardly depends on its weights, and its operations
are counted.
`docs/scale.md` makes sums of the figures.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

SIZE = 512
PEOPLE = 1


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.preparing", description=__doc__.splitlines()[0])
    top.add_argument("--frames", type=int, default=32, help="of the clip (%(default)s)")
    top.add_argument("--densepose", action="store_true", help="time DensePose on this machine, too")
    return top


def clip(frames: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pictures with the detail of a photograph that drifts, and part maps of a figure, 1920x1080 and 512."""
    from PIL import Image

    from magicanimate import ASSETS
    from magicanimate.media.motion import open_motion
    from magicanimate.palette import colourise, nearest_labels

    photo = Image.open(ASSETS / "examples" / "sway_photo.jpg").convert("RGB").resize((1992, 1152))
    grain = np.random.default_rng(0).normal(0, 3, (1152, 1992, 3))
    photo = np.clip(np.asarray(photo) + grain, 0, 255).astype(np.uint8)
    pictures = [photo[k % 72 : k % 72 + 1080, k % 72 : k % 72 + 1920] for k in range(frames)]
    maps = list(open_motion(ASSETS / "examples" / "sway_motion.mp4").frames())
    labels = [nearest_labels(maps[k % len(maps)])[0] for k in range(frames)]
    at = np.arange(SIZE) * len(labels[0]) // SIZE
    return pictures, [colourise(each[at][:, at]) for each in labels]


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds of some work, and its result."""
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def measure(frames: int) -> dict[str, dict[str, float]]:
    """Step -> "CPU s" and "kB" of a frame."""
    from magicanimate.files import sha256_of
    from magicanimate.media.fit import plan_motion_fit
    from magicanimate.media.motion import open_motion
    from magicanimate.media.writer import VideoWriter
    from magicanimate.palette import nearest_labels
    from training.data.flip import KEY_FRAME_EVERY, write_video

    pictures, maps = clip(frames)
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        raw, video, drawn = (Path(folder) / name for name in ("raw.mp4", "a.mp4", "a.densepose.mp4"))
        write_video(raw, pictures, Fraction(25))
        rows["decode 1920x1080"] = {"CPU s": timed(lambda: list(open_motion(raw).frames()))[0] / frames}
        fit = plan_motion_fit((1920, 1080), None, width=SIZE, height=SIZE, fit="crop", keep_labels=False)
        seconds, small = timed(lambda: [fit.apply(frame) for frame in pictures])
        rows["cut out and shrink"] = {"CPU s": seconds / frames}
        seconds, _ = timed(lambda: write_video(video, small, Fraction(25)))
        rows["write the clip"] = {"CPU s": seconds / frames, "kB": video.stat().st_size / frames / 1000}

        seconds, _ = timed(lambda: list(open_motion(video).frames()))
        rows["decode the clip for DensePose"] = {"CPU s": seconds / frames}

        def write_maps() -> None:
            with VideoWriter(
                drawn, width=SIZE, height=SIZE, fps=25, lossless=True, key_every=KEY_FRAME_EVERY
            ) as writer:
                for frame in maps:
                    writer.write(frame)

        seconds, _ = timed(write_maps)
        rows["write the part maps"] = {"CPU s": seconds / frames, "kB": drawn.stat().st_size / frames / 1000}
        seconds, _ = timed(lambda: [sha256_of(path) for path in (video, drawn)])
        rows["checksums"] = {"CPU s": seconds / frames}
        rows["a picture, all but DensePose"] = _picture(Path(folder), pictures[0], nearest_labels(maps[0])[0])
    return rows


def _picture(folder: Path, pixels: np.ndarray, labels: np.ndarray, times: int = 8) -> dict[str, float]:
    """A photo is read, brought to its size, and written with its map, as `training.data.prepare` does it."""
    from PIL import Image

    from densepose_tools.pictures import write_map
    from magicanimate.media.fit import plan_motion_fit
    from magicanimate.media.photo import load_photo

    photo, made, drawn = (folder / name for name in ("raw.jpg", "p.jpg", "p.densepose.png"))
    Image.fromarray(pixels).save(photo, "JPEG", quality=90)
    fit = plan_motion_fit((1920, 1080), None, width=SIZE, height=SIZE, fit="crop", keep_labels=False)

    def work() -> None:
        for _ in range(times):
            Image.fromarray(fit.apply(load_photo(photo))).save(made, "JPEG", quality=95, subsampling=0)
            write_map(drawn, labels, {})

    seconds, _ = timed(work)
    return {"CPU s": seconds / times, "kB": (made.stat().st_size + drawn.stat().st_size) / 1000}


def densepose_operations() -> float:
    """Operations (2 for a multiply-add) of the released network on one 512x512 picture with one person."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from densepose_tools.rcnn.network import DensePoseRCNN

    network = DensePoseRCNN().eval()
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.people([picture], min_score=0.05, max_people=PEOPLE)
    return float(counter.get_total_flops())


def densepose_seconds(frames: int = 2) -> float:
    """CPU seconds of the same on this machine."""
    from densepose_tools.rcnn.network import DensePoseRCNN

    network = DensePoseRCNN().eval()
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return timed(lambda: [network.people([picture], max_people=PEOPLE) for _ in range(frames)])[0] / frames


def main(argv: list[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    args = parser().parse_args(argv)
    print("| step | CPU s a frame | kB a frame |\n|---|---|---|")
    for step, row in measure(args.frames).items():
        print(f"| {step} | {row['CPU s']:.4f} | {row.get('kB', 0):.1f} |", flush=True)
    print(f"DensePose: {densepose_operations() / 1e12:.3f} TFLOP a picture")
    if args.densepose:
        print(f"DensePose on this CPU: {densepose_seconds():.2f} CPU s a picture")
    return 0


if __name__ == "__main__":
    sys.exit(main())
