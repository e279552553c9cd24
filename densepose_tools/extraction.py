"""Make motion videos: find the people of a clip and draw them, redraw an archive, or recolour a map.

Memory holds a few frames; what was found lies on disk, and a run that was stopped or killed goes on there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from densepose_tools.archive import Archive, ClipInfo, write_archive
from densepose_tools.engines import Extractor
from densepose_tools.output import Output, write_maps
from densepose_tools.people import Person, part_map
from densepose_tools.postprocess import PartMaps, Postprocessing, postprocess, postprocess_maps
from densepose_tools.resume_log import ResumeLog
from magicanimate.config import OnProgress, ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.media.densepose_check import MotionReport, check_densepose, command_for
from magicanimate.media.map_colours import MapColours
from magicanimate.media.motion import MotionClip
from magicanimate.media.photo import load_photo
from magicanimate.progress import ProgressMeter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """A motion video that was made.

    Attributes:
        video: as asked for.
        archive: as asked for.
        num_frames: of the video.
        resumed: frames that an earlier run had found.
        empty: numbers of the frames that show nobody.
        filled: numbers of the frames that show a neighbour's people.
        seconds: time spent by stage.
        size: width and height of the video.
        playable: the copy for browsers, as asked for.
        plain: the same without deflickering and a photo's build, if there was any of it and it was asked for.
        flicker: share of body pixels that flicker before and after deflickering; ``None`` without it.
        stretch: with a photo's build, name of limb -> factors along and across.
    """

    video: Path
    archive: Path | None
    num_frames: int
    resumed: int
    empty: list[int]
    filled: list[int]
    seconds: dict[str, float]
    size: tuple[int, int]
    playable: Path | None = None
    plain: Path | None = None
    flicker: tuple[float, float] | None = None
    stretch: dict[str, tuple[float, float]] | None = None


def extract(
    clip: MotionClip,
    extractor: Extractor,
    output: Output,
    *,
    settings: dict[str, Any],
    postprocessing: Postprocessing | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Extraction:
    """Make the motion video of a clip: as many frames, as fast, as large, as upright.

    Args:
        clip: ordinary video.
        extractor: finds the people.
        output: where to.
        settings: everything that decides what is found, JSON-ready; kept in the results. A run with the
            same clip, output and settings goes on where an earlier one was stopped.
        postprocessing: whom to draw and how.
        on_progress: told of "detect" and "write", in frames.
        should_stop: asked with every batch and every frame written.

    Raises:
        InputError: the clip shows nobody or is a motion video already, or something cannot be written.
        Cancelled: ``should_stop()`` said so; what was found so far is kept beside the output.
    """
    output.check(clip.path)
    _refuse_part_maps(clip)
    meter = ProgressMeter(on_progress)
    stop = should_stop or (lambda: False)
    status = clip.path.stat()
    belongs_to = {
        **settings,
        "clip": str(clip.path.resolve()),
        "clip_bytes": status.st_size,
        "clip_changed": status.st_mtime_ns,
        "frames": clip.num_frames_estimate,
        "rate": str(clip.rate),
    }
    with ResumeLog(output.video.with_name(f".{output.video.name}.frames"), belongs_to) as resume_log:
        _find(clip, extractor, resume_log, meter, stop)
        if not any(resume_log):
            resume_log.delete()
            raise InputError(
                f"Nobody is seen in the clip {clip.path}; choose one that shows a person, or lower the score "
                "threshold."
            )
        info = ClipInfo(clip.width, clip.height, clip.rate, len(resume_log), settings)
        beside = {}
        if output.archive is not None:
            beside[output.archive] = lambda partial: write_archive(partial, resume_log, info)
        made = _draw(
            resume_log, info, output, postprocessing, meter, stop, beside=beside, **_sound(clip, output)
        )
        resume_log.delete()
    return replace(made, archive=output.archive, resumed=resume_log.resumed)


def redraw(
    archive: Archive,
    output: Output,
    *,
    postprocessing: Postprocessing | None = None,
    clip: MotionClip | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Extraction:
    """Draw the motion video of an archive again.

    Args:
        archive: what was found.
        output: where to; ``archive`` of it is not written.
        postprocessing: whom to draw and how.
        clip: what the archive was made of, if the sound is wanted.
        on_progress: told of "write", in frames.
        should_stop: asked with every frame.

    Raises:
        InputError: the archive is damaged, or the video cannot be written.
        Cancelled: ``should_stop()`` said so; nothing half-written stays.
    """
    output.check(archive.path, clip.path if clip is not None else None)
    meter = ProgressMeter(on_progress)
    stop, sound = should_stop or (lambda: False), _sound(clip, output)
    return _draw(archive, archive.info, output, postprocessing, meter, stop, **sound)


def recolour(
    clip: MotionClip,
    output: Output,
    *,
    postprocessing: Postprocessing | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> tuple[Extraction, MapColours]:
    """Bring a part map in any colours into those that the ControlNet knows, without bars and captions.

    Args:
        clip: a part map in the colours of some colour map, over any background, or as label numbers.
        output: where to; an archive cannot be made of it.
        postprocessing: all of it but ``people`` and ``fill`` is done.
        on_progress: told of "write", in frames.
        should_stop: asked with every frame.

    Returns:
        What was made, and the colours that were found.

    Raises:
        InputError: the clip is no part map, or the video cannot be written.
        Cancelled: ``should_stop()`` said so; nothing half-written stays.
    """
    output.check(clip.path)
    report = _checked(clip)
    colours = report.colours
    if colours is None:
        raise InputError(
            f"The clip {clip.path} {report.reason}; only a DensePose part map can be recoloured, so "
            "leave out the recolouring to find the people of an ordinary clip."
        )
    meter = ProgressMeter(on_progress)
    count = clip.num_frames_estimate or 0
    info = ClipInfo(clip.width, clip.height, clip.rate, count, {"was": colours.name or "viridis"})
    with ExitStack() as stack:

        def read(step: int) -> Iterator[np.ndarray]:
            frames = stack.enter_context(closing(clip.frames()))
            return (colours.labels(frame) for frame in islice(frames, None, None, step))

        size = {"width": clip.width, "height": clip.height}
        part_maps = postprocess_maps(read, count, postprocessing or Postprocessing(), **size)
        stop = should_stop or (lambda: False)
        return _written(part_maps, info, output, meter, stop, **_sound(clip, output)), colours


def photo_map(path: Path, load: Callable[[], Extractor]) -> np.ndarray:
    """Part map of the largest person of a photo, uint8 (H, W).

    Args:
        path: the photo, or a part map in its place.
        load: gives an extractor; not called for a part map.

    Raises:
        InputError: it cannot be read or shows nobody.
    """
    photo = load_photo(path)
    colours = check_densepose([photo]).colours
    if colours is not None:
        return colours.labels(photo)
    (people,) = load().people([photo])
    if not people:
        raise InputError(f"Nobody is seen in the photo {path}; choose one that shows a person.")
    height, width = photo.shape[:2]
    return part_map([max(people, key=Person.area)], width=width, height=height)


def _checked(clip: MotionClip) -> MotionReport:
    frames = clip.frames()
    with closing(frames):
        return check_densepose(frames)


def _refuse_part_maps(clip: MotionClip) -> None:
    report = _checked(clip)
    if report.is_densepose:
        raise InputError(
            f"The clip {clip.path} {report.reason} already; animate with it as it is, or give an "
            "ordinary video."
        )
    if report.colours is not None:
        raise InputError(f"The clip {clip.path} {report.advice(f'`{command_for(clip.path, report)}`')}.")


def _find(
    clip: MotionClip, extractor: Extractor, resume_log: ResumeLog, meter: ProgressMeter, stop: ShouldStop
) -> None:
    """Find the people of the frames that are not in the log yet.

    The next frames are decoded while the network works.
    """
    total = clip.num_frames_estimate or 0
    if resume_log.resumed:
        log.info("going on behind the %d frames that are there", resume_log.resumed)
    meter.begin("detect", total)
    decoding = clip.frames()
    with closing(decoding), ThreadPoolExecutor(1) as pool:
        rest = islice(decoding, resume_log.resumed, None)
        upcoming = pool.submit(_take, rest, extractor.batch)
        while frames := upcoming.result():
            upcoming = pool.submit(_take, rest, extractor.batch)
            if stop():
                raise Cancelled
            for people in extractor.people(frames):
                resume_log.append(people)
            meter.update(len(resume_log), max(total, len(resume_log)))


def _take(frames: Iterator[np.ndarray], count: int) -> list[np.ndarray]:
    return list(islice(frames, count))


def _sound(clip: MotionClip | None, output: Output) -> dict[str, Any]:
    """What `VideoWriter` has to know to add the clip's sound."""
    if clip is None or not output.sound or not clip.has_sound:
        return {}
    return {"sound_from": clip.path, "sound_start": clip.start}


def _draw(
    found: Sequence[list[Person]],
    info: ClipInfo,
    output: Output,
    postprocessing: Postprocessing | None,
    meter: ProgressMeter,
    stop: ShouldStop,
    **also: Any,
) -> Extraction:
    size = {"width": info.width, "height": info.height, "rate": info.rate}
    part_maps = postprocess(found, postprocessing or Postprocessing(), **size)
    return _written(part_maps, info, output, meter, stop, **also)


def _written(
    part_maps: PartMaps, info: ClipInfo, output: Output, meter: ProgressMeter, stop: ShouldStop, **also: Any
) -> Extraction:
    """Write the maps of a clip and tell of it; no archive, nothing resumed."""
    written = write_maps(part_maps, info, output, meter, stop, **also)
    meter.finish()
    return Extraction(
        video=output.video,
        archive=None,
        num_frames=written.num_frames,
        resumed=0,
        empty=part_maps.empty,
        filled=part_maps.filled,
        seconds=meter.seconds,
        size=(part_maps.width, part_maps.height),
        playable=output.playable,
        plain=written.plain,
        flicker=written.flicker,
        stretch=part_maps.stretch,
    )
