"""Figures of refining faces (``--detail faces``) on rendered people, where the truth is known.

    python -m benchmarks.detail [--model mini] [--people 6] [--frames 16] [--strength 0.3 0.45 0.6]

Self-reenactment at the checkpoint's size, where heads are small; the photo is another still of the same
person. Judged in the head's box of each frame. Writes ``results.md``, ``results.json`` and a PNG strip of
enlarged heads for each person: first result, refined ones, truth.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.detail", description=__doc__.splitlines()[0])
    top.add_argument("--model", default="mini", help="name or folder of the checkpoint (%(default)s)")
    top.add_argument("--data", type=Path, default=Path("data/synthdance"), help="kept test set (%(default)s)")
    top.add_argument("--people", type=int, default=6, choices=range(1, 13), help="of the 12 (%(default)s)")
    top.add_argument("--frames", type=int, default=16, help="of each clip (%(default)s)")
    top.add_argument("--strength", type=float, nargs="+", default=[0.3, 0.45, 0.6], help="(%(default)s)")
    top.add_argument("--out", type=Path, default=Path("runs/detail"), help="folder (%(default)s)")
    return top


def heads_of(frames, track):
    """The heads of frames, uint8 ``F H W 3``, enlarged: uint8 ``F 48 48 3``."""
    import numpy as np

    from magicanimate.detail import crop

    places = zip(frames, track.centres, track.sizes, strict=True)
    return np.stack([crop(frame, centre, 1.4 * size, 48) for frame, centre, size in places])


def figures(video, truth, track) -> dict[str, float]:
    """How near the heads of a video, uint8 ``F H W 3``, are to the truth's."""
    import numpy as np

    from training.metrics.pixels import flicker, gradient_energy, psnr, ssim, temporal_error

    true, made = heads_of(truth, track), heads_of(video, track)
    everywhere = np.ones(true.shape[:3], bool)
    return {
        "PSNR": psnr(true, made),
        "SSIM": ssim(true, made),
        "sharpness": gradient_energy(true, made, everywhere),
        "temporal error": temporal_error(true, made),
        "flicker": flicker(made),
        "head, pixels": float(np.median(track.sizes)),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    args = parser().parse_args(argv)
    import tempfile

    import numpy as np

    from benchmarks.figures import mean_figures, write_report
    from benchmarks.methods import through_files
    from benchmarks.strips import save_png
    from benchmarks.synthdance_data import render, still_tasks
    from magicanimate.animator import Animator
    from magicanimate.detail import HEAD, find_tracks
    from magicanimate.errors import InputError

    args.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, float]]] = {}
    text = ""
    try:
        render(args.data)
        animator = Animator(args.model)
        for task in (task.first(args.frames) for task in still_tasks(args.data, people=args.people)):
            tracks = find_tracks(task.control, (HEAD,))
            if not tracks:
                continue
            wanted = {"off": {}}
            for strength in args.strength:
                wanted[f"faces, {strength:g}"] = {"detail": "faces", "detail_strength": strength}
            videos = {}
            for name, settings in wanted.items():
                with tempfile.TemporaryDirectory() as folder:
                    videos[name] = through_files(animator, Path(folder), task.photo, task.control, **settings)
                rows.setdefault(name, []).append(figures(videos[name], task.truth, tracks[0]))
            shown = [*videos.values(), task.truth]
            moments = np.linspace(0, args.frames - 1, 6).astype(int)
            heads = [np.concatenate(list(heads_of(video, tracks[0])[moments]), 1) for video in shown]
            save_png(args.out / f"{task.name}.png", np.concatenate(heads).repeat(2, 0).repeat(2, 1))
            means = {name: mean_figures(each) for name, each in rows.items()}
            # Also if it is stopped before the end.
            text = write_report(args.out, means, digits=3, model=args.model, people=rows)
            print(task.name, {name: round(each[-1]["PSNR"], 2) for name, each in rows.items()}, flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
