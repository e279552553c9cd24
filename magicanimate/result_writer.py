"""Writes a result: the video, the side-by-side strip if wanted, and the JSON with every setting."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from magicanimate.config import PHOTO_BACKGROUND, TRANSPARENT, AnimationRequest, AnimationResult
from magicanimate.files import encode_json
from magicanimate.media.prepare import PreparedMedia
from magicanimate.media.writer import GrowingVideo, VideoWriter, close_together
from magicanimate.progress import ProgressMeter
from magicanimate.provenance import Claim, Seal
from magicanimate.request_checks import settings_path, side_by_side_path, so_far_path

log = logging.getLogger(__name__)

# Pixels between the pictures; even, as H.264 wants even widths.
_SEPARATOR = 4

_SEPARATOR_COLOUR = (255, 255, 255)

# The page plays this many of the latest frames of a stream, and gets them after so many new ones.
_MOST_SHOWN, _SHOWN_EVERY = 48, 8

# Grey level that stands for transparency where a picture has none.
_NOTHING = 128


def write_result(
    request: AnimationRequest,
    media: PreparedMedia,
    frames: Iterator[np.ndarray],
    *,
    settings: Mapping[str, Any],
    meter: ProgressMeter,
) -> AnimationResult:
    """Write the frames as they are decoded; all files appear at the end, or none.

    Args:
        request: with the size of the result.
        media: photo and motion as they were used.
        frames: of the result, uint8 ``H W 3``, or ``H W 4`` where that is transparent; they are decoded as
            they are taken.
        settings: JSON-ready; the seconds of all stages are added to those beside the result.
        meter: gets the stage "decode", which is the last one; not where frames are streamed, as they are
            decoded while others are denoised.

    Raises:
        InputError: a file cannot be written.
    """
    outputs = [(Path(request.output), request.size[0])]
    strip_path = side_by_side_path(request.output) if request.side_by_side else None
    if strip_path is not None:
        # As wide as its pictures become at the height of the result, which one strip tells.
        outputs.append((strip_path, side_by_side(media.photo, media.control[0], media.photo).shape[1]))
    transparent = request.background == TRANSPARENT
    claims = [
        Claim(request.photo, request.motion, settings["model"], composed=composed)
        for composed in (request.background != PHOTO_BACKGROUND, True)
    ]
    # Video and strip state different things: only the strip shows photo and motion themselves.
    seals = [Seal(claim) if request.credentials else None for claim in claims]
    if not request.stream:
        meter.begin("decode", media.num_frames)
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                VideoWriter(
                    path,
                    width=width,
                    height=request.size[1],
                    fps=media.rate,
                    metadata=settings,
                    alpha=transparent and path == request.output,
                    seal=seal,
                    sound_from=request.motion if request.sound else None,
                    sound_start=media.sound_start,
                )
            )
            for (path, width), seal in zip(outputs, seals, strict=False)
        ]
        so_far: GrowingVideo | None = None
        if request.stream:
            width, height = request.size
            growing = GrowingVideo(
                so_far_path(request.output), width=width, height=height, fps=media.rate, metadata=settings
            )
            so_far = stack.enter_context(growing)
        for i, frame in enumerate(frames):
            writers[0].write(frame)
            # Strip and growing copy have no alpha channel.
            shown = over_grey(frame) if transparent else frame
            if strip_path is not None:
                writers[1].write(side_by_side(media.photo, media.control[i], shown))
            if so_far is None:
                meter.update(i + 1, media.num_frames)
            else:
                so_far.write(shown)
        meter.finish()
        # The video was opened with the settings before these were known, so only the JSON has them.
        settings = {**settings, "seconds": dict(meter.seconds)}
        written = encode_json(settings)
        # Video, strip and settings belong together: one without the others would mislead.
        close_together(writers, {settings_path(request.output): lambda partial: partial.write_bytes(written)})
    return AnimationResult(
        output=Path(request.output),
        settings_file=settings_path(request.output),
        side_by_side=strip_path,
        num_frames=media.num_frames,
        fps=media.fps,
        width=request.size[0],
        height=request.size[1],
        seconds=dict(meter.seconds),
        settings=settings,
        unsigned=seals[0].problem if seals[0] else "",
    )


def previewed(
    request: AnimationRequest,
    frames: Iterator[np.ndarray],
    meter: ProgressMeter,
    windows_done: Callable[[], tuple[int, int]],
    fps: float,
) -> Iterator[np.ndarray]:
    """Yield streamed frames, uint8 ``H W 3``, and show the latest ones as a preview of ``fps``."""
    from magicanimate.models.autoencoder import shrunk

    latest: deque[np.ndarray] = deque(maxlen=_MOST_SHOWN)
    for number, frame in enumerate(frames, start=1):
        # The earliest moment at which opening the growing file makes sense.
        if number == 1:
            log.info("the first frames are done; they play in %s", so_far_path(request.output))
        if request.preview_every:
            # The page plays these at once, so few and small ones suffice.
            latest.append(shrunk(frame))
            if number % _SHOWN_EVERY == 0:
                meter.update(*windows_done(), preview=np.stack(latest), preview_fps=fps)
        yield frame


def side_by_side(photo: np.ndarray, motion: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Put three pictures in a row, each scaled to the height of the result with its own aspect.

    Args:
        photo, motion, result: uint8 (h, w, 3), of any sizes.

    Returns:
        uint8 (height of the result, sum of the widths and two separators, 3).
    """
    height = result.shape[0]
    line = np.empty((height, _SEPARATOR, 3), dtype=np.uint8)
    line[:] = _SEPARATOR_COLOUR
    return np.concatenate([_at_height(photo, height), line, _at_height(motion, height), line, result], axis=1)


def over_grey(frame: np.ndarray) -> np.ndarray:
    """A transparent picture, uint8 (h, w, 4), over grey, uint8 (h, w, 3)."""
    alpha = frame[..., 3:] / np.float32(255)
    return np.rint(alpha * frame[..., :3] + (1 - alpha) * _NOTHING).astype(np.uint8)


def _at_height(frame: np.ndarray, height: int) -> np.ndarray:
    if frame.shape[0] == height:
        return frame
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    return np.array(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
