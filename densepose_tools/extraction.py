"""Clip in, motion video out: decode, find people, draw; or draw an archive again, or recolour a map.

Memory holds a few frames; what was found lies on disk, and a run that was stopped or killed goes on there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from densepose_tools.archive import Archive, ClipInfo, write_archive
from densepose_tools.doctor import Colours, diagnose, recoloured_labels
from densepose_tools.engine import Extractor
from densepose_tools.journal import FrameJournal
from densepose_tools.output import Output, write_maps
from densepose_tools.people import Person, part_map
from densepose_tools.treatment import Sequel, Treatment, finished, treat
from magicanimate.config import OnProgress, ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.media.motion import MotionClip
from magicanimate.media.photo import load_photo
from magicanimate.progress import ProgressMeter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """What was made.

    Attributes:
        video: as asked for.
        archive: as asked for.
        num_frames: of the video.
        resumed: frames that an earlier run had found.
        empty: numbers of the frames that show nobody.
        filled: numbers of the frames that show a neighbour's people.
        seconds: time spent by stage.
    """

    video: Path
    archive: Path | None
    num_frames: int
    resumed: int
    empty: list[int]
    filled: list[int]
    seconds: dict[str, float]


def extract(
    clip: MotionClip,
    extractor: Extractor,
    output: Output,
    *,
    settings: dict[str, Any],
    treatment: Treatment | None = None,
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
        treatment: whom to draw and how.
        on_progress: told of "detect" and "write", in frames.
        should_stop: asked with every batch and every frame written.

    Raises:
        InputError: the clip shows nobody or is a motion video already, or something cannot be written.
        Cancelled: ``should_stop()`` said so; what was found so far is kept beside the output.
    """
    output.check()
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
    with FrameJournal(output.video.with_name(f".{output.video.name}.frames"), belongs_to) as journal:
        _find(clip, extractor, journal, meter, stop)
        if not any(journal):
            journal.delete()
            raise InputError(
                f"Nobody is seen in the clip {clip.path}; choose one that shows a person, or lower the score "
                "threshold."
            )
        info = ClipInfo(clip.width, clip.height, clip.rate, len(journal), settings)
        sound_from = clip.path if output.sound and clip.has_sound else None
        sequel = _draw(
            journal, info, output, treatment, meter, stop, sound_from=sound_from, sound_start=clip.start
        )
        if output.archive is not None:
            write_archive(output.archive, journal, info)
        journal.delete()
    meter.finish()
    return Extraction(
        video=output.video,
        archive=output.archive,
        num_frames=info.num_frames,
        resumed=journal.resumed,
        empty=sequel.empty,
        filled=sequel.filled,
        seconds=meter.seconds,
    )


def redraw(
    archive: Archive,
    output: Output,
    *,
    treatment: Treatment | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Extraction:
    """Draw the motion video of an archive again.

    Raises:
        InputError: the archive is damaged, or the video cannot be written.
        Cancelled: ``should_stop()`` said so; nothing half-written stays.
    """
    output.check()
    meter = ProgressMeter(on_progress)
    sequel = _draw(archive, archive.info, output, treatment, meter, should_stop or (lambda: False))
    meter.finish()
    num_frames = archive.info.num_frames
    return Extraction(output.video, None, num_frames, 0, sequel.empty, sequel.filled, meter.seconds)


def recolour(
    clip: MotionClip,
    output: Output,
    *,
    treatment: Treatment | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> tuple[Extraction, Colours]:
    """Bring a part map in any colours into those that the ControlNet knows.

    Args:
        clip: a part map in the colours of some colour map, over any background.
        output: where to; an archive cannot be made of it.
        treatment: ``steady`` and ``flip`` are done.
        on_progress: told of "write", in frames.
        should_stop: asked with every frame.

    Returns:
        What was made, and the colours that were found.

    Raises:
        InputError: the clip is no part map, or the video cannot be written.
        Cancelled: ``should_stop()`` said so; nothing half-written stays.
    """
    output.check()
    colours = _colours(clip)
    if colours is None:
        raise InputError(
            f"The clip {clip.path} is not a DensePose part map in colours that are known; leave out the "
            "recolouring to find the people of an ordinary clip."
        )
    meter = ProgressMeter(on_progress)
    frames = clip.frames()
    with closing(frames):
        maps = finished((recoloured_labels(frame, colours) for frame in frames), treatment or Treatment())
        info = ClipInfo(
            clip.width, clip.height, clip.rate, clip.num_frames_estimate or 0, {"was": colours.name}
        )
        sound_from = clip.path if output.sound and clip.has_sound else None
        stop = should_stop or (lambda: False)
        count = write_maps(maps, info, output, meter, stop, sound_from=sound_from, sound_start=clip.start)
    meter.finish()
    return Extraction(output.video, None, count, 0, [], [], meter.seconds), colours


def photo_map(path: Path, load: Callable[[], Extractor]) -> np.ndarray:
    """Part map of the largest person of a photo, uint8 (H, W).

    Args:
        path: the photo, or a part map in its place.
        load: gives an extractor; not called for a part map.

    Raises:
        InputError: it cannot be read or shows nobody.
    """
    photo = load_photo(path)
    colours = diagnose([photo])
    if colours is not None:
        return recoloured_labels(photo, colours)
    (people,) = load().people([photo])
    if not people:
        raise InputError(f"Nobody is seen in the photo {path}; choose one that shows a person.")
    height, width = photo.shape[:2]
    return part_map([max(people, key=Person.area)], width=width, height=height)


def _colours(clip: MotionClip) -> Colours | None:
    frames = clip.frames()
    with closing(frames):
        return diagnose(frames)


def _refuse_part_maps(clip: MotionClip) -> None:
    colours = _colours(clip)
    if colours is not None:
        advice = "animate with it as it is" if colours.usual else "recolour it"
        raise InputError(
            f"The clip {clip.path} is a DensePose part map already, in {colours.name}; {advice}, or give an "
            "ordinary video."
        )


def _find(
    clip: MotionClip, extractor: Extractor, journal: FrameJournal, meter: ProgressMeter, stop: ShouldStop
) -> None:
    """Fill the journal; the next frames are decoded while the network works."""
    total = clip.num_frames_estimate or 0
    if journal.resumed:
        log.info("going on behind the %d frames that are there", journal.resumed)
    meter.begin("detect", total)
    decoding = clip.frames()
    with closing(decoding), ThreadPoolExecutor(1) as pool:
        rest = islice(decoding, journal.resumed, None)
        upcoming = pool.submit(_take, rest, extractor.batch)
        while frames := upcoming.result():
            upcoming = pool.submit(_take, rest, extractor.batch)
            if stop():
                raise Cancelled
            for people in extractor.people(frames):
                journal.append(people)
            meter.update(len(journal), max(total, len(journal)))


def _take(frames: Iterator[np.ndarray], count: int) -> list[np.ndarray]:
    return list(islice(frames, count))


def _draw(
    found: Sequence[list[Person]],
    info: ClipInfo,
    output: Output,
    treatment: Treatment | None,
    meter: ProgressMeter,
    stop: ShouldStop,
    **sound: Any,
) -> Sequel:
    sequel = treat(found, treatment or Treatment(), width=info.width, height=info.height)
    size = replace(info, width=sequel.width, height=sequel.height)
    write_maps(sequel.maps, size, output, meter, stop, **sound)
    return sequel
