"""Which files of a folder belong together: pictures or videos, and their driving signals; and its index."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from magicanimate.errors import InputError
from magicanimate.files import write_bytes
from training.data.sources import SIGNALS

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
POINTS_SUFFIX = ".npz"
"""Keypoints may also come as points, see ``densepose_tools.keypoints``; they are drawn when read. The
extraction of part maps writes such files, too, with what it found; beside the maps they are no signal."""
POINTS = "keypoints"
MATTE = "matte"
"""What else ``training.data prepare`` makes of a video or picture, ``NAME.matte.mp4``; it drives nothing."""


@dataclass(frozen=True)
class Entry:
    """One video or image.

    Attributes:
        name: without folder and suffix.
        pixels: the file of the picture or video itself.
        signals: the files of its driving signals by name, those that are there.
    """

    name: str
    pixels: Path
    signals: dict[str, Path]

    def missing(self, signals: Sequence[str]) -> list[str]:
        """Which of these signals have no file."""
        return [signal for signal in signals if signal not in self.signals]


def find_entries(folder: Path, *, suffixes: Sequence[str], main: str) -> list[Entry]:
    """Pair the files of a folder by name, in natural order.

    Either all lie together as ``NAME.mp4``, ``NAME.densepose.mp4``, ``NAME.keypoints.mp4``; or in folders of
    their own, ``videos/NAME.mp4``, ``densepose/NAME.mp4``, ``keypoints/NAME.mp4``.

    Args:
        folder: where to look, not further down.
        suffixes: of pictures or videos.
        main: name of the folder of the pictures themselves: "videos" or "images".

    Raises:
        InputError: the folder does not exist or cannot be read.
    """
    own = folder / main
    if own.is_dir():
        pixels = {path.stem: path for path in _files(own, suffixes)}
        places = {
            signal: _files(folder / signal, (*suffixes, POINTS_SUFFIX) if signal == POINTS else suffixes)
            for signal in SIGNALS
            if (folder / signal).is_dir()
        }
        drawn = {s: {path.stem: path for path in paths} for s, paths in places.items()}
    else:
        pixels, drawn = {}, {signal: {} for signal in SIGNALS}
        for path in _files(folder, (*suffixes, POINTS_SUFFIX)):
            name, _, last = path.stem.rpartition(".")
            is_points = path.suffix.lower() == POINTS_SUFFIX
            if name and last in SIGNALS:
                if not is_points or last == POINTS:
                    drawn[last][name] = path
            elif not is_points and not (name and last == MATTE):
                pixels[path.stem] = path
    return [
        Entry(name, path, {signal: files[name] for signal, files in drawn.items() if name in files})
        for name, path in sorted(pixels.items(), key=lambda item: _natural(item[0]))
    ]


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error.strerror}); check the name.") from error
    return [p for p in entries if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file()]


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key in which runs of digits count as numbers."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


log = logging.getLogger(__name__)


def existing_index(name: str, folder: Path, elsewhere: Path | None) -> Path | None:
    """The index written earlier, if there is one.

    Args:
        name: of the index file.
        folder: of the data.
        elsewhere: folder (of the run, say) that holds it where the data's folder cannot be written to.
    """
    places = [folder, elsewhere] if elsewhere is not None else [folder]
    return next((place / name for place in places if (place / name).is_file()), None)


def keep_index(name: str, data: bytes, folder: Path, elsewhere: Path | None) -> None:
    """Write an index, complete or not at all, to the first place that takes it; else say it is not kept."""
    for place in (folder, elsewhere):
        if place is None:
            continue
        try:
            place.mkdir(parents=True, exist_ok=True)
            write_bytes(place / name, data)
        except OSError as error:
            log.info("no index is kept in %s (%s)", place, error.strerror)
            continue
        return
    log.warning("The index of %s cannot be kept anywhere and will be made again by the next run.", folder)
