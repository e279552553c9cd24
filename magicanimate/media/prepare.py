"""From a request to the arrays the networks read: the photo and the control frames, at the result's size.

Frames are kept on disk, so that memory does not grow with the clip.
"""

from __future__ import annotations

import operator
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from magicanimate.config import CLIP_BACKGROUND, AnimationRequest, ShouldStop, raise_if_stopped
from magicanimate.errors import InputError
from magicanimate.files import human_bytes
from magicanimate.media.densepose_check import MapColours, MotionReport, check_densepose, refuse_other_motion
from magicanimate.media.fit import (
    DARK,
    Box,
    MotionFit,
    drawing_box,
    fit_photo,
    frame_box,
    holds,
    largest_window,
    plan_motion_fit,
    same_shape,
)
from magicanimate.media.motion import MotionClip, open_motion
from magicanimate.media.photo import load_photo

OnFrames = Callable[[int, int], None]
"""``on_progress(done, total)``, in frames read."""


@dataclass(frozen=True)
class PreparedMedia:
    """Photo and control frames of an animation, at its size. Close it, or use it as a context."""

    photo: np.ndarray  # uint8 (H, W, 3)
    # The motion, one control frame for each frame of the result, uint8 (N, H, W, 3) on disk.
    control: FrameStore
    fps: float  # of the result
    rate: Fraction  # the same as an exact fraction
    num_frames: int  # N, at least 1
    has_sound: bool  # whether the clip has sound
    sound_start: float  # where in the clip its stretch begins, seconds; below 0 for silence before it
    keypoints: FrameStore | None = None  # like ``control``, of the clip of drawn keypoints
    # Like ``control``, of the ordinary video that the motion was made of.
    driving: FrameStore | None = None
    notes: tuple[str, ...] = ()  # sentences on what of photo and clip is not used as it was given

    def close(self) -> None:
        """Delete the frames on disk."""
        self.control.close()
        for store in (self.keypoints, self.driving):
            if store is not None:
                store.close()

    def __enter__(self) -> PreparedMedia:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def with_lead_in(media: PreparedMedia, maps: Iterable[np.ndarray]) -> PreparedMedia:
    """The media with part maps, uint8 (H, W, 3) each, before the motion; the sound begins with the motion.

    What goes along with the motion stands still until then. The stores of ``media`` are closed.

    Raises:
        OSError: the temporary folder is full.
    """
    # Counted for the new length and the shift of the sound, so no iterator.
    maps = list(maps)

    def longer(store: FrameStore, before: Iterable[np.ndarray]) -> FrameStore:
        longer = FrameStore(store.width, store.height)
        try:
            for frame in before:
                longer.append(frame)
            for number in range(len(store)):
                longer.append(store[number])
        except BaseException:
            longer.close()
            raise
        return longer

    with media:
        control = longer(media.control, maps)
        try:
            driving = media.driving and longer(media.driving, [media.driving[0]] * len(maps))
        except BaseException:
            control.close()
            raise
    return replace(
        media,
        control=control,
        driving=driving,
        num_frames=media.num_frames + len(maps),
        sound_start=media.sound_start - len(maps) / media.fps,
    )


def prepare_media(
    request: AnimationRequest,
    *,
    width: int,
    height: int,
    drawn_keypoints: bool = False,
    find_people: Callable[[np.ndarray], Box | None] | None = None,
    on_progress: OnFrames | None = None,
    should_stop: ShouldStop | None = None,
) -> PreparedMedia:
    """Read, check and fit both inputs.

    The clip is decoded once more before if the place of the person decides which part of it is used.

    Args:
        drawn_keypoints: the motion clip has to be a drawing of keypoints, not a part map.
        find_people: returns the box around the people in a photo, uint8 (H, W, 3); called only if the photo
            has to be cropped.
        on_progress: called with frames read and frames to read, over all passes.

    Raises:
        InputError: one of the inputs cannot be used.
        Cancelled: ``should_stop()``, called before each frame, was true; nothing is left on disk.
    """
    size = {"width": width, "height": height}
    # The photo first: it is quick to read and to refuse.
    photo, notes = _fitted_photo(request, find_people, **size)
    clip = _opened(request.motion, request)
    drawn = None if request.keypoints is None else _drawn_alike(request, clip)
    filmed = _filmed_alike(request, clip) if request.background == CLIP_BACKGROUND else None
    total = clip.num_frames_estimate or 0
    _check_room(total * width * height * 3 * (1 + (drawn is not None) + (filmed is not None)))
    # Where the whole frame is used the place of the people does not matter, and one pass suffices.
    clip_size = (clip.width, clip.height)
    two_passes = request.fit in ("auto", "crop") and largest_window(clip_size, **size) != clip_size
    reader = _Reader(clip, total * (2 if two_passes else 1), on_progress, should_stop)
    # Not counted as progress: it stops after a few frames.
    report = check_densepose(reader.frames(counted=False))
    if request.check_motion:
        if drawn_keypoints:
            _refuse_other_than_keypoints(clip, report)
        else:
            refuse_other_motion(clip.path, report)
    # From here on every pass of the reader cleans the frames of bars and captions.
    is_map = report.is_densepose and not drawn_keypoints
    if is_map:
        reader.colours = report.colours
    box = drawing_box if drawn_keypoints else frame_box
    people = [box(frame) for frame in reader.frames()] if two_passes else []
    if not is_map and not drawn_keypoints:
        people = []  # what is not background are not the people
    fit = plan_motion_fit(clip_size, people, **size, fit=request.fit, keep_labels=is_map)
    if drawn_keypoints:
        # Drawn keypoints are on black, so the padding is, too.
        fit = replace(fit, background=(0, 0, 0))
    if fit.loses_people:
        notes += (
            f"The window of {width}x{height} cannot hold the people in {clip.path} all the time; pad the "
            "clip (--fit pad), or choose another size.",
        )
    control = _store(reader, fit)
    if len(control) == 0:
        control.close()
        raise InputError(f"The motion clip {clip.path} has no frame that can be decoded; export it again.")
    # If a companion cannot be read, the stores that are finished by then must not stay on disk.
    with ExitStack() as unfinished:
        unfinished.callback(control.close)
        keypoints = driving = None
        if drawn is not None:
            keypoints = _companion(drawn, clip, fit, len(control), "keypoints", should_stop)
            unfinished.callback(keypoints.close)
        if filmed is not None:
            driving = _companion(filmed, clip, fit, len(control), "driving video", should_stop)
        unfinished.pop_all()
    return PreparedMedia(
        photo=photo,
        control=control,
        fps=clip.fps,
        rate=clip.rate,
        num_frames=len(control),
        has_sound=clip.has_sound,
        sound_start=clip.start,
        keypoints=keypoints,
        driving=driving,
        notes=notes,
    )


def _fitted_photo(
    request: AnimationRequest,
    find_people: Callable[[np.ndarray], Box | None] | None,
    *,
    width: int,
    height: int,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The photo at the result's size, and notes on it."""
    photo = load_photo(request.photo, limits=request.limits)
    size = photo.shape[1::-1]
    window = largest_window(size, width=width, height=height)
    people = None
    if find_people is not None and request.fit in ("auto", "crop") and window != size:
        people = find_people(photo)
    fitted = fit_photo(photo, width=width, height=height, fit=request.fit, person=people)
    if request.fit == "crop" and people is not None and not holds(window, people):
        return fitted, (
            f"The photo {request.photo} is cropped to {width}x{height}, which cannot hold the people in it; "
            "pad it (--fit pad), or choose another size.",
        )
    return fitted, ()


def _opened(path: Path, request: AnimationRequest) -> MotionClip:
    """The frames of a clip that are animated."""
    return open_motion(
        path,
        start=request.start,
        end=request.end,
        stride=request.stride,
        fps=request.fps,
        limits=request.limits,
    )


def _drawn_alike(request: AnimationRequest, clip: MotionClip) -> MotionClip:
    """The clip of drawn keypoints, which must be as large, fast and long as the motion clip."""
    drawn = _opened(request.keypoints, request)
    one, other = (
        f"{each.num_frames_estimate} frames of {each.width}x{each.height} at {each.fps:g} fps"
        for each in (drawn, clip)
    )
    if one != other:
        raise InputError(
            f"The keypoints {drawn.path} are {one} and the motion clip {clip.path} {other}; draw both from "
            "one video."
        )
    return drawn


def _refuse_other_than_keypoints(clip: MotionClip, report: MotionReport) -> None:
    """Refuse a clip that is no drawing of keypoints on black."""
    advice = "draw the keypoints with `python -m densepose_tools CLIP -o OUT --keypoints`"
    # Drawn keypoints may pass for a map in other colours; only those of a map as it should be are certain.
    if report.is_densepose:
        raise InputError(
            f"This checkpoint is driven by keypoints, and the motion clip {clip.path} is a DensePose map; "
            f"{advice}."
        )
    with closing(clip.frames()) as frames:
        first = next(frames, None)
    if first is not None and (first.max(axis=-1) <= DARK).mean() < 0.5:
        raise InputError(
            f"This checkpoint is driven by keypoints drawn on black, and the motion clip {clip.path} is an "
            f"ordinary picture; {advice}."
        )


def _filmed_alike(request: AnimationRequest, clip: MotionClip) -> MotionClip:
    """The driving video, which must be as fast and long as the motion clip, and of its shape."""
    filmed = _opened(request.driving_video, request)
    alike = same_shape((filmed.width, filmed.height), (clip.width, clip.height))
    if not alike or (filmed.num_frames_estimate, filmed.rate) != (clip.num_frames_estimate, clip.rate):
        one, other = (
            f"{each.num_frames_estimate} frames of {each.width}x{each.height} at {each.fps:g} fps"
            for each in (filmed, clip)
        )
        raise InputError(
            f"The driving video {filmed.path} is {one} and the motion clip {clip.path} {other}; give the "
            "video that the motion clip was made of."
        )
    return filmed


def _companion(
    companion: MotionClip,
    clip: MotionClip,
    fit: MotionFit,
    count: int,
    what: str,
    should_stop: ShouldStop | None,
) -> FrameStore:
    """The frames of a clip that accompanies the motion, fitted alike; black beyond its edges."""
    reader = _Reader(companion, 0, None, should_stop, size=(clip.width, clip.height))
    store = _store(reader, replace(fit, keep_labels=False, background=(0, 0, 0)))
    if len(store) != count:
        found = len(store)
        store.close()
        raise InputError(
            f"Of the {what} {companion.path} {found} frames can be decoded and of the motion clip {count}; "
            "export both again."
        )
    return store


@dataclass
class _Reader:
    """Reads a clip, once or more, with progress over all passes.

    With ``colours``, those of a part map, it gives frames without bars and captions, and those that show
    nothing of the map as background. With ``size``, (width, height), it scales them.
    """

    clip: MotionClip
    total: int
    on_progress: OnFrames | None
    should_stop: ShouldStop | None
    colours: MapColours | None = None
    size: tuple[int, int] | None = None
    done: int = 0

    def frames(self, *, counted: bool = True) -> Iterator[np.ndarray]:
        frames = self.clip.frames()
        with closing(frames):
            for frame in frames:
                raise_if_stopped(self.should_stop, "while reading the motion clip")
                # A companion may have been exported at another size; the fit is planned in
                # the pixels of the clip.
                if self.size is not None and frame.shape[1::-1] != self.size:
                    frame = np.array(Image.fromarray(frame).resize(self.size, Image.Resampling.BICUBIC))
                yield frame if self.colours is None else self.colours.cleaned(frame)
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
        for number, frame in enumerate(reader.frames()):
            control.append(fit.apply(frame, number))
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
    """Refuse a clip whose frames the temporary folder cannot hold."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"The motion needs {human_bytes(needed)} in {folder}, where {human_bytes(free)} are free; use "
            "fewer frames, or set TMPDIR to a larger disk."
        )


class FrameStore:
    """A growing list of frames of one size, kept raw in a temporary file.

    The file has no name of its own where the system allows it, so it is gone when the store is closed,
    garbage-collected, or the process ends. Threads may share a store.
    """

    def __init__(self, width: int, height: int) -> None:
        """Open an empty store of frames of that many pixels, in the system's temporary folder."""
        if width < 1 or height < 1:
            raise ValueError(f"frames must have at least one pixel, not {width}x{height}")
        self.width = width
        self.height = height
        self._count = 0
        self._frame_bytes = width * height * 3
        self._lock = threading.Lock()
        # Unbounded memory would be the alternative: a minute of 512x512 at 30 fps takes 1.4 GB.
        self._file = tempfile.TemporaryFile(prefix="magicanimate-")  # noqa: SIM115 (closed in close)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(frames, height, width, 3)."""
        return (self._count, self.height, self.width, 3)

    def __len__(self) -> int:
        return self._count

    def append(self, frame: np.ndarray) -> None:
        """Add uint8 (height, width, 3) at the end.

        Raises:
            ValueError: another shape or type, or the store is closed.
        """
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"expected uint8 {(self.height, self.width, 3)}, not {frame.dtype} {tuple(frame.shape)}"
            )
        with self._lock:
            self._file.seek(self._count * self._frame_bytes)
            self._file.write(np.ascontiguousarray(frame).data)
            self._count += 1

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Copies of frames: (H, W, 3) for an integer, (N, H, W, 3) for a slice or a list of integers."""
        if isinstance(index, slice):
            return self._read_all(range(*index.indices(self._count)))
        if isinstance(index, (list, tuple, range, np.ndarray)):
            return self._read_all([self._position(item) for item in index])
        return self._read_all([self._position(index)])[0]

    def _position(self, index: int) -> int:
        """A checked index from the front."""
        position = operator.index(index)
        if position < 0:
            position += self._count
        if not 0 <= position < self._count:
            raise IndexError(f"frame {index} of {self._count}")
        return position

    def _read_all(self, positions: Sequence[int]) -> np.ndarray:
        frames = np.empty((len(positions), self.height, self.width, 3), dtype=np.uint8)
        with self._lock:
            # Frames that were just appended may still be in the buffer of the file.
            self._file.flush()
            for frame, position in zip(frames, positions, strict=True):
                self._file.seek(position * self._frame_bytes)
                if self._file.readinto(frame.data.cast("B")) != self._frame_bytes:
                    raise OSError("the temporary file of frames is shorter than it should be")
        return frames

    def close(self) -> None:
        """Delete the file; a second call does nothing."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> FrameStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
