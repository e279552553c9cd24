"""The steps from a user's clip to the motion clip: editing it, and extracting part maps from a video.

The results of the steps are kept in a folder that is named by a hash of their inputs. So repeating them costs
nothing, and a job that was stopped is resumed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from densepose_tools.engine_choice import EngineChoice
from densepose_tools.engines import Selection
from densepose_tools.one_click import MotionConfig, examine, make_motion
from densepose_tools.postprocess import Postprocessing
from densepose_tools.tracking import PersonAt, people_named
from magicanimate.config import (
    CLIP_BACKGROUND,
    AnimationRequest,
    MediaLimits,
    OnProgress,
    Progress,
    ShouldStop,
)
from magicanimate.errors import Cancelled, InputError
from magicanimate.files import sha256_of

FOLDER = ".motions"
"""Subfolder of the folder of results in which the steps' files are kept."""

_BLOCK = 32  # frames that are held in memory to play them backwards


def take_steps(
    request: AnimationRequest,
    steps: Mapping[str, Any],
    joined: Path | None,
    *,
    folder: Path,
    engine: EngineChoice,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> AnimationRequest:
    """Edit and convert the clip of a request; returns the request with the resulting motion clip.

    Args:
        request: the request; its clip is not changed.
        steps: the steps, JSON-ready and all optional: ``people`` ("largest", "all", "point" together with
            ``point``, a column, a row and a second, or any text of `people_named`); ``fit_dancer``,
            ``mirror``, ``boomerang`` and ``convert`` (booleans); ``speed`` (1 is as filmed).
        joined: a second clip, which is appended to the first.
        folder: folder of the results.
        engine: finds the people in an ordinary video.
        on_progress: called with the progress of "edit" and of `make_motion`.
        should_stop: polled with every frame.

    Raises:
        InputError: a clip cannot be used, or shows nobody.
        Cancelled: ``should_stop()`` said so.
    """
    stop = should_stop or (lambda: False)
    clip, stretch = request.motion, {"start": request.start, "end": request.end}
    edits = float(steps.get("speed") or 1) != 1 or bool(steps.get("boomerang")) or joined is not None
    like = request.photo if steps.get("fit_dancer") else None
    # A folder of frames is taken as a finished motion clip.
    kind = examine(clip).kind if clip.is_file() else "ready"
    converts = bool(steps.get("convert", True)) and kind in ("ordinary", "recolourable")
    changes = bool(steps.get("mirror")) or like is not None
    keeps_scene = request.background == CLIP_BACKGROUND
    if keeps_scene and changes:
        raise InputError(
            "The dance video's own background cannot be kept with Mirror or Fit the dancer to the photo; "
            "turn these off, or choose another background."
        )
    if keeps_scene and not (converts and kind == "ordinary"):
        raise InputError(
            "A DensePose clip has no background to keep; add the ordinary video that it was made of as the "
            "dance video (or with --driving-video), or choose another background."
        )
    # Part map and video have to show the same frames.
    edits = edits or (keeps_scene and (request.start > 0 or request.end is not None))
    if not (edits or converts or changes):
        return request
    files = [file for file in (clip, joined, like) if file is not None]
    # Early, since it refuses a text that names nobody.
    processing = _postprocessing(steps)
    known = {"steps": dict(steps), "files": [sha256_of(file) for file in files], **stretch}
    if converts:
        # Part maps of another engine are not the same result.
        known["engine"] = engine.forecast().engine
    name = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]
    place = folder / FOLDER / name
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The clip cannot be edited ({error.strerror}); free some room.") from error
    if edits:
        edited = place / f"{clip.stem[:60]}_edited.mp4"
        # Files appear when they are complete, so one that exists needs no further check.
        if not edited.is_file():
            _edit(clip, edited, joined, steps, on_progress, stop, **stretch)
        clip, stretch = edited, {"start": 0.0, "end": None}
    driving = clip if keeps_scene else None
    if converts or changes:
        video = place / f"{clip.stem[:60]}_densepose.mp4"
        if not video.is_file():
            config = MotionConfig(Selection(), processing, like=like, **stretch)
            make_motion(
                clip, place, engine=engine, config=config, on_progress=on_progress, should_stop=should_stop
            )
        clip, stretch = video, {"start": 0.0, "end": None}
    return replace(request, motion=clip, driving_video=driving, **stretch)


def with_part_map(
    request: AnimationRequest,
    *,
    engine: EngineChoice,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> AnimationRequest:
    """Extract the part map of an ordinary video that is its own background; returns the new request.

    The map is kept in a hidden folder beside the output, where the next run finds it. With several photos,
    all people are replaced unless the request names them.

    Raises:
        InputError: the clip is a part map already, or shows nobody.
        Cancelled: ``should_stop()`` was true.
    """
    people = "all" if request.other_photos and request.who == "largest" else request.who
    folder = Path(request.output).absolute().parent
    told = {"on_progress": on_progress, "should_stop": should_stop}
    return take_steps(request, {"people": people}, None, folder=folder, engine=engine, **told)


def sweep(folder: Path, named: set[str], *, most: int | None = None) -> None:
    """Delete files of steps that no result refers to: all, or the oldest until ``most`` bytes are left.

    A job that needs deleted files makes them again. Must not be called while a clip is being prepared.

    Args:
        folder: folder of the results.
        named: paths in the settings of results.
        most: bytes that may be kept for later jobs.
    """
    import shutil

    loose = {}
    for place in (folder / FOLDER).glob("*"):
        files = list(place.iterdir()) if place.is_dir() else []
        if place.is_dir() and not any(str(file) in named for file in files):
            loose[place] = sum(file.stat().st_size for file in files)
    for place in sorted(loose, key=lambda place: place.stat().st_mtime):
        if most is not None and sum(loose.values()) <= most:
            return
        shutil.rmtree(place, ignore_errors=True)
        del loose[place]


def _postprocessing(steps: Mapping[str, Any]) -> Postprocessing:
    people = steps.get("people") or "largest"
    if people == "point":
        column, row, second = steps["point"]
        people = PersonAt(column, row, second)
    elif isinstance(people, str):
        people = people_named(people)
    return Postprocessing(people=people, flip=bool(steps.get("mirror")))


def _edit(
    clip: Path,
    target: Path,
    joined: Path | None,
    steps: Mapping[str, Any],
    on_progress: OnProgress | None,
    stop: Callable[[], bool],
    *,
    start: float,
    end: float | None,
) -> None:
    """Write the edited clip, losslessly, since the labels of part maps are read from their exact colours."""
    from magicanimate.media.motion import open_motion
    from magicanimate.media.writer import VideoWriter

    speed = float(steps.get("speed") or 1)
    first = open_motion(clip, start=start, end=end)
    # Fewer frames a second of the clip, shown at the clip's own rate, play faster.
    parts = [open_motion(clip, start=start, end=end, fps=first.fps / speed)]
    if joined is not None:
        parts.append(open_motion(joined, fps=first.fps / speed))
    total = sum(part.num_frames_estimate or 0 for part in parts) * (2 if steps.get("boomerang") else 1)
    done = 0

    def writer(path: Path) -> VideoWriter:
        return VideoWriter(path, width=first.width, height=first.height, fps=first.rate, lossless=True)

    def write(out: VideoWriter, frames: Iterator[np.ndarray]) -> None:
        nonlocal done
        for frame in frames:
            if stop():
                raise Cancelled("the clip was being edited")
            out.write(frame)
            done += 1
            if on_progress is not None:
                on_progress(Progress("edit", done, max(total, done)))

    if not steps.get("boomerang"):
        with writer(target) as out:
            for part in parts:
                write(out, _fitted(part.frames(), first.width, first.height))
        return
    # Forward into a file of its own, which is then read backwards: frames cannot be decoded in reverse.
    forth = target.with_name(f"{target.stem}_forth.mp4")
    try:
        with writer(forth) as out:
            for part in parts:
                write(out, _fitted(part.frames(), first.width, first.height))
        with writer(target) as out:
            write(out, open_motion(forth).frames())
            write(out, _backwards(forth))
    finally:
        forth.unlink(missing_ok=True)


def _fitted(frames: Iterator[np.ndarray], width: int, height: int) -> Iterator[np.ndarray]:
    """Fit frames of another clip into this size, uncropped, by nearest neighbour: no colours mix."""
    from PIL import Image

    for frame in frames:
        if frame.shape[:2] == (height, width):
            yield frame
            continue
        scale = min(width / frame.shape[1], height / frame.shape[0])
        size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
        small = np.array(Image.fromarray(frame).resize(size, Image.Resampling.NEAREST))
        canvas = np.empty((height, width, 3), np.uint8)
        canvas[:] = frame[0, 0]  # as the corner: the background of a part map, the wall of a room
        top, left = (height - size[1]) // 2, (width - size[0]) // 2
        canvas[top : top + size[1], left : left + size[0]] = small
        yield canvas


def _backwards(video: Path) -> Iterator[np.ndarray]:
    """The frames of a video from the last but one back to the second: a loop shows no frame twice."""
    from magicanimate.media.video_file import frames_at, index_video

    limits = MediaLimits()
    index = index_video(video, limits=limits)
    last = len(index.times) - 1
    # In blocks from the end, so that only a few frames are in memory.
    for behind in range(last, 1, -_BLOCK):
        block = frames_at(video, index, range(max(1, behind - _BLOCK), behind), limits=limits)
        yield from reversed([frame for _, frame in block])
