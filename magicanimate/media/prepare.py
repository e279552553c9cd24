"""From a request to the arrays the networks read: the photo and the control frames, at the result's size."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from magicanimate.config import AnimationRequest
from magicanimate.errors import Cancelled, InputError
from magicanimate.media.densepose_check import check_densepose, refuse_other_motion
from magicanimate.media.fit import (
    MotionFit,
    fit_photo,
    frame_box,
    largest_window,
    merge_boxes,
    plan_motion_fit,
)
from magicanimate.media.frames import FrameStore
from magicanimate.media.motion import MotionClip, open_motion
from magicanimate.media.photo import load_photo

OnFrames = Callable[[int, int], None]
"""``on_progress(done, total)``, in frames read."""


@dataclass(frozen=True)
class PreparedMedia:
    """What an animation starts from. Close ``control`` (or the whole, as a context) when done.

    Attributes:
        photo: uint8 (H, W, 3).
        control: the motion, one control frame for each frame of the result, uint8 (N, H, W, 3) on disk.
        fps: of the result.
        rate: the same as an exact fraction.
        num_frames: N, at least 1.
        has_sound: whether the clip has sound.
        sound_start: where in the clip its stretch begins, seconds.
    """

    photo: np.ndarray
    control: FrameStore
    fps: float
    rate: Fraction
    num_frames: int
    has_sound: bool
    sound_start: float

    def close(self) -> None:
        """Delete the frames on disk."""
        self.control.close()

    def __enter__(self) -> PreparedMedia:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prepare_media(
    request: AnimationRequest,
    *,
    width: int,
    height: int,
    on_progress: OnFrames | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> PreparedMedia:
    """Read, check and fit both inputs.

    The clip is decoded once more before if the place of the person decides which part of it is used.

    Args:
        request: photo, motion, fit, stretch, limits.
        width, height: of the result, pixels.
        on_progress: called with frames read and frames to read, over all passes.
        should_stop: asked before each frame.

    Raises:
        InputError: one of the inputs cannot be used.
        Cancelled: ``should_stop()`` was true; nothing is left on disk.
    """
    _check_apart(request)
    photo = fit_photo(
        load_photo(request.photo, limits=request.limits), width=width, height=height, fit=request.fit
    )
    clip = open_motion(
        request.motion,
        start=request.start,
        end=request.end,
        stride=request.stride,
        fps=request.fps,
        limits=request.limits,
    )
    total = clip.num_frames_estimate or 0
    _check_room(total * width * height * 3)
    size = (clip.width, clip.height)
    two_passes = request.fit == "crop" and largest_window(size, width=width, height=height) != size
    reader = _Reader(clip, total * (2 if two_passes else 1), on_progress, should_stop)
    report = check_densepose(reader.frames(counted=False))
    if request.check_motion:
        refuse_other_motion(clip.path, report)
    box = None
    if two_passes:
        for frame in reader.frames():
            found = frame_box(frame)
            if found is not None:
                box = found if box is None else merge_boxes(box, found)
    fit = plan_motion_fit(
        size, box, width=width, height=height, fit=request.fit, keep_labels=report.is_densepose
    )
    control = _store(reader, fit)
    if len(control) == 0:
        control.close()
        raise InputError(f"The motion clip {clip.path} has no frame that can be decoded; export it again.")
    return PreparedMedia(
        photo=photo,
        control=control,
        fps=clip.fps,
        rate=clip.rate,
        num_frames=len(control),
        has_sound=clip.has_sound,
        sound_start=clip.start,
    )


def _check_apart(request: AnimationRequest) -> None:
    """Refuse an output that would replace one of the inputs."""
    output = Path(request.output).resolve()
    for given in (Path(request.photo), Path(request.motion)):
        if output == given.resolve():
            raise InputError(f"The output {request.output} is also an input; choose another name for it.")


@dataclass
class _Reader:
    """Reads a clip, once or more, with progress over all passes."""

    clip: MotionClip
    total: int
    on_progress: OnFrames | None
    should_stop: Callable[[], bool] | None
    done: int = 0

    def frames(self, *, counted: bool = True) -> Iterator[np.ndarray]:
        frames = self.clip.frames()
        with closing(frames):
            for frame in frames:
                if self.should_stop is not None and self.should_stop():
                    raise Cancelled("stopped while reading the motion clip")
                yield frame
                if not counted:
                    continue
                self.done += 1
                if self.on_progress is not None:
                    self.on_progress(self.done, max(self.total, self.done))


def _store(reader: _Reader, fit: MotionFit) -> FrameStore:
    """All frames of the clip, fitted, on disk; nothing remains if that fails."""
    control = FrameStore(fit.width, fit.height)
    complete = False
    try:
        for frame in reader.frames():
            control.append(fit.apply(frame))
        complete = True
    except OSError as error:
        raise InputError(
            f"The motion clip {reader.clip.path} cannot be unpacked to {tempfile.gettempdir()} "
            f"({error.strerror or error}); free some room there."
        ) from error
    finally:
        if not complete:
            control.close()
    return control


def _check_room(needed: int) -> None:
    """Refuse at once what the temporary folder cannot hold."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"The motion needs {needed / 1024**3:.1f} GB in {folder}, where {free / 1024**3:.1f} GB are "
            "free; use fewer frames, or set TMPDIR to a larger disk."
        )
