"""What photo, clip and mask show, found out quickly before anything is animated.

People in photos are found by the bundled part segmenter, which learned from drawn people: what it finds is a
guess.

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

import io
import os
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from densepose_tools.one_click import examine
from densepose_tools.photo_people import PersonDetector, count_people, is_plausible, measures, thinned
from densepose_tools.tracking import with_mark
from magicanimate.config import AnimationRequest, Fit
from magicanimate.errors import InputError
from magicanimate.mask import Stroke, painted, shown, write_masks
from magicanimate.media.densepose_check import Kind, MotionReport, check_densepose
from magicanimate.media.fit import Box, MotionFit, fit_photo, frame_box, plan_motion_fit
from magicanimate.media.motion import MotionClip, open_motion
from magicanimate.media.photo import load_photo
from magicanimate.palette import nearest_labels
from magicanimate.webui.gallery.results import encode_webp
from magicanimate.webui.texts import tr

_PIXELS = 60_000_000
"""Of a clip, so many pixels are decoded: about 230 frames of 512 x 512, a fraction of a second."""

_KEPT = 12
"""Of the decoded frames, so many are kept."""


@dataclass(frozen=True)
class InspectedClip:
    """What the beginning of a clip shows.

    Attributes:
        report: what its colours say.
        size: width and height of a frame.
        frames, fps: of the result.
        boxes: around the people in each decoded frame; the animation itself uses all frames.
        samples: some of the frames, uint8 (k, h, w, 3), beginning with the first that shows somebody.
        numbers: of the samples among the frames.
    """

    report: MotionReport
    size: tuple[int, int]
    frames: int
    fps: float
    boxes: tuple[Box | None, ...]
    samples: np.ndarray
    numbers: tuple[int, ...]

    def plan(self, *, width: int, height: int, fit: Fit) -> MotionFit:
        """Which part of the frames an animation would use."""
        people = self.boxes if self.report.is_densepose else []
        keep_labels = self.report.is_densepose
        return plan_motion_fit(
            self.size, people, width=width, height=height, fit=fit, keep_labels=keep_labels
        )

    def fitted(self, *, width: int, height: int, fit: Fit) -> list[np.ndarray]:
        """The samples as the networks would see them, uint8 (height, width, 3) each."""
        plan = self.plan(width=width, height=height, fit=fit)
        return [plan.apply(frame, number) for frame, number in zip(self.samples, self.numbers, strict=True)]


def fitted_photo(
    request: AnimationRequest, find_people: Callable[[np.ndarray], Box | None] | None = None
) -> np.ndarray:
    """The photo as the networks would see it, uint8 (height, width, 3).

    Args:
        request: with a size.
        find_people: finds the box around the people in the whole photo.

    Raises:
        InputError: it cannot be used.
    """
    photo = _photo(Path(request.photo), _changed(request.photo))
    people = None if find_people is None else find_people(photo)
    return fit_photo(photo, width=request.width, height=request.height, fit=request.fit, person=people)


def inspect_clip(request: AnimationRequest) -> InspectedClip:
    """What the clip of a request shows in the stretch that is used; the last clips are remembered.

    Raises:
        InputError: it cannot be used.
    """
    path = Path(request.motion)
    return _inspected_clip(path, _changed(path), request.start, request.end, request.stride, request.fps)


def _changed(path: Path) -> int:
    """Time of a file's last change, a key for caches; 0 if there is no file, which its reader will say."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=2)
def _photo(path: Path, changed: int) -> np.ndarray:
    return load_photo(path)


@lru_cache(maxsize=4)
def _inspected_clip(
    path: Path, changed: int, start: float, end: float | None, stride: int, fps: float | None
) -> InspectedClip:
    clip = open_motion(path, start=start, end=end, stride=stride, fps=fps)
    with closing(clip.frames()) as frames:
        report = check_densepose(islice(frames, _most(clip)))
    boxes: list[Box | None] = []
    samples: list[np.ndarray] = []
    numbers: list[int] = []
    every = max(1, min(_most(clip), clip.num_frames_estimate or 1) // _KEPT)
    with closing(clip.frames()) as frames:
        for number, frame in enumerate(islice(frames, _most(clip))):
            if report.is_densepose:
                frame = report.colours.cleaned(frame)
            found = frame_box(frame)
            boxes.append(found)
            if (not samples and found is not None) or (samples and number % every == 0):
                samples.append(frame)
                numbers.append(number)
            last = frame
    shown = samples[: _KEPT + 1] or [last]
    return InspectedClip(
        report=report,
        size=(clip.width, clip.height),
        frames=clip.num_frames_estimate or 0,
        fps=clip.fps,
        boxes=tuple(boxes),
        samples=np.stack(shown),
        numbers=tuple(numbers[: _KEPT + 1] or [len(boxes) - 1]),
    )


def _most(clip: MotionClip) -> int:
    return max(5 * _KEPT, _PIXELS // (clip.width * clip.height))


ANIMATED_PICTURES = (".gif", ".png", ".apng", ".webp", ".avif", ".jxl")
"""Suffixes of clips that no browser plays as a video; the page's ``keys.js`` knows them, too."""

_FRAMES, _HEIGHT = 10, 56  # of the row, in pixels
_POSES, _MOST_POSES = 12.5, 1000  # poses a second that are compared, and how many at most


@dataclass(frozen=True)
class ClipStrip:
    """A whole clip in a few frames, before any setting is applied to it.

    Attributes:
        kind: see `MotionReport`.
        seconds: its length.
        frames: evenly spread, uint8 (h, w, 3) each.
        times: of these frames, seconds.
    """

    kind: Kind
    seconds: float
    frames: tuple[np.ndarray, ...]
    times: tuple[float, ...]

    def row(self) -> bytes:
        """The frames side by side as a WebP."""
        small = [_small(frame) for frame in self.frames]
        canvas = Image.new("RGB", (sum(each.width for each in small), _HEIGHT))
        left = 0
        for each in small:
            canvas.paste(each, (left, 0))
            left += each.width
        file = io.BytesIO()
        canvas.save(file, "WEBP", quality=70)
        return file.getvalue()

    def people(self, detector: PersonDetector) -> tuple[int, float]:
        """The largest number of people seen at once, and a second at which they are seen."""
        most, second = 0, 0.0
        for frame, time in list(zip(self.frames, self.times, strict=True))[::3]:
            try:
                labels = detector.labels(frame)
            except InputError:  # the detector cannot be used: nobody is asked who dances
                return 0, 0.0
            count = count_people(labels) if is_plausible(labels) else 0
            if count > most:
                most, second = count, time
        return most, second

    def picture(self, second: float, mark: tuple[int, int] | None = None) -> np.ndarray:
        """The frame at one of the times, with a ring around a pixel where somebody was clicked on."""
        frame = self.frames[self.times.index(second)]
        return frame if mark is None else with_mark(frame, *mark)


def clip_strip(clip: str | Path) -> ClipStrip:
    """A clip in a few frames; the last clips are remembered.

    Raises:
        InputError: it cannot be read.
    """
    path = Path(clip)
    return _clip_strip(path, _changed(path))


def as_video(picture: Path, folder: Path) -> Path:
    """An animated picture as a video that browsers play, in a new folder; raises as `clip_strip`."""
    from magicanimate.media.writer import VideoWriter

    clip = open_motion(picture)
    folder.mkdir()
    video = folder / f"{picture.stem}.mp4"
    with VideoWriter(video, width=clip.width, height=clip.height, fps=clip.rate) as out:
        for frame in clip.frames():
            out.write(frame)
    return video


def last_frame(video: Path, folder: Path) -> Path:
    """The last frame of a video as a PNG in a new folder; raises as `clip_strip`."""
    (frame,) = deque(open_motion(video).frames(), maxlen=1)
    folder.mkdir()
    path = folder / f"{video.stem}_last.png"
    Image.fromarray(frame).save(path)
    return path


def nearest_start(clip: Path, after: Path) -> float | None:
    """The second of a motion clip whose pose is nearest to the last pose of another motion clip.

    Only the first half is searched, so that enough of the dance remains.

    Args:
        clip: the dance that comes next.
        after: the dance before.

    Returns:
        the second; ``None`` if one of them is no motion clip.

    Raises:
        InputError: one cannot be read.
    """
    if any(examine(each).kind != "ready" for each in (clip, after)):
        return None
    (last,) = deque(open_motion(after).frames(), maxlen=1)
    wanted = _coarse(last)
    dance = open_motion(clip)
    dance = open_motion(clip, fps=min(dance.fps, _POSES))
    count = max(1, (dance.num_frames_estimate or 1) // 2)
    likeness = []
    for frame in islice(dance.frames(), min(count, _MOST_POSES)):
        labels = _coarse(frame)
        body = (labels > 0) | (wanted > 0)
        likeness.append(float((labels == wanted)[body].mean()) if body.any() else 0.0)
    return int(np.argmax(likeness)) / dance.fps


def _coarse(frame: np.ndarray) -> np.ndarray:
    """Part labels of a frame, uint8 (64, 64)."""
    small = Image.fromarray(frame).resize((64, 64), Image.Resampling.NEAREST)
    return nearest_labels(np.asarray(small))[0]


@lru_cache(maxsize=4)
def _clip_strip(path: Path, changed: int) -> ClipStrip:
    kind = examine(path).kind
    clip = open_motion(path)
    seconds = (clip.num_frames_estimate or 1) / clip.fps
    # At this frame rate the reader skips all frames but those of the row.
    sparse = open_motion(path, fps=min(clip.fps, _FRAMES / seconds))
    frames = tuple(frame for _, frame in zip(range(_FRAMES), sparse.frames(), strict=False))
    return ClipStrip(kind, seconds, frames, tuple(i / sparse.fps for i in range(len(frames))))


def _small(frame: np.ndarray) -> Image.Image:
    picture = Image.fromarray(frame)
    return picture.resize((max(1, round(_HEIGHT * picture.width / picture.height)), _HEIGHT))


_LEGS = {"thighs": (7, 8, 9, 10), "lower legs": (11, 12, 13, 14), "feet": (5, 6)}

_SMALLEST_PART = 0.003
"""Of the picture; fewer pixels of a part are noise."""

_SIZE_MISMATCH, _BREADTH_MISMATCH = 1.25, 1.4
"""Ratios that are reported; for pairs that suit each other the guesses scatter by 1.1 and 1.25."""


@dataclass(frozen=True)
class Comparison:
    """How a dancer differs from the person in a photo, both as they appear in the result.

    Attributes:
        size: of the photo's person divided by the dancer's; 2 is twice as large.
        breadth: the same for the width of the shoulders relative to the size of the head.
        unseen: parts of the legs that the clip shows and the photo does not.
    """

    size: float | None
    breadth: float | None
    unseen: tuple[str, ...]

    @property
    def builds_differ(self) -> bool:
        """Whether the dancer's size or build is so different that the result will look like somebody else."""
        sizes, breadths = (value or 1.0 for value in (self.size, self.breadth))
        return max(sizes, 1 / sizes) >= _SIZE_MISMATCH or max(breadths, 1 / breadths) >= _BREADTH_MISMATCH

    def sentence_on_builds(self) -> str:
        """A sentence on the dancer's build; empty if it does not differ."""
        size = breadth = ""
        percent = 0
        if self.size is not None and max(self.size, 1 / self.size) >= _SIZE_MISMATCH:
            percent = round(100 * abs(1 / self.size - 1))
            size = "about {percent} % smaller" if self.size > 1 else "about {percent} % larger"
        if self.breadth is not None and max(self.breadth, 1 / self.breadth) >= _BREADTH_MISMATCH:
            breadth = "narrower" if self.breadth > 1 else "broader"
        how = " and ".join(filter(None, (size, breadth)))
        return tr(f"The dancer is {how} than your person.", percent=percent) if how else ""

    def sentence_on_unseen(self) -> str:
        """A sentence on parts of the body that will be invented; empty if there are none."""
        if not self.unseen:
            return ""
        names = ", ".join(map(tr, self.unseen))
        return tr("The dance shows what your photo does not: {parts}. They will be made up.", parts=names)


def is_cut_off(maps: Sequence[np.ndarray]) -> bool:
    """Whether the dancer reaches the lower edge of the picture in most part maps, uint8 (H, W) each.

    Fitted to a smaller person, such a dancer would hang in the air without legs.
    """
    return bool(maps) and np.median([bool(labels[-1].any()) for labels in maps]) >= 0.5


def some_maps(clip: Path, most: int = 8) -> list[np.ndarray]:
    """About ``most`` frames of a motion clip, evenly spread, as part maps, uint8 (H, W) each.

    Raises:
        InputError: it cannot be read.
    """
    opened = open_motion(clip)
    every = max(1, (opened.num_frames_estimate or most) // most)
    return [thinned(nearest_labels(frame)[0]) for frame in islice(opened.frames(), 0, None, every)]


def compare(photo: np.ndarray, maps: Sequence[np.ndarray]) -> Comparison:
    """Compare one person with one dancer.

    Args:
        photo: part map of the photo, uint8 (H, W).
        maps: some of the clip's, uint8 (H, W) each.
    """
    size = breadth = None
    person, dancers = measures(photo), [found for found in map(measures, maps) if found is not None]
    if person is not None and dancers:
        # Relative to the picture, since the maps may be of another size.
        dancer = np.median(
            [found / labels.shape[0] for found, labels in zip(dancers, maps, strict=False)], axis=0
        )
        head, shoulders = person / photo.shape[0] / dancer
        size, breadth = float(np.sqrt(head * shoulders)), float(shoulders / head)
    unseen = tuple(
        name
        for name, labels in _LEGS.items()
        if np.median([_share(found, labels) for found in maps]) >= 2 * _SMALLEST_PART
        and _share(photo, labels) < _SMALLEST_PART / 2
    )
    return Comparison(size, breadth, unseen)


def _share(labels: np.ndarray, wanted: tuple[int, ...]) -> float:
    return float(np.isin(labels, wanted).mean())


@dataclass(frozen=True)
class MaskFiles:
    """A mask to look at and to paint on; the files are deleted when the program ends.

    Attributes:
        scene: video of what is under the mask: the dance video, or its part map.
        mask: without the visitor's strokes.
        count: frames of both.
        photo: the photo's people before the new background, as the networks see them, a WebP.
    """

    scene: Path
    mask: Path
    count: int
    photo: bytes


def mask_files(scene: Path, mask: Path, preview: Path) -> MaskFiles:
    """The files that `Animator.draw_mask` wrote; the left part of its preview is the photo."""
    from magicanimate.media.photo import load_photo

    clip = open_motion(mask)
    photo = encode_webp(load_photo(preview)[None, :, : clip.width], side=128)
    return MaskFiles(scene, mask, clip.num_frames_estimate or 0, photo)


def mask_picture(scene: Path, mask: Path, number: int, *, grow: int, feather: float) -> bytes:
    """A frame, counted from 0, under its mask as a WebP.

    Raises:
        InputError: one of the files is gone or shorter.
    """
    below, level = _frame(scene, number), _frame(mask, number)
    if below.shape != level.shape:
        raise InputError("The mask is of another size; show it again.")
    return encode_webp(shown(below, level[..., 1], grow, feather)[None])


def paint_mask(mask: Path, stroke: Stroke) -> Path:
    """A copy of a mask, in a new folder beside it, with a stroke on the frames of its range.

    Raises:
        InputError: it cannot be read or written.
    """
    clip = open_motion(mask)
    new = mask.parent.parent / secrets.token_hex(8) / mask.name
    new.parent.mkdir()
    with closing(clip.frames()) as frames:
        levels = painted((frame[..., 1] for frame in frames), stroke)
        write_masks(new, levels, size=(clip.width, clip.height), rate=clip.rate)
    return new


def _frame(video: Path, number: int) -> np.ndarray:
    clip = open_motion(video)
    with closing(open_motion(video, start=number / clip.fps).frames()) as frames:
        for frame in frames:
            return frame
    raise InputError(f"{video.name} has no frame {number + 1}; show the mask again.")
