"""How long an animation will take, estimated from the settings files of earlier ones in the output folder."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from magicanimate.acceleration.options import Approximations
from magicanimate.files import read_json_object
from magicanimate.webui.gallery.results import LARGEST_SETTINGS
from magicanimate.windows import WindowPlan

_NEWEST = 60
"""Settings files that are read."""

_GO_BY = 5
"""Earlier animations whose median is the estimate."""

_GUIDED = 1.5
"""Cost of a step with guidance relative to one without: 35 to 23 TFLOP at 512 x 512 with networks of Stable
Diffusion's size, since the two branches share the down path."""

_NETWORKS = ("model", "device", "dtype")
"""Settings that must agree for times to be comparable."""


class Variant(NamedTuple):
    """Settings that change how fast the same networks run, see `AnimationRequest`."""

    fusion: str
    deep_reuse: int
    encoder_reuse: int

    @property
    def reuses(self) -> bool:
        """Whether some steps reuse features of others instead of computing them."""
        return self.deep_reuse > 0 or self.encoder_reuse > 0


@dataclass(frozen=True)
class Work:
    """What an animation computes.

    Attributes:
        networks: which ones on which device.
        variant: settings that change how fast the same networks run.
        pixels: of a frame.
        denoised: frames through the networks, summed over windows and steps; guided steps count `_GUIDED`.
        frames: of the result.
    """

    networks: tuple[Any, ...]
    variant: Variant
    pixels: int
    denoised: float
    frames: int

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Work:
        """From what a settings file holds, see `AnimationRequest.settings`.

        Raises:
            KeyError, TypeError, ValueError: something is missing or makes no sense.
        """
        plan, approximations = WindowPlan.of(settings), Approximations.of(settings)
        frames, steps = settings["num_frames"], settings["num_inference_steps"]
        denoised = 0.0
        for step in range(steps):
            guided = settings["guidance_scale"] > 1 and approximations.guides(step, steps)
            seen = sum(len(window) for window in plan.windows(frames, step=step))
            denoised += seen * (_GUIDED if guided else 1.0)
        return cls(
            networks=tuple(settings[name] for name in _NETWORKS),
            variant=Variant(settings["fusion"], approximations.deep_reuse, approximations.encoder_reuse),
            pixels=settings["width"] * settings["height"],
            denoised=denoised,
            frames=frames,
        )


@dataclass(frozen=True)
class Run:
    """An earlier animation, and the seconds it took by stage."""

    work: Work
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Estimate:
    """How long some work takes.

    Attributes:
        seconds: without loading the networks.
        is_rough: from animations with other settings, which may reuse less and so take longer.
    """

    seconds: float
    is_rough: bool


def estimate(work: Work, folder: Path, *, benchmark: Mapping[str, Any] | None = None) -> Estimate | None:
    """Estimate from the newest animations of the same kind and the nearest size.

    Without any, it is rough: from animations of the same networks that reuse nothing, or from the benchmark;
    ``None`` if there is neither.

    Args:
        work: what is to be done.
        folder: of results.
        benchmark: see `magicanimate.animator.Animator.benchmark`.
    """
    same = [run for run in _runs(folder) if run.work.networks == work.networks]
    alike = [run for run in same if run.work.variant == work.variant]
    whole = [run for run in same if not run.work.variant.reuses]
    if benchmark is not None and not whole:
        tried = Work.of(benchmark)
        whole = [Run(tried, benchmark["seconds"])] if tried.networks == work.networks else []
    go_by = alike or whole
    if not go_by:
        return None
    distances = [abs(math.log(run.work.pixels / work.pixels)) for run in go_by]
    nearest = [run for run, far in zip(go_by, distances, strict=True) if far <= min(distances) + 0.01]
    seconds = statistics.median(_scaled(run, work) for run in nearest[:_GO_BY])
    return Estimate(seconds, is_rough=not alike)


def seconds_after_denoising(work: Work, folder: Path, *, benchmark: Mapping[str, Any] | None = None) -> float:
    """Seconds that follow the last denoising step, by the newest animation with the same networks."""
    same = [run for run in _runs(folder) if run.work.networks == work.networks]
    if not same and benchmark is not None and Work.of(benchmark).networks == work.networks:
        same = [Run(Work.of(benchmark), benchmark["seconds"])]
    if not same:
        return 0.0
    run = same[0]
    scale = work.frames / run.work.frames * work.pixels / run.work.pixels
    return run.seconds.get("decode", 0.0) * scale


def is_known(settings: Mapping[str, Any], folder: Path) -> bool:
    """Whether animations in a folder tell how fast networks run.

    Args:
        settings: "model", "device" and "dtype" of the networks.
        folder: of results.
    """
    networks = tuple(settings[name] for name in _NETWORKS)
    return any(run.work.networks == networks and not run.work.variant.reuses for run in _runs(folder))


def _scaled(run: Run, work: Work) -> float:
    """Seconds that a run would have taken for other work."""
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
    """The run that a settings file records; ``None`` for any other file."""
    try:
        settings = read_json_object(Path(path), most=LARGEST_SETTINGS)
        run = Run(Work.of(settings), {name: float(spent) for name, spent in settings["seconds"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return run if run.work.frames > 0 and "denoise" in run.seconds else None
