"""Figures of a checkpoint on rendered people, clothes and dances that no training sees.

    python -m benchmarks.synthdance [--model mini] [--people 6] [--frames 16 48] [--out runs/synthdance]

Self-reenactment is measured against the truth; the photo is the clip's first frame, or another still of the
same person (shortest clips only). Cross-identity (the photo of one, the dance of the next) has no truth. A
checkpoint is run at its own size and judged at 128x128. Writes ``results.md``, ``results.json`` and, for each
task, a PNG: photo at the top left; rows: motion, checkpoint, frame by frame with own noise, truth.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.synthdance", description=__doc__.splitlines()[0])
    top.add_argument("--model", default="mini", help="name or folder of the checkpoint (%(default)s)")
    top.add_argument("--data", type=Path, help="kept test set (data/synthdance, with the size if not 128)")
    top.add_argument("--segmenter", type=Path, help="folder of the part segmenter (the bundled one)")
    top.add_argument("--out", type=Path, default=Path("runs/synthdance"), help="folder (%(default)s)")
    top.add_argument("--people", type=int, default=6, choices=range(1, 13), help="of the 12 (%(default)s)")
    top.add_argument("--frames", type=int, nargs="+", default=[16, 48], help="clip lengths, up to 48")
    return top


def measure(model: Path, data: Path, segmenter, *, people: int, frames: list[int], out: Path) -> dict:
    """Run all methods on all tasks of a rendered folder; writes the strips.

    Args:
        model: pipeline folder.
        data: rendered folder, see `benchmarks.synthdance_data`.
        segmenter: a `PartSegmenter`.
        people: the first so many of the folder.
        frames: clip lengths; cross-identity takes the shortest.
        out: folder of the strips.

    Returns:
        Task name -> method -> {"mean": figures, "people": [figures]}.

    Raises:
        InputError: the test set is too small for what is asked.
    """
    from benchmarks.figures import Judge, mean_figures
    from benchmarks.methods import methods
    from benchmarks.strips import save_png, strip
    from benchmarks.synthdance_data import SIZE, cross_tasks, scaled, self_tasks, still_tasks
    from magicanimate.device import pick_device
    from magicanimate.errors import InputError
    from magicanimate.pipeline import MagicAnimatePipeline

    tasks = self_tasks(data, people=people)
    available, lengths = len(tasks[0].parts), sorted(set(frames), reverse=True)
    if not 1 <= lengths[-1] <= lengths[0] <= available:
        raise InputError(f"Clip lengths are {frames}; choose from 1 to {available} frames.")
    pipe = MagicAnimatePipeline.from_pretrained(model).to(pick_device().name)
    pipe.set_progress_bar_config(disable=True)
    judge, rows, results = Judge(segmenter), methods(pipe), {}
    groups = {f"self-reenactment, {n} frames": [task.first(n) for task in tasks] for n in lengths}
    shortest = lengths[-1]
    stills = [task.first(shortest) for task in still_tasks(data, people=people)]
    groups[f"self-reenactment from another still, {shortest} frames"] = stills
    groups["cross-identity"] = [task.first(lengths[-1]) for task in cross_tasks(data, people=people)]
    made: dict[tuple[str, str], object] = {}  # the longest result of each task and method
    for title, group in groups.items():
        for task in group:
            length, videos, judged = len(task.parts), {}, task.at(min(SIZE, len(task.photo)))
            for method in rows:
                if (
                    method.needs_truth
                    and task.truth is None
                    or length > lengths[-1]
                    and not method.long_clips
                ):
                    continue
                began, key = time.perf_counter(), (task.name, method.name)
                if not (method.frame_by_frame and key in made):
                    made[key] = method.make(task)
                videos[method.name] = made[key][:length]
                figures = judge.figures(judged, scaled(videos[method.name], len(judged.photo)))
                results.setdefault(title, {}).setdefault(method.name, []).append(figures)
                print(f"{title}: {task.name}, {method.name}: {time.perf_counter() - began:.1f} s", flush=True)
            shown = ("checkpoint", "frame by frame, own noise", "truth")
            shown = [task.control, *(videos[name] for name in shown if name in videos)]
            save_png(out / f"{task.name}_{length}.png", strip(task.photo, shown, moments=6))
    return {
        title: {name: {"mean": mean_figures(people), "people": people} for name, people in group.items()}
        for title, group in results.items()
    }


def trained_size(model: Path) -> int:
    """Pixels of a side that a pipeline folder was trained at."""
    from magicanimate.checkpoints.disk import model_index

    return int(model_index(model)["default_width"])


def report(results: dict) -> str:
    """All tables as Markdown."""
    from benchmarks.figures import BLIND_COLUMNS, TRUTH_COLUMNS, table

    parts = []
    for title, group in results.items():
        columns = TRUTH_COLUMNS if "self" in title else BLIND_COLUMNS
        parts.append(f"**{title}**\n\n{table({name: row['mean'] for name, row in group.items()}, columns)}\n")
    return "\n".join(parts)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    args = parser().parse_args(argv)
    from benchmarks.figures import write_json
    from benchmarks.synthdance_data import SIZE, render
    from densepose_tools.segmenter import DEFAULT_FOLDER, PartSegmenter
    from magicanimate.checkpoints.locate import resolve_model
    from magicanimate.errors import InputError

    began = time.perf_counter()
    try:
        model = resolve_model(args.model)
        segmenter = PartSegmenter.load(args.segmenter or DEFAULT_FOLDER)
        size = trained_size(model)
        data = args.data or Path("data/synthdance" if size == SIZE else f"data/synthdance_{size}")
        render(data, size=size)
        args.out.mkdir(parents=True, exist_ok=True)
        results = measure(model, data, segmenter, people=args.people, frames=args.frames, out=args.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = report(results)
    settings = {"model": args.model, "people": args.people, "frames": args.frames}
    write_json(args.out / "results.json", {**settings, "tasks": results})
    (args.out / "results.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{time.perf_counter() - began:.0f} s in all; pictures and JSON are in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
