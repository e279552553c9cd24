"""Whether a long clip drifts: likeness, colour and brightness against the frame's number.

    python -m benchmarks.drift [--model mini] [--people 2] [--frames 500] [--out runs/drift]

The dance of a test person goes to and fro to the wanted length, so that every frame has its truth. For
each figure: a straight line over the frames, its change over 100 frames, and a 95 % interval by
bootstrapping whole windows of 16 frames, since neighbouring frames are alike. Writes ``results.md`` and
``results.json``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

WINDOW = 16
RESAMPLINGS = 2000


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__.splitlines()[0])
    top.add_argument("--model", default="mini", help="name or folder of the checkpoint (%(default)s)")
    top.add_argument("--data", type=Path, default=Path("data/synthdance"), help="kept test set (%(default)s)")
    top.add_argument("--people", type=int, default=2, choices=range(1, 13), help="of the 12 (%(default)s)")
    top.add_argument("--frames", type=int, default=500, help="of the clip (%(default)s)")
    top.add_argument("--out", type=Path, default=Path("runs/drift"), help="folder (%(default)s)")
    return top


def to_and_fro(count: int, length: int):
    """Frame numbers 0, 1, ... ``count - 1``, ..., 1, 0, 1, ... of that length."""
    import numpy as np

    position = np.arange(length) % (2 * count - 2)
    return np.where(position < count, position, 2 * count - 2 - position)


def per_frame(video, truth, parts):
    """Figures of each frame, float64 (F,): identity, brightness and PSNR of the person."""
    import numpy as np

    from training.metrics.parts import identity_difference, part_colours

    rows = []
    for made, true, labels in zip(video, truth, parts, strict=True):
        person = labels > 0
        error = made[person].astype(float) - true[person]
        colours = [part_colours(each[None], labels[None]) for each in (true, made)]
        rows.append(
            (
                identity_difference(*colours),
                float(error.mean()),
                float(10 * np.log10(255**2 / (error**2).mean())),
            )
        )
    names = ("identity, CIEDE2000", "brightness, grey levels", "PSNR person, dB")
    return dict(zip(names, np.array(rows).T, strict=True))


def trend(values) -> dict[str, float]:
    """Mean, change over 100 frames by a straight line, and its 95 % interval."""
    import numpy as np

    numbers = np.arange(len(values))
    blocks = np.array_split(numbers, max(1, len(values) // WINDOW))
    rng = np.random.default_rng(0)
    slopes = []
    for _ in range(RESAMPLINGS):
        chosen = np.concatenate([blocks[i] for i in rng.integers(0, len(blocks), len(blocks))])
        slopes.append(100 * np.polyfit(chosen, values[chosen], 1)[0])
    low, high = np.percentile(slopes, (2.5, 97.5))
    slope = 100 * np.polyfit(numbers, values, 1)[0]
    return {
        "mean": float(values.mean()),
        "per 100 frames": float(slope),
        "from": float(low),
        "to": float(high),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    args = parser().parse_args(argv)
    import numpy as np

    from benchmarks.figures import write_report
    from benchmarks.synthdance_data import render, self_tasks
    from magicanimate.checkpoints.locate import resolve_model
    from magicanimate.device import pick_device
    from magicanimate.errors import InputError
    from magicanimate.palette import PALETTE
    from magicanimate.pipeline import MagicAnimatePipeline

    args.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, list] = {}
    try:
        render(args.data)
        pipe = MagicAnimatePipeline.from_pretrained(resolve_model(args.model)).to(pick_device().name)
        pipe.set_progress_bar_config(disable=True)
        for task in self_tasks(args.data, people=args.people):
            order = to_and_fro(len(task.parts), args.frames)
            video = pipe(task.photo, PALETTE[task.parts[order]]).frames
            for name, values in per_frame(video, task.truth[order], task.parts[order]).items():
                figures.setdefault(name, []).append(values)
            print(task.name, flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = {name: trend(np.mean(values, axis=0)) for name, values in figures.items()}
    kept = {name: [values.tolist() for values in each] for name, each in figures.items()}
    text = write_report(args.out, rows, digits=3, model=args.model, trends=rows, frames=kept)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
