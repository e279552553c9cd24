"""Pairs the files of a data folder, videos or images with their control signals, and keeps its index."""

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
"""Keypoints may also be recorded as points (`densepose_tools.keypoints`), which are drawn when read. The
extraction of part maps writes ``NAME.densepose.npz`` with its findings, which is not a control signal."""
POINTS = "keypoints"
MATTE = "matte"
"""``training.data prepare`` also writes ``NAME.matte.mp4``, which is no control signal."""


@dataclass(frozen=True)
class Entry:
    """One video or image with its files.

    Attributes:
        name: without folder and suffix.
        pixels: the file of the video or image itself.
        signals: the files of its control signals by name, as far as there are any.
    """

    name: str
    pixels: Path
    signals: dict[str, Path]

    def missing(self, signals: Sequence[str]) -> list[str]:
        """Those of ``signals`` that have no file."""
        return [signal for signal in signals if signal not in self.signals]


def find_entries(folder: Path, *, suffixes: Sequence[str], main: str) -> list[Entry]:
    """Pair the files of a folder by name; the result is sorted, with numbers in names in numeric order.

    Either all files are in one folder, ``NAME.mp4``, ``NAME.densepose.mp4``, ``NAME.keypoints.mp4``; or every
    kind has a folder, ``videos/NAME.mp4``, ``densepose/NAME.mp4``, ``keypoints/NAME.mp4``.

    Args:
        folder: the data folder; it is not searched recursively.
        suffixes: suffixes of videos or of images.
        main: name of the subfolder of the videos or images themselves, "videos" or "images".

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
            # "NAME.densepose.mp4": the signal is the part of the name before the suffix.
            name, _, last = path.stem.rpartition(".")
            is_points = path.suffix.lower() == POINTS_SUFFIX
            # A file that is called just "densepose.mp4" is a video, not the signal of a nameless one.
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
    # Hidden files are those of other programs, or half-written.
    return [p for p in entries if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file()]


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key in which sequences of digits are compared as numbers."""
    parts = re.split(r"(\d+)", name.lower())
    # Pairs, as Python cannot compare a number with text.
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


log = logging.getLogger(__name__)


def existing_index(name: str, folder: Path, elsewhere: Path | None) -> Path | None:
    """The path of an index written earlier, ``None`` if there is none.

    Args:
        name: name of the index file.
        folder: the data folder.
        elsewhere: the folder, such as the run's, in which an index of a read-only data folder is kept.
    """
    places = [folder, elsewhere] if elsewhere is not None else [folder]
    return next((place / name for place in places if (place / name).is_file()), None)


def keep_index(name: str, data: bytes, folder: Path, elsewhere: Path | None) -> None:
    """Write an index atomically to the first of the two folders that is writable; warn if none is."""
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
