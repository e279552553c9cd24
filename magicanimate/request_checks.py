"""Checks of a request before anything is loaded, and the names of the files it writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magicanimate.acceleration.options import Approximations
from magicanimate.config import (
    CLIP_BACKGROUND,
    IN_PHOTO,
    PHOTO_BACKGROUND,
    SIDE_MULTIPLE,
    STILL_BACKGROUND,
    TRANSPARENT,
    AnimationRequest,
    Driving,
    MediaLimits,
)
from magicanimate.errors import InputError
from magicanimate.files import shortened, write_json
from magicanimate.lora import check_loras, parse

MOST_TIMES_OWN_AREA = 16
"""Pixels of a result by those that the checkpoint was trained at; beyond, nobody would be recognised."""


ALPHA_SUFFIXES = (".webm", ".mov", "")
"""Outputs that have an alpha channel."""

_PICTURES = ".png .jpg .jpeg .webp .avif .heic .heif .bmp .tif .tiff"
PICTURE_SUFFIXES = frozenset(_PICTURES.split())
"""A background of any other suffix is opened as a video."""


def side_by_side_path(output: Path) -> Path:
    """Where the strip of an output goes: ``dance.mp4`` has ``dance_side_by_side.mp4``."""
    output = Path(output)
    return output.with_name(f"{output.stem}_side_by_side{output.suffix}")


def so_far_path(output: Path) -> Path:
    """Where the part of a streamed output is that is done: ``dance.mp4`` has ``dance_so_far.mp4``."""
    output = Path(output)
    return output.with_name(f"{output.stem}_so_far.mp4")


def check_request(request: AnimationRequest) -> None:
    """Refuse settings that cannot work before anything is loaded.

    Raises:
        InputError: one sentence with the setting, its value and what is allowed.
    """
    for name, setting in AnimationRequest.table().items():
        value = getattr(request, name)
        problem = None if value is None else setting.problem(value)
        if problem:
            raise InputError(f"{name} is {shortened(value)}; {problem}.")
    for name, value in vars(request.limits).items():
        if not value > 0:  # also refuses "not a number"
            raise InputError(f"The limit {name} is {shortened(value)}; give a number above 0.")
    try:
        Approximations.of(request.settings())
    except ValueError as error:
        raise InputError(f"The approximations cannot be used: {error}.") from error
    # Each is within its own bounds; this is about the two together.
    if request.context_overlap >= request.context_length:
        raise InputError(
            f"Windows of {request.context_length} frames cannot overlap by {request.context_overlap}; "
            "the overlap is at least 0 and less than the window."
        )
    try:
        _ = request.detail_people
    except ValueError as error:
        raise InputError(
            f"Refine whose face and hands? {shortened(request.detail_who)} is no number of a person; write "
            "numbers from the left such as 1 or 1,3."
        ) from error
    _check_background(request)
    if request.lora:
        check_loras(request.lora)
    _check_stream(request)


def _check_stream(request: AnimationRequest) -> None:
    if request.stream and request.closed_loop:
        raise InputError(
            "A closed loop joins the end to the beginning, so no frame is done before all are; leave "
            "--stream or --closed-loop out."
        )
    if request.stream and request.detail != "off":
        raise InputError(
            "Faces and hands are refined when the first result is complete; leave --stream or --detail out."
        )


def background_kind(background: str | None) -> str:
    """The kind of a background: "photo", "still", "clip", "transparent", "colour", "picture" or "video".

    Of the first two the checkpoint's own is not known here, and ``None`` counts as "photo".

    Raises:
        InputError: none of these, or a file that is not there.
    """
    if background is None:
        return PHOTO_BACKGROUND
    if background in (PHOTO_BACKGROUND, STILL_BACKGROUND, CLIP_BACKGROUND, TRANSPARENT):
        return background
    if is_colour(background):
        return "colour"
    path = Path(background)
    if not path.exists():
        raise InputError(
            f"The background {shortened(background)} is no file that is there; give a picture or video, "
            f"{PHOTO_BACKGROUND}, {STILL_BACKGROUND}, {CLIP_BACKGROUND}, {TRANSPARENT}, or a colour such as "
            "white or #2060a0."
        )
    return "picture" if path.suffix.lower() in PICTURE_SUFFIXES else "video"


def is_colour(text: str) -> bool:
    """Whether a text names a colour: white, #2060a0, rgb(32, 96, 160), ..."""
    from PIL import ImageColor

    try:
        ImageColor.getrgb(text)
    except ValueError:
        return False
    return True


def background_file(request: AnimationRequest) -> Path | None:
    """The file that a request's background is, if it is one."""
    kind = background_kind(request.background)
    return Path(str(request.background)) if kind in ("picture", "video") else None


def inputs_of(request: AnimationRequest) -> list[Path | None]:
    """The files that a request reads."""
    own = [*request.photos, request.motion, request.keypoints]
    own += [request.driving_video, request.mask]
    return [*own, background_file(request), *(parse(lora).file for lora in request.lora)]


def wants_part_map(request: AnimationRequest) -> bool:
    """Whether a part map has to be made of the motion clip, since it is an ordinary video to be kept."""
    return request.background == CLIP_BACKGROUND and request.driving_video is None


def _check_background(request: AnimationRequest) -> None:
    kind = background_kind(request.background)
    cuts = {"A mask": request.mask, "A photo of another person": request.other_photos}
    needless = next((name for name, given in cuts.items() if given), None)
    if needless and request.background in IN_PHOTO:
        raise InputError(
            f"{needless} is for people who are cut out, and here they stay in their photo; choose a "
            "background (--background), or leave it out."
        )
    _check_cast(request)
    if request.who != "largest" and not wants_part_map(request):
        raise InputError(
            "Whom to replace (--who) can only be chosen where the motion clip is an ordinary video that is "
            "its own background (--background clip); leave it out."
        )
    suffix = Path(request.output).suffix.lower()
    if kind == TRANSPARENT and suffix not in ALPHA_SUFFIXES:
        raise InputError(
            f"A {suffix} file cannot be transparent; name the output .webm or .mov, or without a suffix for "
            "a folder of png frames."
        )


def _check_cast(request: AnimationRequest) -> None:
    """Refuse a cast that no clip could have; how many dancers there are is known later."""
    photos = len(request.photos)
    if not request.cast:
        return
    if photos == 1:
        raise InputError(
            "Who becomes whom (--cast) can only be chosen with several photos; give them (--other-photo), or "
            "leave it out."
        )
    try:
        numbers = request.cast_numbers
    except ValueError as error:
        raise InputError(
            f"The cast is {shortened(request.cast)}, which names no photos; write the number of a photo for "
            "each dancer, from left to right, such as 2,1."
        ) from error
    beyond = [number for number in numbers if number > photos]
    if beyond:
        raise InputError(
            f"The cast {shortened(request.cast)} names photo {beyond[0]}, and there are {photos}; give that "
            "photo, too, or write another number."
        )
    # A photo that nobody becomes is more likely a slip than a wish.
    unused = sorted(set(range(1, photos + 1)) - set(numbers))
    if unused:
        raise InputError(
            f"Nobody becomes photo {unused[0]} in the cast {shortened(request.cast)}; write its number for a "
            "dancer, or leave the photo out."
        )


def check_signals(
    request: AnimationRequest, folder: Path, *, driving: Driving, takes_keypoints: bool
) -> None:
    """Refuse a request without the control signals that a checkpoint needs, or with others.

    Raises:
        InputError: with the checkpoint's ``folder``, and what to give or to leave out.
    """
    # All of these read body parts, which drawn keypoints do not have.
    without_map = {
        "the background": request.background not in (None, PHOTO_BACKGROUND),
        "refining faces and hands": request.detail != "off",
        "a start from the photo's pose": request.start_from_photo > 0,
    }
    if driving == "keypoints" and any(without_map.values()):
        wish = next(name for name, wanted in without_map.items() if wanted)
        raise InputError(
            f"The checkpoint {folder} is driven by keypoints, and {wish} needs a DensePose map; "
            "leave it out or choose another checkpoint."
        )
    if driving == "keypoints" and request.keypoints is not None:
        raise InputError(
            f"The checkpoint {folder} is driven by keypoints alone; give {request.keypoints} as the "
            "motion clip, in place of the DensePose map."
        )
    if takes_keypoints and request.keypoints is None:
        raise InputError(
            f"The checkpoint {folder} is driven by keypoints, too; give the clip of drawn keypoints "
            "(--keypoints)."
        )
    if request.keypoints is not None and not takes_keypoints:
        raise InputError(
            f"The checkpoint {folder} was not trained with keypoints; leave {request.keypoints} out."
        )


def check_area(width: int, height: int, *, own: tuple[int, int]) -> None:
    """Refuse a result of far more pixels than ``own``, the size that a checkpoint was trained at.

    Raises:
        InputError: with the largest area.
    """
    most = MOST_TIMES_OWN_AREA * own[0] * own[1]
    if width * height > most:
        # A square of the largest area, as a size that would work.
        side = math.isqrt(most) // SIDE_MULTIPLE * SIDE_MULTIPLE
        raise InputError(
            f"{width}x{height} pixels are too many for this checkpoint, which was trained at "
            f"{own[0]}x{own[1]}; choose at most {most} in all, for instance {side}x{side}."
        )


def stretch_of_frames(motion: Path, first: int, count: int) -> tuple[float, float]:
    """Start and end in seconds of ``count`` frames of a clip, from its frame ``first`` on.

    Raises:
        InputError: the clip cannot be opened.
    """
    from magicanimate.media.motion import open_motion

    # The clip may be long: how much of it is used is checked when it is animated.
    limits = MediaLimits(max_seconds=float("inf"), max_frames=10**12, max_total_pixels=10**18)
    rate = open_motion(motion, limits=limits).rate
    return float(first / rate), float((first + count) / rate)


def check_inputs(request: AnimationRequest) -> None:
    """Refuse files that are missing, empty, too large or may not be read, before anything is loaded.

    Raises:
        InputError: see `magicanimate.media.photo.check_file`.
    """
    from magicanimate.media.photo import check_file

    for photo in request.photos:
        check_file(Path(photo), what="photo", limits=request.limits)
    if background_kind(request.background) == "picture":
        check_file(Path(str(request.background)), what="background", limits=request.limits)
    # Folders of frames are checked when they are read, picture by picture.
    clips = {"motion clip": request.motion, "keypoint clip": request.keypoints}
    clips |= {"driving video": request.driving_video, "mask": request.mask}
    for what, clip in clips.items():
        if clip is not None and not Path(clip).is_dir():
            check_file(Path(clip), what=what, limits=request.limits)


def check_outputs(request: AnimationRequest, *, config: Path | None = None) -> None:
    """Refuse what cannot or must not be written now rather than after minutes of work.

    ``config`` is a further file that is read; it may be the settings file of the same result made before.

    Raises:
        InputError: see `magicanimate.media.outputs.check_output`.
    """
    from magicanimate.media.outputs import check_file_output, check_output, is_our_json

    # Writing over an input would destroy it, whoever made it.
    inputs = inputs_of(request)
    if config is not None and not is_our_json(config):
        inputs.append(config)
    overwrite = request.overwrite
    check_output(request.output, inputs=inputs, overwrite=overwrite)
    check_file_output(settings_path(request.output), is_our_json, inputs=inputs, overwrite=overwrite)
    if request.side_by_side:
        check_output(side_by_side_path(request.output), inputs=inputs, overwrite=overwrite)
    if request.stream:
        check_output(so_far_path(request.output), inputs=inputs, overwrite=overwrite)


def settings_path(output: Path | str) -> Path:
    """Where the settings of an output go: ``dance.mp4`` and the folder ``dance`` have ``dance.json``."""
    return Path(output).with_suffix(".json")


def write_settings(output: Path | str, settings: Mapping[str, Any]) -> Path:
    """Write settings, JSON-ready or paths, beside an output, whole or not at all.

    Raises:
        InputError: the folder cannot be written to.
    """
    path = settings_path(output)
    try:
        write_json(path, settings)
    except OSError as error:
        raise InputError(
            f"The settings {path} cannot be written ({error.strerror}); choose another place."
        ) from error
    return path
