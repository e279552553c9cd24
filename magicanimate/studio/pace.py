"""How long an animation takes here, told from the settings files of earlier ones in the output folder."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from magicanimate.windows import WindowPlan

_NEWEST = 60
"""Settings files that are looked at."""

_GO_BY = 5
"""Earlier animations whose median counts."""

_GUIDED = 1.5
"""A guided step against one without guidance: 35 TFLOP to 23 at 512 x 512 with networks of Stable Diffusion's
size, the halves sharing the way down."""

_SHORTCUTS = ("guidance_start", "guidance_stop", "deep_reuse", "encoder_reuse")
_SAME = ("model", "device", "dtype", "fusion", *_SHORTCUTS)
"""Settings without which paces cannot be compared."""


@dataclass(frozen=True)
class Work:
    """What an animation computes.

    Attributes:
        kind: what must be alike for paces to be comparable.
        pixels: of a frame.
        denoised: frames that go through the networks, over all windows and steps, guided ones counting more.
        frames: of the result.
    """

    kind: tuple[Any, ...]
    pixels: int
    denoised: float
    frames: int

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Work:
        """From what a settings file holds, see `AnimationRequest.settings`.

        Raises:
            KeyError, TypeError, ValueError: something is missing or makes no sense.
        """
        plan = WindowPlan.of(settings)
        frames, steps = settings["num_frames"], settings["num_inference_steps"]
        denoised = sum(len(window) for step in range(steps) for window in plan.windows(frames, step=step))
        return cls(
            kind=tuple(settings.get(name) for name in _SAME),
            pixels=settings["width"] * settings["height"],
            denoised=denoised * (_GUIDED if settings["guidance_scale"] > 1 else 1.0),
            frames=frames,
        )


@dataclass(frozen=True)
class Run:
    """An animation that was made, and the seconds it took by stage."""

    work: Work
    seconds: Mapping[str, float]


def seconds_for(work: Work, folder: Path) -> float | None:
    """Seconds that the work should take by the newest animations of its kind; ``None`` before the first one.

    Those of the nearest size decide. Loading the networks is left out.

    Args:
        work: what is to be done.
        folder: of results.
    """
    alike = [run for run in _runs(folder) if run.work.kind == work.kind]
    if not alike:
        return None
    distances = [abs(math.log(run.work.pixels / work.pixels)) for run in alike]
    nearest = [run for run, far in zip(alike, distances, strict=True) if far <= min(distances) + 0.01]
    return statistics.median(_scaled(run, work) for run in nearest[:_GO_BY])


def _scaled(run: Run, work: Work) -> float:
    """Seconds of a run as if it had done other work."""
    pixels = work.pixels / run.work.pixels
    denoising = run.seconds["denoise"] * work.denoised / run.work.denoised
    frames = sum(run.seconds.get(stage, 0.0) for stage in ("read", "decode")) * work.frames / run.work.frames
    return (denoising + frames) * pixels


def _runs(folder: Path) -> list[Run]:
    """The newest animations of a folder, newest first."""
    try:
        with os.scandir(folder) as entries:
            found = [
                (entry.stat().st_mtime_ns, entry.path)
                for entry in entries
                if entry.name.endswith(".json") and not entry.name.startswith(".")
            ]
    except OSError:  # no folder yet
        return []
    runs = [_read(path, changed) for changed, path in sorted(found, reverse=True)[:_NEWEST]]
    return [run for run in runs if run is not None]


@lru_cache(maxsize=4 * _NEWEST)
def _read(path: str, changed: int) -> Run | None:
    """The run that a settings file tells of; ``None`` for any other file."""
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8"))
        run = Run(Work.of(settings), {name: float(spent) for name, spent in settings["seconds"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return run if run.work.frames > 0 and "denoise" in run.seconds else None
