"""Open and decode video files: which pictures a file holds and when, and the pictures upright in RGB."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange

from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.media.file_checks import check_file, check_pixels, looks_like_text
from magicanimate.palette import BACKGROUND

logger = logging.getLogger(__name__)

_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,gif,avi,mpeg,mpegts,flv,ogg,asf,mp3,wav,flac,aac"
"""Plain media files only: playlists could make ffmpeg read other files or the network."""

_STILL_PICTURES = ("image2", "_pipe")

_BT601 = 5
_MATRIX = {1: 1, 4: 4, 7: 7, 9: 9, 10: 9}
"""swscale's number of a YCbCr matrix by the stream's tag (ITU-T H.273, table 4): BT.709, FCC, SMPTE 240M,
BT.2020. Anything else is BT.601, swscale's default."""


@dataclass(frozen=True)
class VideoIndex:
    """What a video file holds, from its headers and packets, without decoding more than one frame.

    Attributes:
        pts: timestamp of every frame in the order shown, in units of the stream's time base; ``None`` if the
            file has none that can be trusted.
        key_pts: those of the key frames, at which decoding can begin.
        times: seconds since the first frame, ascending.
        last: seconds for which the last frame is shown, if the file says so.
        nominal_rate: frames a second as the container says.
        width, height: upright, in pixels.
        has_sound: whether there is an audio stream.
        announced: frames the header speaks of, 0 if it does not.
    """

    pts: np.ndarray | None
    key_pts: np.ndarray
    times: np.ndarray
    last: float | None
    nominal_rate: Fraction | None
    width: int
    height: int
    has_sound: bool
    announced: int


def open_container(path: Path) -> av.container.InputContainer:
    """Open a media file for reading, local plain files only.

    Raises:
        av.FFmpegError, OSError, ValueError: it cannot be opened.
    """
    return av.open(
        str(path),
        mode="r",
        metadata_errors="replace",
        container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"},
    )


def index_video(path: Path, *, what: str = "motion clip", limits: MediaLimits) -> VideoIndex:
    """Read the timestamps of a video file and decode its first frame.

    Raises:
        InputError: missing, empty, broken, too large, not a video, sound only, or without a single frame.
    """
    header = check_file(path, what=what, limits=limits)
    try:
        with open_container(path) as container:
            stream = picture_stream(container)
            if stream is None:
                raise InputError(_no_picture(path, what, container))
            check_pixels(
                path, stream.codec_context.width, stream.codec_context.height, what=what, limits=limits
            )
            pts, key_pts, count, last = _timestamps(container, stream)
            time_base, nominal = stream.time_base, stream.average_rate or stream.guessed_rate
            has_sound, announced = sound_stream(container) is not None, stream.frames
        first = next(decode(path, limits=limits), None)
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(_unreadable(path, what, header)) from error
    if first is None or count == 0:
        raise InputError(f"The {what} {path} has no frame that can be decoded; export or download it again.")
    height, width = first[1].shape[:2]
    if pts is None:
        rate = float(nominal) if nominal else 25.0
        times = np.arange(count) / rate
    else:
        times = (pts - pts[0]) * float(time_base)
    return VideoIndex(
        pts, key_pts, times, float(last * time_base) or None, nominal, width, height, has_sound, announced
    )


def picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first moving-picture stream that can be decoded; the cover of a music file is none."""
    for stream in container.streams.video:
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def sound_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The first audio stream that can be decoded."""
    return next((stream for stream in container.streams.audio if stream.codec_context is not None), None)


def _timestamps(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[np.ndarray | None, np.ndarray, int, int]:
    """Sorted timestamps of all and of key frames, number of frames, the last one's duration, undecoded."""
    found: list[int] = []
    keys: list[int] = []
    count, complete = 0, True
    newest, last = -math.inf, 0
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            count += 1
            if packet.pts is None:
                complete = False
            else:
                found.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
                if packet.pts >= newest:
                    newest, last = packet.pts, packet.duration or 0
    except (av.FFmpegError, OSError) as error:
        logger.warning("%s: reading stops after %d frames (%s)", container.name, count, error)
    pts = np.unique(np.array(found, dtype=np.int64))
    key_pts = np.unique(np.array(keys, dtype=np.int64))
    if not complete or len(pts) == 0:
        return None, key_pts, count, last
    return pts, key_pts, len(pts), last


def decode(
    path: Path,
    *,
    limits: MediaLimits,
    seek_pts: int | None = None,
    wanted: Callable[[int | None], bool] | None = None,
) -> Iterator[tuple[int | None, np.ndarray]]:
    """Decode a video file frame by frame; packets that are damaged are left out.

    Args:
        path: the file; it is closed when the iteration ends or is given up.
        limits: ``max_pixels`` is given to the decoder.
        seek_pts: begin at the last key frame not after this timestamp.
        wanted: asked for each timestamp; frames that are not wanted are left out, unconverted.

    Yields:
        timestamp (in units of the stream's time base, or ``None``) and upright RGB, uint8 (H, W, 3), all of
        the size of the first one.
    """
    with open_container(path) as container:
        stream = picture_stream(container)
        if stream is None:
            return
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
        stream.thread_type = "AUTO"
        if seek_pts is not None:
            container.seek(seek_pts, stream=stream)
        size: tuple[int, int] | None = None
        for frame in _decoded(container, stream):
            size = size or (frame.width, frame.height)
            if wanted is None or wanted(frame.pts):
                yield frame.pts, to_rgb(frame, size)


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Frames in the order shown. What cannot be decoded is logged and left out, as players do."""
    damaged = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            logger.warning("%s: reading stops (%s)", container.name, error)
            break
        if packet is None:
            break
        try:
            frames = packet.decode()
        except av.FFmpegError:
            damaged += 1
            continue
        yield from frames
    if damaged:
        logger.warning("%s: %d damaged frames left out", container.name, damaged)


def to_rgb(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """A decoded frame as upright RGB, uint8 (h, w, 3).

    The matrix is the one the frame is tagged with, else BT.601; rotation metadata is applied; transparent
    parts show the background of a part map.

    Args:
        frame: as decoded.
        size: (width, height) before rotation.
    """
    width, height = size
    has_alpha = frame.format.name in ("rgba", "bgra", "argb", "abgr", "yuva420p")
    # Both matrices are named: PyAV before 17 ignores the tag unless source and destination differ.
    converted = frame.reformat(
        width=width,
        height=height,
        format="rgba" if has_alpha else "rgb24",
        src_colorspace=_MATRIX.get(int(frame.colorspace), _BT601),
        dst_colorspace=_BT601,
        src_color_range=ColorRange(frame.color_range),
        dst_color_range=ColorRange.JPEG,
    )
    array = converted.to_ndarray()
    if has_alpha:
        alpha = array[..., 3:].astype(np.uint16)
        over = np.array(BACKGROUND, dtype=np.uint16) * (255 - alpha)
        array = ((array[..., :3] * alpha + over + 127) // 255).astype(np.uint8)
    # The display matrix turns counter-clockwise, as rot90 does.
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(array, turns))


def _no_picture(path: Path, what: str, container: av.container.InputContainer) -> str:
    if any(stream.codec_context is None for stream in container.streams.video):
        return f"The {what} {path} is coded in a way that cannot be decoded here; export it as mp4 (H.264)."
    if container.streams.audio:
        return f"The {what} {path} has only sound, no picture; give a video."
    return f"The {what} {path} has no video stream; give a video."


def _unreadable(path: Path, what: str, header: bytes) -> str:
    if header[:4] == b"\x89PNG" or header[:2] == b"\xff\xd8":
        return f"The {what} {path} is a still picture; give a video, or a folder of numbered frames."
    if looks_like_text(header):
        return f"The {what} {path} holds text, not a video; download the video itself."
    return (
        f"The {what} {path} is not a video that can be read, or it is damaged; "
        "export it as mp4 (H.264) or download it again."
    )
