"""What each shortcut and each preset of `magicanimate.acceleration.options` saves, and what it costs.

    python -m benchmarks.presets [--model mini] [--people 2] [--out runs/presets]

Two ways to run the checkpoint are the measure: "as the full model" (25 steps with guidance, where the presets
have something to save) and the checkpoint's own. Against each: time in the same run, likeness to it, and
figures against the truth on rendered people (`benchmarks.synthdance`); then the presets on the published
pairs where their files are. The table "stream" compares the ordinary order of windows with finishing the
beginning first, on a clip that goes to and fro. Times are CPU seconds of this process, which other work on
the machine changes less than the clock. "Times as quick" is of a whole animation with what no preset shortens
(photo, decoding).
Writes ``results.md`` and ``results.json``.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicanimate.acceleration.options import Approximations, completed
from magicanimate.config import PRESETS, AnimationRequest

if TYPE_CHECKING:
    import numpy as np

    from benchmarks.figures import Judge
    from benchmarks.synthdance_data import Task
    from magicanimate.pipeline import MagicAnimatePipeline

FULL_STEPS = 25
STREAMED = "the beginning first"
TABLES = ("people", "own", "long", "stream", "pairs")
UNIPC, DPM = "UniPCMultistepScheduler", "DPMSolverMultistepScheduler"


@dataclass(frozen=True)
class Way:
    """A way to run the checkpoint.

    Attributes:
        name: of its row.
        steps, scheduler: denoising steps and diffusers class, the checkpoint's own when ``None``.
        approximations: what is left out.
        beginning_first: whether the beginning of the clip is finished first, as ``--stream`` does.
    """

    name: str
    steps: int
    scheduler: str | None = None
    approximations: Approximations = field(default_factory=Approximations)
    beginning_first: bool = False


@dataclass(frozen=True)
class Run:
    """One animation.

    Attributes:
        frames: uint8 ``F H W 3``.
        whole, denoising: CPU seconds; clock: seconds by the clock.
        first: CPU seconds until the first frame is there.
    """

    frames: np.ndarray
    whole: float
    denoising: float
    first: float
    clock: float


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.presets", description=__doc__.splitlines()[0])
    top.add_argument("--model", default="mini", help="name or folder of the checkpoint (%(default)s)")
    top.add_argument("--data", type=Path, default=Path("data/synthdance"), help="kept test set (%(default)s)")
    top.add_argument("--samples", type=Path, default=Path("../shared/samples"), help="pairs (%(default)s)")
    top.add_argument("--segmenter", type=Path, help="folder of the part segmenter (the bundled one)")
    top.add_argument("--out", type=Path, default=Path("runs/presets"), help="folder (%(default)s)")
    top.add_argument("--people", type=int, default=2, choices=range(1, 13), help="of the 12 (%(default)s)")
    top.add_argument("--frames", type=int, default=8, help="of a clip (%(default)s)")
    top.add_argument("--long", type=int, default=32, help="frames of the one long clip (%(default)s)")
    top.add_argument(
        "--stream-frames", type=int, default=500, help="of the clip that is streamed (%(default)s)"
    )
    top.add_argument("--pair-frames", type=int, default=4, help="of a published clip (%(default)s)")
    top.add_argument(
        "--tables", nargs="+", choices=TABLES, default=TABLES, help="which of the measurements (all)"
    )
    top.add_argument("--guidance", type=float, default=1.5, help="as the full model (%(default)s)")
    return top


def switches(steps: int) -> list[Way]:
    """Each shortcut alone; the first is the measure."""
    few = [(name, n) for n in (12, 8, 5) for name in (None, UNIPC, DPM) if n == 8 or name == DPM]
    return [
        Way("exact", steps),
        *(
            Way(f"{(name or 'own solver').removesuffix('MultistepScheduler')}, {n}", n, name)
            for name, n in few
        ),
        Way("guided in the first 60 %", steps, approximations=Approximations(guidance_stop=0.6)),
        Way("guided in the last 75 %", steps, approximations=Approximations(guidance_start=0.25)),
        Way("deep features, 1 step of 2", steps, approximations=Approximations(deep_reuse=1000 // steps)),
        Way("deep features, 1 step of 3", steps, approximations=Approximations(deep_reuse=2000 // steps)),
        Way("encoder in 1 step of 3", steps, approximations=Approximations(encoder_reuse=2000 // steps)),
    ]


def presets(steps: int) -> list[Way]:
    """What the presets make of a checkpoint of so many steps."""
    ways = []
    for name in PRESETS:
        request = completed(AnimationRequest(Path(), Path(), Path(), preset=name), steps=steps)
        ways.append(
            Way(name, request.num_inference_steps, request.scheduler, Approximations.of(request.settings()))
        )
    return ways


class Bench:
    """Runs ways and collects their figures.

    Args:
        pipe: the pipeline.
        judge: measures.
    """

    def __init__(self, pipe: MagicAnimatePipeline, judge: Judge):
        self.pipe, self.judge, self._own = pipe, judge, pipe.scheduler

    def run(self, way: Way, photo: np.ndarray, control: np.ndarray, **settings: Any) -> Run:
        """Animate ``photo`` with ``control``."""
        import diffusers
        import numpy as np

        scheduler = self._own
        if way.scheduler is not None:
            scheduler = getattr(diffusers, way.scheduler).from_config(self._own.config)
        self.pipe.scheduler = scheduler
        marks: list[float] = []
        began, clock = time.process_time(), time.perf_counter()
        output = self.pipe(
            photo,
            control,
            num_inference_steps=way.steps,
            approximations=way.approximations,
            output_type="stream",
            beginning_first=way.beginning_first,
            on_step=lambda *_: marks.append(time.process_time()),
            **settings,
        )
        frames = [next(output.frames)]
        first = time.process_time() - began
        frames += output.frames
        self.pipe.scheduler = self._own
        whole = time.process_time() - began
        # With the beginning first, denoising goes on until the last frames are taken.
        denoising = marks[-1] - began if marks else whole
        return Run(np.stack(frames), whole, denoising, first, time.perf_counter() - clock)

    def compare(self, ways: list[Way], task: Task, control: np.ndarray, **settings: Any) -> dict[str, dict]:
        """Figures of each way on one task; the first is what the others are compared with."""
        from training.metrics import pixels

        rows: dict[str, dict] = {}
        for way in ways:
            run = self.run(way, task.photo, control, **settings)
            if not rows:
                exact = run
            rows[way.name] = self.judge.figures(task, run.frames) | {
                "seconds": run.whole,
                "denoising": run.denoising,
                "clock": run.clock,
                "first": 100 * run.first / run.whole,
                "psnr_exact": pixels.psnr(exact.frames, run.frames),
                "ssim_exact": pixels.ssim(exact.frames, run.frames),
            }
            near = f"{rows[way.name]['psnr_exact']:.1f} dB to {ways[0].name}"
            print(f"{task.name}, {way.name}: {run.whole:.1f} CPU s, {near}", file=sys.stderr, flush=True)
        return rows


def summed(tasks: list[dict[str, dict]]) -> dict[str, dict]:
    """Of each way the mean figures over tasks, and how many times as quick as the first it is."""
    from benchmarks.figures import mean_figures

    rows = {name: mean_figures([task[name] for task in tasks]) for name in tasks[0]}
    first = next(iter(rows.values()))
    for row in rows.values():
        row |= {f"{key}_ratio": first[key] / row[key] for key in ("seconds", "denoising", "clock")}
    return rows


def measure(args: argparse.Namespace, model: Path, segmenter) -> dict[str, dict[str, dict]]:
    """All tables: title -> way -> figures."""
    from benchmarks.drift import to_and_fro
    from benchmarks.figures import Judge
    from benchmarks.real_pairs import pair_tasks
    from benchmarks.synthdance_data import self_tasks
    from magicanimate.device import pick_device
    from magicanimate.pipeline import MagicAnimatePipeline

    pipe = MagicAnimatePipeline.from_pretrained(model).to(pick_device().name)
    pipe.set_progress_bar_config(disable=True)
    bench = Bench(pipe, Judge(segmenter))
    people = self_tasks(args.data, people=args.people)
    full, own = {"guidance_scale": args.guidance}, pipe.config.default_steps
    ways = [*switches(FULL_STEPS), *presets(FULL_STEPS)[1:]]
    bench.run(ways[0], people[0].photo, people[0].control[:1])  # loads the libraries' code

    def over(tasks, ways, **settings) -> dict[str, dict]:
        return summed([bench.compare(ways, task, control, **settings) for task, control in tasks])

    short = [(task, task.control) for task in (person.first(args.frames) for person in people)]
    last = people[-1].first(args.long)
    as_full = f"as the full model ({FULL_STEPS} steps, guidance {args.guidance:g})"
    tables = {}
    if "people" in args.tables:
        tables[f"{as_full}, {args.frames} frames"] = over(short, ways, **full)
    if "own" in args.tables:
        tables[f"the checkpoint's own {own} steps, {args.frames} frames"] = over(short, presets(own))
    if "long" in args.tables:
        tables[f"{as_full}, {args.long} frames"] = over([(last, last.control)], presets(FULL_STEPS), **full)
    if "stream" in args.tables:
        ordinary, order = Way("ordinary order", own), to_and_fro(len(people[0].parts), args.stream_frames)
        streamed = replace(ordinary, name="beginning first", beginning_first=True)
        long = [replace(task, parts=task.parts[order], truth=task.truth[order]) for task in people]
        tables[f"{STREAMED}, {own} steps, {args.stream_frames} frames"] = over(
            [(task, task.control) for task in long], [ordinary, streamed]
        )
    if "pairs" in args.tables:
        size = pipe.config.default_width, pipe.config.default_height
        pairs = [pair[1:] for pair in pair_tasks(args.samples, segmenter, size=size, frames=args.pair_frames)]
        if pairs:
            title = f"{as_full}, {len(pairs)} published pairs, {args.pair_frames} frames"
            tables[title] = over(pairs, presets(FULL_STEPS), **full)
    return tables


def report(tables: dict[str, dict[str, dict]]) -> str:
    """Markdown."""
    from benchmarks.figures import table

    timing = (
        ("seconds", "CPU s", 2),
        ("seconds_ratio", "times as quick", 2),
        ("denoising_ratio", "denoising", 2),
        ("psnr_exact", "PSNR to exact", 1),
        ("ssim_exact", "SSIM to exact", 3),
    )
    truth = (
        ("psnr", "PSNR ↑", 2),
        ("psnr_person", "person ↑", 2),
        ("ssim", "SSIM ↑", 3),
        ("feature_distance", "features ↓", 3),
        ("temporal", "temporal ↓", 2),
        ("identity", "identity ↓", 2),
        ("pose", "pose ↑", 3),
    )
    blind = (("identity_photo", "identity ↓", 2), ("pose", "pose ↑", 3), ("flicker", "flicker ↓", 2))
    parts = []
    for title, rows in tables.items():
        known = "psnr" in next(iter(rows.values()))
        columns = timing if STREAMED not in title else (("first", "first frame, % of the time", 1), *timing)
        parts.append(f"**{title}**\n\n{table(rows, columns + (truth if known else blind))}\n")
    return "\n".join(parts)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    args = parser().parse_args(argv)
    from benchmarks.figures import write_json
    from benchmarks.synthdance_data import render
    from densepose_tools.segmenter import DEFAULT_FOLDER, PartSegmenter
    from magicanimate.checkpoints.locate import resolve_model
    from magicanimate.errors import InputError

    began = time.perf_counter(), time.process_time()
    try:
        render(args.data)
        segmenter = PartSegmenter.load(args.segmenter or DEFAULT_FOLDER)
        tables = measure(args, resolve_model(args.model), segmenter)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    text = report(tables)
    write_json(args.out / "results.json", {"model": args.model, "tables": tables})
    (args.out / "results.md").write_text(text, encoding="utf-8")
    spent = time.perf_counter() - began[0], time.process_time() - began[1]
    print(f"\n{text}\n{spent[0]:.0f} s, {spent[1]:.0f} of them on the CPU; figures are in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
