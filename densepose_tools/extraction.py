"""Clip in, motion video out: decode, find people, draw; or draw an archive again.

Memory holds a few frames; what was found lies on disk, and a run that was stopped or killed goes on there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from densepose_tools.archive import Archive, ClipInfo, is_archive, write_archive
from densepose_tools.engine import Extractor
from densepose_tools.journal import FrameJournal
from densepose_tools.people import Person, draw_people
from magicanimate.config import OnProgress, ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.media.densepose_check import check_densepose
from magicanimate.media.motion import MotionClip
from magicanimate.media.writer import VideoWriter, check_output
from magicanimate.progress import ProgressMeter

log = logging.getLogger(__name__)

CODECS = ("lossless", "h264")
SUFFIXES = (".mp4", "")


@dataclass(frozen=True)
class Output:
    """Where results go and how.

    Attributes:
        video: the motion video, ``.mp4``, or without a suffix a folder of png frames.
        archive: ``.npz`` with what was found, or ``None``.
        codec: "lossless" keeps the colours to the last bit; "h264" plays everywhere.
        sound: keep the clip's sound.
    """

    video: Path
    archive: Path | None = None
    codec: str = "lossless"
    sound: bool = False

    def check(self) -> None:
        """Refuse what cannot be written, before any work.

        Raises:
            InputError: see ``magicanimate.media.writer.check_output``; or another kind of file.
        """
        if self.video.suffix.lower() not in SUFFIXES:
            raise InputError(
                f"The output {self.video} must be an .mp4, or have no suffix for a folder of png frames."
            )
        if self.codec not in CODECS:
            raise InputError(f"The codec {self.codec!r} is unknown; choose one of: {', '.join(CODECS)}.")
        check_output(self.video)
        if self.archive is not None:
            if self.archive.suffix != ".npz" or self.archive.is_dir():
                raise InputError(f"The archive {self.archive} must be a file that ends in .npz.")
            if self.archive.exists() and not is_archive(self.archive):
                raise InputError(f"{self.archive} exists and is something else; choose another output.")
            self.archive.parent.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Extraction:
    """What was made.

    Attributes:
        video: as asked for.
        archive: as asked for.
        num_frames: of the video.
        resumed: frames that an earlier run had found.
        empty: numbers of the frames that show nobody.
        seconds: time spent by stage.
    """

    video: Path
    archive: Path | None
    num_frames: int
    resumed: int
    empty: list[int]
    seconds: dict[str, float]


def extract(
    clip: MotionClip,
    extractor: Extractor,
    output: Output,
    *,
    settings: dict[str, Any],
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
        empty = [number for number, people in enumerate(journal) if not people]
        if len(empty) == len(journal):
            journal.delete()
            raise InputError(
                f"Nobody is seen in the clip {clip.path}; choose one that shows a person, or lower the score "
                "threshold."
            )
        info = ClipInfo(clip.width, clip.height, clip.rate, len(journal), settings)
        sound_from = clip.path if output.sound and clip.has_sound else None
        _write(journal, info, output, meter, stop, sound_from=sound_from, sound_start=clip.start)
        if output.archive is not None:
            write_archive(output.archive, journal, info)
        journal.delete()
    meter.finish()
    return Extraction(output.video, output.archive, info.num_frames, journal.resumed, empty, meter.seconds)


def redraw(
    archive: Archive,
    output: Output,
    *,
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
    empty: list[int] = []

    def frames() -> Iterator[list[Person]]:
        for number, people in enumerate(archive.frames()):
            if not people:
                empty.append(number)
            yield people

    _write(frames(), archive.info, output, meter, should_stop or (lambda: False))
    meter.finish()
    return Extraction(output.video, None, archive.info.num_frames, 0, empty, meter.seconds)


def _refuse_part_maps(clip: MotionClip) -> None:
    frames = clip.frames()
    with closing(frames):
        if check_densepose(frames).is_densepose:
            raise InputError(
                f"The clip {clip.path} is a DensePose part map already; animate with it as it is, or give an "
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


def _write(
    frames: Iterable[list[Person]],
    info: ClipInfo,
    output: Output,
    meter: ProgressMeter,
    stop: ShouldStop,
    **sound: Any,
) -> None:
    meter.begin("write", info.num_frames)
    writer = VideoWriter(
        output.video,
        width=info.width,
        height=info.height,
        fps=info.rate,
        metadata=info.settings,
        lossless=output.codec == "lossless",
        **sound,
    )
    with writer:
        for number, people in enumerate(frames):
            if stop():
                raise Cancelled
            writer.write(draw_people(people, width=info.width, height=info.height))
            meter.update(number + 1, info.num_frames)
