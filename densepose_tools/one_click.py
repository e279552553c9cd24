"""Makes a motion clip from any clip in one call: examines it, decides what to do, writes the result."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from densepose_tools.archive import Archive, is_archive
from densepose_tools.engine_choice import EngineChoice
from densepose_tools.engines import Extractor, Selection
from densepose_tools.extraction import Extraction, extract, photo_map, recolour, redraw
from densepose_tools.output import Output
from densepose_tools.postprocess import Postprocessing
from densepose_tools.tracking import PersonAt
from magicanimate.config import OnProgress, Progress, ShouldStop
from magicanimate.errors import InputError
from magicanimate.media.densepose_check import Kind, MotionReport, check_densepose
from magicanimate.media.motion import MotionClip, open_motion


@dataclass(frozen=True)
class MotionConfig:
    """How to make a motion clip from another clip.

    Attributes:
        selection: which people the network reports.
        postprocessing: whom to draw, and how.
        start, end: part of the clip to use, in seconds; ``end`` is ``None`` for the end of the clip.
        like: a photo; the dancer gets the build and position of the person in it (`Postprocessing.like`).
    """

    selection: Selection = Selection()
    postprocessing: Postprocessing = Postprocessing()
    start: float = 0.0
    end: float | None = None
    like: Path | None = None

    def finds_as(self, other: MotionConfig) -> bool:
        """Whether another configuration finds the same people, so that they need not be found again."""
        return (self.selection, self.start, self.end) == (other.selection, other.start, other.end)

    def same(self, other: MotionConfig) -> bool:
        """Whether another configuration makes the same motion clip."""
        # Compared by fields: a postprocessing that holds an array equals none.
        drawn = [
            (each.people, each.fill, each.deflicker, each.flip)
            for each in (self.postprocessing, other.postprocessing)
        ]
        return self.finds_as(other) and self.like == other.like and drawn[0] == drawn[1]

    def changes_maps(self) -> bool:
        """Whether it changes a clip that is a part map already."""
        return self.postprocessing.deflicker or self.postprocessing.flip or self.like is not None


MARGIN = 0.1
"""The margin (`Selection.margin`) behind the page's switch for it."""


def motion_config(values: Mapping[str, Any]) -> MotionConfig:
    """The configuration for the values of the page's widgets.

    Args:
        values: ``min_score``, ``people`` ("largest", "all" or "point"), ``start``, ``end`` (0 for the end)
            and ``deflicker``; where the page has them, also ``x``, ``y``, ``second``, ``flip``, ``margin`` (a
            boolean) and ``like`` (path of a photo, or ``None``).

    Raises:
        InputError: a value is invalid.
    """
    people: str | PersonAt = values["people"]
    if people == "point":
        if values["x"] is None or values["y"] is None:
            raise InputError("Nobody is pointed at yet; click on the person in the picture.")
        # An empty second is the beginning of the part that is used.
        people = PersonAt(values["x"], values["y"], values["second"] or 0.0)
    like = values.get("like")
    return MotionConfig(
        selection=Selection(values["min_score"], margin=MARGIN if values.get("margin") else 0.0),
        postprocessing=Postprocessing(
            people=people, deflicker=values["deflicker"], flip=values.get("flip", False)
        ),
        start=values["start"] or 0.0,
        # Widgets have no "None": 0 stands for the end of the clip.
        end=values["end"] or None,
        like=Path(like) if like else None,
    )


@dataclass(frozen=True)
class MadeMotion:
    """A finished motion clip.

    Attributes:
        extraction: the files and figures; the archive may be that of an earlier run.
        engine: "torch", "detectron2" or "mini"; ``None`` if a part map was recoloured.
        clip: the clip it was made from.
        config: how it was made.
        kind: the kind of the clip.
    """

    extraction: Extraction
    engine: str | None
    clip: Path
    config: MotionConfig
    kind: Kind

    def serves(self, clip: Path, config: MotionConfig) -> bool:
        """Whether its archive has the people in a clip that a configuration would find."""
        archive = self.extraction.archive
        return (
            clip == self.clip and self.config.finds_as(config) and archive is not None and is_archive(archive)
        )


def examine(path: Path) -> MotionReport:
    """Examine some frames of a clip: is it a part map, can it be made one, or is it an ordinary video?

    Raises:
        InputError: it cannot be read.
    """
    return _examined(open_motion(path))


def make_motion(
    path: Path,
    folder: Path,
    *,
    engine: EngineChoice,
    config: MotionConfig | None = None,
    copies: Path | None = None,
    earlier: MadeMotion | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> MadeMotion:
    """Make a motion clip from an ordinary video, or from a part map in other colours, with the clip's sound.

    A part map in the right colours can be deflickered, mirrored or given a photo's build.

    Args:
        path: the clip.
        folder: output folder. The result is named after the clip, the archive of the people is beside it, and
            nothing is overwritten.
        engine: finds the people.
        config: how to make it.
        copies: folder for copies that browsers can play: of the result, and of what it would be without
            deflickering and retargeting. ``None`` for no copies.
        earlier: the previous result, from whose archive people are taken if it has them.
        on_progress: called with the progress of "download", "convert", "load", "detect" and "write".
        should_stop: polled with every frame.

    Raises:
        InputError: the clip animates as it is or shows nobody, the engine cannot be used, or nothing can be
            written.
        Cancelled: ``should_stop()`` said so; the same call goes on with the next frame.
    """
    config = config or MotionConfig()
    common = {"on_progress": on_progress, "should_stop": should_stop}
    clip = open_motion(path, start=config.start, end=config.end)
    # Decided by the clip itself, so that a user need not know what kind it is.
    kind = _examined(clip).kind

    @cache
    def load() -> Extractor:
        if on_progress is not None:
            on_progress(Progress("load", 0, 1))
        return engine.load(config.selection, **common)

    # Before the clip, as a photo without a person ends everything.
    like = None if config.like is None else photo_map(config.like, load)
    drawing = common | {"postprocessing": replace(config.postprocessing, like=like)}
    # Sound is kept wherever there is any; a silent clip needs no track.
    output = _output(folder, path, sound=clip.has_sound, copies=copies)
    if kind == "recolourable" or (kind == "ready" and config.changes_maps()):
        made, name = recolour(clip, replace(output, archive=None), **drawing)[0], None
    elif earlier is not None and earlier.serves(path, config):
        # The slow part, finding people, is skipped: only the drawing has changed.
        name = earlier.engine
        with Archive(earlier.extraction.archive) as archive:
            made = redraw(archive, replace(output, archive=None), clip=clip, **drawing)
        made = replace(made, archive=earlier.extraction.archive)
    else:
        name = load().name
        settings = engine.settings(load(), config.selection, start=config.start, end=config.end)
        made = extract(clip, load(), output, settings=settings, **drawing)
    return MadeMotion(made, name, path, config, kind)


def _examined(clip: MotionClip) -> MotionReport:
    frames = clip.frames()
    with closing(frames):
        return check_densepose(frames)


def _output(folder: Path, clip: Path, *, sound: bool, copies: Path | None) -> Output:
    """The output paths for a clip.

    The names are the first that are not in use. They stay the same until something is written, so that a run
    can be resumed. Copies are in a new folder of their own.
    """
    base = f"{clip.stem[:60]}_densepose"
    video, number = folder / f"{base}.mp4", 1
    while video.exists() or video.with_suffix(".npz").exists():
        number += 1
        video = folder / f"{base}_{number}.mp4"
    output = Output(video, video.with_suffix(".npz"), sound=sound)
    if copies is None:
        return output
    fresh = copies / secrets.token_hex(8)
    names = (fresh / f"{video.stem}_{which}.mp4" for which in ("h264", "before"))
    return replace(output, **dict(zip(("playable", "playable_plain"), names, strict=True)))
