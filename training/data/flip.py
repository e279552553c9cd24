"""Mirror training data beforehand: pictures, part maps with left and right exchanged, keypoints likewise.

DensePose's parts and the keypoints tell left from right, so a mirrored map is not the map of the mirrored
picture. The paper mirrors the videos and estimates DensePose anew (supplement, section 3); here the labels
are exchanged, which is exact: each pixel takes the label of its nearest palette colour, and the result is
written without loss.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import closing
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from densepose_tools.keypoints import Keypoints, flip_keypoints, read_keypoints, write_keypoints
from densepose_tools.pictures import write_map
from magicanimate.errors import InputError
from magicanimate.files import whole_file
from magicanimate.media.motion import average_rate
from magicanimate.media.outputs import encode_settings, read_metadata
from magicanimate.media.video_file import decode
from magicanimate.media.writer import VideoWriter
from magicanimate.palette import FLIP_PERMUTATION, colourise, nearest_labels
from training.data.folders import IMAGE_SUFFIXES, POINTS_SUFFIX, VIDEO_SUFFIXES, Entry, find_entries
from training.data.images import decode_picture
from training.data.opening import holds_dancers, holds_shards
from training.data.sources import MIRRORED
from training.data.videos import LIMITS, video_index

log = logging.getLogger(__name__)

_QUALITY = 12
"""Constant rate factor of mirrored videos: what the second encoding takes away cannot be seen."""

KEY_FRAME_EVERY = 12
"""Training data are read at random places."""


def mirror_map(frame: np.ndarray) -> np.ndarray:
    """A part map, uint8 (H, W, 3), as that of the mirrored picture, in palette colours only."""
    labels, _ = nearest_labels(frame)
    return colourise(FLIP_PERMUTATION[labels[:, ::-1]])


def mirror_folder(source: Path, target: Path) -> int:
    """Mirror all videos and pictures of a folder but those done already; returns how many were mirrored.

    Args:
        source: see ``training.data.folders``; ``NAME`` becomes ``NAME_mirrored`` in the same layout.
        target: may be ``source``.

    Raises:
        InputError: nothing to mirror, or a file that cannot be read.
    """
    if holds_dancers(source) or holds_shards(source):
        raise InputError(
            f"{source} holds rendered dancers or shards; render more, or mirror pictures before packing."
        )
    done = found = 0
    for suffixes, main in ((VIDEO_SUFFIXES, "videos"), (IMAGE_SUFFIXES, "images")):
        for entry in find_entries(source, suffixes=suffixes, main=main):
            if source.resolve() == target.resolve() and entry.name.endswith(MIRRORED):
                continue
            found += 1
            done += _mirror_entry(entry, target, main if (source / main).is_dir() else None)
    if not found:
        raise InputError(f"{source} holds neither videos nor pictures.")
    return done


def _mirror_entry(entry: Entry, target: Path, main: str | None) -> bool:
    """Mirror one video or picture with its signals, the picture itself last; false if it is there already.

    ``main`` names the folder of the pictures themselves if each kind has its own, else is ``None``.
    """
    is_video = entry.pixels.suffix.lower() in VIDEO_SUFFIXES
    pixels = _place(target, main, entry.name, "", ".mp4" if is_video else entry.pixels.suffix)
    if pixels.exists():
        return False
    for signal, path in entry.signals.items():
        suffix = POINTS_SUFFIX if path.suffix.lower() == POINTS_SUFFIX else ".mkv" if is_video else ".png"
        place = _place(target, main and signal, entry.name, signal, suffix)
        if place.exists():  # of a run that was stopped, or somebody's own
            continue
        if suffix == POINTS_SUFFIX:
            recorded = read_keypoints(path)
            mirrored = flip_keypoints(recorded.points, width=recorded.width)
            write_keypoints(place, Keypoints(mirrored, recorded.width, recorded.height))
        elif signal == "keypoints":
            log.warning(
                "%s is a drawing, whose left and right cannot be told apart again, and is left out; "
                "give points as .keypoints.npz",
                path,
            )
        elif is_video:
            mirrored = (mirror_map(frame) for frame in _frames(path))
            _write_lossless(place, mirrored, _rate(path), read_metadata(path))
        else:
            drawn = mirror_map(decode_picture(path, name=str(path), what="part map"))
            write_map(place, nearest_labels(drawn)[0], read_metadata(path) or {})
    if is_video:
        with closing(decode(entry.pixels, limits=LIMITS)) as frames:
            mirrored = (np.ascontiguousarray(frame[:, ::-1]) for _, frame in frames)
            write_video(pixels, mirrored, _rate(entry.pixels))
    else:
        picture = decode_picture(entry.pixels, name=str(entry.pixels), what="picture")
        _save_picture(pixels, np.ascontiguousarray(picture[:, ::-1]))
    return True


def _place(target: Path, folder: str | None, name: str, signal: str, suffix: str) -> Path:
    """Where a mirrored file goes; makes the folder."""
    place = target / folder if folder else target
    place.mkdir(parents=True, exist_ok=True)
    middle = f".{signal}" if signal and folder is None else ""
    return place / f"{name}{MIRRORED}{middle}{suffix}"


def _frames(path: Path) -> Iterable[np.ndarray]:
    return (frame for _, frame in decode(path, limits=LIMITS))


def _rate(path: Path) -> Fraction:
    index = video_index(path)
    return average_rate(index.times, index.nominal_rate)


def write_video(place: Path, frames: Iterable[np.ndarray], rate: Fraction) -> None:
    """Encode pictures, uint8 (H, W, 3) of one size, complete or not at all; they are read at random places.

    Raises:
        InputError: there is none, or the file cannot be written.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise InputError(f"{place} would have no frame.")
    size = {"width": first.shape[1], "height": first.shape[0]}
    with VideoWriter(place, **size, fps=rate, quality=_QUALITY, key_every=KEY_FRAME_EVERY) as writer:
        for frame in chain([first], frames):
            writer.write(frame)


def _write_lossless(
    place: Path, frames: Iterable[np.ndarray], rate: Fraction, settings: Mapping[str, Any] | None
) -> None:
    """Encode RGB frames so that exactly they come back (H.264, RGB planes), complete or not at all.

    ``settings`` say what made the map, and go into the file.
    """
    try:
        with whole_file(place) as temporary, av.open(str(temporary), "w", format="matroska") as container:
            container.metadata["comment"] = encode_settings(settings or {})
            options = {"qp": "0", "g": str(KEY_FRAME_EVERY), "preset": "fast"}
            stream = container.add_stream("libx264rgb", rate=rate, options=options)
            stream.pix_fmt = "rgb24"
            for count, frame in enumerate(frames):
                if count == 0:
                    stream.height, stream.width = frame.shape[:2]
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                picture.pts, picture.time_base = count, 1 / rate
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{place} cannot be written ({error}); free some room.") from error


def _save_picture(place: Path, picture: np.ndarray) -> None:
    """Save a picture in the format of its suffix, complete or not at all."""
    options = {"quality": 95, "subsampling": 0} if place.suffix.lower() in (".jpg", ".jpeg") else {}
    if place.suffix.lower() == ".webp":
        options = {"quality": 95}
    try:
        with whole_file(place) as temporary:
            Image.fromarray(picture).save(temporary, **options)
    except OSError as error:
        raise InputError(f"{place} cannot be written ({error.strerror}); free some room.") from error
