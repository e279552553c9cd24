"""A checkpoint on the photos and motion clips that come with the published MagicAnimate.

    python -m benchmarks.real_pairs [--samples ../shared/samples] [--model mini] [--out runs/real_pairs]

There is no truth for these: identity (colours of body parts against the photo's), agreement of the parts
found in the result with the motion, and flicker. Writes ``results.md``, ``results.json`` and a PNG for each
pair: photo at the top left; rows: motion, result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from benchmarks.synthdance_data import Task

# Photo and motion, as the published program pairs them.
PAIRS = (
    ("monalisa.png", "running.mp4"),
    ("demo4.png", "demo4.mp4"),
    ("dalle2.jpeg", "running2.mp4"),
    ("dalle8.jpeg", "dancing2.mp4"),
    ("multi1_source.png", "multi_dancing.mp4"),
)
MOMENTS = 8


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.real_pairs", description=__doc__.splitlines()[0])
    top.add_argument("--samples", type=Path, default=Path("../shared/samples"), help="folder (%(default)s)")
    top.add_argument("--model", default="mini", help="name or folder of the checkpoint (%(default)s)")
    top.add_argument("--segmenter", type=Path, help="folder of the part segmenter (the bundled one)")
    top.add_argument("--out", type=Path, default=Path("runs/real_pairs"), help="folder (%(default)s)")
    top.add_argument("--frames", type=int, default=48, help="first so many frames of each clip (%(default)s)")
    return top


def pair_tasks(
    samples: Path, segmenter, *, size: tuple[int, int], frames: int
) -> Iterator[tuple[str, Task, np.ndarray]]:
    """Name, task and motion as it is (uint8 ``F H W 3``) of each pair in ``samples``; says which are missing.

    Args:
        samples: folder.
        segmenter: finds the parts of the photo.
        size: width and height of the result.
        frames: the first so many of each clip.
    """
    from benchmarks.synthdance_data import Task
    from magicanimate.config import AnimationRequest
    from magicanimate.media.prepare import prepare_media
    from magicanimate.palette import nearest_labels

    for photo, motion in PAIRS:
        files = samples / photo, samples / motion
        if missing := [str(file) for file in files if not file.is_file()]:
            print(f"skipped {photo} + {motion}: {' and '.join(missing)} missing", file=sys.stderr)
            continue
        request = AnimationRequest(*files, Path(f"{Path(photo).stem}.mp4"))
        with prepare_media(request, width=size[0], height=size[1]) as media:
            control = media.control[:frames]
        parts, photo_parts = nearest_labels(control)[0], segmenter.labels(media.photo[None])[0]
        yield f"{photo} + {motion}", Task(Path(photo).stem, media.photo, photo_parts, parts, None), control


def measure(samples: Path, model: Path, segmenter, *, frames: int, out: Path) -> dict[str, dict[str, float]]:
    """Animate the pairs whose files are in ``samples``; writes the strips.

    Returns:
        Pair -> figures, see `benchmarks.figures.Judge`.
    """
    from benchmarks.figures import Judge
    from benchmarks.strips import save_png, strip
    from magicanimate.device import pick_device
    from magicanimate.pipeline import MagicAnimatePipeline

    pipe = MagicAnimatePipeline.from_pretrained(model).to(pick_device().name)
    pipe.set_progress_bar_config(disable=True)
    size, judge, rows = (pipe.config.default_width, pipe.config.default_height), Judge(segmenter), {}
    for name, task, control in pair_tasks(samples, segmenter, size=size, frames=frames):
        result = pipe(task.photo, control).frames
        rows[name] = judge.figures(task, result)
        save_png(out / f"{task.name}.png", strip(task.photo, [control, result], moments=MOMENTS))
        print(f"{name}: {len(control)} frames", flush=True)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    args = parser().parse_args(argv)
    if not args.samples.is_dir():
        print(f"skipped: the folder {args.samples} is not here; give another with --samples", file=sys.stderr)
        return 0
    from benchmarks.figures import BLIND_COLUMNS, mean_figures, table, write_json
    from densepose_tools.segmenter import DEFAULT_FOLDER, PartSegmenter
    from magicanimate.checkpoints.locate import resolve_model
    from magicanimate.errors import InputError

    try:
        segmenter = PartSegmenter.load(args.segmenter or DEFAULT_FOLDER)
        args.out.mkdir(parents=True, exist_ok=True)
        model = resolve_model(args.model)
        rows = measure(args.samples, model, segmenter, frames=args.frames, out=args.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if rows:
        text = table(rows | {"mean": mean_figures(list(rows.values()))}, BLIND_COLUMNS)
        write_json(args.out / "results.json", {"model": args.model, "frames": args.frames, "pairs": rows})
        (args.out / "results.md").write_text(text + "\n", encoding="utf-8")
        print(f"\n{text}\n\npictures and JSON are in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
