"""Real videos with their control signals as training data.

Letters in shape comments: ``N`` frames asked for, ``H W`` pixels.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.files import read_json_object
from magicanimate.media.motion import average_rate
from magicanimate.media.outputs import read_metadata
from magicanimate.media.video_file import VideoIndex, frames_at, index_video
from training.config import Framing
from training.data.cropping import Shares, SquareCrop, person_of, same_aspect
from training.data.folders import (
    POINTS_SUFFIX,
    VIDEO_SUFFIXES,
    Entry,
    existing_index,
    find_entries,
    keep_index,
)
from training.data.sources import Frames

log = logging.getLogger(__name__)

INDEX_NAME = "videos.index.json"
_INDEX_VERSION = 2
_EXAMINED = 12
"""Number of frames of a part map that are checked, and in which the person is located."""

_AT_ONCE, _WRITTEN_EVERY = 16, 60.0
"""Number of videos that are examined at once, and seconds between two writings of the index."""

FRAME_RATE = 25.0
"""Frames per second of the paper's data, for which the interval of a clip is meant."""

LIMITS = MediaLimits(max_file_bytes=1 << 44)


@dataclass(frozen=True)
class VideoFacts:
    """What is found out about a video once, and kept in the index.

    Attributes:
        frames: number of frames that the video and all its control signals have; 0 if it cannot be used.
        width, height: size of the video itself, pixels.
        person: box around the person in all frames; ``None`` if nobody was found.
        problem: a sentence on why the video cannot be used; ``None`` if it can.
        rate: frames per second.
        engine: the engine that made the part map, according to its file; ``None`` if the file does not tell.
    """

    frames: int
    width: int
    height: int
    person: Shares | None
    problem: str | None = None
    rate: float = 0.0
    engine: str | None = None

    def __post_init__(self) -> None:
        if self.person is not None:  # JSON knows no tuples
            object.__setattr__(self, "person", tuple(self.person))


def counted_engines(engines: Mapping[str | None, int]) -> str:
    """Engines with their counts, the most frequent first: "torch (337), mini (3)"."""
    ordered = sorted(engines.items(), key=lambda item: -item[1])
    return ", ".join(f"{engine or 'unknown'} ({count})" for engine, count in ordered)


def has_other_rate(facts: VideoFacts) -> bool:
    """Whether a video plays at another rate than the paper's data."""
    return abs(facts.rate - FRAME_RATE) > 0.02 * FRAME_RATE


class VideoFolder:
    """A `VideoSet` of files: ``NAME.mp4`` with ``NAME.densepose.mp4`` and/or ``NAME.keypoints.mp4``.

    See `training.data.folders` for the layouts. Videos that lack a signal or cannot be used are left out and
    reported. Examining the videos takes a while, so the findings are kept in an index file; files that
    changed are examined again.

    Attributes:
        left_out: a sentence for every video that is not used.
    """

    stills = 0

    def __init__(
        self,
        folder: Path | str,
        *,
        size: int,
        signals: Sequence[str] = ("densepose",),
        index_folder: Path | None = None,
        framing: Framing = "person",
    ):
        """Open a folder.

        Args:
            folder: the data folder.
            size: side of the square images, pixels.
            signals: control signals to read: "densepose", "keypoints" or both.
            index_folder: where the index is kept if ``folder`` is read-only.
            framing: which square is cut out of a frame: around the person, or the centre.

        Raises:
            InputError: no video of the folder can be used.
        """
        self.folder, self.size, self.signals = Path(folder), size, tuple(signals)
        self.framing = framing
        self.left_out: list[str] = []
        self._entries: list[Entry] = []
        self._facts: list[VideoFacts] = []
        entries = find_entries(self.folder, suffixes=VIDEO_SUFFIXES, main="videos")
        for entry, facts in zip(entries, video_facts(self.folder, entries, index_folder), strict=True):
            # The index knows all signals of a video; which are needed depends on the training.
            if missing := entry.missing(self.signals):
                self.left_out.append(f"The video {entry.pixels} has no {' and no '.join(missing)} file.")
            elif facts.problem:
                self.left_out.append(facts.problem)
            else:
                self._entries.append(entry)
                self._facts.append(facts)
        for sentence in self.left_out:
            log.warning("left out: %s", sentence)
        if other := sum(has_other_rate(facts) for facts in self._facts):
            log.warning(
                "%d of %d videos of %s do not have %g frames a second, for which the interval of a clip is "
                "meant; `python -m training.data prepare` brings them to it",
                *(other, len(self._facts), self.folder, FRAME_RATE),
            )
        engines = Counter(facts.engine for facts in self._facts)
        if len(engines) > 1 and "densepose" in self.signals:
            log.warning("%s: part maps by several engines, %s", self.folder, counted_engines(engines))
        if not self._entries:
            reason = self.left_out[0] if self.left_out else f"{self.folder} holds no videos."
            raise InputError(f"No video of {self.folder} can be used for training: {reason}")

    def __len__(self) -> int:
        return len(self._entries)

    def num_frames(self, video: int) -> int:
        return self._facts[video].frames

    def name(self, video: int) -> str:
        return str(self._entries[video].pixels)

    def read(self, video: int, frames: Sequence[int]) -> Frames:
        entry, facts = self._entries[video], self._facts[video]
        crop = SquareCrop(self.size, facts.person if self.framing == "person" else None)
        frames = list(frames)
        return Frames(_fitted(entry.pixels, frames, crop.picture), self._signals(entry, frames, crop))

    def signals_of(self, video: int, frames: Sequence[int]) -> dict[str, np.ndarray]:
        """The control images of some frames without the frames themselves, as in `Frames.control`."""
        entry, facts = self._entries[video], self._facts[video]
        crop = SquareCrop(self.size, facts.person if self.framing == "person" else None)
        return self._signals(entry, list(frames), crop)

    def _signals(self, entry: Entry, frames: list[int], crop: SquareCrop) -> dict[str, np.ndarray]:
        control = {}
        for signal in self.signals:
            path = entry.signals[signal]
            if path.suffix.lower() == POINTS_SUFFIX:
                control[signal] = _drawn(path, frames, crop)
            else:
                fit = crop.part_map if signal == "densepose" else crop.picture
                control[signal] = _fitted(path, frames, fit)
        return control


# About 5 kB each. Reading the timestamps of a file again takes as long as decoding several frames.
@lru_cache(maxsize=16_384)
def _index(path: Path, changed: int) -> VideoIndex:
    """Timestamps of a video. Its time of change is an argument so that a replaced file is read again."""
    return index_video(path, what="training video", limits=LIMITS)


def video_index(path: Path) -> VideoIndex:
    """Timestamps of a video, kept in memory.

    Raises:
        InputError: the file cannot be read as a video.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(f"The training video {path} cannot be read ({error.strerror}).") from error
    return _index(path, changed)


def _fitted(path: Path, frames: list[int], fit: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Frames of a video, uint8 ``N H W 3``, each cropped as soon as it is decoded."""
    index = video_index(path)
    if max(frames) >= len(index.times):
        raise InputError(f"The training video {path} is shorter than it was; remove its index or restore it.")
    # As a dictionary, since the same frame may be asked for twice.
    found = {at: fit(frame) for at, frame in frames_at(path, index, frames, limits=LIMITS)}
    if lost := sorted(set(frames) - set(found)):
        raise InputError(f"Frame {lost[0]} of the training video {path} is damaged; export the video again.")
    return np.stack([found[at] for at in frames])


def _drawn(path: Path, frames: list[int], crop: SquareCrop) -> np.ndarray:
    """Drawings of recorded keypoints, uint8 ``N H W 3``."""
    from densepose_tools.keypoints import draw_keypoints, read_keypoints

    recorded = read_keypoints(path)
    points = crop.points(recorded.points[frames], width=recorded.width, height=recorded.height)
    return np.stack([draw_keypoints(p, width=crop.size, height=crop.size) for p in points])


def video_facts(folder: Path, entries: Sequence[Entry], index_folder: Path | None = None) -> list[VideoFacts]:
    """The facts about all entries: from the index where nothing has changed, else by examining the videos.

    The index is written every minute, so that a run that is stopped does not have to start all over again.
    """
    path = existing_index(INDEX_NAME, folder, index_folder)
    kept = _read_index(path) if path else {}
    stamps = {entry.name: _stamp(entry) for entry in entries}
    index = {name: kept[name] for name, stamp in stamps.items() if kept.get(name, {}).get("stamp") == stamp}
    # Only new and changed videos are examined; entries of videos that are gone are dropped.
    fresh = [entry for entry in entries if entry.name not in index]
    written = time.monotonic()
    # Threads suffice: decoding releases Python's lock.
    pool = ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1))
    try:
        for done, (entry, found) in enumerate(zip(fresh, pool.map(examine, fresh), strict=True), 1):
            index[entry.name] = {"stamp": stamps[entry.name], "facts": asdict(found)}
            if time.monotonic() - written > _WRITTEN_EVERY:
                log.info("%s: looked at %d of %d videos", folder, done, len(fresh))
                _write_index(index, folder, index_folder)
                written = time.monotonic()
    finally:
        pool.shutdown(cancel_futures=True)
        # Also after an interruption, with what was found so far; and when videos have disappeared.
        if fresh or index.keys() != kept.keys():
            _write_index(index, folder, index_folder)
    return [VideoFacts(**index[entry.name]["facts"]) for entry in entries]


def _write_index(index: Mapping[str, dict], folder: Path, index_folder: Path | None) -> None:
    data = json.dumps({"version": _INDEX_VERSION, "videos": index}).encode()
    keep_index(INDEX_NAME, data, folder, index_folder)


def _read_index(path: Path) -> dict[str, dict]:
    """The entries of an index file; none if it is damaged or of another version."""
    try:
        index = read_json_object(path)
        videos = index["videos"] if index["version"] == _INDEX_VERSION else {}
        return videos if isinstance(videos, dict) else {}
    except (ValueError, KeyError, TypeError, OSError) as error:
        log.warning("The index %s cannot be used (%s) and is made again.", path, error)
        return {}


def _stamp(entry: Entry) -> list[list]:
    """Name, size and time of change of every file of an entry, by which changes are noticed."""
    files = [entry.pixels, *(path for _, path in sorted(entry.signals.items()))]
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def examine(entry: Entry) -> VideoFacts:
    """Examine a video: its length, where the person is, and whether its control signals fit it."""
    width = height = 0
    try:
        index = video_index(entry.pixels)
        width, height = index.width, index.height
        counts, person = {entry.pixels: len(index.times)}, None
        for signal, path in entry.signals.items():
            size, counts[path], person_here = _examine_signal(signal, path)
            # The first signal that shows the person decides.
            person = person or person_here
            if not same_aspect((width, height), size):
                raise InputError(
                    f"{path} has {size[0]}x{size[1]} pixels and {entry.pixels} {width}x{height}; "
                    "make them anew with one aspect."
                )
        # The common part of video and signals.
        frames = min(counts.values())
        # Encoders drop or repeat a frame now and then; more is another clip.
        if max(counts.values()) - frames > max(2, 0.02 * frames):
            lengths = ", ".join(f"{path} {count}" for path, count in counts.items())
            raise InputError(
                f"These files have not as many frames as one another: {lengths}; make them anew."
            )
        rate = float(average_rate(index.times, index.nominal_rate))
        drawn = entry.signals.get("densepose")
        engine = (read_metadata(drawn) or {}).get("engine") if drawn else None
        return VideoFacts(frames, width, height, person, rate=rate, engine=engine)
    except InputError as error:
        # Kept in the index, too, so that a broken file is not examined at every start.
        return VideoFacts(0, width, height, None, problem=str(error))


def _examine_signal(signal: str, path: Path) -> tuple[tuple[int, int], int, Shares | None]:
    """Size and number of frames of a control signal, and the box around the person in it."""
    if path.suffix.lower() == POINTS_SUFFIX:
        from densepose_tools.keypoints import read_keypoints

        recorded = read_keypoints(path)
        return (recorded.width, recorded.height), len(recorded.points), recorded.person()
    index = video_index(path)
    size, count = (index.width, index.height), len(index.times)
    # Spread over the whole clip, as a dancer moves through the picture.
    positions = np.linspace(0, count - 1, min(count, _EXAMINED)).round().astype(int).tolist()
    drawn = [frame for _, frame in frames_at(path, index, positions, limits=LIMITS)]
    return size, count, person_of(signal, drawn, path)
