"""The sound of a clip, cut to the stretch that is animated and encoded beside the pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from magicanimate.media.video_file import open_container, picture_stream, sound_stream

logger = logging.getLogger(__name__)

_SEEK_FROM = 5.0
"""Seconds; later stretches are reached by seeking, a second early."""

_RATE = 48_000
"""Samples a second of the result; Opus has no other that fits, and AAC takes it too."""

_BIT_RATES = {"aac": 192_000, "libopus": 128_000}


class SoundTrack:
    """Feeds the sound of a file into an output container, a little ahead of the pictures.

    Times are seconds since the first picture of the source; sound before ``start`` is left out.
    """

    def __init__(self, container: av.container.OutputContainer, source: Path, *, start: float, codec: str):
        """Add an audio stream to ``container``, whose header must not be written yet.

        Args:
            container: the output.
            source: file with an audio stream (``has_sound``).
            start: where its stretch begins, seconds.
            codec: "aac" or "libopus".
        """
        self._container = container
        self._stream = container.add_stream(codec, rate=_RATE)
        self._stream.codec_context.layout = "stereo"
        self._stream.codec_context.format = "fltp" if codec == "aac" else "flt"
        self._stream.codec_context.bit_rate = _BIT_RATES[codec]
        self._planar = codec == "aac"
        self._blocks = _samples(source, start)
        self._waiting: np.ndarray | None = next(self._blocks, None)
        self._written = 0

    def advance(self, seconds: float) -> None:
        """Encode what is heard before that moment of the result."""
        limit = round(seconds * _RATE)
        while self._waiting is not None and self._written < limit:
            block = self._waiting[:, : limit - self._written]
            rest = self._waiting[:, block.shape[1] :]
            self._encode(block)
            self._waiting = rest if rest.shape[1] else next(self._blocks, None)

    def finish(self) -> None:
        """Flush the encoder and close the source."""
        self.close()
        self._container.mux(self._stream.encode(None))

    def close(self) -> None:
        """Close the source."""
        self._blocks.close()

    def _encode(self, block: np.ndarray) -> None:
        """Encode float32 (2, samples)."""
        data = block if self._planar else block.T.reshape(1, -1)
        layout = "fltp" if self._planar else "flt"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(data), format=layout, layout="stereo")
        frame.sample_rate = _RATE
        frame.pts = self._written
        self._written += block.shape[1]
        self._container.mux(self._stream.encode(frame))


def has_sound(path: Path) -> bool:
    """Whether a media file has an audio stream; false for anything that cannot be opened."""
    if not path.is_file():
        return False
    try:
        with open_container(path) as container:
            return sound_stream(container) is not None
    except (av.FFmpegError, OSError, ValueError) as error:
        logger.warning("%s: no sound can be read (%s)", path, error)
        return False


def _samples(source: Path, start: float) -> Iterator[np.ndarray]:
    """Blocks of float32 (2, samples) at 48 kHz from ``start`` on; silence where sound begins later."""
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=_RATE)
    with open_container(source) as container:
        stream = sound_stream(container)
        if stream is None:
            return
        pictures = picture_stream(container)
        origin = 0.0
        if pictures is not None and pictures.start_time is not None:
            origin = float(pictures.start_time * pictures.time_base)
        begin = origin + start
        if start >= _SEEK_FROM:
            container.seek(int((begin - 1.0) * av.time_base))
        position: int | None = None
        for frame in _frames(container, stream):
            if position is None:
                position = round(((frame.time or 0.0) - begin) * _RATE)
                if position > 0:
                    yield np.zeros((2, position), dtype=np.float32)
            for piece in resampler.resample(frame):
                samples = piece.to_ndarray()
                skip = max(0, -position)
                position += samples.shape[1]
                if skip < samples.shape[1]:
                    yield samples[:, skip:]


def _frames(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Decoded audio; damaged packets are left out, and a damaged file ends where it cannot go on."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            logger.warning("%s: the sound stops early (%s)", container.name, error)
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            logger.debug("%s: damaged sound left out", container.name)
            continue
        yield from frames
