"""``python -m training.data flip``: mirrored copies, with left and right exchanged in the labels.

DensePose's parts and keypoints tell left from right, so the mirrored part map is not the part map of the
mirrored image. The paper mirrors the videos and estimates DensePose again (supplement, section 3), as
``prepare --flip`` does. Here the labels are exchanged, which is exact: each pixel takes the label of its
nearest palette colour, and the result is encoded losslessly.
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
"""Constant rate factor (CRF) of mirrored videos, at which a second encoding is not visible."""

KEY_FRAME_EVERY = 12
"""Frames between key frames: training data are read at random positions."""


def mirror_map(frame: np.ndarray) -> np.ndarray:
    """The part map of the mirrored image, uint8 (H, W, 3), in exact palette colours."""
    labels, _ = nearest_labels(frame)
    return colourise(FLIP_PERMUTATION[labels[:, ::-1]])


def mirror_folder(source: Path, target: Path) -> int:
    """Mirror the videos and images of a folder that are not mirrored yet; returns how many those were.

    Args:
        source: a data folder, see `training.data.folders`.
        target: output folder, may be ``source``; ``NAME`` becomes ``NAME_mirrored``, in the same layout.

    Raises:
        InputError: nothing to mirror, or a file that cannot be read.
    """
    if holds_dancers(source) or holds_shards(source):
        raise InputError(
            f"{source} holds rendered dancers or shards; render more, or mirror pictures before packing."
        )
    # Found ones are counted, too, to tell an empty folder from a finished one.
    done = found = 0
    for suffixes, main in ((VIDEO_SUFFIXES, "videos"), (IMAGE_SUFFIXES, "images")):
        for entry in find_entries(source, suffixes=suffixes, main=main):
            # Its own results are not mirrored back.
            if source.resolve() == target.resolve() and entry.name.endswith(MIRRORED):
                continue
            found += 1
            done += _mirror_entry(entry, target, main if (source / main).is_dir() else None)
    if not found:
        raise InputError(f"{source} holds neither videos nor pictures.")
    return done


def _mirror_entry(entry: Entry, target: Path, main: str | None) -> bool:
    """Mirror one video or image with its control signals; returns whether it had to be done.

    ``main`` is the name of the subfolder of the videos or images, or ``None`` if all files lie together.
    """
    is_video = entry.pixels.suffix.lower() in VIDEO_SUFFIXES
    pixels = _place(target, main, entry.name, "", ".mp4" if is_video else entry.pixels.suffix)
    # The image or video itself is written last, so it tells that all its signals are there.
    if pixels.exists():
        return False
    for signal, path in entry.signals.items():
        # Maps are written losslessly: mkv holds H.264 with RGB planes, png single images.
        suffix = POINTS_SUFFIX if path.suffix.lower() == POINTS_SUFFIX else ".mkv" if is_video else ".png"
        place = _place(target, main and signal, entry.name, signal, suffix)
        # Of a run that was stopped, or somebody's own.
        if place.exists():
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
    """The path of a mirrored file, whose folder is created."""
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
    """Encode frames, uint8 (H, W, 3) of one size, for random access; the file appears when it is complete.

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
    """Encode RGB frames losslessly (H.264 with RGB planes); the file appears when it is complete.

    ``settings``, which tell how the part map was made, are stored in it.
    """
    try:
        with whole_file(place) as temporary, av.open(str(temporary), "w", format="matroska") as container:
            container.metadata["comment"] = encode_settings(settings or {})
            options = {"qp": "0", "g": str(KEY_FRAME_EVERY), "preset": "fast"}
            # RGB planes: every conversion to YUV would round the palette's colours.
            stream = container.add_stream("libx264rgb", rate=rate, options=options)
            stream.pix_fmt = "rgb24"
            for count, frame in enumerate(frames):
                if count == 0:
                    stream.height, stream.width = frame.shape[:2]
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                # Numbered by frame: the mirrored map has to stay in step with its video.
                picture.pts, picture.time_base = count, 1 / rate
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{place} cannot be written ({error}); free some room.") from error


def _save_picture(place: Path, picture: np.ndarray) -> None:
    """Save an image in the format of its suffix; the file appears when it is complete."""
    options = {"quality": 95, "subsampling": 0} if place.suffix.lower() in (".jpg", ".jpeg") else {}
    if place.suffix.lower() == ".webp":
        options = {"quality": 95}
    try:
        with whole_file(place) as temporary:
            Image.fromarray(picture).save(temporary, **options)
    except OSError as error:
        raise InputError(f"{place} cannot be written ({error.strerror}); free some room.") from error
