"""Put the animated people before a background: their photo's, the driving video's, a picture, a colour, ...

The people of the photo are cut out and put before a still plate of the new background, and that picture is
what the networks see as the photo. The people of the generated frames are cut out again (`cut_out` of
`magicanimate.mask`) and put before the background of each moment: the driving video without its dancers,
another video, or the plate.

For the photo's own background (`photo_backdrop`) the networks see the photo as it is. What they make of its
background is replaced by the photo, which neither blurs nor flickers; what its people hide is filled in.

Letters in shape comments: ``H W`` pixels, ``N`` samples of a clip.
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
from magicanimate.config import IN_PHOTO, AnimationRequest, Fit, ShouldStop, raise_if_stopped
from magicanimate.errors import InputError
from magicanimate.files import whole_file
from magicanimate.mask import (
    PERSON,
    SMALLEST_DIFFERENCE,
    Masks,
    band_of,
    cut_out,
    grown,
    lit_as,
    photo_matte,
    shown,
    with_own_edges,
    write_masks,
)
from magicanimate.palette import nearest_labels
from magicanimate.photo_warp import filled_smoothly
from magicanimate.request_checks import background_kind, inputs_of

if TYPE_CHECKING:
    from magicanimate.media.prepare import PreparedMedia

Labels = Callable[[np.ndarray], np.ndarray]
"""The part of each pixel of a picture, uint8 ``H W 3`` -> ``H W``, as a segmenter sees them."""

# How far the people's brightness and tint follow the new background's: 0 not at all, 1 wholly.
_RELIGHTING = 0.2
# Grey plates for a transparent result; the one least like the people is used.
_CANDIDATE_GREYS = (128, 200, 64, 235, 24)
# Distance from the dancers' part map, as a share of the longer side, within which the driving video is not
# taken for background.
_CLEARANCE = 0.045
_SAMPLES = 60  # number of frames, spread over the driving video, of which the plate is the median

# A pixel must be free of people in so many samples; others are inpainted from around them.
_LEAST_SEEN = 3

# Moments of the clip in a preview of the mask.
_PREVIEWED = 5

_ROWS = 64  # number of rows of the picture that are sorted at once
# Brightness, relative to the plate's, of the shadows near a dancer that stay as they were filmed.
_DANCERS_SHADOW = (0.75, 1.05)
# Grey levels by which such a shadow may differ from the plate in colour; twice that is another thing.
_SAME_COLOUR = 8.0


def make_backdrop(
    request: AnimationRequest,
    media: PreparedMedia,
    masks: Masks,
    find_parts: Labels,
    should_stop: ShouldStop | None = None,
) -> Backdrop:
    """What the people of ``request``, who do not stay in their photo, are put before.

    Raises:
        InputError: nobody is seen in the photo, or the background's file cannot be used.
        Cancelled: ``should_stop()`` was true; called before each frame that is read.
    """
    kind = background_kind(request.background)
    size = media.photo.shape[:2]
    photos = [_Photo.of(media.photo, find_parts, request.photo)]
    for path in request.other_photos:
        photos.append(_Photo.of(_picture(path, request, size, fit=request.fit), find_parts, path))
    # A single photo stays as it is framed; several go to the places of the dancers.
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
        plate[:] = ImageColor.getrgb(str(request.background))[:3]
    elif kind == "picture":
        plate = _picture(Path(str(request.background)), request, size)
    else:
        moving = partial(video_scene, Path(str(request.background)), request, media)
        with closing(moving()) as frames:
            plate = next(frames)
    # From the left to the right: where people overlap, the one at the right is in front.
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


def photo_backdrop(
    request: AnimationRequest, photo: np.ndarray, masks: Masks, find_parts: Labels
) -> Backdrop | None:
    """The background of the photo, uint8 ``H W 3``, as it is, and what its people hide filled in.

    Returns:
        ``None`` if nobody is recognised in the photo.
    """
    import cv2

    people = find_parts(photo) > 0
    if not people.any():
        return None
    band = band_of(photo)
    # Hair, clothes and shadows go beyond the part map.
    hidden = grown(people, 2 * band)
    shown_of_photo = cv2.GaussianBlur((~hidden).astype(np.float32), (0, 0), band / 2)
    shown_of_photo[grown(people, band)] = 0
    around = filled_smoothly(photo.astype(np.float32), hidden)
    plate = np.rint(around + shown_of_photo[..., None] * (photo - around)).clip(0, 255).astype(np.uint8)
    return Backdrop(
        request=request, masks=masks, plate=plate, reference=photo, moving=None, transparent=False
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
    """What the people are put before, and how they are cut out."""

    request: AnimationRequest  # the settings of the mask
    masks: Masks  # one for each frame of the result
    plate: np.ndarray  # the still background that the networks see, uint8 ``H W 3``
    reference: np.ndarray  # the photo's people before it, uint8 ``H W 3``
    # Starts the background of each frame, where that is not the plate.
    moving: Callable[[], Iterator[np.ndarray]] | None
    transparent: bool  # whether the result has no background but an alpha channel

    def composited(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the people of each frame, uint8 ``H W 3``, before the background, or ``H W 4`` without one.

        Colours of a transparent frame are not multiplied by alpha, and where it is 0 they go on from the
        people's edge, so that nothing of the plate shines through when it is scaled or put elsewhere.
        """
        # Generated anew for each use: a video background is never in memory as a whole.
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


def mask_preview(backdrop: Backdrop) -> np.ndarray:
    """How people will be cut out: the photo's before the plate, and five moments of the clip.

    Returns:
        uint8 ``H W 3``: the reference at the left, then the background of each moment, without its dancers,
        under its mask; see `magicanimate.mask.shown`.
    """
    count = len(backdrop.masks)
    chosen = set(np.linspace(0, count - 1, min(_PREVIEWED, count)).round().astype(int).tolist())
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
    """For each dancer of the clip the photo that he becomes, and the matrix that puts its person there."""
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
        InputError: a file has another suffix or is not this program's, or the people stay in their photo.
    """
    from magicanimate.media.outputs import check_file_output, check_output, is_our_frame

    inputs, overwrite = inputs_of(request), request.overwrite
    if request.background in IN_PHOTO:
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
        picture: .png of `mask_preview`.
        mask: .mp4 or folder for `AnimationRequest.mask`; grow and feather are not in it.
        scene: .mp4 of the frames under the mask: the driving video, or else the part map.
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
            # Clouds and lamps change the light of the whole picture from moment to moment.
            behind = behind + np.median((frame - behind)[~dancer], axis=0)
        soft = cv2.GaussianBlur(grown(dancer, -clearance // 3).astype(np.float32), (0, 0), clearance / 6)
        soft = np.where(dancer, soft * _not_background(frame, behind, mask == PERSON), 0)[..., None]
        yield np.rint(soft * behind + (1 - soft) * frame).clip(0, 255).astype(np.uint8)


def _not_background(frame: np.ndarray, plate: np.ndarray, body: np.ndarray) -> np.ndarray:
    """How much of each pixel is something other than the plate in full light or in a light shadow.

    Of grey levels, float32 ``H W 3``, and the dancers' part map, bool ``H W``: 0..1, float32 ``H W``, and 1
    on the body and close to it.
    """
    import cv2

    edge = max(1, band_of(frame) // 4)
    lit = lit_as(frame, plate, within=_DANCERS_SHADOW)
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


def clean_plate(media: PreparedMedia, masks: Masks, should_stop: ShouldStop | None = None) -> np.ndarray:
    """The driving video's background, uint8 ``H W 3``: the median over time of what is free of people.

    What no frame shows is filled in from around it (Telea 2004, "An Image Inpainting Technique Based on the
    Fast Marching Method").
    """
    import cv2

    if media.driving is None:
        raise ValueError("the driving video was not kept")
    count = media.num_frames
    # Spread over the whole clip, so that what a dancer hides in one frame is free in another.
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
    # Sorting all rows at once would take several copies of all samples.
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


def _relit(people: np.ndarray, photo: np.ndarray, alpha: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """People, float32 ``H W 3``, with brightness and tint moved from their photo's towards the plate's."""
    around = alpha < 0.05
    if not around.any():
        return people
    old, new = photo[around].astype(np.float32).mean(0), plate.reshape(-1, 3).astype(np.float32).mean(0)
    # 16 grey levels more on both sides: dark surroundings would otherwise ask for any gain.
    gain = ((new + 16) / (old + 16)).clip(0.5, 2) ** _RELIGHTING
    return (people * gain.clip(0.8, 1.25)).clip(0, 255)


def _unlike(photos: Sequence[_Photo]) -> int:
    """The grey that the fewest pixels of the people are near to."""
    # A plate of the colour of clothes would make the matte lose them.
    people = np.concatenate([each.picture[each.alpha > 0.5] for each in photos]).astype(np.float32)
    near = [(np.abs(people - grey).max(-1) < 3 * SMALLEST_DIFFERENCE).mean() for grey in _CANDIDATE_GREYS]
    return _CANDIDATE_GREYS[int(np.argmin(near))]


def _picture(
    path: Path, request: AnimationRequest, size: tuple[int, int], *, fit: Fit = "crop"
) -> np.ndarray:
    from magicanimate.media.fit import fit_photo
    from magicanimate.media.photo import load_photo

    what = "photo" if path in request.other_photos else "background"
    picture = load_photo(path, limits=request.limits, what=what)
    return fit_photo(picture, width=size[1], height=size[0], fit=fit)
