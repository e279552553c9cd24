"""Small media files for the tests, made with PyAV and Pillow."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from magicanimate.media.densepose_check import MotionReport, check_densepose, refuse_other_motion
from magicanimate.media.motion import MotionClip
from magicanimate.media.writer import VideoWriter
from magicanimate.palette import colourise

TONE = 440.0
"""Hz, of the test sound."""


def numbered(count: int, *, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Frames whose brightness is their number: frame i is all 8 * i + 8 (at most 31 frames)."""
    assert count <= 31
    return [np.full((height, width, 3), 8 * i + 8, dtype=np.uint8) for i in range(count)]


def number_of(frame: np.ndarray) -> int:
    """The number of a frame of ``numbered``, whatever compression did to it."""
    return round((float(frame.mean()) - 8) / 8)


def part_labels(*, width: int = 96, height: int = 96, shift: int = 0) -> np.ndarray:
    """A figure of body parts (head, torso, arms, legs, feet) moved right, uint8 (height, width)."""
    labels = np.zeros((96, 96), dtype=np.uint8)
    for label, (x0, y0, x1, y1) in {
        23: (40, 8, 46, 24),
        24: (46, 8, 52, 24),
        2: (34, 26, 58, 54),
        16: (28, 26, 34, 40),
        20: (26, 40, 32, 52),
        3: (25, 52, 31, 58),
        15: (58, 26, 64, 40),
        19: (60, 40, 66, 52),
        4: (61, 52, 67, 58),
        9: (35, 54, 45, 72),
        10: (47, 54, 57, 72),
        13: (36, 72, 44, 88),
        14: (48, 72, 56, 88),
        6: (34, 88, 44, 92),
        5: (48, 88, 58, 92),
    }.items():
        labels[y0:y1, x0:x1] = label
    labels = np.roll(labels, shift, axis=1)
    rows = np.arange(height) * 96 // height
    columns = np.arange(width) * 96 // width
    return labels[rows][:, columns]


def part_maps(count: int, *, width: int = 96, height: int = 96) -> list[np.ndarray]:
    """Frames of a part map, the figure swaying."""
    shifts = np.round(6 * np.sin(np.arange(count) / 3)).astype(int)
    return [colourise(part_labels(width=width, height=height, shift=int(shift))) for shift in shifts]


def write_clip(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    rate: Fraction | int = 25,
    times: Iterable[float] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    matrix: int | None = None,
    full_range: bool = False,
    rotation: int | None = None,
    sound: float = 0.0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode frames, optionally at given times (variable rate), with a tone, a colour matrix, a rotation."""
    rate = Fraction(rate)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {"crf": "4"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        base = Fraction(1, 1000) if times is not None else 1 / rate
        stream.codec_context.time_base = base
        if matrix is not None:
            stream.codec_context.colorspace = matrix
        if full_range:
            stream.codec_context.color_range = 2
        audio = container.add_stream("aac", rate=48_000) if sound else None
        moments = [round(time * 1000) for time in times] if times is not None else range(len(frames))
        for frame, moment in zip(frames, moments, strict=True):
            if matrix is not None:
                planes = as_yuv420(frame, matrix, full_range=full_range)
                picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
                picture.colorspace, picture.color_range = matrix, 2 if full_range else 1
            else:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                picture = picture.reformat(format=pix_fmt)
            picture.pts, picture.time_base = moment, base
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if audio is not None:
            for piece in tone(sound):
                container.mux(audio.encode(piece))
            container.mux(audio.encode(None))
    if rotation is not None:
        turn(path, rotation)
    return path


def as_yuv420(frame: np.ndarray, matrix: int, *, full_range: bool) -> np.ndarray:
    """RGB uint8 (h, w, 3), even sizes, by the formulas of ITU-T H.273: the three planes below one another."""
    red, blue = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}[matrix]
    r, g, b = np.moveaxis(frame.astype(np.float64), -1, 0)
    luma = red * r + (1 - red - blue) * g + blue * b
    chroma = [(b - luma) / (2 * (1 - blue)), (r - luma) / (2 * (1 - red))]
    scale, base = ((1, 1), 0) if full_range else ((219 / 255, 224 / 255), 16)
    planes = [base + scale[0] * luma, *(128 + scale[1] * plane[::2, ::2] for plane in chroma)]
    width = luma.shape[1]
    rows = np.concatenate([plane.reshape(-1, width) for plane in planes])
    return np.clip(np.round(rows), 0, 255).astype(np.uint8)


def turn(path: Path, degrees: int) -> None:
    """Write a display matrix into an mp4 or mov file: a counter-clockwise turn, as phones do."""
    cosine, sine = {90: (0, -1), 180: (-1, 0), -90: (0, 1)}[degrees]
    set_matrix(path, cosine, sine, -sine, cosine)


def set_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write a display matrix into an mp4 or mov file: x' = a x + c y, y' = b x + d y."""
    data = bytearray(path.read_bytes())
    matrix = [a, b, 0, c, d, 0, 0, 0]
    # ISO 14496-12, 8.3.2: a version-0 track header has its matrix 40 bytes behind version and flags.
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">8iI", *(value << 16 for value in matrix), 1 << 30)
    path.write_bytes(data)


def trim(path: Path, first: int, count: int, *, rate: int = 25) -> None:
    """Let an mp4 file show ``count`` frames from ``first`` on by its edit list, as plain cuts do."""
    data = bytearray(path.read_bytes())
    # ISO 14496-12, 8.6.6: version and flags, number of entries, then duration and media time of the first.
    at = data.index(b"elst") + 4 + 8
    (media_time,) = struct.unpack_from(">i", data, at + 4)
    scale_at = data.index(b"mdhd") + 4 + 12
    (media_scale,) = struct.unpack_from(">I", data, scale_at)
    (movie_scale,) = struct.unpack_from(">I", data, data.index(b"mvhd") + 4 + 12)
    struct.pack_into(">Ii", data, at, count * movie_scale // rate, media_time + first * media_scale // rate)
    path.write_bytes(data)


def write_folder(folder: Path, names: list[str]) -> Path:
    """A folder of ``numbered`` frames under these names."""
    folder.mkdir()
    for name, frame in zip(names, numbered(len(names)), strict=True):
        Image.fromarray(frame).save(folder / name)
    return folder


def write_output(path: Path, frames: Sequence[np.ndarray], fps: float | Fraction = 25, **options) -> Path:
    """Frames through ``VideoWriter``."""
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width=width, height=height, fps=fps, **options) as writer:
        for frame in frames:
            writer.write(frame)
    assert writer.num_frames == len(frames)
    return path


def tone(seconds: float, *, rate: int = 48_000) -> Iterable[av.AudioFrame]:
    """A sine that is silent in every odd second: it can be told where a cut begins."""
    moments = np.arange(round(seconds * rate)) / rate
    wave = 0.5 * np.sin(2 * np.pi * TONE * moments) * (np.floor(moments) % 2 == 0)
    for begin in range(0, len(wave), 1024):
        block = np.repeat(wave[None, begin : begin + 1024], 2, axis=0).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
        yield frame


def write_sound(path: Path, seconds: float) -> Path:
    """A file of sound only."""
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=48_000)
        for piece in tone(seconds):
            container.mux(audio.encode(piece))
        container.mux(audio.encode(None))
    return path


def loudness(path: Path, *, block: float = 0.05) -> np.ndarray:
    """Root mean square of a file's sound in blocks of ``block`` seconds."""
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        start = None
        pieces = []
        for frame in container.decode(audio=0):
            start = frame.time if start is None else start
            data = frame.to_ndarray().astype(np.float64)
            pieces.append(data[0] if frame.format.is_planar else data.reshape(-1, 2)[:, 0])
    wave = np.concatenate([np.zeros(max(0, round((start or 0.0) * rate))), *pieces])
    size = round(block * rate)
    whole = wave[: len(wave) // size * size].reshape(-1, size)
    return np.sqrt((whole**2).mean(axis=1))


def sound_only(folder: Path) -> Path:
    """A file without a picture, ``song.m4a``."""
    return write_sound(folder / "song.m4a", 0.5)


def cut_off(folder: Path) -> Path:
    """The first half of a clip, ``cut.mp4``."""
    frames = list(np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), dtype=np.uint8))
    clip = write_clip(folder / "cut.mp4", frames, container_options={"movflags": "faststart"})
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    return clip


def require_densepose(clip: MotionClip) -> MotionReport:
    """Refuse a clip, as an animation does, unless it is a part map in the usual colours."""
    with closing(clip.frames()) as frames:
        report = check_densepose(frames)
    refuse_other_motion(clip.path, report)
    return report
