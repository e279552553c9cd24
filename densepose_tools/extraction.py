"""Makes motion videos: draws the people found in a clip or an archive, or recolours a part map.

Only a few frames are in memory at a time. The people found are kept on disk, from where a run that was
stopped or killed is resumed.
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
from magicanimate.media.densepose_check import MapColours, MotionReport, check_densepose, command_for
from magicanimate.media.motion import MotionClip
from magicanimate.media.photo import load_photo
from magicanimate.progress import ProgressMeter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """A finished motion video.

    Attributes:
        video: its path.
        archive: the archive of the people found, if one was requested.
        num_frames: number of frames of the video.
        resumed: number of frames that an earlier run had processed.
        empty: numbers of the frames that show nobody.
        filled: numbers of the frames that show the people of a neighbouring frame.
        seconds: time spent, by stage.
        size: width and height of the video.
        playable: the copy for browsers, if one was requested.
        plain: a copy without deflickering and retargeting, if one was requested and either was done.
        flicker: share of body pixels that flicker before and after deflickering; ``None`` without it.
        stretch: with retargeting, name of a limb -> factors along and across it.
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
    """Make the motion video of a clip, with the same frames, frame rate, size and orientation.

    Args:
        clip: an ordinary video.
        extractor: finds the people.
        output: where the results are written.
        settings: everything that decides which people are found, JSON-ready; stored in the results. A run
            with the same clip, output and settings continues where an earlier one was stopped.
        postprocessing: whom to draw, and how.
        on_progress: called with the progress of "detect" and "write", in frames.
        should_stop: polled with every batch and every written frame.

    Raises:
        InputError: the clip shows nobody or is a motion video already, or something cannot be written.
        Cancelled: ``should_stop()`` said so; what was found so far is kept beside the output.
    """
    output.check(clip.path)
    # Before any work, and with advice on what can be done with a part map.
    _refuse_part_maps(clip)
    meter = ProgressMeter(on_progress)
    stop = should_stop or (lambda: False)
    status = clip.path.stat()
    belongs_to = {
        **settings,
        "clip": str(clip.path.resolve()),
        "clip_bytes": status.st_size,
        # Size and time tell a replaced clip without reading it.
        "clip_changed": status.st_mtime_ns,
        "frames": clip.num_frames_estimate,
        "rate": str(clip.rate),
    }
    # Hidden, beside the video: the same command finds it again, a file browser does not show it.
    with ResumeLog(output.video.with_name(f".{output.video.name}.frames"), belongs_to) as resume_log:
        _find(clip, extractor, resume_log, meter, stop)
        # Deleted, as resuming this would find nobody again.
        if not any(resume_log):
            resume_log.delete()
            raise InputError(
                f"Nobody is seen in the clip {clip.path}; choose one that shows a person, or lower the score "
                "threshold."
            )
        info = ClipInfo(clip.width, clip.height, clip.rate, len(resume_log), settings)
        beside = {}
        if output.archive is not None:
            # Written with the video, so that there are both or none of them.
            beside[output.archive] = lambda partial: write_archive(partial, resume_log, info)
        made = _draw(
            resume_log, info, output, postprocessing, meter, stop, beside=beside, **_sound(clip, output)
        )
        resume_log.delete()
    # Filled in now, as drawing knows neither the archive nor earlier runs.
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
        archive: the people found.
        output: where the video is written; no archive is.
        postprocessing: whom to draw, and how.
        clip: the clip that the archive was made from, for its sound.
        on_progress: called with the progress of "write", in frames.
        should_stop: polled with every frame.

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
    """Convert a part map in other colours to those that the ControlNet knows, and remove bars and captions.

    Args:
        clip: a part map in the colours of some colormap, on any background, or as label numbers.
        output: where the video is written; there is no archive.
        postprocessing: is applied except for ``people`` and ``fill``.
        on_progress: called with the progress of "write", in frames.
        should_stop: polled with every frame.

    Returns:
        The video, and the colours that were found in the clip.

    Raises:
        InputError: the clip is no part map, or the video cannot be written.
        Cancelled: ``should_stop()`` said so; nothing half-written stays.
    """
    output.check(clip.path)
    report = _checked(clip)
    colours = report.colours
    # Asked for explicitly, so an ordinary clip is an error here.
    if colours is None:
        raise InputError(
            f"The clip {clip.path} {report.reason}; only a DensePose part map can be recoloured, so "
            "leave out the recolouring to find the people of an ordinary clip."
        )
    meter = ProgressMeter(on_progress)
    count = clip.num_frames_estimate or 0
    info = ClipInfo(clip.width, clip.height, clip.rate, count, {"was": colours.name or "viridis"})
    with ExitStack() as stack:
        # Opened anew for every pass: measuring the build reads some frames before all are drawn.
        def read(step: int) -> Iterator[np.ndarray]:
            frames = stack.enter_context(closing(clip.frames()))
            return (colours.labels(frame) for frame in islice(frames, None, None, step))

        size = {"width": clip.width, "height": clip.height}
        part_maps = postprocess_maps(read, count, postprocessing or Postprocessing(), **size)
        stop = should_stop or (lambda: False)
        return _written(part_maps, info, output, meter, stop, **_sound(clip, output)), colours


def photo_map(path: Path, load: Callable[[], Extractor]) -> np.ndarray:
    """The part map of the largest person in a photo, uint8 (H, W).

    Args:
        path: the photo, or a part map.
        load: loads an extractor; not called for a part map.

    Raises:
        InputError: it cannot be read or shows nobody.
    """
    photo = load_photo(path)
    # Whoever has the part map of the photo already need not have it estimated.
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
    """Find the people in the frames that are not in the log yet, decoding the next frames meanwhile."""
    total = clip.num_frames_estimate or 0
    if resume_log.resumed:
        log.info("going on behind the %d frames that are there", resume_log.resumed)
    meter.begin("detect", total)
    decoding = clip.frames()
    with closing(decoding), ThreadPoolExecutor(1) as pool:
        # Earlier frames have to be decoded all the same, but not to pass through the network.
        rest = islice(decoding, resume_log.resumed, None)
        upcoming = pool.submit(_take, rest, extractor.batch)
        # An empty batch is the end of the clip.
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
    """The arguments with which `VideoWriter` adds the clip's sound."""
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
    """Write the part maps of a clip; the result has no archive and nothing resumed."""
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
