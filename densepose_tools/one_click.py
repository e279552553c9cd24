"""From a clip somebody has to one that animates: what it is, what to do with it, where to write."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from densepose_tools.doctor import diagnose
from densepose_tools.engine import Selection
from densepose_tools.engine_choice import EngineChoice
from densepose_tools.extraction import Extraction, extract, recolour
from densepose_tools.output import Output
from densepose_tools.treatment import Treatment
from magicanimate.config import OnProgress, Progress, ShouldStop
from magicanimate.media.densepose_check import check_densepose
from magicanimate.media.motion import MotionClip, open_motion
from magicanimate.media.writer import VideoWriter
from magicanimate.progress import ProgressMeter

Kind = Literal["ready", "ordinary", "recolourable", "empty"]


@dataclass(frozen=True)
class Findings:
    """What a clip is.

    Attributes:
        kind: "ready" animates as it is; "ordinary" needs its people found; "recolourable" is a part map in
            other colours; "empty" shows nothing but the background of part maps.
        text: the same as a clause whose subject is the clip.
    """

    kind: Kind
    text: str


@dataclass(frozen=True)
class Wish:
    """How a motion clip is made of another clip.

    Attributes:
        selection: whom the network reports.
        treatment: whom to draw and how.
        start, end: stretch of the clip in seconds; ``end=None`` is its end.
    """

    selection: Selection = Selection()
    treatment: Treatment = Treatment()
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True)
class MadeMotion:
    """A motion clip that was made.

    Attributes:
        extraction: what and how much.
        engine: "torch", "detectron2" or "mini"; ``None`` if a part map was recoloured.
    """

    extraction: Extraction
    engine: str | None


def examine(path: Path) -> Findings:
    """Look at some frames of a clip and tell what can be done with it.

    Raises:
        InputError: it cannot be read.
    """
    return _examined(open_motion(path))


def make_motion(
    path: Path,
    folder: Path,
    *,
    engine: EngineChoice,
    wish: Wish | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> MadeMotion:
    """Make a motion clip of an ordinary video, or of a part map in other colours, with the clip's sound.

    Args:
        path: the clip.
        folder: the result goes there, named after the clip; nothing is overwritten.
        engine: finds the people.
        wish: how.
        on_progress: told of "download", "convert", "load", "detect" and "write".
        should_stop: asked with every frame.

    Raises:
        InputError: the clip animates as it is or shows nobody, the engine cannot be used, or nothing can be
            written.
        Cancelled: ``should_stop()`` said so; the same call goes on with the next frame.
    """
    wish = wish or Wish()
    clip = open_motion(path, start=wish.start, end=wish.end)
    output = Output(_free_name(folder, path), sound=clip.has_sound)
    common = {"treatment": wish.treatment, "on_progress": on_progress, "should_stop": should_stop}
    if _examined(clip).kind == "recolourable":
        return MadeMotion(recolour(clip, output, **common)[0], None)
    if on_progress is not None:
        on_progress(Progress("load", 0, 1))
    extractor = engine.load(wish.selection, on_progress=on_progress, should_stop=should_stop)
    settings = engine.settings(extractor, wish.selection, start=wish.start, end=wish.end)
    return MadeMotion(extract(clip, extractor, output, settings=settings, **common), extractor.name)


def write_playable(video: Path, copy: Path, *, on_progress: OnProgress | None = None) -> None:
    """Copy a lossless motion clip into one that browsers play; its colours are near, not exact.

    Args:
        video: the clip.
        copy: ``.mp4`` to write.
        on_progress: told of "write", in frames.

    Raises:
        InputError: one of them cannot be read or written.
    """
    clip = open_motion(video)
    meter = ProgressMeter(on_progress)
    meter.begin("write", clip.num_frames_estimate or 0)
    sound = {"sound_from": video} if clip.has_sound else {}
    frames = clip.frames()
    with (
        closing(frames),
        VideoWriter(copy, width=clip.width, height=clip.height, fps=clip.rate, **sound) as writer,
    ):
        for frame in frames:
            writer.write(frame)
            meter.update(writer.num_frames, max(clip.num_frames_estimate or 0, writer.num_frames))
    meter.finish()


def _examined(clip: MotionClip) -> Findings:
    frames = clip.frames()
    with closing(frames):
        report = check_densepose(frames)
    if report.is_densepose:
        return Findings("ready", "is a DensePose clip")
    if report.is_empty:
        return Findings("empty", report.reason)
    frames = clip.frames()
    with closing(frames):
        colours = diagnose(frames)
    if colours is not None:
        return Findings("recolourable", f"is a DensePose clip in other colours ({colours.name})")
    return Findings("ordinary", "is an ordinary video")


def _free_name(folder: Path, clip: Path) -> Path:
    """A name that nothing has yet; the same as long as nothing is written, so that a run can be resumed."""
    base = f"{clip.stem[:60]}_densepose"
    path, number = folder / f"{base}.mp4", 1
    while path.exists():
        number += 1
        path = folder / f"{base}_{number}.mp4"
    return path
