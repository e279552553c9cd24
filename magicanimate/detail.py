"""Refine heads and hands: denoise them once more, enlarged, starting from the noised first result.

Small heads have few latents and come out blurred. So each is tracked through the clip by the labels of its
part map; photo, motion and first result are cropped around it and scaled to the size that the checkpoint was
trained at, and the same networks run again over the last part of the steps (SDEdit, Meng et al. 2021) with
the same windows, so that the temporal layers keep it steady. The result is blended back with a soft mask.

Letters in shape comments: ``F`` frames, ``H W`` pixels of the result, ``S`` pixels of a side of a crop.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magicanimate.config import IN_PHOTO, AnimationRequest
from magicanimate.media.fit import smooth_over_time
from magicanimate.palette import colourise, nearest_labels
from magicanimate.progress import ProgressMeter

if TYPE_CHECKING:
    from magicanimate.config import Frames
    from magicanimate.media.prepare import PreparedMedia
    from magicanimate.pipeline import MagicAnimateOutput

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A kind of detail: its labels in the part map, and the side of its crop by its own size."""

    name: str
    labels: tuple[int, ...]
    margin: float


HEAD = Part("head", (23, 24), 2.2)
HANDS = (Part("right hand", (3,), 3.0), Part("left hand", (4,), 3.0))
CHOICES = {"off": (), "faces": (HEAD,), "faces+hands": (HEAD, *HANDS)}
"""Parts by the setting ``detail``."""

_LEAST_PIXELS = 6

# Share of the largest piece of its kind in a frame; smaller ones are specks of the map.
_LEAST_OF_LARGEST = 0.25
_REACH = 1.5  # a part may move by this multiple of its own size from frame to frame and still be the same one
_SHORTEST = 0.25  # share of the clip's frames; a part that is seen in fewer is not refined
_CALM = 2.0  # frames over which the path of a crop is smoothed (standard deviation)
# Share of a part's size by which the replaced area exceeds its labels, for hair and nails; the blend is
# as wide.
_AROUND = 0.18


# Scheduled steps of the refinement, of which only the last part runs; no checkpoint has more.
_MOST_STEPS = 1000


@dataclass(frozen=True)
class Track:
    """One part of one person through the clip."""

    part: Part  # which
    centres: np.ndarray  # of the crops, x and y in pixels, float64 (F, 2)
    sides: np.ndarray  # of the crops, pixels, float64 (F,)
    sizes: np.ndarray  # of the part itself, float64 (F,)
    seen: np.ndarray  # in which frames it is there, bool (F,)

    def is_smaller_than(self, size: float, *, crop_size: float) -> bool:
        """Whether in half of the frames the part is smaller than ``size`` and its crop than ``crop_size``."""
        return bool(np.median(self.sizes) < size and np.median(self.sides) < crop_size)


def find_tracks(control: Frames, parts: Sequence[Part]) -> list[Track]:
    """Follow the parts of all people through part maps, uint8 ``H W 3``, those at the left first."""
    found: dict[str, list[dict[int, tuple[float, float, float]]]] = {part.name: [] for part in parts}
    for number in range(len(control)):
        labels = nearest_labels(control[number])[0]
        for part, pieces in _seen(labels, parts):
            paths = found[part.name]
            # A part may be hidden for a while and is then the same one again.
            free = [path for path in paths if number - max(path) <= max(3, _SHORTEST * len(control))]
            for x, y, size in pieces:
                near = [path for path in free if _distance(path[max(path)], (x, y)) <= _REACH * size]
                if near:
                    path = min(near, key=lambda each: _distance(each[max(each)], (x, y)))
                    free = [each for each in free if each is not path]
                else:
                    path = {}
                    paths.append(path)
                path[number] = x, y, size
    tracks = [
        _track(part, path, len(control))
        for part in parts
        for path in found[part.name]
        if len(path) >= max(1, _SHORTEST * len(control))
    ]
    return sorted(tracks, key=lambda track: (parts.index(track.part), track.centres[0, 0]))


def tracks_of(tracks: Sequence[Track], wanted: Sequence[int]) -> list[Track]:
    """The tracks of some people, counted from 1 from left to right, as their heads are in the first frame.

    A hand is its nearest head's; without heads everybody's parts are counted for themselves. Without numbers
    all are wanted.
    """
    if not wanted:
        return list(tracks)
    heads = [track for track in tracks if track.part is HEAD]
    count: dict[str, int] = {}
    chosen = []
    for track in tracks:
        count[track.part.name] = number = count.get(track.part.name, 0) + 1
        if heads and track.part is not HEAD:
            far = [float(np.hypot(*(track.centres - head.centres).T).mean()) for head in heads]
            number = 1 + int(np.argmin(far))
        if number in wanted:
            chosen.append(track)
    return chosen


def count_details(control: Frames, parts: Sequence[Part], *, below: float, crop_size: float) -> int:
    """About how many parts of a clip will be refined, estimated from some part maps, uint8 ``H W 3``.

    Counted are parts smaller than ``below`` pixels whose crops, ``crop_size`` pixels wide, enlarge them.
    """
    found = []
    for number in range(len(control)):
        seen = _seen(nearest_labels(control[number])[0], parts)
        sizes = [(part, size) for part, pieces in seen for *_, size in pieces]
        found.append(sum(size < below and part.margin * size < crop_size for part, size in sizes))
    return round(float(np.median(found))) if found else 0


def times_as_long(count: int, *, size: int, width: int, height: int) -> float:
    """The time that an animation takes with ``count`` refined parts, as a multiple of that without.

    Each is denoised for as many steps as the first result, in the same windows, at ``size`` by ``size``
    pixels.
    """
    return 1 + count * size**2 / (width * height)


def photo_crops(labels: np.ndarray, tracks: Sequence[Track]) -> list[tuple[float, float, float] | None]:
    """Where the photo shows the part of each track; people are paired from left to right.

    Of its part map, uint8 ``H W``: centre x, y and side of each crop, ``None`` where the part is not shown.
    """
    shown = {part.name: sorted(_pieces(labels, part)) for part in (HEAD, *HANDS)}
    count = {name: 0 for name in shown}
    found: list[tuple[float, float, float] | None] = []
    for track in tracks:
        pieces, number = shown[track.part.name], count[track.part.name]
        count[track.part.name] += 1
        if not pieces:
            found.append(None)
            continue
        x, y, size = pieces[min(number, len(pieces) - 1)]
        found.append((x, y, track.part.margin * size))
    return found


def crop(
    picture: np.ndarray, centre: Sequence[float], side: float, size: int, *, is_map: bool = False
) -> np.ndarray:
    """The square around ``centre``, ``side`` pixels wide, as uint8 (size, size, 3).

    Beyond the picture its edge goes on, or the background of a part map does. Maps keep their colours; their
    outlines are smoothed, since their pixels would become steps.
    """
    import cv2

    matrix = _matrix(centre, side, size)
    if not is_map:
        how = cv2.INTER_CUBIC if side < size else cv2.INTER_AREA
        return cv2.warpAffine(picture, matrix, (size, size), flags=how, borderMode=cv2.BORDER_REPLICATE)
    labels = nearest_labels(picture)[0]
    drawn = cv2.warpAffine(labels, matrix, (size, size), flags=cv2.INTER_NEAREST, borderValue=0)
    reach = min(31, int(size / side) | 1)
    if reach > 1:
        drawn = _smooth_outlines(drawn, reach)
    return colourise(drawn)


class Crops:
    """The crops around a part in each frame, uint8 ``S S 3``, made on access of frames, uint8 ``H W 3``."""

    def __init__(self, frames: Frames, track: Track, size: int, *, is_map: bool = False):
        self._frames, self._track, self._size, self._is_map = frames, track, size, is_map

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int | Sequence[int] | np.ndarray) -> np.ndarray:
        if isinstance(index, (list, tuple, np.ndarray)):
            return np.stack([self[int(each)] for each in index])
        track = self._track
        centre, side = track.centres[index], float(track.sides[index])
        return crop(self._frames[index], centre.tolist(), side, self._size, is_map=self._is_map)


def blend(
    frame: np.ndarray, labels: np.ndarray, track: Track, number: int, refined: np.ndarray
) -> np.ndarray:
    """A frame, uint8 ``H W 3``, with one part replaced by its refined crop, uint8 ``S S 3``.

    ``labels`` is the frame's part map, uint8 ``H W``, and ``number`` its place in the clip.
    """
    import cv2

    if not track.seen[number]:
        return frame
    scale = len(refined) / track.sides[number]
    if scale > 1:  # what would alias when it is made smaller
        refined = cv2.GaussianBlur(refined, (0, 0), 0.4 * scale)
    matrix = _matrix(track.centres[number], track.sides[number], len(refined))
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    back = cv2.warpAffine(refined, matrix, frame.shape[1::-1], flags=how, borderMode=cv2.BORDER_REPLICATE)
    mask = _mask(labels, track, number)[..., None]
    return np.rint(mask * back + (1 - mask) * frame).clip(0, 255).astype(np.uint8)


def blend_all(
    frames: Frames, control: Frames, details: Sequence[tuple[Track, Frames]]
) -> Iterator[np.ndarray]:
    """Yield the frames with every refined part blended in, see `blend`."""
    for number in range(len(frames)):
        frame, labels = frames[number], nearest_labels(control[number])[0]
        for track, refined in details:
            frame = blend(frame, labels, track, number, refined[number])
        yield frame


@dataclass(frozen=True)
class DetailPlan:
    """Which parts are refined, and from which crops of the photo."""

    photo: np.ndarray  # that shows it, uint8 ``H W 3``
    # Each part through the clip, and centre x, y and side of its crop in the photo.
    parts: list[tuple[Track, tuple[float, float, float]]]
    size: int  # pixels of a side of the enlarged crops
    cost: str  # a sentence on what is refined and how much longer that takes


def plan_details(
    request: AnimationRequest,
    media: PreparedMedia,
    find_parts: Callable[[np.ndarray], np.ndarray],
    *,
    size: int,
) -> DetailPlan | None:
    """Choose the parts to refine and pair them with the photo's; ``None`` if there are none.

    Args:
        find_parts: finds the parts of people in a photo, uint8 ``H W 3`` -> ``H W``.
        size: pixels of a side of the enlarged crops: what the checkpoint was trained at.
    """
    from magicanimate.media.photo import load_photo

    tracks = find_tracks(media.control, CHOICES[request.detail])
    wanted = {id(track) for track in tracks_of(tracks, request.detail_people)}
    photo = media.photo
    if request.background in IN_PHOTO:  # it may have more pixels than the result
        # Cropped from the full photo, which shows a face with more pixels than the result does.
        photo = load_photo(request.photo, limits=request.limits)
    # People of photo and clip are paired before some are left out.
    places = photo_crops(find_parts(photo), tracks)
    parts = [
        (track, place)
        for track, place in zip(tracks, places, strict=True)
        if place is not None
        and id(track) in wanted
        and track.is_smaller_than(request.detail_below or math.inf, crop_size=size)
    ]
    if not parts:
        log.warning("no face or hand is small enough to be refined, or the photo does not show it")
        return None
    names = Counter(track.part.name.split()[-1] for track, _ in parts)
    called = " and ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in names.items())
    width, height = request.size
    times = times_as_long(len(parts), size=size, width=width, height=height)
    cost = f"Refining {called} makes it take about {times:.1f} times as long."
    return DetailPlan(photo, parts, size, cost)


def refine_details(
    request: AnimationRequest,
    media: PreparedMedia,
    frames: Iterator[np.ndarray],
    plan: DetailPlan,
    *,
    denoise: Callable[..., MagicAnimateOutput],
    steps: int,
    meter: ProgressMeter,
    kept: ExitStack,
) -> Iterator[np.ndarray]:
    """The frames, uint8 ``H W 3`` each, with heads, and hands if wanted, denoised again.

    Args:
        denoise: the pipeline with the request's settings; its frames come as they are taken.
        steps: of the first pass; as many run in the second.
        meter: gets the stage "detail".
        kept: closes what must stay until the frames are written.
    """
    from magicanimate.media.prepare import FrameStore

    meter.begin("detail", 1)
    first = kept.enter_context(FrameStore(*request.size))
    for frame in frames:
        first.append(frame)
    size = plan.size
    # Planned so that, at this strength, as many steps run as in the first pass.
    planned = min(math.ceil(steps / request.detail_strength), _MOST_STEPS)
    refined = []
    for number, (track, place) in enumerate(plan.parts):

        def on_window(done: int, total: int, number: int = number) -> None:
            meter.update(number * total + done, len(plan.parts) * total)

        output = denoise(
            crop(plan.photo, place[:2], place[2], size),
            Crops(media.control, track, size, is_map=True),
            keypoints=None if media.keypoints is None else Crops(media.keypoints, track, size),
            video=Crops(first, track, size),
            strength=request.detail_strength,
            group=None,  # the other processes have done their share
            num_inference_steps=planned,
            on_window=on_window,
        )
        store = kept.enter_context(FrameStore(size, size))
        for frame in output.frames:
            store.append(frame)
        refined.append((track, store))
    return blend_all(first, media.control, refined)


def _mask(labels: np.ndarray, track: Track, number: int) -> np.ndarray:
    """How much of each pixel is replaced, float32 ``H W``."""
    import cv2

    height, width = labels.shape
    mine = np.isin(labels, track.part.labels)
    (x, y), side, size = track.centres[number], track.sides[number], track.sizes[number]
    rows, columns = np.ogrid[:height, :width]
    # Other people have the same labels, so only those within this crop are meant.
    mine &= (np.abs(columns - x) <= side / 2) & (np.abs(rows - y) <= side / 2)
    reach = max(1, round(_AROUND * size))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    grown = cv2.dilate(mine.astype(np.uint8), disc).astype(np.float32)
    soft = cv2.GaussianBlur(grown, (0, 0), max(0.7, reach / 2))
    # Fades out before the edge of the crop, which would show as a square.
    ends = np.maximum(np.abs(columns - x), np.abs(rows - y)) / (side / 2)
    return soft * ((1 - ends) / 0.1).clip(0, 1).astype(np.float32)


def _seen(
    labels: np.ndarray, parts: Sequence[Part]
) -> Iterator[tuple[Part, list[tuple[float, float, float]]]]:
    """Each part with its pieces in a part map, see `_pieces`.

    No more hands of a side than heads, the largest ones: compression scatters hands over small maps.
    """
    heads = len(_pieces(labels, HEAD)) or None
    for part in parts:
        yield part, _pieces(labels, part)[: None if part is HEAD else heads]


def _pieces(labels: np.ndarray, part: Part) -> list[tuple[float, float, float]]:
    """Centre x, y and size of each connected piece of a part, the largest first and without specks."""
    import cv2

    mask = np.isin(labels, part.labels).astype(np.uint8)
    count, _, boxes, _ = cv2.connectedComponentsWithStats(cv2.dilate(mask, np.ones((3, 3), np.uint8)))
    pieces = []
    for x, y, width, height, area in boxes[1:count]:
        if area >= _LEAST_PIXELS:
            pieces.append((int(area), (x + width / 2 - 0.5, y + height / 2 - 0.5, max(width, height) - 2.0)))
    pieces.sort(key=lambda piece: -piece[0])
    return [piece for area, piece in pieces if area >= _LEAST_OF_LARGEST * pieces[0][0]]


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    return float(np.hypot(one[0] - other[0], one[1] - other[1]))


def _track(part: Part, path: dict[int, tuple[float, float, float]], count: int) -> Track:
    """A smooth path of what was seen; where it was not, between the frames before and after."""
    numbers = np.array(sorted(path))
    known = np.array([path[number] for number in numbers])
    every = np.stack([np.interp(np.arange(count), numbers, column) for column in known.T], -1)
    # Labels jitter from frame to frame; a crop that jitters makes the refined face tremble.
    calm = np.stack([smooth_over_time(column, _CALM) for column in every.T], -1)
    sizes = np.maximum(calm[:, 2], 1.0)
    seen = np.zeros(count, bool)
    seen[numbers] = True
    return Track(part, calm[:, :2], part.margin * sizes, sizes, seen)


def _matrix(centre: Sequence[float], side: float, size: int) -> np.ndarray:
    """Affine matrix (2, 3) from pixels of a picture to those of the square crop."""
    scale = size / side
    x, y = centre
    return np.array([[scale, 0, (size - 1) / 2 - scale * x], [0, scale, (size - 1) / 2 - scale * y]])


def _smooth_outlines(labels: np.ndarray, reach: int) -> np.ndarray:
    """Each pixel gets the label that is the most frequent around it, uint8 ``H W``."""
    import cv2

    best, winner = np.zeros(labels.shape, np.float32), np.zeros_like(labels)
    # A blurred vote of the labels: smooth outlines without colours of other parts.
    for label in np.unique(labels):
        share = cv2.GaussianBlur((labels == label).astype(np.float32), (0, 0), reach / 2)
        winner = np.where(share > best, label, winner)
        best = np.maximum(best, share)
    return winner
