"""Put the animated people before another background: the driving video's own, a picture, a video, a colour.

The people of the photo are cut out and put before a still plate of the new background, and that picture is
what the networks see as the photo. The frames they make show about the same plate around the people, so the
difference from it tells where the people end (difference matting), within a band around their part map. The
matte is smoothed along the frame's own edges by a guided filter: He et al. 2010, "Guided Image Filtering".

Letters in shape comments: ``F`` frames, ``H W`` pixels, ``N`` samples of a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magicanimate.cast import cast_of, find_dancers, moved, place_of
from magicanimate.config import AnimationRequest, Fit
from magicanimate.errors import InputError, raise_if_stopped
from magicanimate.mask import NOBODY, PERSON, Masks, band_of, grown, shown
from magicanimate.palette import nearest_labels
from magicanimate.request_checks import background_kind

if TYPE_CHECKING:
    from magicanimate.media.prepare import PreparedMedia

Labels = Callable[[np.ndarray], np.ndarray]
"""The part of each pixel of a picture, uint8 ``H W 3`` -> ``H W``, as a segmenter sees them."""

_CLEARANCE = 0.045
"""Of the longer side: so far around its dancers' part map the driving video is not trusted as background."""

_SAMPLES = 60
"""Frames, spread over the driving video, whose median is the plate."""

_LEAST_SEEN = 3
"""Samples in which a pixel must be free of people to be known; others are filled in from around them."""

_ROWS = 64
"""Rows of the picture whose samples are sorted at once."""

_SMALLEST_DIFFERENCE = 25.0
"""Grey levels from the plate below which nothing counts as a person, whatever the networks' own error."""

_SHADOW = (0.6, 1.1)
"""Brightness, of the plate's, that a shadow or a reflection may have."""

_SHADOW_COUNTS = 0.25
"""How much of a change of brightness counts as a difference all the same."""

_DANCERS_SHADOW = (0.75, 1.05)
"""Brightness, of the plate's, of what stays of the driving video close to a dancer, such as her shadow."""

_SAME_COLOUR = 8.0
"""Grey levels by which it may differ from the plate in colour; twice that is something else for sure."""

_SURE_FACTOR = 4.0
"""A difference that is this many times the networks' own error on the plate is a person for sure."""

_SMOOTHNESS = 1e-3
"""The guided filter's epsilon, for colours of 0 to 1: edges weaker than its root are smoothed over."""

_MOST_CORRECTION = 24.0
"""Grey levels by which a frame's colours are corrected at most."""

_RELIGHTING = 0.2
"""How far the people's brightness and tint follow the new background's: 0 not at all, 1 wholly."""

_CANDIDATE_GREYS = (128, 200, 64, 235, 24)
"""Plates for a transparent result; the one least like the people is taken."""


def make_backdrop(
    request: AnimationRequest,
    media: PreparedMedia,
    masks: Masks,
    find_parts: Labels,
    should_stop: Callable[[], bool] | None = None,
) -> Backdrop:
    """What the people of ``request``, who do not stay in their photo, are put before.

    Args:
        request: with the background and the settings of the mask.
        media: photo, motion and, for "clip", the driving video.
        masks: of the people in each frame.
        find_parts: finds the people in the photo.
        should_stop: asked with each frame that is looked at.

    Raises:
        InputError: nobody is seen in the photo, or the background's file cannot be used.
        Cancelled: ``should_stop()`` was true.
    """
    kind = background_kind(request.background)
    size = media.photo.shape[:2]
    photos = [_Photo.of(media.photo, find_parts, request.photo)]
    for path in request.other_photos:
        photos.append(_Photo.of(_picture(path, request, size, fit=request.fit), find_parts, path))
    placed = _placed(photos, request, media) if len(photos) > 1 else [(photos[0], None)]
    moving: Callable[[], Iterator[np.ndarray]] | None = None
    if kind == "clip":
        plate = clean_plate(media, masks, should_stop)
        moving = partial(driving_scene, media, masks, plate)
    elif kind == "transparent":
        plate = np.full((*size, 3), _unlike(photos), np.uint8)
    elif kind == "colour":
        from PIL import ImageColor

        plate = np.empty((*size, 3), np.uint8)
        plate[:] = ImageColor.getrgb(request.background)[:3]
    elif kind == "picture":
        plate = _picture(Path(request.background), request, size)
    else:
        moving = partial(video_scene, Path(request.background), request, media)
        with closing(moving()) as frames:
            plate = next(frames)
    reference = plate.astype(np.float32)
    for photo, place in placed:
        people, alpha = _with_own_edges(photo.picture, photo.alpha), photo.alpha
        if kind != "transparent":
            people = _relit(people, photo.picture, alpha, plate)
        if place is not None:
            people, alpha = (moved(each, place) for each in (people, alpha))
        reference = alpha[..., None] * people + (1 - alpha[..., None]) * reference
    return Backdrop(
        request=request,
        masks=masks,
        plate=plate,
        reference=np.rint(reference).clip(0, 255).astype(np.uint8),
        moving=moving,
        transparent=kind == "transparent",
    )


@dataclass(frozen=True)
class _Photo:
    """A photo, uint8 ``H W 3``, its parts, uint8 ``H W``, and how much of each pixel is its people, 0..1."""

    picture: np.ndarray
    parts: np.ndarray
    alpha: np.ndarray

    @classmethod
    def of(cls, picture: np.ndarray, find_parts: Labels, path: Path) -> _Photo:
        parts = find_parts(picture)
        if not (parts > 0).any():
            raise InputError(
                f"Nobody is recognised in the photo {path}, so nobody can be cut out of it; choose another "
                "photo, or leave the background as it is (--background photo)."
            )
        return cls(picture, parts, _photo_matte(picture, parts))


@dataclass(frozen=True)
class Backdrop:
    """What the people are put before, and how they are cut out.

    Attributes:
        request: the settings of the mask.
        masks: one for each frame of the result.
        plate: the still background that the networks see, uint8 ``H W 3``.
        reference: the photo's people before it, uint8 ``H W 3``.
        moving: starts the background of each frame, where that is not the plate.
        transparent: whether the result has no background but an alpha channel.
    """

    request: AnimationRequest
    masks: Masks
    plate: np.ndarray
    reference: np.ndarray
    moving: Callable[[], Iterator[np.ndarray]] | None
    transparent: bool

    def composited(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the people of each frame, uint8 ``H W 3``, before the background, or ``H W 4`` without one.

        Colours of a transparent frame are not multiplied by alpha, and where it is 0 they go on from the
        people's edge, so that nothing of the plate shines through when it is scaled or put elsewhere.
        """
        backgrounds = self.moving() if self.moving is not None else repeat(self.plate)
        for number, (frame, background) in enumerate(zip(frames, backgrounds, strict=False)):
            alpha, people = self.cut_out(frame, self.masks[number])
            alpha = alpha[..., None]
            if self.transparent:
                picture = np.concatenate([people, 255 * alpha], -1)
            else:
                picture = alpha * people + (1 - alpha) * background
            yield np.rint(picture).clip(0, 255).astype(np.uint8)

    def cut_out(self, frame: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The matte of one frame and the people's own colours.

        Args:
            frame: as the networks made it, uint8 ``H W 3``.
            mask: of the people in it, uint8 ``H W``.

        Returns:
            Alpha 0..1, float32 ``H W``, and colours, float32 ``H W 3``, from which the plate is taken out.
        """
        import cv2

        band = band_of(frame)
        body = grown(mask == PERSON, self.request.mask_grow)
        near = grown(mask > NOBODY, self.request.mask_grow)
        far = grown(near, band)
        frame, plate = frame.astype(np.float32), self.plate.astype(np.float32)
        elsewhere = ~far
        error = np.zeros(3, np.float32)
        if elsewhere.any():  # the networks' own colours differ a little from the plate's
            error = np.median((frame - plate)[elsewhere], axis=0)
            frame = frame - error.clip(-_MOST_CORRECTION, _MOST_CORRECTION)
        difference = cv2.blur(_difference(frame, plate), (3, 3))
        usual = np.percentile(difference[elsewhere], 90) if elsewhere.any() else 0.0
        low = max(_SMALLEST_DIFFERENCE, float(usual))
        person = ((difference - low) / ((_SURE_FACTOR - 1) * low)).clip(0, 1)
        core = grown(body, -max(1, band // 3))
        likely = np.where(core, 1, np.where(body, np.maximum(person, 0.5), np.where(near, person, 0)))
        alpha = guided_filter(frame / 255, likely.astype(np.float32), max(1, band // 2), _SMOOTHNESS).clip(
            0, 1
        )
        alpha = np.where(far, np.where(core, 1, alpha), 0).astype(np.float32)
        if self.request.mask_feather:
            alpha = cv2.GaussianBlur(alpha, (0, 0), self.request.mask_feather)
        # frame = alpha * people + (1 - alpha) * plate, solved for the people where alpha says enough of them.
        people = (frame - (1 - alpha[..., None]) * plate) / np.maximum(alpha, 0.25)[..., None]
        weight = np.where(alpha > 0.9, 1, 0).astype(np.float32)
        spread = cv2.GaussianBlur(weight, (0, 0), band) + 1e-4
        inner = cv2.GaussianBlur(frame * weight[..., None], (0, 0), band) / spread[..., None]
        trust = (alpha / 0.5).clip(0, 1)[..., None]
        return alpha, (trust * people.clip(0, 255) + (1 - trust) * inner).clip(0, 255)


def _placed(
    photos: Sequence[_Photo], request: AnimationRequest, media: PreparedMedia
) -> list[tuple[_Photo, np.ndarray]]:
    """For each dancer of the clip the photo that he becomes, and the matrix that puts its person there.

    Raises:
        InputError: see `cast_of`.
    """
    dancers = find_dancers(
        nearest_labels(frame)[0] for frame in map(media.control.__getitem__, range(media.num_frames))
    )
    cast = cast_of(request, len(dancers.parts))
    return [
        (photos[number], place_of(photos[number].parts, parts))
        for number, parts in zip(cast, dancers.parts, strict=True)
    ]


def _difference(frame: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """How much a frame differs from the plate, grey levels, float32 ``H W``, shadows counting less.

    Networks darken what is close to people. Taken for people, that becomes a dark rim; but it has the colour
    of the plate, only darker, so a change of brightness alone within `_SHADOW` is no person yet (the idea of
    shadow detection in Cucchiara et al. 2003, "Detecting Moving Objects, Ghosts, and Shadows").
    """
    bright = (frame * plate).sum(-1) / np.maximum((plate * plate).sum(-1), 1)
    lit = bright.clip(*_SHADOW)[..., None] * plate
    return np.abs(frame - lit).max(-1) + _SHADOW_COUNTS * np.abs(plate - lit).max(-1)


def mask_preview(backdrop: Backdrop, moments: int = 5) -> np.ndarray:
    """How people are cut out before anything is made: the photo's before the plate, and moments of the clip.

    Returns:
        uint8 ``H W 3``: the reference at the left, then the background of each moment, without its dancers,
        under its mask; see `magicanimate.mask.shown`.
    """
    count = len(backdrop.masks)
    chosen = set(np.linspace(0, count - 1, min(moments, count)).round().astype(int).tolist())
    backgrounds = backdrop.moving() if backdrop.moving is not None else repeat(backdrop.plate)
    pictures = [backdrop.reference]
    how = backdrop.request.mask_grow, backdrop.request.mask_feather
    for number, background in zip(range(count), backgrounds, strict=False):
        if number in chosen:
            pictures.append(shown(background, backdrop.masks[number], *how))
    return np.concatenate(pictures, axis=1)


def driving_scene(media: PreparedMedia, masks: Masks, plate: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the driving video without its dancers, uint8 ``H W 3``: the plate is where they are.

    The plate follows the light of the moment. All else stays as it was filmed, also the shadows
    beside the dancers: whoever takes a dancer's place casts the same ones.
    """
    import cv2

    if media.driving is None:
        raise ValueError("the driving video was not kept")
    for number in range(media.num_frames):
        frame = media.driving[number].astype(np.float32)
        mask = masks[number]
        clearance = _clearance(mask)
        dancer = grown(mask == PERSON, clearance)
        behind = plate.astype(np.float32)
        if not dancer.all():
            behind = behind + np.median((frame - behind)[~dancer], axis=0)
        soft = cv2.GaussianBlur(grown(dancer, -clearance // 3).astype(np.float32), (0, 0), clearance / 6)
        soft = np.where(dancer, soft * _not_background(frame, behind, mask == PERSON), 0)[..., None]
        yield np.rint(soft * behind + (1 - soft) * frame).clip(0, 255).astype(np.uint8)


def _not_background(frame: np.ndarray, plate: np.ndarray, body: np.ndarray) -> np.ndarray:
    """How much of each pixel is something other than the plate in full light or in a light shadow.

    Args:
        frame, plate: float32 ``H W 3``, grey levels.
        body: the dancers' part map, bool ``H W``.

    Returns:
        0..1, float32 ``H W``; 1 on the body and close to it.
    """
    import cv2

    edge = max(1, band_of(frame) // 4)
    bright = (frame * plate).sum(-1) / np.maximum((plate * plate).sum(-1), 1)
    lit = bright.clip(*_DANCERS_SHADOW)[..., None] * plate
    difference = cv2.blur(np.abs(frame - lit).max(-1), (3, 3))
    other = (difference / _SAME_COLOUR - 1).clip(0, 1)
    other = np.where(grown(body, edge), 1, other).astype(np.float32)
    # Grown, since a pixel at the rim of clothes may by chance have the plate's colour.
    other = cv2.dilate(other, np.ones((2 * edge + 1, 2 * edge + 1), np.uint8))
    return cv2.GaussianBlur(other, (0, 0), 0.8 * edge)


def video_scene(
    path: Path, request: AnimationRequest, media: PreparedMedia
) -> Generator[np.ndarray, None, None]:
    """Yield another video's frames at the result's rate and size, uint8 ``H W 3``, over and over."""
    from magicanimate.media.fit import fit_photo
    from magicanimate.media.motion import open_motion

    clip = open_motion(path, fps=media.fps, limits=request.limits)
    height, width = media.photo.shape[:2]
    while True:
        seen = False
        with closing(clip.frames()) as frames:
            for frame in frames:
                seen = True
                yield fit_photo(frame, width=width, height=height, fit="crop")
        if not seen:
            raise InputError(f"The background {path} has no frame that can be decoded; export it again.")


def clean_plate(
    media: PreparedMedia, masks: Masks, should_stop: Callable[[], bool] | None = None
) -> np.ndarray:
    """The driving video's background, uint8 ``H W 3``: the median over time of what is free of people.

    What no frame shows is filled in from around it (Telea 2004, "An Image Inpainting Technique Based on the
    Fast Marching Method").
    """
    import cv2

    if media.driving is None:
        raise ValueError("the driving video was not kept")
    count = media.num_frames
    numbers = np.unique(np.linspace(0, count - 1, min(count, _SAMPLES)).round().astype(int))
    frames, hidden = [], []
    for number in numbers.tolist():
        raise_if_stopped(should_stop, "while looking for the background")
        mask = masks[number]
        hidden.append(grown(mask == PERSON, _clearance(mask)))
        frames.append(media.driving[number])
    pixels, covered = np.stack(frames), np.stack(hidden)  # N H W 3, N H W
    seen = (~covered).sum(0)
    plate: np.ndarray = np.empty(pixels.shape[1:], np.uint8)
    for row in range(0, len(plate), _ROWS):
        rows = slice(row, row + _ROWS)
        values = np.where(covered[:, rows, :, None], np.int16(999), pixels[:, rows])  # hidden ones sort last
        middle = ((seen[rows] - 1).clip(min=0) // 2)[None, ..., None]
        ordered = np.sort(values, axis=0)
        plate[rows] = np.take_along_axis(ordered, np.broadcast_to(middle, (1, *ordered.shape[1:])), 0)[
            0
        ].clip(0, 255)
    unknown = seen < min(_LEAST_SEEN, len(numbers))
    if unknown.all():
        raise InputError(
            "The people cover the whole driving video, so nothing of its background is seen; choose another "
            "background."
        )
    if unknown.any():
        plate = cv2.inpaint(plate, unknown.astype(np.uint8), 5, cv2.INPAINT_TELEA)
    return plate


def _clearance(mask: np.ndarray) -> int:
    return max(2, round(_CLEARANCE * max(mask.shape)))


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Smooth ``values``, float32 ``H W``, but for the edges of ``guide``, float32 ``H W 3`` of 0..1.

    In every window of ``2 radius + 1`` pixels the result is a linear function of the guide's colours
    (He et al. 2010, equations 19 to 21).
    """
    import cv2

    def mean(array: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(array.reshape(*array.shape[:2], -1), np.float32)
        size = (2 * radius + 1, 2 * radius + 1)
        planes = [cv2.boxFilter(flat[..., i], -1, size) for i in range(flat.shape[-1])]
        return np.stack(planes, -1).reshape(array.shape)

    colour, value = mean(guide), mean(values)
    together = mean(guide * values[..., None]) - colour * value[..., None]  # H W 3
    spread = mean(guide[..., :, None] * guide[..., None, :]) - colour[..., :, None] * colour[..., None, :]
    slope = np.linalg.solve(spread + epsilon * np.eye(3, dtype=np.float32), together[..., None])[..., 0]
    offset = value - (slope * colour).sum(-1)
    return (mean(slope) * guide).sum(-1) + mean(offset)


def _photo_matte(photo: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Alpha of the people in the photo, float32 ``H W``; nothing is known of what is behind them."""
    band = band_of(photo)
    body = parts > 0
    alpha = guided_filter(photo.astype(np.float32) / 255, body.astype(np.float32), band, _SMOOTHNESS)
    alpha = ((alpha - 0.2) / 0.6).clip(0, 1)
    core = grown(body, -max(1, band // 3))
    return np.where(core, 1, np.where(grown(body, band), alpha, 0)).astype(np.float32)


def _with_own_edges(photo: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The photo, float32 ``H W 3``, in which the people's colours go on beyond their edge."""
    import cv2

    band = band_of(photo)
    photo = photo.astype(np.float32)
    sure = (alpha > 0.95).astype(np.float32)
    spread = cv2.GaussianBlur(sure, (0, 0), band / 2) + 1e-4
    inner = cv2.GaussianBlur(photo * sure[..., None], (0, 0), band / 2) / spread[..., None]
    trust = ((alpha - 0.5) / 0.45).clip(0, 1)[..., None]
    return trust * photo + (1 - trust) * inner


def _relit(people: np.ndarray, photo: np.ndarray, alpha: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """People, float32 ``H W 3``, with brightness and tint moved from their photo's towards the plate's."""
    around = alpha < 0.05
    if not around.any():
        return people
    old, new = photo[around].astype(np.float32).mean(0), plate.reshape(-1, 3).astype(np.float32).mean(0)
    gain = ((new + 16) / (old + 16)).clip(0.5, 2) ** _RELIGHTING
    return (people * gain.clip(0.8, 1.25)).clip(0, 255)


def _unlike(photos: Sequence[_Photo]) -> int:
    """The grey that the fewest pixels of the people are near to."""
    people = np.concatenate([each.picture[each.alpha > 0.5] for each in photos]).astype(np.float32)
    near = [(np.abs(people - grey).max(-1) < 3 * _SMALLEST_DIFFERENCE).mean() for grey in _CANDIDATE_GREYS]
    return _CANDIDATE_GREYS[int(np.argmin(near))]


def _picture(
    path: Path, request: AnimationRequest, size: tuple[int, int], *, fit: Fit = "crop"
) -> np.ndarray:
    from magicanimate.media.fit import fit_photo
    from magicanimate.media.photo import load_photo

    what = "background" if path == Path(request.background) else "photo"
    picture = load_photo(path, limits=request.limits, what=what)
    return fit_photo(picture, width=size[1], height=size[0], fit=fit)
