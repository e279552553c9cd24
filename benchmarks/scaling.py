"""Time and memory of a whole animation over the length of the clip, and of the start.

    python -m benchmarks.scaling [--model mini] [--frames 16 64 256 512] [--preset exact] [--plot FILE]

Each length runs in a process of its own, from the files to the written video. CPU seconds of that process
depend less on other work on the machine than the clock. Peak memory is of the whole process, beside what it
holds when the checkpoint is loaded; Linux only. ``--plot`` draws both over the frames, as SVG.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.plots import Panel, svg
from magicanimate.config import PRESETS

SIDE, RATE = 128, 25


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    top.add_argument("--model", default="mini", help="name or folder of the checkpoint (%(default)s)")
    top.add_argument("--frames", type=int, nargs="+", default=[16, 64, 256, 512])
    top.add_argument("--preset", choices=PRESETS, default="exact")
    top.add_argument("--plot", type=Path, metavar="FILE", help="SVG to write")
    top.add_argument("--one", type=int, help="run this length only and print its figures")
    return top


def write_inputs(folder: Path, frames: int) -> tuple[Path, Path]:
    """A photo and a motion clip: a body part that goes to and fro."""
    import numpy as np
    from PIL import Image

    from magicanimate.media.writer import VideoWriter
    from magicanimate.palette import PALETTE

    photo, motion = folder / "photo.png", folder / "motion.mp4"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(photo)
    with VideoWriter(motion, width=SIDE, height=SIDE, fps=RATE) as writer:
        for i in range(frames):
            parts = np.zeros((SIDE, SIDE), dtype=np.uint8)
            left = abs(i % (SIDE - 32) - 48)
            parts[32:112, left : left + 32] = 2
            writer.write(PALETTE[parts])
    return photo, motion


def run_one(model: str, preset: str, frames: int) -> tuple[float, float, float, float]:
    """CPU seconds and seconds by the clock of an animation, MB before it and at its peak."""
    from benchmarks.speed import memory
    from magicanimate.animator import Animator
    from magicanimate.config import AnimationRequest
    from magicanimate.device import import_diffusers

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = write_inputs(folder, frames)
        import_diffusers()
        animator = Animator(model)
        animator.load()
        before = memory("VmRSS")
        began, clock = time.process_time(), time.perf_counter()
        request = AnimationRequest(*inputs, folder / "out.mp4", preset=preset, check_motion=False)
        animator.animate(request)
        spent = time.process_time() - began, time.perf_counter() - clock
    return *spent, before, memory("VmHWM")


def start_times(model: str) -> dict[str, tuple[float, float]]:
    """CPU seconds and seconds by the clock of the start of command line and page, by what is ready then."""
    ready = (
        "from magicanimate.animator import Animator; from magicanimate.device import import_diffusers; "
        f"import_diffusers(); Animator({model!r}).load()"
    )
    commands = {"--help": ["-m", "magicanimate", "--help"], f"{model} ready": ["-c", ready]}
    found = {}
    for name, command in commands.items():
        began, children = time.perf_counter(), _children()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        found[name] = (_children() - children, time.perf_counter() - began)
    return found | _page_times(model)


def _page_times(model: str) -> dict[str, tuple[float, float]]:
    """Those of `app.py`, which writes a line when it listens and when the networks are loaded."""
    import psutil

    lines = {"MagicAnimate runs on": "app.py listens", "loaded ": f"app.py, {model} ready"}
    found, began = {}, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-u", "app.py", "--model", model, "--output", folder]
        page = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            for line in page.stdout:
                for start, name in lines.items():
                    if line.startswith(start):
                        used = psutil.Process(page.pid).cpu_times()
                        found[name] = (used.user + used.system, time.perf_counter() - began)
                if len(found) == len(lines):
                    break
        finally:
            page.terminate()
            page.communicate()
    return found


def _children() -> float:
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print both tables."""
    args = parser().parse_args()
    if args.one:
        print(*run_one(args.model, args.preset, args.one))
        return
    print("| start | CPU s | clock s |\n|---|---|---|")
    for name, (spent, clock) in start_times(args.model).items():
        print(f"| {name} | {spent:.2f} | {clock:.2f} |")
    print("\n| frames | CPU s | CPU s a frame | clock s | loaded, MB | peak, MB |\n" + "|---" * 6 + "|")
    spent_by, peak_by = [], []
    for frames in args.frames:
        command = [sys.executable, "-m", "benchmarks.scaling", "--one", str(frames)]
        command += ["--model", args.model, "--preset", args.preset]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        spent, clock, before, peak = map(float, printed.split()[-4:])
        figures = f"{spent:.1f} | {spent / frames:.3f} | {clock:.1f} | {before:.0f} | {peak:.0f}"
        print(f"| {frames} | {figures} |", flush=True)
        spent_by.append((frames, spent))
        peak_by.append((frames, peak))
    if args.plot:
        panels = [
            Panel(f"{args.model}: CPU seconds of an animation", "frames", spent_by),
            Panel(f"{args.model}: peak memory of the process, MB", "frames", peak_by),
        ]
        args.plot.write_text(svg(panels), encoding="utf-8")


if __name__ == "__main__":
    main()
