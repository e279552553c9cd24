"""Put the animated people before another background: the driving video's own, a picture, a video, a colour.

The people of the photo are cut out and put before a still plate of the new background, and that picture is
what the networks see as the photo. The people of the frames that they make are cut out again by a matte
(`magicanimate.matte`) and put before the background of each moment (`magicanimate.scene`).

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magicanimate.cast import cast_of, find_dancers, moved, place_of
from magicanimate.config import PHOTO_BACKGROUND, AnimationRequest, Fit
from magicanimate.errors import InputError
from magicanimate.files import whole_file
from magicanimate.mask import Masks, shown, write_masks
from magicanimate.matte import SMALLEST_DIFFERENCE, cut_out, photo_matte, with_own_edges
from magicanimate.palette import nearest_labels
from magicanimate.request_checks import background_kind, inputs_of
from magicanimate.scene import clean_plate, driving_scene, video_scene

if TYPE_CHECKING:
    from magicanimate.media.prepare import PreparedMedia

Labels = Callable[[np.ndarray], np.ndarray]
"""The part of each pixel of a picture, uint8 ``H W 3`` -> ``H W``, as a segmenter sees them."""

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
        people, alpha = with_own_edges(photo.picture, photo.alpha), photo.alpha
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
        return cls(picture, parts, photo_matte(picture, parts))


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
        cut = partial(cut_out, grow=self.request.mask_grow, feather=self.request.mask_feather)
        for number, (frame, background) in enumerate(zip(frames, backgrounds, strict=False)):
            alpha, people = cut(frame, self.plate, self.masks[number])
            alpha = alpha[..., None]
            if self.transparent:
                picture = np.concatenate([people, 255 * alpha], -1)
            else:
                picture = alpha * people + (1 - alpha) * background
            yield np.rint(picture).clip(0, 255).astype(np.uint8)


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


def check_mask_outputs(request: AnimationRequest, *, picture: Path | None, mask: Path | None) -> None:
    """Refuse what `write_mask_files` could not or must not write, before the work.

    Raises:
        InputError: a file has another suffix or is somebody's, or the people stay in their photo.
    """
    from magicanimate.media.outputs import check_file_output, check_output, is_our_frame

    inputs, overwrite = inputs_of(request), request.overwrite
    if request.background == PHOTO_BACKGROUND:
        raise InputError(
            "There is no mask to draw, as the people stay in their photo; choose a background (--background)."
        )
    if picture is not None:
        if picture.suffix.lower() != ".png":
            raise InputError(f"The preview of the mask {picture} must be a .png file; name it so.")
        check_file_output(picture, is_our_frame, inputs=inputs, overwrite=overwrite)
    if mask is not None:
        if mask.suffix.lower() not in (".mp4", ""):
            raise InputError(
                f"The mask {mask} must be a .mp4 file, or have no suffix for a folder of png frames; "
                "name it so."
            )
        check_output(mask, inputs=inputs, overwrite=overwrite)


def write_mask_files(
    backdrop: Backdrop, media: PreparedMedia, *, picture: Path | None, mask: Path | None, scene: Path | None
) -> None:
    """Write how people will be cut out; each file is left out where it is ``None``.

    Args:
        backdrop: of the animation that is meant.
        media: of it.
        picture: .png of `mask_preview`.
        mask: .mp4 or folder for `AnimationRequest.mask`; grow and feather are not in it.
        scene: .mp4 of what lies under the mask: the driving video, or else the part map.
    """
    from PIL import Image, PngImagePlugin

    from magicanimate.media.outputs import PNG_SOFTWARE
    from magicanimate.media.writer import VideoWriter

    width, height = backdrop.request.size
    if mask is not None:
        masks = (backdrop.masks[number] for number in range(media.num_frames))
        write_masks(mask, masks, size=(width, height), rate=media.rate)
    if scene is not None:
        frames = media.control if media.driving is None else media.driving
        with VideoWriter(scene, width=width, height=height, fps=media.rate, lossless=True) as out:
            for number in range(len(frames)):
                out.write(frames[number])
    if picture is not None:
        ours = PngImagePlugin.PngInfo()
        ours.add_text("Software", PNG_SOFTWARE)
        with whole_file(picture) as file:
            Image.fromarray(mask_preview(backdrop)).save(file, format="png", pnginfo=ours)


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
    near = [(np.abs(people - grey).max(-1) < 3 * SMALLEST_DIFFERENCE).mean() for grey in _CANDIDATE_GREYS]
    return _CANDIDATE_GREYS[int(np.argmin(near))]


def _picture(
    path: Path, request: AnimationRequest, size: tuple[int, int], *, fit: Fit = "crop"
) -> np.ndarray:
    from magicanimate.media.fit import fit_photo
    from magicanimate.media.photo import load_photo

    what = "background" if path == Path(request.background) else "photo"
    picture = load_photo(path, limits=request.limits, what=what)
    return fit_photo(picture, width=size[1], height=size[0], fit=fit)
