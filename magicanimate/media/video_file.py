"""The one place that opens clips: which pictures a file holds and when, and the pictures upright in RGB.

Videos are read with PyAV, what it has no decoder for with imageio-ffmpeg's program, animated WebP pictures
with Pillow, all behind the same two functions.
"""

from __future__ import annotations

import logging
import math
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange
from PIL import Image, ImageFilter

from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.media.photo import (
    check_file,
    check_pixels,
    ffmpeg_input,
    ffmpeg_program,
    is_jpeg_xl,
    load_photo,
    looks_like_text,
    open_picture,
)
from magicanimate.palette import BACKGROUND

logger = logging.getLogger(__name__)

# Plain media files only: playlists could make ffmpeg read other files or the network.
_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,gif,apng,avi,mpeg,mpegts,mpegvideo,m4v,flv,ogg,asf,mxf,ivf,h264,"
    "hevc,dv,nut,yuv4mpegpipe,mp3,wav,flac,aac,avs2,avs3,cavsvideo,jpegxl_anim"
)

# Containers of animated pictures; like frames in a folder they show the background of part maps where they
# are transparent, other videos white, as photos do.
_PICTURES = ("gif", "apng")
_WHITE = (255, 255, 255)
# WebM keeps alpha beside the pictures, which ffmpeg's own decoders ignore.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# Jumps of decoding times, in seconds, that show where two streams were joined. A jump forwards counts in
# MPEG streams only (as in ffmpeg); elsewhere it is a pause.
_BACKWARDS, _FORWARDS = 0.2, 10.0
_PQ, _HLG = 16, 18  # transfer functions of HDR video (ITU-T H.273, table 3)

_BT601 = 5
# swscale's number of a YCbCr matrix by the stream's tag (ITU-T H.273, table 4): BT.709, FCC, SMPTE 240M,
# BT.2020. Anything else is BT.601, swscale's default.
_MATRIX = {1: 1, 4: 4, 7: 7, 9: 9, 10: 9}


@dataclass(frozen=True)
class VideoIndex:
    """What a video file holds, from its headers and packets, without decoding more than one frame."""

    # Timestamp of every frame in the order shown, in units of the stream's time base; ``None`` if the file
    # has none that can be trusted.
    pts: np.ndarray | None
    key_pts: np.ndarray  # those of the key frames, at which decoding can begin
    times: np.ndarray  # seconds since the first frame, ascending
    last: float | None  # seconds for which the last frame is shown, if the file says so
    nominal_rate: Fraction | None  # frames a second as the container says
    width: int  # upright, in pixels
    height: int
    has_sound: bool  # whether there is an audio stream
    # Frames the header speaks of, without those that an edit list leaves out; 0 if it does not.
    announced: int


def open_container(path: Path, **options: str) -> av.container.InputContainer:
    """Open a media file for reading, local plain files only.

    Raises:
        av.FFmpegError, OSError, ValueError: it cannot be opened.
    """
    return av.open(
        str(path),
        mode="r",
        metadata_errors="replace",
        container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "file", **options},
    )


@contextmanager
def _opened(
    path: Path, limits: MediaLimits, *, seek_pts: int | None = None
) -> Iterator[av.container.InputContainer]:
    """A media file that can be decoded: where PyAV has no decoder, as imageio-ffmpeg's program decodes it.

    Raises:
        av.FFmpegError, OSError, ValueError: it cannot be opened.
    """
    with open_container(path) as container:
        stream = picture_stream(container)
        lacks_decoder = stream is None and any(each.codec_context is None for each in container.streams.video)
        if not lacks_decoder or ffmpeg_program() is None:
            if stream is not None and seek_pts is not None:
                container.seek(seek_pts, stream=stream)
            yield container
            return
    with _as_matroska(path, max_pixels=limits.max_pixels) as pipe:
        try:
            container = av.open(pipe, mode="r", format="matroska")  # in which nothing can be sought
        except av.FFmpegError as error:
            raise InputError(
                f"The clip {path} is coded in a way that cannot be decoded here, is damaged, or has more "
                f"than {limits.max_pixels} pixels; export it as mp4 (H.264)."
            ) from error
        with container:
            yield container


@contextmanager
def _as_matroska(path: Path, *, max_pixels: int) -> Iterator[BinaryIO]:
    """A Matroska stream of the first moving pictures of a file, without loss, and of its first sound.

    Raises:
        OSError: the program cannot be started.
    """
    reading = ffmpeg_input(f"file:{path}", max_pixels, "-format_whitelist", _DEMUXERS)
    output = ["-map", "0:v:0", "-map", "0:a:0?", "-c:v", "ffv1", "-c:a", "copy", "-fps_mode", "passthrough"]
    command = [*reading, *output, "-f", "matroska", "pipe:1"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield cast(BinaryIO, process.stdout)  # which is a pipe, as requested above
        finally:
            # A clip may be given up after a few frames; the program would wait without end to be read.
            process.kill()


def index_video(path: Path, *, what: str = "motion clip", limits: MediaLimits) -> VideoIndex:
    """Read the timestamps of a video file and decode its first frame.

    Raises:
        InputError: missing, empty, broken, too large, not a video, sound only, or without a single frame.
    """
    header = check_file(path, what=what, limits=limits)
    if _is_webp(header):
        return _index_webp(path, what, limits)
    try:
        with _opened(path, limits) as container:
            stream = picture_stream(container)
            if stream is None:
                raise InputError(_no_picture(path, what, container))
            check_pixels(
                path, stream.codec_context.width, stream.codec_context.height, what=what, limits=limits
            )
            found = _timestamps(container, stream)
            time_base, nominal = stream.time_base, stream.average_rate or stream.guessed_rate
            has_sound, announced = sound_stream(container) is not None, stream.frames
            if announced > found.count and "mov" in container.format.name:
                # The header counts frames that the edit list leaves out; a file is not cut
                # off because of them.
                announced += found.count - _count_without_edit_list(path)
        first = next(decode(path, limits=limits), None)
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(_unreadable(path, what, header)) from error
    if first is None or found.count == 0:
        raise InputError(f"The {what} {path} has no frame that can be decoded; export or download it again.")
    is_picture = header[4:12] in (b"ftypavif", b"ftypheic", b"ftypheix", b"ftypmif1") or is_jpeg_xl(header)
    # A container of one frame may be meant as a clip; one of a picture format is not.
    if found.count == 1 and is_picture:
        raise InputError(_still(path, what))
    height, width = first[1].shape[:2]
    if found.pts is None:
        times = np.arange(found.count) / (float(nominal) if nominal else 25.0)
    else:
        times = (found.pts - found.pts[0]) * float(time_base)
    return VideoIndex(
        pts=None if found.joined else found.pts,
        key_pts=found.key_pts,
        times=times,
        last=float(found.last * time_base) or None,
        nominal_rate=nominal,
        width=width,
        height=height,
        has_sound=has_sound,
        announced=announced,
    )


def _count_without_edit_list(path: Path) -> int:
    """Frames of an mp4 or mov file with those that its edit list leaves out (ISO 14496-12, 8.6.6)."""
    with open_container(path, ignore_editlist="1") as container:
        stream = picture_stream(container)
        return 0 if stream is None else _timestamps(container, stream).count


def picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first moving-picture stream that can be decoded.

    The cover of a music file is none, nor is the single picture that animated AVIF files have first.
    """
    streams = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic
    ]
    # Animated AVIF has its still picture as a stream in front.
    if streams and streams[0].frames == 1:
        return max(streams, key=lambda stream: stream.frames)
    return streams[0] if streams else None


def sound_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The first audio stream that can be decoded."""
    return next((stream for stream in container.streams.audio if stream.codec_context is not None), None)


@dataclass(frozen=True)
class _Timestamps:
    """What the packets of a stream say, undecoded."""

    pts: np.ndarray | None  # ascending timestamps of the frames; ``None`` if some frame has none
    key_pts: np.ndarray  # those of key frames
    count: int  # number of frames shown
    last: int  # duration of the last one, 0 if unknown
    joined: bool  # whether timestamps restart somewhere; ``pts`` then go on there, unlike the file's


def _timestamps(container: av.container.InputContainer, stream: av.VideoStream) -> _Timestamps:
    """Read the packets of a stream to its end, or to where it is damaged."""
    found: list[int] = []
    keys: list[int] = []
    count, complete, joined = 0, True, False
    newest, last = -math.inf, 0
    back = _BACKWARDS / stream.time_base
    forth = _FORWARDS / stream.time_base if container.format.name in ("mpegts", "mpeg") else math.inf
    offset, before = 0, None
    try:
        for packet in container.demux(stream):
            # The flush packet at the end, and what an edit list hides.
            if packet.size == 0 or packet.is_discard:
                continue
            count += 1
            if packet.pts is None:
                complete = False
                continue
            if packet.dts is not None:
                if before is not None and not -back <= packet.dts + offset - before <= forth:
                    # Two recordings in one file: the second goes on where the first ended.
                    offset = before + (packet.duration or 1) - packet.dts
                    joined = True
                before = packet.dts + offset
            found.append(packet.pts + offset)
            if packet.is_keyframe:
                keys.append(packet.pts + offset)
            if packet.pts + offset >= newest:
                newest, last = packet.pts + offset, packet.duration or 0
    except (av.FFmpegError, OSError) as error:
        logger.warning("%s: reading stops after %d frames (%s)", container.name, count, error)
    # Packets come in decoding order, frames are shown in the order of their timestamps.
    pts = np.unique(np.array(found, dtype=np.int64))
    key_pts = np.unique(np.array(keys, dtype=np.int64))
    if not complete or len(pts) == 0:
        return _Timestamps(None, key_pts, count, last, joined)
    return _Timestamps(pts, key_pts, len(pts), last, joined)


def decode(
    path: Path,
    *,
    limits: MediaLimits,
    seek_pts: int | None = None,
    wanted: Callable[[int | None], bool] | None = None,
) -> Iterator[tuple[int | None, np.ndarray]]:
    """Decode a video file frame by frame; packets that are damaged are left out.

    The file is closed when the iteration ends or is given up.

    Args:
        limits: ``max_pixels`` is given to the decoder.
        seek_pts: begin at the last key frame not after this timestamp.
        wanted: called with each timestamp; frames for which it is false are left out, unconverted.

    Yields:
        timestamp (in units of the stream's time base, or ``None``) and upright RGB, uint8 (H, W, 3), all of
        the size of the first one.
    """
    with path.open("rb") as file:
        header = file.read(12)
    if _is_webp(header):
        yield from _decode_webp(path, limits, wanted)
        return
    with _opened(path, limits, seek_pts=seek_pts) as container:
        stream = picture_stream(container)
        if stream is None:
            return
        context = _decoder(stream)
        # A header may announce a small picture and the stream contain a huge one.
        context.options = {"max_pixels": str(limits.max_pixels)}
        context.thread_type = "AUTO"
        is_picture = container.format.name in _PICTURES or is_jpeg_xl(header)
        alpha_over = BACKGROUND if is_picture else _WHITE
        size: tuple[int, int] | None = None
        for frame in decoded(container, stream, context):
            # Streams that change their size on the way are scaled to their first one.
            size = size or (_square_pixels(frame.width, stream.sample_aspect_ratio), frame.height)
            if wanted is None or wanted(frame.pts):
                yield frame.pts, to_rgb(frame, size, alpha_over=alpha_over)


def _decoder(stream: av.VideoStream) -> av.VideoCodecContext:
    """The stream's own decoder, or one that also decodes its alpha."""
    # Muxers write the tag in different cases.
    alpha = {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode") == "1"
    name = _ALPHA_DECODERS.get(stream.codec_context.name)
    if alpha and name:
        try:
            return av.CodecContext.create(name, "r")
        except (av.FFmpegError, ValueError) as error:
            logger.warning("transparency is not decoded: %s is not available (%s)", name, error)
    return stream.codec_context


def _square_pixels(width: int, aspect: Fraction | None) -> int:
    """The width at which to show a picture with non-square pixels; implausible ratios are ignored."""
    return round(width * aspect) if aspect and Fraction(1, 4) <= aspect <= 4 else width


def decoded(
    container: av.container.InputContainer, stream: av.VideoStream | av.AudioStream, context: av.CodecContext
) -> Iterator[Any]:
    """Yield frames or sound in the order shown; log and skip what cannot be decoded, as players do."""
    damaged = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            logger.warning("%s: reading %s stops (%s)", container.name, stream.type, error)
            break
        if packet is None:
            break
        try:
            frames = context.decode(packet)
        except av.FFmpegError:
            damaged += 1
            continue
        yield from frames
    if damaged:
        logger.warning("%s: %d damaged frames left out", container.name, damaged)


def to_rgb(
    frame: av.VideoFrame, size: tuple[int, int], *, alpha_over: tuple[int, int, int] = _WHITE
) -> np.ndarray:
    """A decoded frame as upright RGB, uint8 (h, w, 3), of a ``size`` (width, height) before it is turned.

    The matrix is the one the frame is tagged with, else BT.601; HDR is brought to the usual range of
    brightness; the display matrix is applied. The colour ``alpha_over`` shows through transparent parts.
    """
    width, height = size
    has_alpha = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
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
        over = np.array(alpha_over, dtype=np.uint16) * (255 - alpha)
        array = ((array[..., :3] * alpha + over + 127) // 255).astype(np.uint8)
    if int(frame.color_trc) in (_PQ, _HLG):
        array = np.asarray(Image.fromarray(array).filter(_from_hdr(int(frame.color_trc))))
    return _upright(array, frame)


@lru_cache(maxsize=2)
def _from_hdr(transfer: int) -> ImageFilter.Color3DLUT:
    """HDR colours of BT.2020 to those of ordinary video, as a table.

    The white of ordinary video is 203 cd/m2 (ITU-R BT.2408); what is much brighter is compressed.
    """
    size = 65
    axis = np.linspace(0, 1, size)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    signal = np.stack([red, green, blue], axis=-1)
    if transfer == _PQ:  # ITU-R BT.2100, table 4
        root = signal ** (32 / 2523)
        low, high = root - 107 / 128, 2413 / 128 - 2392 / 128 * root
        light = 10_000 * (np.maximum(low, 0) / high) ** (8192 / 1305)
    else:  # table 5: scene light, then the system gamma of a display of 1000 cd/m2
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        luminance = scene @ np.array([0.2627, 0.678, 0.0593])
        light = 1000 * scene * np.maximum(luminance, 1e-9)[..., None] ** 0.2
    # ITU-R BT.2087: BT.2020 primaries to BT.709.
    matrix = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
    light = np.maximum(light / 203 @ np.array(matrix).T, 0)
    # Below the knee brightness stays as it is; above it highlights are compressed rather than clipped.
    knee = 0.8
    brightest = light.max(axis=-1, keepdims=True)
    shown = knee + (1 - knee) * (1 - np.exp(-(brightest - knee) / (1 - knee)))
    light *= np.where(brightest > knee, shown / np.maximum(brightest, 1e-9), 1)
    encoded = light.clip(0, 1) ** (1 / 2.4)  # ITU-R BT.1886
    return ImageFilter.Color3DLUT(size, encoded.astype(np.float32).ravel())


def _upright(array: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Turn and mirror a picture (h, w, 3) as the display matrix of its frame says."""
    matrix = next((item for item in frame.side_data if item.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return np.ascontiguousarray(array)
    # ISO 14496-12, 6.2.2: x' = a x + c y, y' = b x + d y.
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    if abs(b) > abs(a):
        array, a, d = array.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(array[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _is_webp(header: bytes) -> bool:
    return header[:4] == b"RIFF" and header[8:12] == b"WEBP"


def _index_webp(path: Path, what: str, limits: MediaLimits) -> VideoIndex:
    """Index an animated WebP picture; times are in milliseconds."""
    with open_picture(path, what=what, limits=limits) as image:
        width, height = image.size
    durations = _webp_durations(path, most=10 * limits.max_frames)
    if len(durations) < 2:
        raise InputError(_still(path, what))
    pts = np.concatenate([[0], np.cumsum(durations[:-1])])
    last = durations[-1] / 1000
    return VideoIndex(pts, pts[:1], pts / 1000, last, None, width, height, has_sound=False, announced=0)


def _webp_durations(path: Path, *, most: int) -> list[int]:
    """Milliseconds of every frame up to ``most`` (WebP container specification, chunk ANMF)."""
    durations: list[int] = []
    with path.open("rb") as file:
        file.seek(12)
        while len(durations) < most and len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            content = file.read(min(size, 15))
            if head[:4] == b"ANMF" and len(content) == 15:
                # Browsers, too, show frames without a duration for a tenth of a second.
                durations.append(int.from_bytes(content[12:15], "little") or 100)
            file.seek(size + size % 2 - len(content), 1)
    return durations


def _decode_webp(
    path: Path, limits: MediaLimits, wanted: Callable[[int | None], bool] | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Frames of an animated WebP picture with their times in milliseconds."""
    moment = 0
    with open_picture(path, what="clip", limits=limits) as image:
        for number, duration in enumerate(_webp_durations(path, most=10 * limits.max_frames)):
            try:
                image.seek(number)
                frame = load_photo(image, name=str(path), limits=limits, alpha_over=BACKGROUND)
            except (EOFError, InputError) as error:
                logger.warning("%s: reading stops after %d frames (%s)", path, number, error)
                return
            if wanted is None or wanted(moment):
                yield moment, frame
            moment += duration


def _no_picture(path: Path, what: str, container: av.container.InputContainer) -> str:
    if any(stream.codec_context is None for stream in container.streams.video):
        return f"The {what} {path} is coded in a way that cannot be decoded here; export it as mp4 (H.264)."
    if container.streams.audio:
        return f"The {what} {path} has only sound, no picture; give a video."
    return f"The {what} {path} has no video stream; give a video."


def _unreadable(path: Path, what: str, header: bytes) -> str:
    if header[:4] in (b"\x89PNG", b"II*\0", b"MM\0*") or header[:2] in (b"\xff\xd8", b"\xff\x0a", b"BM"):
        return _still(path, what)
    if looks_like_text(header):
        return f"The {what} {path} holds text, not a video; download the video itself."
    return (
        f"The {what} {path} is not a video that can be read, or it is damaged; "
        "export it as mp4 (H.264) or download it again."
    )


def _still(path: Path, what: str) -> str:
    return f"The {what} {path} is a still picture; give a video, or a folder of numbered frames."


# Decoding this many frames costs about as much as opening the file again, which every seek does.
_CHEAPLY_DECODED = 40


def frames_at(
    path: Path, index: VideoIndex, positions: Iterable[int], *, limits: MediaLimits
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the frames at these positions, from the key frame before each group of them.

    Yields:
        position (0 is the first frame shown) and upright RGB, uint8 (H, W, 3), ascending, each position once.
        Frames that are damaged are missing.

    Raises:
        InputError: the file is gone or can no longer be opened.
    """
    positions = sorted(set(positions))
    try:
        if index.pts is None:  # no timestamps to find frames by: count
            yield from _counted(path, positions, limits)
            return
        # Decoding goes on from one frame to the next unless a key frame lies between the two, far enough on.
        groups = np.searchsorted(index.key_pts, index.pts[positions], side="right")
        breaks = np.flatnonzero((np.diff(groups) > 0) & (np.diff(positions) > _CHEAPLY_DECODED)) + 1
        for group in np.split(np.array(positions), breaks):
            yield from _one_group(path, index.pts, group.tolist(), limits)
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"The video {path} cannot be read any more ({error.strerror}).") from error


def _one_group(
    path: Path, pts: np.ndarray, positions: list[int], limits: MediaLimits
) -> Iterator[tuple[int, np.ndarray]]:
    """Frames at ascending positions that follow one key frame."""
    position_of = {int(pts[position]): position for position in positions}
    last = max(position_of)
    decoding = decode(
        path,
        limits=limits,
        seek_pts=int(pts[positions[0]]),
        wanted=lambda time: time is not None and (time in position_of or time > last),
    )
    with closing(decoding):
        for time, frame in decoding:
            if time > last:
                return
            yield position_of[time], frame
            if time == last:
                return


def _counted(path: Path, positions: list[int], limits: MediaLimits) -> Iterator[tuple[int, np.ndarray]]:
    """Frames at ascending positions, decoding from the beginning."""
    # Decoding can only begin at the front, since there are no timestamps to seek by.
    left = set(positions)
    decoding = decode(path, limits=limits)
    with closing(decoding):
        for position, (_, frame) in enumerate(decoding):
            if position in left:
                yield position, frame
                left.discard(position)
            if not left:
                return
